"""``hybridopt paper``: published experiments, reproduced by the scripts of a checkout's folder ``papers``."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import hybridopt
from hybridopt.cli import console
from hybridopt.core.errors import ConfigError, UnknownNameError, suggest

SCRIPT = "reproduce.py"
HELP = """\
usage: hybridopt paper [list] [--from DIR]
       hybridopt paper NAME [--from DIR] [--quick] [OVERRIDE ...]

Runs everything of a published experiment, or what of it is missing, and writes its results, figure and tables.
NAME is a folder below papers/ or any part of its name that only one has, as in hybridopt paper du2017. What stands
behind it goes to the folder's reproduce.py; hybridopt paper NAME --help says what that takes. Killed or interrupted,
the same command goes on where it was.

  --from DIR   the folder papers/, or a checkout that has it (default: here, else the checkout that this program is)
  --quick      a small version that shows that all works, and not what the paper says
  OVERRIDE     of hybridopt run: seed=0, launcher.slots=1, out=DIR"""


def start(arguments: Sequence[str], *, debug: bool) -> int:
    """Lists the papers, or reproduces one in this process.

    Args:
        arguments: All after ``paper``.
        debug: Whether to show traces.

    Returns:
        The exit code; that of the paper's script.

    Raises:
        ConfigError: If there are no papers, or the arguments are wrong.
        UnknownNameError: If no paper, or more than one, is called so.
    """
    place, rest = _place(arguments)
    name = next((argument for argument in rest if not argument.startswith("-")), None)
    if name is None:
        if not set(rest) <= {"-h", "--help"}:
            raise ConfigError(f"{rest[0]} goes to a paper's script: hybridopt paper NAME {' '.join(rest)}.")
        if rest:
            console.line(HELP)
            return 0
    papers = find_papers(place)
    if name in (None, "list"):
        console.table(["paper", "title"], [[path.name, _title(path)] for path in papers])
        return 0
    rest.remove(name)
    return _run(_chosen(name, papers) / SCRIPT, rest)


def find_papers(place: Path | None = None) -> list[Path]:
    """Returns the folders of papers, sorted by name.

    Args:
        place: The folder ``papers``, or one that has it; None: the working directory, else this package's checkout.

    Raises:
        ConfigError: If there are none.
    """
    checkout = Path(hybridopt.__file__).resolve().parents[1]
    for folder in (Path("papers"), checkout / "papers") if place is None else (place / "papers", place):
        found = sorted(path.parent.resolve() for path in folder.glob(f"*/{SCRIPT}"))
        if found:
            return found
    where = "here" if place is None else f"in {place}"
    raise ConfigError(
        f"There are no papers {where}: they lie in the folder papers of a checkout of hybridopt, which an installed "
        "package does not carry. Check the repository out, and name it: hybridopt paper --from DIR."
    )


def _place(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Takes ``--from DIR`` and ``--from=DIR`` out, wherever they stand."""
    place, rest = None, []
    pending = iter(arguments)
    for argument in pending:
        if argument == "--from" or argument.startswith("--from="):
            given = next(pending, "") if argument == "--from" else argument.partition("=")[2]
            if not given:
                raise ConfigError("--from needs a directory after it: the folder papers, or a checkout that has it.")
            place = Path(given).expanduser()
        else:
            rest.append(argument)
    return place, rest


def _chosen(name: str, papers: Sequence[Path]) -> Path:
    """Returns the paper of that name, or the only one whose name has that part, underscores aside."""
    wanted = name.rstrip("/").lower().replace("_", "")
    names = {path.name: path for path in papers}
    if name.rstrip("/") in names:
        return names[name.rstrip("/")]
    found = [path for path in papers if wanted and wanted in _spoken(path.name)]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(path.name for path in found or papers)
    if found:
        raise UnknownNameError(f"{name!r} is part of more than one paper's name: {listed}. Write more of it.")
    words = {word for key in names for word in (key, *key.split("_"), _spoken(key).split()[1])}
    raise UnknownNameError(f"There is no paper {name!r}.{suggest(name, words)} Known: {listed}.")


def _spoken(folder: str) -> str:
    """What a name is looked for in: ``2017_du_octopus`` is also ``du2017``."""
    year, _, rest = folder.lower().partition("_")
    author = rest.partition("_")[0]
    return f"{year}{rest.replace('_', '')} {author}{year}"


def _title(folder: Path) -> str:
    """The heading of a paper's README."""
    readme = folder / "README.md"
    lines = readme.read_text(encoding="utf-8").splitlines() if readme.is_file() else []
    return next((line.lstrip("# ") for line in lines if line.startswith("# ")), "")


def _run(script: Path, arguments: Sequence[str]) -> int:
    """Runs a script as ``python script`` does, but here: a Ctrl-C meets one process, which waits for its jobs."""
    before = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments]
    sys.path.insert(0, str(script.parent))
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as stop:
        if isinstance(stop.code, str):
            console.error(stop.code)
            return 1
        return int(stop.code or 0)
    finally:
        sys.argv, sys.path[:] = before
    return 0
