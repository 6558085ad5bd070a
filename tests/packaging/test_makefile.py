"""Tests of the set-up: which interpreter it takes, and when it does its work again.

Every test runs with a PATH of its own, made of links to the tools the scripts use and of pretended
interpreters, so that what is installed on this machine plays no part.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = (
    "sh",
    "cat",
    "cksum",
    "sed",
    "grep",
    "paste",
    "rm",
    "mkdir",
    "cp",
    "uname",
    "touch",
    "find",
    "make",
    "printf",
)
REAL = shlex.quote(sys.executable)

RUNS = f'exec {REAL} "$@"'
SHIM_THAT_REFUSES = 'echo "$0: command not found; it exists in these versions: 3.12.1" >&2; exit 127'
# `name -c code` runs the code in the real interpreter after a change that makes it look like another one.
PRETEND = f'exec {REAL} -c "import sys; {{change}}; exec(sys.argv[1])" "$2"'
NO_VENV = PRETEND.format(change="sys.modules['ensurepip'] = None")


def _version(text: str) -> str:
    return PRETEND.format(change=f"sys.version_info = ({', '.join(text.split('.'))}, 'final', 0)")


@dataclass
class Sandbox:
    """A directory of tools and pretended interpreters that is the whole PATH of what runs in it."""

    bin: Path
    cwd: Path

    def add(self, name: str, body: str) -> Path:
        """Put an executable sh script on PATH."""
        script = self.bin / name
        script.write_text(f"#!/bin/sh\n{body}\n")
        script.chmod(0o755)
        return script

    def run(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command with nothing of this process's environment but the sandbox."""
        environment = {"PATH": str(self.bin), "HOME": str(self.cwd), "LC_ALL": "C", **variables}
        return subprocess.run(command, cwd=self.cwd, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def sandbox(tmp_path: Path) -> Sandbox:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in TOOLS:
        found = shutil.which(tool)
        if found is None and tool == "make":
            pytest.skip("make is not installed")
        assert found, f"{tool} is not installed"
        (folder / tool).symlink_to(found)
    return Sandbox(folder, tmp_path)


def _find(sandbox: Sandbox, **variables: str) -> subprocess.CompletedProcess[str]:
    return sandbox.run("sh", str(ROOT / "scripts" / "find_python.sh"), **variables)


def _base() -> str:
    return f"{sys._base_executable}\n"


def test_a_shim_that_does_not_run_is_passed_over(sandbox: Sandbox) -> None:
    for name in ("python3", "python3.13"):
        sandbox.add(name, SHIM_THAT_REFUSES)
    sandbox.add("python3.12", RUNS)
    found = _find(sandbox)
    assert (found.returncode, found.stdout, found.stderr) == (0, _base(), "")


@pytest.mark.parametrize("version", ["3.9.18", "3.10.14", "3.14.0", "2.7.18"])
def test_a_version_out_of_range_is_passed_over(sandbox: Sandbox, version: str) -> None:
    sandbox.add("python3", _version(version))
    assert _find(sandbox).returncode == 1
    sandbox.add("python3.11", RUNS)
    assert _find(sandbox).stdout == _base()


@pytest.mark.parametrize("version", ["3.11.0", "3.12.9", "3.13.1"])
def test_every_version_in_range_is_taken(sandbox: Sandbox, version: str) -> None:
    sandbox.add("python3", _version(version))
    assert _find(sandbox).returncode == 0


def test_python3_comes_before_the_numbered_names(sandbox: Sandbox) -> None:
    sandbox.add("python3", 'echo "ok|first"')
    sandbox.add("python3.13", 'echo "ok|second"')
    assert _find(sandbox).stdout == "first\n"


def test_the_named_interpreter_comes_first(sandbox: Sandbox) -> None:
    sandbox.add("python3", 'echo "ok|default"')
    named = sandbox.add("my python", 'echo "ok|named"')
    assert _find(sandbox, PYTHON=str(named)).stdout == "named\n"


@pytest.mark.parametrize(
    ("body", "message"), [(SHIM_THAT_REFUSES, "does not run"), (_version("3.9.18"), "is cpython 3.9.18")]
)
def test_a_named_interpreter_that_does_not_fit_is_reported(sandbox: Sandbox, body: str, message: str) -> None:
    sandbox.add("python3", RUNS)
    named = sandbox.add("mine", body)
    found = _find(sandbox, PYTHON=str(named))
    assert found.stdout == _base()
    assert f"PYTHON={named} {message}" in found.stderr


def test_no_python_at_all(sandbox: Sandbox) -> None:
    found = _find(sandbox)
    assert (found.returncode, found.stdout) == (1, "")
    assert "needs CPython 3.11, 3.12 or 3.13" in found.stderr
    assert "make demo PYTHON=" in found.stderr


def test_a_missing_venv_module_is_named(sandbox: Sandbox) -> None:
    sandbox.add("python3", NO_VENV)
    found = _find(sandbox)
    number = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (found.returncode, found.stdout) == (1, "")
    assert f"sudo apt install python{number}-venv" in found.stderr


def test_without_venv_the_next_interpreter_is_tried(sandbox: Sandbox) -> None:
    sandbox.add("python3", NO_VENV)
    sandbox.add("python3.11", RUNS)
    found = _find(sandbox)
    assert found.stdout == _base()
    assert "lacks the venv module" in found.stderr


# An interpreter that answers what the set-up asks and writes every pip command to pip.log. Environments that
# it makes contain itself. `pip install` fails while a file named "no-network" exists.
PRETENDED_PYTHON = """
case "$1 $2" in
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; echo made >>venvs.log ;;
"-m pip") [ ! -e no-network ] || {{ echo "pip: no network" >&2; exit 1; }}
          shift 3; echo "$*" >>pip.log ;;
"--version ") echo "Python 3.12.0" ;;
"-c "*"ensurepip"*) echo "ok|{path}" ;;
"-c "*"base_prefix"*) echo "{prefix}" ;;
esac
"""


@pytest.fixture
def project(sandbox: Sandbox) -> Sandbox:
    """A copy of what the set-up reads, with a pretended python3."""
    (sandbox.cwd / "scripts").mkdir()
    for name in (
        "Makefile",
        "pyproject.toml",
        "constraints.txt",
        "scripts/find_python.sh",
        "scripts/setup_venv.sh",
    ):
        shutil.copy(ROOT / name, sandbox.cwd / name)
    _pretend(sandbox, "python3", "/opt/python")
    return sandbox


def _pretend(sandbox: Sandbox, name: str, prefix: str) -> None:
    sandbox.add(name, PRETENDED_PYTHON.format(path=sandbox.bin / name, prefix=prefix))


def _make(project: Sandbox, *arguments: str) -> list[str]:
    """Run make; return the pip commands that it gave."""
    log = project.cwd / "pip.log"
    log.unlink(missing_ok=True)
    done = project.run("make", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return log.read_text().splitlines() if log.exists() else []


def _environments_made(project: Sandbox) -> int:
    return len((project.cwd / "venvs.log").read_text().splitlines())


def test_the_first_set_up_installs_with_the_pins(project: Sandbox) -> None:
    tools, package = _make(project, "venv")
    assert tools == "install --quiet -c constraints.txt hatchling editables setuptools"
    assert package == "install --quiet --no-build-isolation -c constraints.txt -e ."


def test_a_finished_set_up_is_not_repeated(project: Sandbox) -> None:
    _make(project, "venv")
    for name in ("pyproject.toml", "constraints.txt"):
        os.utime(project.cwd / name)  # as after a git checkout: a new time, the same content
    assert _make(project, "venv") == []


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_requirement_is_installed_into_the_same_environment(project: Sandbox, name: str) -> None:
    _make(project, "venv")
    with (project.cwd / name).open("a") as file:
        file.write("# changed\n")
    assert len(_make(project, "venv")) == 2
    assert _environments_made(project) == 1
    assert _make(project, "venv") == []


def test_extras_are_added_and_kept(project: Sandbox) -> None:
    _make(project, "venv")
    setup = project.cwd / "scripts" / "setup_venv.sh"
    assert project.run("sh", str(setup), "dev").returncode == 0
    assert (project.cwd / "pip.log").read_text().splitlines()[-1].endswith("-e .[dev]")
    assert project.run("sh", str(setup), "bench").returncode == 0
    assert (project.cwd / "pip.log").read_text().splitlines()[-1].endswith("-e .[dev,bench]")
    for extra in ("core", "dev", "bench"):
        (project.cwd / "pip.log").unlink(missing_ok=True)
        assert project.run("sh", str(setup), extra).returncode == 0
        assert not (project.cwd / "pip.log").exists(), f"{extra} was installed again"
    assert _environments_made(project) == 1


def test_an_interrupted_set_up_is_made_anew(project: Sandbox) -> None:
    (project.cwd / "no-network").touch()
    failed = project.run("make", "venv")
    assert failed.returncode != 0
    assert "pip: no network" in failed.stderr
    assert "The next make starts it anew" in failed.stderr
    (project.cwd / "no-network").unlink()
    leftover = project.cwd / ".venv" / "half-unpacked"
    leftover.touch()
    assert len(_make(project, "venv")) == 2
    assert _environments_made(project) == 2
    assert not leftover.exists()


def test_an_update_that_failed_is_not_taken_for_finished(project: Sandbox) -> None:
    _make(project, "venv")
    (project.cwd / "no-network").touch()
    with (project.cwd / "constraints.txt").open("a") as file:
        file.write("# changed\n")
    assert project.run("make", "venv").returncode != 0
    (project.cwd / "no-network").unlink()
    assert len(_make(project, "venv")) == 2
    assert _environments_made(project) == 2, "nobody knows what the failed update left"


def test_an_environment_whose_python_is_gone_is_made_anew(project: Sandbox) -> None:
    _make(project, "venv")
    (project.cwd / ".venv" / "bin" / "python").unlink()
    assert len(_make(project, "venv")) == 2
    assert _environments_made(project) == 2


def test_a_moved_environment_is_made_anew(project: Sandbox, tmp_path: Path) -> None:
    _make(project, "venv")
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "scripts", ".venv"):
        (project.cwd / name).rename(moved / name)
    there = Sandbox(project.bin, moved)
    assert len(_make(there, "venv")) == 2
    assert _environments_made(there) == 1


def test_another_interpreter_means_another_environment(project: Sandbox) -> None:
    _make(project, "venv")
    _pretend(project, "other", "/opt/other")
    assert len(_make(project, "venv", "PYTHON=other")) == 2
    assert _environments_made(project) == 2
    assert _make(project, "venv") == [], "without PYTHON the environment that is there is good enough"
    assert _make(project, "venv", "PYTHON=other") == []


def test_torch_comes_from_the_named_index_and_stays(project: Sandbox) -> None:
    url = "https://download.pytorch.org/whl/cpu"
    _, torch, package = _make(project, "venv", f"TORCH_INDEX={url}")
    assert torch == f"install --quiet --no-deps --index-url {url} torch==2.13.0"
    assert f"--extra-index-url {url}" in package
    assert _make(project, "venv") == [], "the index need not be repeated"
    with (project.cwd / "pyproject.toml").open("a") as file:
        file.write("# changed\n")
    assert f"--index-url {url}" in _make(project, "venv")[1], "an update must not fall back to another torch"
    _make(project, "venv", "TORCH_INDEX=https://download.pytorch.org/whl/cu130")
    assert _environments_made(project) == 2


def test_the_size_of_pypi_torch_is_announced_on_linux(project: Sandbox) -> None:
    if sys.platform != "linux":
        pytest.skip("PyPI has the CUDA build for Linux only")
    assert "make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu" in project.run("make", "venv").stdout


def test_help_is_the_default_and_installs_nothing(project: Sandbox) -> None:
    done = project.run("make")
    assert done.returncode == 0
    for word in ("demo", "test", "lint", "format", "bench", "venv", "clean", "TORCH_INDEX", "PYTHON"):
        assert word in done.stdout
    assert not (project.cwd / ".venv").exists()


def test_demo_runs_the_quickstart_and_says_where_the_report_is(project: Sandbox) -> None:
    _make(project, "venv")
    program = project.cwd / ".venv" / "bin" / "hybridopt"
    # A time in the future: the clock of the file system is too coarse to tell this from the demo's start.
    report = "outputs/quickstart/report.html"
    program.write_text(f'#!/bin/sh\necho "ran: $*"\nmkdir -p outputs/quickstart\ntouch -t 209901010000 {report}\n')
    program.chmod(0o755)
    old = project.cwd / "outputs" / "old" / "report.html"
    old.parent.mkdir(parents=True)
    old.touch()
    os.utime(old, (1, 1))
    done = project.run("make", "demo")
    assert done.returncode == 0, done.stderr
    assert "ran: run experiment=quickstart" in done.stdout
    assert f"The report: {project.cwd}/{report}" in done.stdout
    assert str(old) not in done.stdout


def test_clean_keeps_results(project: Sandbox) -> None:
    _make(project, "venv")
    (project.cwd / "outputs").mkdir()
    assert project.run("make", "clean").returncode == 0
    assert not (project.cwd / ".venv").exists()
    assert (project.cwd / "outputs").is_dir()


def test_ci_runs_the_same_tests_as_make(project: Sandbox) -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
    assert "make test" in script
    recipe = project.run("make", "-n", "test").stdout
    for command in ("ruff check", "ruff format --check", "pytest -n 2"):
        assert command in recipe
