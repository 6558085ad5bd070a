"""``hybridopt run my_sweep.yaml``: an experiment by the path of its file, and the file named where a sweep is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridopt._paths import conf_dir
from hybridopt.cli import main, run
from hybridopt.core import ConfigError

SWEEP = "hydra: {mode: MULTIRUN, sweeper: {params: {optimizer: 'sgd,adam', seed: '0,1'}}}\nbudget: {steps: 7}\n"


@pytest.fixture
def composed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[dict]]:
    """What sweeps were composed to; nothing runs."""
    monkeypatch.chdir(tmp_path)
    found: list[list[dict]] = []
    monkeypatch.setattr(run.Session, "sweep", lambda self, jobs: found.append(list(jobs)))
    return found


def jobs(composed: list[list[dict]], *arguments: str) -> list[tuple]:
    """One line a job: experiment, optimizer, seed and steps."""
    composed.clear()
    run.main(list(arguments), debug=False)
    ((*made,),) = composed
    return [(job["experiment"], job["optimizer"]["name"], job["seed"], job["budget"]["steps"]) for job in made]


@pytest.mark.parametrize(
    ("place", "header"),
    [
        ("mine.yaml", ""),
        ("some/folder/mine.yaml", "# @package _global_\n"),
        ("conf/experiment/mine.yaml", "# My sweep.\n# @package _global_\n"),
    ],
)
def test_a_path_is_the_experiment_of_that_file(tmp_path: Path, composed, header: str, place: str) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(header + SWEEP)
    assert jobs(composed, place) == [("mine", name, seed, 7) for name in ("sgd", "adam") for seed in (0, 1)]
    overridden = [("mine", "sgd", 0, 3), ("mine", "adam", 0, 3)]
    assert jobs(composed, "budget.steps=3", f"experiment={path}", "seed=0") == overridden
    assert sorted(item.name for item in tmp_path.rglob("*.yaml")) == ["mine.yaml"]


@pytest.mark.parametrize("folder", ["it's, [1] of 2/experiment", "back\\\\'slash"])
def test_a_path_may_have_any_signs(tmp_path: Path, composed, folder: str) -> None:
    path = tmp_path / folder / "my sweep, 2nd.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(SWEEP)
    assert jobs(composed, str(path), "optimizer=adam", "seed=1") == [("my sweep, 2nd", "adam", 1, 7)]


def test_a_link_is_an_experiment_of_its_own_name_and_place(tmp_path: Path, composed) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "sweep.yaml").write_text("defaults: [steps]\n" + SWEEP.splitlines()[0])
    (tmp_path / "steps.yaml").write_text("# @package _global_\nbudget: {steps: 4}\n")
    (tmp_path / "mine.yaml").symlink_to(Path("shared", "sweep.yaml"))
    assert jobs(composed, "mine.yaml", "optimizer=adam", "seed=1") == [("mine", "adam", 1, 4)]


def test_a_search_path_of_ones_own_is_kept(tmp_path: Path, composed) -> None:
    (tmp_path / "mine.yaml").write_text(SWEEP)
    (tmp_path / "own, b" / "optimizer").mkdir(parents=True)
    slow = "defaults: [/schema/optimizer/adam@_here_, _self_]\nlr: 1.0e-6\n"
    (tmp_path / "own, b" / "optimizer" / "slow_adam.yaml").write_text(slow)
    search = f"hydra.searchpath=['file://{tmp_path}/own, b']"
    assert jobs(composed, search, "mine.yaml", "optimizer=slow_adam", "seed=1") == [("mine", "adam", 1, 7)]
    with pytest.raises(ConfigError, match=r"The override 'hydra.searchpath=\[' cannot be read"):
        run.main(["hydra.searchpath=[", "mine.yaml"], debug=False)


def test_neighbours_and_groups_beside_the_file_are_found(tmp_path: Path, composed) -> None:
    group = tmp_path / "conf" / "experiment"
    group.mkdir(parents=True)
    (group / "base.yaml").write_text("# @package _global_\n" + SWEEP)
    (group / "mine.yaml").write_text("defaults: [base, override /optimizer: slow_adam]\nseed: 5\n")
    (tmp_path / "conf" / "optimizer").mkdir()
    slow = "defaults: [/schema/optimizer/adam@_here_, _self_]\nlr: 1.0e-6\n"
    (tmp_path / "conf" / "optimizer" / "slow_adam.yaml").write_text(slow)
    composed.clear()
    run.main(["conf/experiment/mine.yaml", "optimizer=slow_adam", "seed=3"], debug=False)
    ((job,),) = composed
    assert (job["optimizer"]["name"], job["optimizer"]["lr"], job["seed"]) == ("adam", 1e-6, 3)
    assert job["budget"]["steps"] == 7


def test_a_shipped_file_is_the_shipped_experiment(composed) -> None:
    path = conf_dir() / "experiment" / "quickstart.yaml"
    (job,) = jobs(composed, str(path), "optimizer=adam", "task=digits_cnn", "seed=3")
    assert job[:3] == ("quickstart", "adam", 3)


@pytest.mark.parametrize(
    ("name", "beside", "said"),
    [
        ("quickstart.yaml", None, "An experiment called quickstart comes with this library"),
        ("mine.yml", None, "rename mine.yml"),
        ("config.yaml", "status.json", "config.yaml is the config of one run. hybridopt job . goes on with that run"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_the_way(tmp_path: Path, composed, name, beside, said: str) -> None:
    (tmp_path / name).write_text(SWEEP)
    if beside:
        (tmp_path / beside).touch()
    with pytest.raises(ConfigError) as caught:
        run.main([name], debug=False)
    assert said in str(caught.value)


def test_a_mistake_in_a_sweep_names_the_file_that_it_stands_in(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "child.yaml").write_text("# @package _global_\ndefaults: [mine]\n")
    (tmp_path / "mine.yaml").write_text("# @package _global_\n" + SWEEP.replace("seed:", "sead:"))
    said = "There is no config key 'sead'. Did you mean 'seed'?"
    assert main(["run", "child.yaml"]) == 2
    assert f"hybridopt: In mine.yaml, hydra.sweeper.params: {said}" in capsys.readouterr().err
    assert main(["run", "mine.yaml", "sead=0,1"]) == 2  # now it is the command line's
    assert f"hybridopt: {said}" in capsys.readouterr().err


def test_a_mistake_outside_of_the_sweep_names_it_too(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("optimizer:\n  lrr: 1e-3\n")
    assert main(["run", "mine.yaml"]) == 2
    assert "hybridopt: In mine.yaml: optimizer has no option 'lrr'. Did you mean 'lr'?" in capsys.readouterr().err
