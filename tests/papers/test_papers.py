"""Every paper's experiments run at smoke size, and its README says what its results say."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from hybridopt.cli import main
from hybridopt.optimizers import registry as optimizers
from hybridopt.results import load
from hybridopt.tasks import registry as tasks
from tests.plugins import forgotten

PAPERS = Path(__file__).parents[2] / "papers"
FOLDERS = sorted(path.parent.name for path in PAPERS.glob("*/reproduce.py"))
EXPERIMENTS = [
    (folder, path.stem) for folder in FOLDERS for path in sorted((PAPERS / folder).glob("conf/experiment/*.yaml"))
]
SMALL = ["seed=0", "budget.steps=12", "launcher.slots=1"]
NARROW = {
    "du2017_octopus": ["task.problem=octopus_5", "optimizer=perturbed_gd"],
    "du2017_octopus_escape": ["task.problem=octopus_5"],
    "rathore2024_convection": ["optimizer=rathore_adam_lbfgs_nncg", "task.points=20", "task.width=4"],
    "rathore2024_reaction": ["optimizer=rathore_adam_lbfgs_gd", "task.points=20", "task.width=4"],
}
"""One run of each experiment."""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Papers find their common module; what their plugins register is taken back."""
    monkeypatch.syspath_prepend(str(PAPERS))
    modules = set(sys.modules)
    with forgotten(optimizers, tasks):
        yield
    for name in set(sys.modules) - modules:
        if name in ("common", "make_figures") or name.startswith("paper_"):
            del sys.modules[name]


def module(folder: str, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"paper_{folder}_{name}", PAPERS / folder / f"{name}.py")
    loaded = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = loaded
    spec.loader.exec_module(loaded)
    return loaded


def test_all_papers_are_listed_and_every_experiment_has_a_smoke_run() -> None:
    text = (PAPERS / "README.md").read_text()
    assert FOLDERS
    for folder in FOLDERS:
        assert f"[{folder}]({folder})" in text
    assert {name for _, name in EXPERIMENTS} == set(NARROW)


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_readme_says_what_the_results_say(folder: str) -> None:
    import common

    home = PAPERS / folder
    data = json.loads((home / "results.json").read_text())
    text = (home / "README.md").read_text()
    assert common.filled(text, module(folder, "make_figures").tables(data)) == text
    assert sum((home / name).stat().st_size for name in ("results.json", "figure.png")) < 300_000
    assert f"hybridopt paper {folder} " in text
    assert f"python papers/{folder}/reproduce.py" in text


@pytest.mark.parametrize(("folder", "name"), EXPERIMENTS)
def test_an_experiment_runs_to_numbers_and_a_figure(
    folder: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import common

    home = PAPERS / folder
    monkeypatch.chdir(tmp_path)
    plugin = ["--plugin", str(home / "parts.py")] if (home / "parts.py").exists() else []
    command = ["run", "--config-dir", str(home / "conf"), *plugin, f"experiment={name}", "out=runs"]
    assert main([*command, *SMALL, *NARROW[name]]) == 0
    assert "1 of 1 runs are done." in capsys.readouterr().out
    figures = module(folder, "make_figures")
    results = load(tmp_path / "runs")
    if importlib.util.find_spec("matplotlib") is None:
        figures.tables(figures.collect(results))
        return
    into = tmp_path / "written"
    into.mkdir()
    (into / "README.md").write_text((home / "README.md").read_text())
    common.write(results, figures, home, into)
    data = json.loads((into / "results.json").read_text())
    assert data["machine"]["runs"] == 1
    assert common.filled((home / "README.md").read_text(), figures.tables(data)) == (into / "README.md").read_text()
    assert (into / "figure.png").stat().st_size > 5_000


def test_results_are_of_all_problems_and_seeds_of_the_sweep() -> None:
    home = PAPERS / "2017_du_saddle_octopus"
    params = yaml.safe_load((home / "conf/experiment/du2017_octopus.yaml").read_text())["hydra"]["sweeper"]["params"]
    problems = json.loads((home / "results.json").read_text())["problems"]
    assert list(problems) == [name.strip() for name in params["task.problem"].split(",")]
    for entry in problems.values():
        for method in ("gd", "pgd", "escape"):
            assert [run[0] for run in entry[method]] == [int(seed) for seed in params["seed"].split(",")]


def test_results_are_of_all_arms_and_seeds_of_the_sweeps() -> None:
    home = PAPERS / "2024_rathore_pinn_optimizers"
    params = yaml.safe_load((home / "conf/experiment/rathore2024_convection.yaml").read_text())["hydra"]["sweeper"]
    sweep = {key: [value.strip() for value in text.split(",")] for key, text in params["params"].items()}
    assert {f"{name}.yaml" for name in sweep["optimizer"]} == {
        path.name for path in (home / "conf/optimizer").iterdir()
    }
    problems = json.loads((home / "results.json").read_text())["problems"]
    assert set(problems) == {"pinn_convection", "pinn_reaction"}
    for arms in problems.values():
        assert len(arms) == len(sweep["optimizer"])
        for runs in arms.values():
            assert [run[0] for run in runs] == [int(seed) for seed in sweep["seed"]]


def test_only_a_run_as_it_stands_there_writes_into_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    import common

    commands, written = [], []
    monkeypatch.setattr(common.cli, "main", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(common, "load", lambda directory: directory)
    monkeypatch.setattr(common, "write", lambda results, figures, folder, into: written.append((results, into)) or [])
    home = PAPERS / "2017_du_saddle_octopus"
    assert common.reproduce(home, ["a", "b"], ModuleType("figures"), [f"out={tmp_path}", "launcher.slots=1"]) == 0
    assert [command[-3:] for command in commands] == [
        [f"experiment={name}", "launcher.slots=1", f"out={tmp_path}"] for name in "ab"
    ]
    common.reproduce(home, ["a"], ModuleType("figures"), ["seed=0"])
    default = Path("outputs/papers/2017_du_saddle_octopus")
    assert written == [(str(tmp_path), home), (str(default), default / "results")]


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_script_runs_all_experiments_of_its_folder_or_a_small_version(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    import common

    commands = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(common.cli, "main", lambda command: commands.append(command) or 3)
    assert main(["paper", folder, "seed=1"]) == 3  # the sweep's exit code; after a failure nothing else is begun
    assert commands[0][-2:] == ["seed=1", f"out=outputs/papers/{folder}"]
    monkeypatch.setattr(common.cli, "main", lambda command: commands.append(command) or 0)
    monkeypatch.setattr(common, "load", lambda directory: directory)
    monkeypatch.setattr(common, "write", lambda results, figures, home, into: [into])
    commands.clear()
    assert main(["paper", "seed=7", folder, "--quick", "launcher.slots=1"]) == 2  # the name comes first
    assert main(["paper", folder, "--quick", "launcher.slots=1"]) == 0
    ran = [next(item for item in command if item.startswith("experiment=")) for command in commands]
    assert ran == [f"experiment={name}" for other, name in EXPERIMENTS if other == folder]
    assert {"seed=0", "launcher.slots=1", f"out=outputs/papers/{folder}-quick"} <= set(commands[0])
    assert f"written: outputs/papers/{folder}-quick/results" in capsys.readouterr().out
