"""Tests of ``conf_dir``: in a checkout, an editable install and a wheel, from any working directory."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hybridopt._paths import conf_dir
from hybridopt._version import __version__

ROOT = Path(__file__).resolve().parents[2]
PROBE = """
from pathlib import Path
import hybridopt
from hybridopt._paths import conf_dir
from hybridopt._version import __version__
print(Path(hybridopt.__file__).resolve(), conf_dir(), conf_dir().is_dir(), __version__, sep="\\n")
"""


def _run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """Run a command with only `path` on PYTHONPATH; return its output, or fail with all of it."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy what a build reads, so that building leaves nothing in the checkout."""
    copy = tmp_path_factory.mktemp("source") / "hybridopt"
    for name in ("hybridopt", "conf"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt", "Makefile", ".gitignore"):
        shutil.copy(ROOT / name, copy / name)
    private = copy / "conf" / "local" / "mine.yaml"
    private.parent.mkdir(exist_ok=True)
    private.write_text("secret: true\n")  # git-ignored: a user's own settings, never published
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel without an isolated environment, so without a network."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    out = tmp_path_factory.mktemp("wheel")
    _run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", out, source, cwd=out)
    (built,) = out.glob("*.whl")
    return built


def _yaml_files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*.yaml")}


def test_checkout_finds_conf_beside_the_package() -> None:
    assert conf_dir().is_absolute()
    assert conf_dir() == ROOT / "conf"
    assert conf_dir().is_dir()
    assert (conf_dir() / "config.yaml").is_file()


def test_checkout_from_another_working_directory(tmp_path: Path) -> None:
    _, conf, exists, _ = _run(sys.executable, "-c", PROBE, cwd=tmp_path, path=ROOT).splitlines()
    assert (Path(conf), exists) == (ROOT / "conf", "True")


def test_wheel_carries_every_configuration_file(wheel: Path) -> None:
    assert wheel.name == f"hybridopt-{__version__}-py3-none-any.whl"
    prefix = "hybridopt/conf/"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    packed = {name.removeprefix(prefix) for name in names if name.startswith(prefix) and name.endswith(".yaml")}
    assert packed == _yaml_files(ROOT / "conf")
    assert "config.yaml" in packed
    assert len(names) == len(set(names)), "a file is in the wheel twice"
    unwanted = [name for name in names if not name.startswith(("hybridopt/", "hybridopt-"))]
    assert not unwanted, f"files outside the package: {unwanted}"


def test_wheel_says_what_it_needs(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"hybridopt-{__version__}.dist-info"
        metadata = archive.read(f"{info}/METADATA").decode()
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        assert any(name.startswith(f"{info}/licenses/") for name in archive.namelist())
    assert f"\nVersion: {__version__}\n" in metadata
    assert "\nRequires-Python: <3.14,>=3.11\n" in metadata
    for extra in ("dev", "bench", "sweep"):
        assert f"\nProvides-Extra: {extra}\n" in metadata
    assert "hybridopt = hybridopt.cli:main" in scripts


def test_installed_wheel_finds_conf_inside_the_package(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    _run(*pip, "install", "--quiet", "--no-deps", "--no-index", "--target", target, wheel, cwd=elsewhere)
    output = _run(sys.executable, "-c", PROBE, cwd=elsewhere, path=target).splitlines()
    package = target.resolve() / "hybridopt"
    assert output == [str(package / "__init__.py"), str(package / "conf"), "True", __version__]
    assert _yaml_files(package / "conf") == _yaml_files(ROOT / "conf")


def test_editable_install_finds_conf_of_the_checkout(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    pytest.importorskip("editables")
    environment, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    _run(sys.executable, "-m", "venv", "--without-pip", environment, cwd=tmp_path)
    python = environment / "bin" / "python"
    # On PYTHONPATH the packages of the running environment are importable, but its .pth files, one of which
    # may lead to this checkout, are not read.
    import hatchling

    site = Path(hatchling.__file__).parents[1]
    install = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index")
    _run(python, *install, "--no-build-isolation", "-e", source, cwd=elsewhere, path=site)
    package, conf, exists, version = _run(python, "-c", PROBE, cwd=elsewhere, path=site).splitlines()
    assert Path(package) == source.resolve() / "hybridopt" / "__init__.py"
    assert (Path(conf), exists, version) == (source.resolve() / "conf", "True", __version__)
    copies = list(environment.glob("lib/*/site-packages/hybridopt/**/*"))
    assert not copies, f"an editable install must not copy files that then go stale: {copies}"


def test_source_distribution_can_build_the_same_wheel(source: Path, wheel: Path, tmp_path: Path) -> None:
    build = (sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path, source)
    _run(*build, cwd=tmp_path)  # without a choice, build makes the wheel from the unpacked source distribution
    assert list(tmp_path.glob("*.tar.gz")), "no source distribution was built"
    (rebuilt,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(rebuilt) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())
