"""``hybridopt paper``: lists the papers of a checkout and runs their scripts, with their options and exit codes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hybridopt
from hybridopt.cli import main
from hybridopt.experiment.processes import job_environment

SCRIPT = """
import sys, time
from pathlib import Path
if sys.argv[1:] == ["wait"]:
    Path("begun").touch()
    try:
        time.sleep(60)
    finally:
        Path("saved").touch()
Path("arguments").write_text(" ".join(sys.argv[1:]))
sys.exit({"code": 5, "text": "no matplotlib", "none": None}[sys.argv[1]])
"""


@pytest.fixture
def papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with two papers, from another directory."""
    for name in ("2017_du_saddle", "2024_rathore_pinn"):
        folder = tmp_path / "checkout" / "papers" / name
        folder.mkdir(parents=True)
        (folder / "reproduce.py").write_text(SCRIPT)
    (folder / "README.md").write_text("# Rathore et al.: a title\n\nText.\n")
    (tmp_path / "checkout/papers/notes").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "checkout" / "papers"


def test_the_list_is_that_of_this_checkout(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper"]) == 0
    text = capsys.readouterr().out
    for path in (Path(hybridopt.__file__).parents[1] / "papers").glob("*/reproduce.py"):
        assert path.parent.name in text
    assert main(["paper", "list"]) == 0
    assert capsys.readouterr().out == text


def test_the_list_of_another_checkout(papers: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (papers, papers.parent):
        assert main(["paper", "--from", str(place)]) == 0
        text = capsys.readouterr().out
        assert "2017_du_saddle" in text
        assert "a title" in text
        assert "notes" not in text
        assert "octopus" not in text
    monkeypatch.chdir(papers.parent)
    assert main(["paper", "list"]) == 0
    assert "2017_du_saddle " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["2017_du_saddle", "du", "du2017", "2017_du", "SADDLE", "2017_du_saddle/"])
def test_a_name_or_a_part_of_one_runs_the_script_with_its_options(papers: Path, name: str) -> None:
    path, arguments = list(sys.path), list(sys.argv)
    assert main(["paper", name, f"--from={papers}", "code", "--quick", "seed=0"]) == 5
    assert Path("arguments").read_text() == "code --quick seed=0"
    assert (sys.path, sys.argv) == (path, arguments)


def test_exit_codes_are_those_of_a_script(papers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "du", "none", "--from", str(papers)]) == 0
    assert main(["paper", "du", "text", "--from", str(papers)]) == 1
    assert "hybridopt: no matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rathoer"], "There is no paper 'rathoer'. Did you mean 'rathore'? Known: 2017_du_saddle, 2024_rathore_pinn."),
        (["du2018"], "There is no paper 'du2018'. Did you mean 'du2017'? Known: 2017_du_saddle, 2024_rathore_pinn."),
        (["20"], "'20' is part of more than one paper's name: 2017_du_saddle, 2024_rathore_pinn. Write more of it."),
        (["--quick"], "--quick goes to a paper's script: hybridopt paper NAME --quick."),
        (["--from"], "--from needs a directory after it"),
    ],
)
def test_what_is_wrong_is_said_with_the_fix(papers: Path, arguments, said: str, capsys) -> None:
    assert main(["paper", "--from", str(papers), *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_wheel_has_none_and_says_what_to_do(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hybridopt, "__file__", str(tmp_path / "site-packages" / "hybridopt" / "__init__.py"))
    assert main(["paper", "du"]) == 2
    assert "hybridopt paper --from DIR" in capsys.readouterr().err


def test_help_is_the_commands_without_a_name_and_the_scripts_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["paper", "--help"]) == 0
    assert "--from DIR" in capsys.readouterr().out
    assert main(["paper", "octopus", "--help"]) == 0
    assert "usage: hybridopt paper 2017_du_saddle_octopus" in capsys.readouterr().out


def test_an_interrupt_reaches_the_script(papers: Path) -> None:
    command = [sys.executable, "-m", "hybridopt", "paper", "du", "wait", "--from", str(papers)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        env=job_environment(1),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # tests in a shell's background ignore it
    )
    deadline = time.monotonic() + 60
    while not Path("begun").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said == "hybridopt: Interrupted. The same command goes on where this one stopped.\n"
    assert Path("saved").exists()
