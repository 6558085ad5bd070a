"""The run directory survives kills, full disks and damage, and loses no recorded row."""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import subprocess
import sys
import textwrap
import zipfile
from pathlib import Path

import pytest
import torch

from hybridopt.core.errors import StoreError
from hybridopt.experiment import jsonio, provenance
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.layout import write_config
from hybridopt.experiment.store import RunStore
from tests.experiment.stored import CONFIG


def row(step: int, **more: object) -> dict[str, object]:
    axes = {"step": step, "epoch": step / 10, "gradient_equivalents": step / 10, "seconds": step / 100}
    return {"type": "step", **axes, "loss": 1.0 / (step + 1), **more}


def steps(store_or_path: RunStore | Path) -> list[int]:
    path = store_or_path if isinstance(store_or_path, Path) else store_or_path.directory
    return [one["step"] for one in jsonio.read_rows(path / "history.jsonl")]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "digits_cnn" / "adam" / "s0"


def write_rows(directory: Path, count: int, checkpoints: tuple[int, ...] = ()) -> None:
    """A run that was killed after `count` rows, with checkpoints after the given rows."""
    with RunStore(directory, CONFIG) as store:
        assert store.resume() is None
        for step in range(count):
            store.append(row(step))
            if step in checkpoints:
                store.save_checkpoint({"step": step, "weight": torch.full((4,), float(step))})


