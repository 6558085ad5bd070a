"""``hybridopt tune`` from the command line: trials in real processes, one of which dies; the settings are replayed."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hybridopt.cli import main
from hybridopt.experiment.jsonio import read_json
from tests.experiment import tiny

PLUGIN = str(Path(tiny.__file__).resolve())


def test_tune_is_killed_goes_on_and_is_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["tune", "--plugin", PLUGIN, "task=tiny", "optimizer=momentum", "trials=1", "defaults=false"]
    command += ["--only", "optimizer.lr", "--space", "optimizer.lr=log:1e-2:1", "optimizer.momentum=0.8"]
    command += ["budget.gradient_equivalents=2", "final_seeds=1"]
    command += ["task.poison=kill", "task.after=3", f"task.antidote={tmp_path / 'antidote'}"]
    assert main(command) == 2
    assert "1 of 1 trials were killed" in capsys.readouterr().err
    (tmp_path / "antidote").touch()
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "cost until the target" in out
    assert "hybridopt run --plugin" in out
    root = tmp_path / "outputs" / "tune"
    entry = yaml.safe_load((root / "tuned.yaml").read_text())["tasks"]["tiny"]["momentum"]
    assert entry["trials"] == 1
    assert entry["gradient_equivalents"] == pytest.approx(2.0)
    assert 0.01 <= entry["values"]["optimizer.lr"] <= 1
    assert read_json(root / entry["run"] / "status.json")["status"] == "done"
    replay = ["run", "--plugin", PLUGIN, "--config-dir", str(root / "conf"), "experiment=final"]
    assert main([*replay, "hydra/launcher=basic"]) == 0
    (final,) = (tmp_path / "outputs" / "final").glob("tiny/momentum/s0-*")
    config = yaml.safe_load((final / "config.yaml").read_text())
    assert config["optimizer"]["lr"] == entry["values"]["optimizer.lr"]
    assert config["optimizer"]["momentum"] == 0.8
    assert config["budget"]["gradient_equivalents"] == 2
    assert read_json(final / "provenance.json")["tuning"]["trials"] == 1
    assert main([*replay, "hydra/launcher=basic", "optimizer.lr=0.03", "out=other"]) == 0
    (changed,) = (tmp_path / "other").glob("tiny/momentum/s0-*")
    assert "tuning" not in read_json(changed / "provenance.json"), "what the user changed is not tuned"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "task=NAME"),
        ("task=digits_cnn", "optimizer=NAME"),
        ("task=digits_cnn optimizer=adam,lbfgss", "Did you mean 'lbfgs'?"),
        ("task=digits_cnn optimizer=adam sampler=sobool", "Did you mean 'sobol'?"),
        ("task=digits_cnn optimizer=adam trials=0", "trials must be >= 1"),
        ("task=digits_cnn optimizer=adam trails=4", "Did you mean 'trials'?"),
        ("task=digits_cnn optimizer=adam trials", "Write KEY=VALUE"),
        ("task=digits_cnn optimizer=adam seed=0", "belongs to the final comparison"),
        ("task=digits_cnn optimizer=adam experiment=quickstart", "takes no experiment="),
        ("task=digits_cnn optimizer=adam optimizer.lr=0.1,0.2", "--space optimizer.lr=0.1,0.2"),
        ("task=digits_cnn optimizer=adam escape=none,perturbation", "tune each in a call of its own"),
        ("task=digits_cnn optimizer=adam escape=perturbation --space escape.radios=1,2", "Did you mean 'radius'?"),
        ("task=digits_cnn optimizer=adam --only optimizer.lrr,optimizer.lr", "Did you mean 'optimizer.lr'?"),
        ("task=digits_cnn optimizer=adam,lbfgs --space optimizer.histori=5,10", "Did you mean 'history'?"),
        ("task=digits_cnn optimizer=adam sampler=grid", "at least"),
        ("task=digits_cnn optimizer=adam --config-dir /nonexistent", "not a directory that exists"),
    ],
)
def test_one_paragraph(
    arguments: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["tune", *arguments.split()]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_changes_of_the_space_go_to_the_optimizers_that_they_concern() -> None:
    from hybridopt.cli.tune import _changes

    texts = ["optimizer.lr=log:1e-3:1", "optimizer.history=5,10", "task.batch_size=8,16"]
    assert _changes(texts, ["adam", "lbfgs"]) == {"adam": [texts[0], texts[2]], "lbfgs": texts[:2]}
