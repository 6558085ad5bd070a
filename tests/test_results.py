"""What a sweep left behind is read back, whatever state its runs are in."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from pathlib import Path

import pytest

import hybridopt.results as results
from hybridopt.core.errors import ConfigError, HybridoptError, StoreError
from hybridopt.experiment.layout import write_config
from hybridopt.experiment.lock import RunLock
from hybridopt.results import Target
from tests.synthetic_runs import METHODS, TASKS, Method, config_of, write_quickstart, write_run

ADAM = METHODS[1]
SLOW = Method("sgd", "first-order", 0.001, 20, {"gradient": 1})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_quickstart(tmp_path_factory.mktemp("sweep"))


def only(directory: Path) -> results.Run:
    (run,) = results.load(directory).runs
    return run


class TestLoad:
    def test_finds_every_run(self, sweep: Path) -> None:
        found = results.load(sweep)
        assert len(found) == len(METHODS) * len(TASKS)
        assert found.problems == []
        assert found.tasks == ["adding_rnn", "digits_cnn"]
        assert {run.state for run in found} == {"done", "failed", "diverged"}
        assert len(found.select(task="digits_cnn", state="done")) == len(METHODS)

    def test_one_run_and_a_directory_above(self, sweep: Path) -> None:
        one = results.load(sweep).runs[0]
        assert only(one.directory).config == one.config
        assert len(results.load(sweep.parent)) >= len(results.load(sweep))

    def test_problems_of_a_collection_are_tasks_of_their_own(self, tmp_path: Path) -> None:
        sections = [
            {"name": "saddle", "problem": "plane"},
            {"name": "saddle", "problem": "digits"},
            {"name": "test_function", "problem": "watson", "n": 9, "start": 1},
            {"name": "test_function", "problem": "beale", "n": 0, "start": 1},
        ]
        for number, section in enumerate(sections):
            write_config(tmp_path / f"{number}", {**config_of("saddle", ADAM, 0), "task": section})
            (tmp_path / f"{number}" / "status.json").write_text('{"format": 1, "status": "done"}')
        found = results.load(tmp_path)
        names = ["saddle/digits", "saddle/plane", "test_function/beale", "test_function/watson_9"]
        assert found.tasks == names
        assert len(found.select(task="saddle/plane")) == 1
        assert set(found.labels().values()) == {"adam"}, "the problem is the task's, not one of the method's options"

    def test_unknown_directory(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no directory"):
            results.load(tmp_path / "nothing")

    def test_unknown_selection(self, sweep: Path) -> None:
        with pytest.raises(ConfigError, match="Did you mean 'optimizer'"):
            results.load(sweep).select(optimiser="adam")

    def test_other_peoples_files_are_no_runs(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        for name in ("wandb/offline-run", "conf", ".hydra"):
            (tmp_path / name).mkdir(parents=True)
            (tmp_path / name / "config.yaml").write_text("wandb_version: 1\n")
        found = results.load(tmp_path)
        assert len(found) == 1
        assert found.problems == []

    def test_reading_needs_no_torch(self, sweep: Path) -> None:
        program = (
            "import sys\nfrom hybridopt import results\nfound = results.load(sys.argv[1])\n[run.rows for "
            "run in found]\nassert 'torch' not in sys.modules\n"
        )
        done = subprocess.run([sys.executable, "-c", program, str(sweep)], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr


class TestStates:
    def test_killed_is_told_from_running(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, end="running")
        assert only(tmp_path).state == "killed"
        lock = RunLock(directory)
        assert only(tmp_path).state == "running"
        lock.release()

    def test_never_started(self, tmp_path: Path) -> None:
        write_config(tmp_path / "run", config_of("digits_cnn", ADAM, 0))
        run = only(tmp_path)
        assert run.state == "pending"
        assert run.end("steps") is None
        assert run.rows == []

    def test_torn_last_line(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, end="running")
        whole = len(only(tmp_path).rows)
        with open(directory / "history.jsonl", "ab") as file:
            file.write(b'{"type":"step","st')
        assert len(only(tmp_path).rows) == whole

    @pytest.mark.parametrize("name", ["provenance.json", "status.json", "history.jsonl", "config.yaml"])
    def test_a_missing_file_is_no_error(self, tmp_path: Path, name: str) -> None:
        directory = write_run(tmp_path)
        (directory / name).unlink()
        run = only(tmp_path)
        assert (run.task, run.optimizer, run.seed) == ("digits_cnn", "adam", 0)
        run.record()

    @pytest.mark.parametrize("name", ["provenance.json", "status.json"])
    def test_torn_json_is_like_missing(self, tmp_path: Path, name: str) -> None:
        directory = write_run(tmp_path)
        text = (directory / name).read_text()
        (directory / name).write_text(text[: len(text) // 2])
        assert only(tmp_path).curve("steps", "train_loss").y

    def test_another_format_is_reported_and_left_out(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        directory = write_run(tmp_path, seed=1)
        (directory / "status.json").write_text('{"format": 7, "status": "done"}')
        found = results.load(tmp_path)
        assert len(found) == 1
        assert "format 7" in found.problems[0]

    def test_status_of_a_killed_run_is_older_than_its_rows(self, tmp_path: Path) -> None:
        write_run(tmp_path, end="running")
        run = only(tmp_path)
        assert run.status["steps"] == 0
        assert run.end("steps") == run.rows[-1]["step"] > 0


class TestCurves:
    def test_axes(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        found = results.load(tmp_path)
        run = found.runs[0]
        rows = [json.loads(line) for line in (run.directory / "history.jsonl").read_text().splitlines()]
        evaluations = [row for row in rows if row["type"] == "evaluation"]
        for axis, key in results.AXES.items():
            curve = found.learning_curve(run, axis, "validation_accuracy")
            assert curve.x == [row[key] for row in evaluations]
            assert curve.y == [row["validation_accuracy"] for row in evaluations]
        assert len(run.curve("steps", "loss")) == sum(row["type"] == "step" for row in rows)
        assert len(run.curve("steps", "no_such_metric")) == 0

    def test_unknown_axis(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        with pytest.raises(ConfigError, match="Did you mean 'steps'"):
            only(tmp_path).curve("stepps", "loss")

    def test_nan_stays_and_is_never_the_best(self, tmp_path: Path) -> None:
        write_run(tmp_path, end="diverged")
        run = only(tmp_path)
        assert math.isnan(run.curve("steps", "train_loss").y[-1])
        assert math.isnan(run.final("train_loss"))  # type: ignore[arg-type]
        assert math.isfinite(run.best("train_loss", "min"))  # type: ignore[arg-type]


class TestTimeToTarget:
    def test_first_evaluation_that_is_good_enough(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        run = only(tmp_path)
        first = next(row for row in run.evaluations if row["validation_accuracy"] >= 0.95)
        for axis, key in (("steps", "step"), ("gradient_equivalents",) * 2, ("seconds",) * 2):
            time_ = run.time_to_target(axis=axis)
            assert (time_.reached, time_.value) == (True, first[key])

    def test_status_and_rows_agree(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path)
        by_status = only(tmp_path).time_to_target()
        (directory / "status.json").unlink()
        assert only(tmp_path).time_to_target() == by_status

    def test_not_reached_is_censored_at_the_end(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=SLOW)
        run = only(tmp_path)
        time_ = run.time_to_target()
        assert not time_.reached
        assert time_.value == run.end("gradient_equivalents") == pytest.approx(40)

    def test_own_target(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        found = results.load(tmp_path)
        easy, hard = (found.time_to_target(found.runs[0], Target("train_loss", value, "min")) for value in (1.0, 0.1))
        assert easy.reached
        assert hard.reached
        assert easy.value < hard.value  # type: ignore[operator]

    def test_nan_reaches_nothing(self) -> None:
        assert not Target("train_loss", 1.0, "min").reached_by(math.nan)
        assert not Target("train_loss", 1.0, "min").reached_by(None)
        assert Target("train_loss", 1.0, "min").reached_by(-math.inf)

    def test_no_target_at_all(self, tmp_path: Path) -> None:
        write_config(tmp_path / "run", config_of("digits_cnn", ADAM, 0))
        with pytest.raises(ConfigError, match="states no target"):
            only(tmp_path).time_to_target()


class TestSettings:
    def test_seeds_share_a_setting(self, tmp_path: Path) -> None:
        for seed in range(3):
            write_run(tmp_path, seed=seed)
        write_run(tmp_path, method=METHODS[0])
        groups = results.load(tmp_path).settings()
        assert sorted(len(runs) for runs in groups.values()) == [1, 3]
        assert [run.seed for run in max(groups.values(), key=len)] == [0, 1, 2]

    def test_labels_tell_settings_apart(self, tmp_path: Path) -> None:
        for rate in (0.1, 0.01):
            write_run(tmp_path, method=Method("adam", "first-order", 0.3, 20, {"gradient": 1}, options={"lr": rate}))
        write_run(tmp_path, method=METHODS[4])
        write_run(tmp_path, method=METHODS[9])
        labels = set(results.load(tmp_path).labels().values())
        assert labels == {"adam lr=0.1", "adam lr=0.01", "newton_cg", "newton_cg + negative_curvature"}

    def test_external_optimizer_goes_by_its_class(self, tmp_path: Path) -> None:
        write_config(tmp_path / "run", {"task": "digits_cnn", "optimizer": {"name": "external", "cls": "torch:AdamW"}})
        run = only(tmp_path)
        assert (run.task, run.optimizer, run.escape) == ("digits_cnn", "torch:AdamW", None)


class TestFrames:
    def test_one_row_a_run(self, sweep: Path) -> None:
        pytest.importorskip("pandas")
        frame = results.load(sweep).runs_frame()
        assert len(frame) == len(METHODS) * len(TASKS)
        adam = frame[(frame.task == "digits_cnn") & (frame.label == "adam")].iloc[0]
        assert adam.target0_reached
        assert adam.target0_gradient_equivalents < adam.gradient_equivalents
        assert adam["optimizer.lr"] == 1e-3

    def test_long_frame(self, sweep: Path) -> None:
        pytest.importorskip("pandas")
        found = results.load(sweep)
        frame = found.frame()
        assert len(frame) == sum(len(run.rows) for run in found)
        last = frame[(frame.label == "adam") & (frame.task == "digits_cnn") & (frame.type == "step")].iloc[-1]
        assert last["report.grad_norm"] == pytest.approx(last["loss"] / 2)

    def test_without_pandas_the_error_names_the_fix(self, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
        with pytest.raises(HybridoptError, match=r"hybridopt\[frames\]"):
            results.load(sweep).runs_frame()


def test_hundreds_of_runs_load_quickly(tmp_path: Path) -> None:
    template = write_run(tmp_path / "template")
    texts = {path.name: path.read_bytes() for path in template.iterdir() if path.suffix in (".json", ".jsonl", ".yaml")}
    for number in range(300):
        directory = tmp_path / "many" / "digits_cnn" / "adam" / f"s{number}-{number:08x}"
        directory.mkdir(parents=True)
        for name, text in texts.items():
            (directory / name).write_bytes(text.replace(b"seed: 0", f"seed: {number}".encode()))
    start = time.process_time()
    found = results.load(tmp_path / "many")
    rows = sum(len(run.rows) for run in found)
    seconds = time.process_time() - start
    assert len(found.settings()) == 1
    assert rows == 300 * len(only(template).rows)
    assert seconds < 15, f"300 runs with {rows} rows took {seconds:.1f} s; it should be about 2"
