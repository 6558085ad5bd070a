"""Every room imports only rooms above it in docs/architecture.md, wherever the import stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def rooms() -> list[str]:
    """Returns the rooms as the document lists them, from the top."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    listed = text[text.index("hybridopt/\n") : text.index("\nconf/ ")]
    return [name.removesuffix("/").removesuffix(".py") for name in re.findall(r"\b(\w+(?:/|\.py))(?=\s|$)", listed)][1:]


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yields line and room of every import from this package that happens when the program runs."""

    def walk(node: ast.AST) -> Iterator[tuple[int, str]]:
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return  # annotations may name what is below
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "hybridopt" and rest:
                yield node.lineno, rest.partition(".")[0]
        for child in ast.iter_child_nodes(node):
            yield from walk(child)

    yield from walk(ast.parse(path.read_text(encoding="utf-8")))


def test_every_room_is_listed() -> None:
    there = {path.name.removesuffix(".py") for path in (ROOT / "hybridopt").iterdir() if not path.name.startswith("_")}
    assert len(rooms()) == len(set(rooms()))
    assert set(rooms()) == {name for name in there if name != "py.typed"}


def test_rooms_import_only_rooms_above_them() -> None:
    rank = {name: place for place, name in enumerate(rooms())}
    wrong, seen = [], 0
    for path in sorted((ROOT / "hybridopt").rglob("*.py")):
        room = path.relative_to(ROOT / "hybridopt").parts[0].removesuffix(".py")
        for line, other in imports(path) if room in rank else ():
            seen += 1
            if rank.get(other, -1) > rank[room]:
                wrong.append(f"{path.relative_to(ROOT)}:{line} imports {other}")
    assert seen > 500
    assert wrong == []
