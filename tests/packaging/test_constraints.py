"""Tests that the pins and the project's own requirements agree."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
DIRECT = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]


def _pins() -> dict[str, Version]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines())
    pins = [Requirement(line) for line in lines if line]
    for pin in pins:
        assert re.fullmatch(r"==[^,*]+", str(pin.specifier)), f"{pin} is not one exact version"
    names = [canonicalize_name(pin.name) for pin in pins]
    assert len(names) == len(set(names)), "a package is pinned twice"
    return {name: Version(str(pin.specifier)[2:]) for name, pin in zip(names, pins, strict=True)}


@pytest.mark.parametrize("line", DIRECT)
def test_every_direct_requirement_is_pinned_in_range(line: str) -> None:
    requirement = Requirement(line)
    pin = _pins().get(canonicalize_name(requirement.name))
    assert pin is not None, f"{requirement.name} is required but constraints.txt does not pin it"
    assert requirement.specifier.contains(pin, prereleases=True), f"{requirement} excludes the pin {pin}"


def test_torch_is_pinned_by_its_public_version() -> None:
    pin = _pins()["torch"]
    assert pin.local is None, "a local version (such as +cpu) would forbid the CUDA builds"


def test_every_installed_transitive_requirement_is_pinned() -> None:
    pins, missing = _pins(), set()
    pending, seen = [Requirement(line).name for line in PROJECT["dependencies"]], set()
    while pending:
        name = canonicalize_name(pending.pop())
        if name in seen:
            continue
        seen.add(name)
        if name.startswith(("nvidia-", "cuda-")) or name == "triton":
            continue  # torch's CUDA build pins these itself
        if name not in pins:
            missing.add(name)
        for line in metadata.requires(name) or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                pending.append(requirement.name)
    assert not missing, f"constraints.txt lacks {sorted(missing)}"