class TestRows:
    def test_non_finite_numbers_come_back(self, run_dir: Path) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            store.append(row(0, loss=math.nan, report={"rho": math.inf, "slopes": [-math.inf, 1.0]}))
            text = store.history_path.read_text()
            (read,) = store.read_rows()
        assert json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["loss"] == "NaN"
        assert math.isnan(read["loss"])
        assert read["report"] == {"rho": math.inf, "slopes": [-math.inf, 1.0]}

    def test_numbers_of_torch_and_numpy_are_stored(self, run_dir: Path) -> None:
        numpy = pytest.importorskip("numpy")
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            store.append(row(0, loss=torch.tensor(0.5), a=numpy.float32(0.25), b=torch.tensor(math.nan)))
            (read,) = store.read_rows()
        assert (read["loss"], read["a"]) == (0.5, 0.25)
        assert math.isnan(read["b"])

    def test_one_row_is_one_write(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            written = []
            real = os.write
            monkeypatch.setattr(os, "write", lambda fd, data: written.append(bytes(data)) or real(fd, data))
            store.append(row(0, text="two\nlines"))
            monkeypatch.undo()
            assert written == [store.history_path.read_bytes()]
            assert store.read_rows()[0]["text"] == "two\nlines"

    def test_append_before_resume_is_refused(self, run_dir: Path) -> None:
        with RunStore(run_dir, CONFIG) as store, pytest.raises(StoreError, match="resume"):
            store.append(row(0))

    def test_unknown_row_type_is_refused(self, run_dir: Path) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            with pytest.raises(StoreError, match="evaluation"):
                store.append({"type": "eval", "step": 0})

    def test_a_damaged_line_in_the_middle_costs_that_line_only(self, tmp_path: Path) -> None:
        path = tmp_path / "history.jsonl"
        path.write_bytes(b'{"step":0}\n{"st\x00\n[1]\n{"step":2}\n{"step":3')
        assert [one["step"] for one in jsonio.read_rows(path)] == [0, 2]


class TestResume:
    def test_truncates_to_the_checkpoint(self, run_dir: Path) -> None:
        write_rows(run_dir, 10, checkpoints=(3, 6))
        with RunStore(run_dir) as store:
            state = store.resume()
            assert state is not None
            assert state["step"] == 6
            assert torch.equal(state["weight"], torch.full((4,), 6.0))
            assert steps(store) == list(range(7))
            for step in range(7, 10):
                store.append(row(step))
        assert steps(run_dir) == list(range(10))

    def test_resumed_history_equals_an_undisturbed_one(self, run_dir: Path, tmp_path: Path) -> None:
        write_rows(run_dir, 9, checkpoints=(3, 6))
        with open(run_dir / "history.jsonl", "ab") as file:
            file.write(b'{"type":"step","step":9,"lo')  # the kill came in the middle of a write
        with RunStore(run_dir) as store:
            state = store.resume()
            assert state is not None
            for step in range(state["step"] + 1, 12):
                store.append(row(step))
        write_rows(tmp_path / "undisturbed", 12)
        undisturbed = (tmp_path / "undisturbed" / "history.jsonl").read_bytes()
        assert (run_dir / "history.jsonl").read_bytes() == undisturbed

    def test_rows_without_a_checkpoint_are_kept_aside(self, run_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
        write_rows(run_dir, 5)
        with caplog.at_level(logging.WARNING), RunStore(run_dir) as store:
            assert store.resume() is None
            assert steps(store) == []
        assert "starts again from zero" in caplog.text
        assert len(jsonio.read_rows(run_dir / "history.abandoned.jsonl")) == 5

    def test_history_shorter_than_the_checkpoint_uses_the_previous(self, run_dir: Path) -> None:
        write_rows(run_dir, 10, checkpoints=(3, 6))
        os.truncate(run_dir / "history.jsonl", (run_dir / "history.jsonl").stat().st_size // 2)
        with RunStore(run_dir) as store:
            state = store.resume()
            assert state is not None
            assert state["step"] == 3
            assert steps(store) == list(range(4))

    def test_second_resume_is_refused(self, run_dir: Path) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            with pytest.raises(StoreError, match="once"):
                store.resume()

    def test_leftovers_of_a_killed_writer_are_removed(self, run_dir: Path) -> None:
        write_rows(run_dir, 5, checkpoints=(2,))
        for name in (".status.json.77.tmp", "..checkpoint.pt.new.77.tmp", ".checkpoint.pt.new"):
            (run_dir / name).write_bytes(b"half")
        with RunStore(run_dir) as store:
            assert store.resume() is not None
        assert [path.name for path in run_dir.iterdir() if path.name.startswith(".")] == [".lock"]


def damage_truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def damage_empty(path: Path) -> None:
    os.truncate(path, 0)


def damage_flip(path: Path) -> None:
    """One flipped bit in a tensor's numbers: torch.load itself does not notice it."""
    with zipfile.ZipFile(path) as archive:
        info = next(one for one in archive.infolist() if "/data/" in one.filename)
    data = bytearray(path.read_bytes())
    name_length = int.from_bytes(data[info.header_offset + 26 : info.header_offset + 28], "little")
    extra_length = int.from_bytes(data[info.header_offset + 28 : info.header_offset + 30], "little")
    data[info.header_offset + 30 + name_length + extra_length + 2] ^= 0x40
    path.write_bytes(data)


def damage_other_file(path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, path)


def damage_code(path: Path) -> None:
    torch.save({"call": os.getcwd}, path)


class TestCheckpoints:
    @pytest.mark.parametrize("damage", [damage_truncate, damage_empty, damage_flip, damage_other_file, damage_code])
    def test_damaged_one_falls_back_to_the_previous(
        self, run_dir: Path, damage: object, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_rows(run_dir, 10, checkpoints=(3, 6))
        damage(run_dir / "checkpoint.pt")  # type: ignore[operator]
        with caplog.at_level(logging.WARNING), RunStore(run_dir) as store:
            state = store.resume()
            assert state is not None
            assert state["step"] == 3
            assert steps(store) == [0, 1, 2, 3]
            assert "checkpoint.pt cannot be used" in caplog.text
            store.save_checkpoint({"step": 4})
        # The damaged file must not have pushed the good one out.
        (run_dir / "checkpoint.pt").unlink()
        with RunStore(run_dir) as store:
            state = store.resume()
            assert state is not None
            assert state["step"] == 3

    def test_both_damaged_starts_from_zero_and_keeps_the_rows(
        self, run_dir: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        write_rows(run_dir, 10, checkpoints=(3, 6))
        damage_flip(run_dir / "checkpoint.pt")
        damage_truncate(run_dir / "checkpoint.prev.pt")
        with caplog.at_level(logging.WARNING), RunStore(run_dir) as store:
            assert store.resume() is None
            assert steps(store) == []
        assert "starts again from zero" in caplog.text
        assert len(jsonio.read_rows(run_dir / "history.abandoned.jsonl")) == 10

    def test_kill_between_the_two_renames_uses_the_previous(self, run_dir: Path) -> None:
        write_rows(run_dir, 10, checkpoints=(3, 6))
        (run_dir / "checkpoint.pt").unlink()
        with RunStore(run_dir) as store:
            state = store.resume()
        assert state is not None
        assert state["step"] == 3

    def test_state_that_would_not_load_is_an_error_at_once(self, run_dir: Path) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            with pytest.raises(StoreError, match="weights_only"):
                store.save_checkpoint({"path": run_dir})
        assert not (run_dir / "checkpoint.pt").exists()

    def test_full_disk_keeps_the_old_one(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            store.append(row(0))
            store.save_checkpoint({"step": 0})
            store.append(row(1))

            def full(fd: int, data: bytes) -> int:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            monkeypatch.setattr(os, "write", full)
            with pytest.raises(StoreError, match=r"[Ff]ree some space"):
                store.save_checkpoint({"step": 1})
            with pytest.raises(StoreError, match=r"[Ff]ree some space"):
                store.write_status({"status": "failed"})
            monkeypatch.undo()
            assert store.read_status() is None
        assert not list(run_dir.glob(".*.tmp"))
        with RunStore(run_dir) as store:
            state = store.resume()
            assert state == {"step": 0}

    def test_checkpoint_of_another_run_is_not_used(self, run_dir: Path, tmp_path: Path) -> None:
        write_rows(run_dir, 4, checkpoints=(2,))
        with RunStore(tmp_path / "other", {**CONFIG, "seed": 1}) as store:
            store.resume()
            for step in range(4):
                store.append(row(step))
        (tmp_path / "other" / "checkpoint.pt").write_bytes((run_dir / "checkpoint.pt").read_bytes())
        with RunStore(tmp_path / "other") as store:
            assert store.resume() is None


class TestFullDisk:
    def test_a_row_that_does_not_fit_leaves_no_torn_line(self, run_dir: Path) -> None:
        # A limit on the file's size makes the kernel write a part of the row, as a full disk does.
        program = f"""
            import resource, sys
            from hybridopt.core.errors import StoreError
            from hybridopt.experiment.store import RunStore
            store = RunStore({str(run_dir)!r}, {CONFIG!r})
            store.resume()
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
            try:
                for step in range(100):
                    store.append({{"type": "step", "step": step, "text": "x" * 50}})
            except StoreError as error:
                print(error)
                sys.exit(step)
        """
        done = run_python(program)
        assert "Free some space" in done.stdout, done.stderr
        data = (run_dir / "history.jsonl").read_bytes()
        assert data.endswith(b"\n")
        assert steps(run_dir) == list(range(done.returncode))
        assert done.returncode > 5

    def test_the_run_goes_on_when_there_is_space_again(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.resume()
            store.append(row(0))
            real = os.write
            monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[:7]))
            with pytest.raises(StoreError, match=r"history\.jsonl.*no space left"):
                store.append(row(1))
            monkeypatch.undo()
            store.append(row(1))
            assert steps(store) == [0, 1]


class TestUnwritable:
    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "taken").write_text("")
        with pytest.raises(StoreError, match="out=DIR"):
            RunStore(tmp_path / "taken" / "run", CONFIG)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_directory(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o500)
        with pytest.raises(StoreError, match="out=DIR"):
            RunStore(tmp_path / "run", CONFIG)

    def test_permission_denied_names_the_fix(self, run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def denied(*arguments: object, **options: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(Path, "mkdir", denied)
        with pytest.raises(StoreError, match=r"permission denied.*out=DIR"):
            RunStore(run_dir, CONFIG)


def run_python(program: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        **options,
    )


class TestStatusAndProvenance:
    def test_status_is_replaced_whole(self, run_dir: Path) -> None:
        with RunStore(run_dir, CONFIG) as store:
            store.write_status({"status": "running", "summary": {"loss": math.nan}})
            assert math.isnan(store.read_status()["summary"]["loss"])  # type: ignore[index]
            store.write_status({"status": "done"})
            assert store.read_status() == {"format": 1, "status": "done"}

    def test_unknown_status_is_refused(self, run_dir: Path) -> None:
        with RunStore(run_dir, CONFIG) as store, pytest.raises(StoreError, match="diverged"):
            store.write_status({"status": "finished"})

    def test_resume_adds_an_entry(self, run_dir: Path) -> None:
        facts = provenance.collect(device="cpu", threads=1, timing="exclusive")
        with RunStore(run_dir, CONFIG) as store:
            store.write_provenance({**facts, "task_facts": {"trivial_loss": 2.3}})
        with RunStore(run_dir) as store:
            store.write_provenance({**facts, "commit": "other", "started": "later"})
        known = jsonio.read_json(run_dir / "provenance.json")
        assert known is not None
        assert known["run_id"] == run_id(CONFIG)
        assert known["task_facts"] == {"trivial_loss": 2.3}
        assert known["started"] == facts["started"]
        assert known["versions"]["torch"]
        assert known["resumed"] == [{"commit": "other", "started": "later"}]

    def test_a_system_that_does_not_tell_its_load_stops_no_run(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def hidden() -> tuple[float, float, float]:
            raise OSError("Load averages are unobtainable")

        monkeypatch.setattr(os, "getloadavg", lambda: (1.236, 7.0, 9.0))
        assert provenance.machine_load() == 1.24
        monkeypatch.setattr(os, "getloadavg", hidden)
        assert provenance.collect(device="cpu", threads=1, timing="exclusive")["load"] is None
        monkeypatch.delattr(os, "getloadavg")
        assert provenance.machine_load() is None

    @pytest.mark.parametrize("name", ["status.json", "provenance.json"])
    def test_another_format_is_refused(self, run_dir: Path, name: str) -> None:
        write_config(run_dir, CONFIG)
        (run_dir / name).write_text('{"format": 99}')
        with pytest.raises(StoreError, match="format 99"):
            RunStore(run_dir)

    def test_a_checkout_is_told_from_an_installed_copy(self, tmp_path: Path) -> None:
        git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
        try:
            subprocess.run([*git, "init", "-q"], check=True, capture_output=True)
        except OSError:
            pytest.skip("no git here")
        package = tmp_path / "package"
        package.mkdir()
        (package / "__init__.py").write_text("")
        assert provenance.source_state(package) == {"commit": None, "dirty": None}
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "-qm", "first"], check=True)
        clean = provenance.source_state(package)
        assert len(clean["commit"]) == 40  # type: ignore[arg-type]
        assert clean["dirty"] is None
        (package / "__init__.py").write_text("changed = True\n")
        dirty = provenance.source_state(package)
        assert dirty["commit"] == clean["commit"]
        assert dirty["dirty"] is not None
