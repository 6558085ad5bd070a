"""Everything that can be asked for wrongly: one paragraph that names the fix, exit code 2, nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybridopt.cli import main


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("optimizer=adamm", "There is no optimizer 'adamm'. Did you mean 'adam'?"),
        ("task=digit_cnn", "Did you mean 'digits_cnn'?"),
        ("escape=perturb", "Did you mean 'perturbation'?"),
        ("schedule=cosin", "Did you mean 'cosine'?"),
        ("tracker=wanb", "Did you mean 'wandb'?"),
        ("experiment=quick", "Did you mean 'quickstart'?"),
        ("optimizer=newton_cg optimizer.dampin=3", "Did you mean 'damping'?"),
        ("optimizer=newton_cg +optimizer.dampin=3", "Did you mean 'damping'?"),
        ("optimizer=newton_cg ++optimizer.dampin=3", "Did you mean 'damping'?"),
        ("+escape.foo=1", "escape has no option 'foo'"),
        ("budget.epoch=3", "Did you mean 'epochs'?"),
        ("buget.epochs=3", "There is no config key 'buget'. Did you mean 'budget'?"),
        ("sead=1", "Did you mean 'seed'?"),
        ("+sead=1", "Did you mean 'seed'?"),
        ("optimiser=adam", "Did you mean 'optimizer'?"),
        ("+optimizer=lbfgs", "write optimizer=NAME without the +"),
        ("+optimizer.lr=3", "write optimizer.lr=VALUE without the +"),
        ("optimizer.lr=abc", "optimizer.lr=abc does not fit"),
        ("optimizer.betas=[1,b]", "could not be converted to Float"),
        ("seed=1.5", "could not be converted to Integer"),
        ("optimizer.lr=-1", "optimizer.lr must be >= 0, not -1.0"),
        ("seed=-1", "seed must be >= 0"),
        ("dtype=float16", "dtype must be one of"),
        ("task.batch_size=ful", "Did you mean 'full'?"),
        ("task.batch_size=99999", "the training set has 1258 samples"),
        ("schedule=cosine budget.seconds=3", "set budget.epochs or budget.steps"),
        ("device=gpu", "device must be auto, cpu, cuda or cuda:N"),
        ("optimizer=adam,lbfgs", "add -m"),
        ("optimizer.lr", "Write key=value"),
        ("quickstart", "quickstart is the name of an experiment: write experiment=quickstart."),
        ("lbfgs", "lbfgs is the name of an optimizer: write optimizer=lbfgs."),
        ("x" * 300, "Write key=value"),
        ("nowhere/mine.yaml", "There is no file nowhere/mine.yaml. Give the path of an experiment's YAML file"),
        ("a.yaml b.yaml", "One experiment at a time: start a.yaml and b.yaml one after another."),
        ("optimizer.lr=???", "lr"),
        ("optimizer=external optimizer.cls=torch:AdamQ", "Did you mean 'Adam'?"),
        ("optimizer=external optimizer.cls=tirch:Adam", "needs the module 'tirch'"),
        ("--config-dir /nonexistent", "--config-dir a directory that exists"),
        ("--plugin nope.py", "The plugin file nope.py does not exist"),
        ("--plugin no_such_module", "There is no module 'no_such_module'"),
        ("--plugin", "--plugin needs a Python file"),
        ("-m seed=range(0)", "The sweep is empty"),
        ("-m hydra/launcher=submitit_slurm seed=0,1", "Write launcher=submitit_slurm instead"),
        ("launcher=slurm", "There is no launcher 'slurm'"),
        ("launcher=submitit_local launcher.options.timeout=3", "Did you mean 'timeout_min'?"),
        ("launcher.options.partition=gpu", "launcher=local has no launcher.options"),
        ("-m optimizer=adam,lbfgss", "Did you mean 'lbfgs'?"),
        ("-m optimizer=sgd,lbfgs +optimizer.foo=1", "optimizer has no option 'foo'"),
        ("-m task=digits_cnn,mnist_autoencoder", "HYBRIDOPT_DATA"),
        ("task=mnist_autoencoder", "HYBRIDOPT_DATA"),
    ],
)
def test_one_paragraph(
    arguments: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYBRIDOPT_DATA", str(tmp_path))  # without files in it
    assert main(["run", *arguments.split()]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err
    assert captured.err.count("\n") == 1, "more than one paragraph"
    assert captured.err.startswith("hybridopt: ")
    assert captured.out == ""
    assert list(tmp_path.iterdir()) == [], "left something behind"


_SWEPT = "hydra: {mode: MULTIRUN, sweeper: {params: "
_IN_FILE = "hybridopt: In conf/experiment/mine.yaml, hydra.sweeper.params: "


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("sead: 1", "There is no config key 'sead'. Did you mean 'seed'?"),
        (
            "optimizer: {dampin: 0.1}",
            "In experiment/mine.yaml: optimizer has no option 'dampin'. Did you mean 'damping'?",
        ),
        ("task: {chanels: 3}", "task has no option 'chanels'. Did you mean 'channels'?"),
        ("launcher: {slot: 2}", "In experiment/mine.yaml: launcher has no option 'slot'. Did you mean 'slots'?"),
        (
            "launcher: {name: submitit_local, options: {timeout: 3}}",
            "'timeout'. Did you mean 'timeout_min'? Its options",
        ),
        ("escape: {foo: 1}", "In experiment/mine.yaml: escape has no option 'foo'. It has none (escape=none)."),
        ("export: {weigths: true}", "In experiment/mine.yaml: export has no option 'weigths'. Did you mean 'weights'?"),
        ("hydra: {mode: MULTIRUN, sweeper: {params: {launcher.slot: '1,2'}}}", "Did you mean 'slots'?"),
        ("budget: {epoch: 1}", "In experiment/mine.yaml: budget has no option 'epoch'. Did you mean 'epochs'?"),
        ("default: [override /task: digits_rnn]", "Did you mean 'defaults'?"),
        ("hydra: {swepper: {params: {seed: '0,1'}}}", "hydra has no option 'swepper'. Did you mean 'sweeper'?"),
        ("hydra: {mode: MULTIRUN, sweeper: {parms: {seed: '0,1'}}}", "hydra.sweeper has no option 'parms'. Did you"),
        (_SWEPT + "{sead: '0,1'}}}", f"{_IN_FILE}There is no config key 'sead'. Did you mean 'seed'?"),
        (
            _SWEPT + "{optimizer.dampin: '0,1'}}}",
            f"{_IN_FILE}optimizer has no option 'dampin'. Did you mean 'damping'?",
        ),
        (_SWEPT + "{optimizer: 'sgd,admm'}}}", f"{_IN_FILE}There is no optimizer 'admm'. Did you mean 'adam'?"),
        (_SWEPT + "{seed: 'range(0)'}}}", f"{_IN_FILE}The sweep is empty"),
        (_SWEPT + "{seed: '[1,2'}}}", f"{_IN_FILE}The override 'seed=[1,2' cannot be read"),
        (_SWEPT + "{optimizer.damping: 'x,1'}}}", f"{_IN_FILE}optimizer.damping=x does not fit"),
        (_SWEPT + "{optimizer.damping: '-1,1'}}}", f"{_IN_FILE}optimizer=newton_cg: optimizer.damping must be"),
        (_SWEPT + "{seed: '0,1'}}}\nbudget: {steps: -1}", "hybridopt: budget.steps must be"),
    ],
)
def test_an_experiments_own_file(
    written: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "conf" / "experiment"
    place.mkdir(parents=True)
    chosen = "" if "default:" in written else "defaults:\n  - override /optimizer: newton_cg\n"
    (place / "mine.yaml").write_text(f"# @package _global_\n{chosen}{written}\n")
    assert main(["run", "--config-dir", "conf", "experiment=mine"]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1, "more than one paragraph"
    assert [path.name for path in tmp_path.iterdir()] == ["conf"], "left something behind"


def test_absent_device(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["run", "device=cuda"]) == 2
    assert "Use device=cpu" in capsys.readouterr().err


def test_no_network(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    import socket

    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYBRIDOPT_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert main(["run", "task=fashion_cnn"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "HYBRIDOPT_DATA" in error


def test_torchrun(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Every process would do the same runs."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    for command in ("run", "tune"):
        assert main([command, "task=digits"]) == 2
        assert "without torchrun" in " ".join(capsys.readouterr().err.split())
    for harmless in ("1", "", "all"):
        monkeypatch.setenv("WORLD_SIZE", harmless)
        assert main(["tune", "--help"]) == 0


def test_debug_shows_the_trace(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "seed=-1", "--debug"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_a_plugin_that_fails_names_the_line(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.py").write_text("x = 1\ny = undefined\n")
    assert main(["run", "--plugin", "bad.py"]) == 2
    error = capsys.readouterr().err
    assert "at line 2: NameError" in error
    (tmp_path / "worse.py").write_text("x = \n")
    assert main(["run", "--plugin", "worse.py"]) == 2
    assert "at line 1: SyntaxError" in capsys.readouterr().err
