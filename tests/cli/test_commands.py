"""The commands as a user meets them: help at once, tables, exit codes, one paragraph for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from hybridopt.cli import main
from hybridopt.experiment.config import resolve, to_plain
from hybridopt.experiment.jsonio import read_json
from hybridopt.experiment.store import RunStore
from hybridopt.optimizers import registry
from tests.experiment import tiny
from tests.plugins import forgotten

PLUGIN = str(Path(tiny.__file__).resolve())


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_imports_neither_torch_nor_hydra() -> None:
    code = (
        "import sys; from hybridopt.cli import main; code = main(['--help'])\n"
        "found = {'torch', 'hydra', 'omegaconf', 'wandb', 'rich', 'numpy'} & set(sys.modules)\n"
        "sys.exit(code or ' '.join(sorted(found)) or 0)"
    )
    from hybridopt.experiment import processes

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=processes.job_environment(1)
    )
    assert done.stderr == ""
    for command in ("run", "status", "report", "list", "doctor", "job"):
        assert f"\n    {command} " in done.stdout


def test_version_and_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert main([]) == 0
    assert main(["frobnicate"]) == 2
    assert "invalid choice: 'frobnicate'" in capsys.readouterr().err


def test_run_help_is_the_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--help", "optimizer=newton_cg"]) == 0
    text = capsys.readouterr().out
    assert "--plugin" in text
    assert "max_cg:" in text
    assert "schema/" not in text


def test_cfg_job_shows_types_of_the_choice(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "--cfg", "job", "optimizer=lbfgs", "optimizer.history=7", "--resolve"]) == 0
    assert "history: 7" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_flags_and_overrides_may_be_mixed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "optimizer=lbfgs", "--cfg", "job", "seed=5", "--package", "budget", "budget.steps=4"]) == 0
    assert "steps: 4" in capsys.readouterr().out
    assert main(["run", "optimizer=lbfgs", "--info", "searchpath", "seed=5"]) == 0
    assert "conf" in capsys.readouterr().out


def test_a_run_and_then_the_same_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["run", "--plugin", PLUGIN, "task=tiny", "optimizer=momentum", "budget.steps=4"]
    assert main(command) == 0
    text = capsys.readouterr().out
    assert "tiny/momentum/s0 -> outputs/runs/tiny/momentum/s0-" in text
    assert "target train_loss <= 0.1: not reached" in text
    assert "test_loss" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["outputs"]  # and no litter of Hydra's
    (directory,) = tmp_path.glob("outputs/runs/tiny/momentum/*")
    before = (directory / "history.jsonl").read_bytes()
    assert main(command) == 0
    assert "is done already" in capsys.readouterr().out
    assert (directory / "history.jsonl").read_bytes() == before


def test_external_optimizer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["run", f"--plugin={PLUGIN}", "task=tiny", "optimizer=external", "optimizer.cls=torch:SGD"]
    assert main([*command, "optimizer.options={lr: 1e-2}", "budget.steps=2"]) == 0
    (directory,) = tmp_path.glob("outputs/runs/tiny/torch.SGD/*")
    rows = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    assert {row["lr"] for row in rows if row["type"] == "step"} <= {1e-2}
    capsys.readouterr()


def test_own_yaml_files(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "optimizer").mkdir(parents=True)
    (tmp_path / "mine" / "experiment").mkdir()
    (tmp_path / "mine" / "optimizer" / "brisk.yaml").write_text("defaults: [momentum, _self_]\nlr: 0.2\n")
    (tmp_path / "mine" / "optimizer" / "bare.yaml").write_text("name: momentum\nlr: 0.3\n")
    (tmp_path / "mine" / "experiment" / "fast.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /optimizer: brisk\nbudget: {steps: 2}\n"
    )
    common = ["run", "--config-dir", "mine", "--plugin", PLUGIN, "task=tiny"]
    assert main([*common, "experiment=fast"]) == 0
    (directory,) = tmp_path.glob("outputs/fast/tiny/momentum/*")
    assert "lr: 0.2" in (directory / "config.yaml").read_text()
    assert main([*common, "optimizer=bare", "budget.steps=2"]) == 0
    (directory,) = tmp_path.glob("outputs/runs/tiny/momentum/*")
    assert "lr: 0.3" in (directory / "config.yaml").read_text()
    (tmp_path / "mine" / "optimizer" / "bare.yaml").write_text("name: momentum\nlrr: 0.3\n")
    capsys.readouterr()
    assert main([*common, "optimizer=bare", "budget.steps=2"]) == 2
    assert "Did you mean 'lr'" in capsys.readouterr().err


def test_settings_for_one_pair_yield_to_the_user(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine" / "tuned" / "tiny").mkdir(parents=True)
    (tmp_path / "mine" / "tuned" / "tiny" / "sgd.yaml").write_text("# @package _global_\noptimizer: {lr: 0.25}\n")
    common = [
        "run",
        "--config-dir",
        "mine",
        "--plugin",
        PLUGIN,
        "--cfg",
        "job",
        "--package",
        "optimizer",
        "task=tiny",
    ]
    for overrides, rate in (
        (["optimizer=sgd"], 0.25),
        (["optimizer=sgd", "optimizer.lr=0.5"], 0.5),
        (["optimizer=momentum"], 0.05),
    ):
        assert main([*common, *overrides]) == 0
        assert f"lr: {rate}" in capsys.readouterr().out


def test_in_process_launcher(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["run", "-m", "--plugin", PLUGIN, "task=tiny", "optimizer=lbfgs", "budget.steps=2"]
    assert main([*command, "hydra/launcher=basic", "seed=0,1"]) == 0
    assert capsys.readouterr().out.count(" -> outputs/runs/tiny/lbfgs/s") == 2
    assert main([*command, "hydra/launcher=basic", "seed=2", "task.batch_size=16,100"]) == 2
    captured = capsys.readouterr()
    assert "tiny/lbfgs/s2" in captured.out
    assert "batch_size" in captured.err


def test_own_optimizer_in_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my_method.py").write_text(
        "from dataclasses import dataclass\n"
        "import hybridopt as ho\n"
        "@ho.register('my_method')\n"
        "class MyMethod(ho.Optimizer):\n"
        "    '''Plain gradient descent.'''\n"
        "    @dataclass\n"
        "    class Config:\n"
        "        lr: float = 0.1\n"
        "    def update(self, objective):\n"
        "        value, gradient = objective.value_and_grad()\n"
        "        objective.commit(objective.position() - self.config.lr * gradient)\n"
    )
    common = ["run", "--plugin", PLUGIN, "--plugin", "my_method.py", "task=tiny", "optimizer=my_method"]
    with forgotten(registry):
        assert main([*common, "budget.steps=2"]) == 0
        assert main([*common, "optimizer.lrr=2"]) == 2
        assert "Did you mean 'lr'" in capsys.readouterr().err
        assert main(["list", "optimizers", "--plugin", "my_method.py"]) == 0
    assert "Plain gradient descent." in capsys.readouterr().out


def test_error_in_the_middle_is_one_paragraph(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = ["run", "--plugin", PLUGIN, "task=tiny", "task.poison=error", "task.after=3", "optimizer=sgd"]
    assert main(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "RuntimeError: poisoned" in error
    assert "run.log" in error
    (directory,) = tmp_path.glob("outputs/runs/tiny/sgd/*")
    assert "Traceback" in (directory / "run.log").read_text()
    with pytest.raises(RuntimeError, match="poisoned"):
        main([*command, "--debug"])


def test_nan_loss(capsys: pytest.CaptureFixture[str]) -> None:
    command = [
        "run",
        "--plugin",
        PLUGIN,
        "task=tiny",
        "optimizer=sgd",
        "optimizer.lr=1e30",
        "budget.steps=30",
    ]
    for _ in range(2):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "diverged" in error
        assert "Lower the learning rate" in error


def test_status_tells_done_killed_failed_and_missing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for seed, status in enumerate(("done", "running", "failed")):
        config = resolve({"optimizer": "sgd", "seed": seed, "device": "cpu"})
        with RunStore(tmp_path / "digits_cnn" / "sgd" / f"s{seed}-{seed:08x}", to_plain(config)) as store:
            store.resume()
            place = {"step": 30, "epoch": 1.0, "gradient_equivalents": 1.5, "seconds": 2.0}
            store.append({"type": "step", **place, "loss": 0.25})
            store.write_status({"status": status, "reason": "so"})
    (tmp_path / "sweep.json").write_text(json.dumps({"runs": {"x": "digits_cnn/sgd/s9-00000009"}}))
    assert main(["status", "."]) == 0
    text = capsys.readouterr().out
    assert "1 done, 1 killed, 1 failed, 1 missing" in text
    assert "loss 0.25" in text
    assert main(["status", "nowhere"]) == 2
    (tmp_path / "empty").mkdir()
    assert main(["status", "empty"]) == 2
    assert "There are no runs below" in capsys.readouterr().err


def test_status_tells_what_is_running_now(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = resolve({"optimizer": "sgd", "device": "cpu"})
    with RunStore(tmp_path / "digits_cnn" / "sgd" / "s0-00000000", to_plain(config)) as store:
        store.write_status({"status": "running", "reason": ""})
        assert main(["status", "."]) == 0
    assert "1 running" in capsys.readouterr().out


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in (
        "newton_cg",
        "external",
        "digits_cnn",
        "negative_curvature",
        "one_cycle",
        "wandb",
        "quickstart",
    ):
        assert name in text


def test_list_survives_a_broken_part(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from hybridopt.optimizers import registry

    monkeypatch.setitem(registry._builtins, "broken", "hybridopt_no_such_module:Nothing")
    assert main(["list", "optimizers"]) == 0
    text = capsys.readouterr().out
    assert "BROKEN" in text
    assert "newton_cg" in text
    assert main(["run", "optimizer=broken"]) == 2
    assert "cannot be imported" in capsys.readouterr().err
    assert main(["run", "--cfg", "job", "optimizer=adam"]) == 0


def test_doctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRIDOPT_DATA", "/nonexistent")
    assert main(["doctor", "--device", "cpu"]) == 0
    text = capsys.readouterr().out
    for expected in (
        "torch",
        "Hessian product",
        "Gauss-Newton product",
        "IS NO DIRECTORY",
        "writable",
        "offline",
    ):
        assert expected in text
    assert main(["doctor", "--device", "tpu"]) == 2


def test_report_of_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "nowhere"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_job_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["job", "nowhere"]) == 2
    assert "is not a run directory" in capsys.readouterr().err


def test_unwritable_output_directory(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    command = ["run", "--plugin", PLUGIN, "task=tiny", "optimizer=sgd", "out=file/below"]
    assert main(command) == 2
    assert main([*command, "-m", "seed=0,1"]) == 2
    errors = capsys.readouterr().err
    assert errors.count("out=DIR") == 2
    assert errors.count("\n") == 2


def test_interrupt_is_130_and_resumable(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    import signal

    from hybridopt.cli import progress

    original = progress.RunObserver.__call__

    def interrupt(self: progress.RunObserver, row: dict) -> None:
        original(self, row)
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    command = ["run", "--plugin", PLUGIN, "task=tiny", "optimizer=sgd", "budget.steps=6", "log_every=1"]
    monkeypatch.setattr(progress.RunObserver, "__call__", interrupt)
    assert main(command) == 130
    assert "goes on where this one stopped" in capsys.readouterr().err
    (directory,) = tmp_path.glob("outputs/runs/tiny/sgd/*")
    assert read_json(directory / "status.json")["status"] == "interrupted"
    monkeypatch.setattr(progress.RunObserver, "__call__", original)
    assert main(command) == 0
    assert read_json(directory / "status.json")["status"] == "done"
