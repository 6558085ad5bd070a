"""Seconds of replays: they stand for the run's where all else is the same, and nowhere else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hybridopt.core import ConfigError
from hybridopt.report import ranking_table, write_report
from hybridopt.report.comparison import compare_methods
from hybridopt.report.facts import provenance
from hybridopt.report.summary import lanes_note, replay_notes
from hybridopt.results import Run, load
from hybridopt.results.selection import choose
from tests.synthetic_runs import Method, write_replay, write_run

FAST = Method("fast", "first-order", 0.6, 20, {"gradient": 1})
SLOW = Method("slow", "newton", 0.3, 1, {"gradient": 1, "hvp": 0.5}, options={"lr": 1e-3})


def only(root: Path) -> Run:
    (run,) = load(root)
    return run


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize("end", ["done", "diverged"])
def test_seconds_are_the_replays_and_all_else_is_the_runs(tmp_path: Path, end: str) -> None:
    directory = write_run(tmp_path, end=end)
    before = only(tmp_path)
    known = before.record()
    rows = before.rows
    files = {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}
    write_replay(directory, end=end)
    run = only(tmp_path)  # and not two
    assert run.replay is not None
    assert run.replay.difference is None
    assert (before.timing, run.timing) == ("shared", "exclusive")
    timed = ("seconds", "phases.", "timing", "target0_seconds", "target1_seconds")
    for name, value in run.record().items():
        if not name.startswith(timed) and value == value:
            assert value == known[name], name
    for name in ("seconds", "target0_seconds", "target1_seconds"):
        if known[name] is not None:
            assert run.record()[name] == pytest.approx(known[name] / 4), name
    assert run.phases["training"] == pytest.approx(known["phases.training"] / 4)
    curve, old = run.curve("seconds", "train_loss"), before.curve("seconds", "train_loss")
    assert curve.y == pytest.approx(old.y, nan_ok=True)
    assert curve.x == pytest.approx([x / 4 for x in old.x])
    assert json.dumps(run.recorded) == json.dumps(rows)
    assert files == {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


def test_an_event_of_a_step_without_a_row_of_its_own_has_the_replays_seconds(tmp_path: Path) -> None:
    directory = write_run(tmp_path, every=20)
    history = directory / "history.jsonl"
    rows = [json.loads(line) for line in history.read_text().splitlines()]
    between = {**rows[-1], "type": "event", "event": "switch", "step": rows[-1]["step"] - 1}
    rows[-1:-1] = [{**between, "seconds": 8.0}, {**between, "seconds": 9.0, "step": rows[-1]["step"]}]
    history.write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_replay(directory)
    assert [event["seconds"] for event in only(tmp_path).events[-2:]] == [2.0, rows[-1]["seconds"] / 4]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"train_loss": 0.5}, r"row \d+ \(evaluation at step 800\): train_loss is 0.5 instead of 0\.0"),
        ({"step": 7}, r"row \d+ \(evaluation at step 800\): step is 7 instead of 800"),
        ({"cost": {"forward": 1}}, r"step 800\): cost.forward is 1 instead of 0"),
        ({"validation_f1": 0.5}, r"validation_f1 is new"),
    ],
)
def test_a_replay_with_other_numbers_does_not_count_and_the_report_says_so(tmp_path: Path, change, said: str) -> None:
    directory = write_run(tmp_path)
    known = only(tmp_path).record()
    write_replay(directory, **change)
    run = only(tmp_path)
    assert run.record() == known
    (note,) = replay_notes(load(tmp_path))
    assert note.startswith("NOT THE SAME RUN: the replay of adam on digits_cnn, seed 0, gave other numbers (")
    assert run.replay.difference in note
    assert re.search(said, run.replay.difference)
    paths = write_report(tmp_path)
    for path in (paths.html, paths.markdown):
        assert "NOT THE SAME RUN" in path.read_text()
        assert "do not compare their seconds. To time them, one at a time: hybridopt rerun DIR" in path.read_text()


def test_fewer_rows_or_another_end_are_other_numbers(tmp_path: Path) -> None:
    directory = write_run(tmp_path)
    place = write_replay(directory)
    edit(place / "status.json", summary={"test_loss": 1.0})
    assert "summary.test_loss is 1.0 instead of" in only(tmp_path).replay.difference
    lines = (place / "history.jsonl").read_text().splitlines(keepends=True)
    (place / "history.jsonl").write_text("".join(lines[:-1]))
    assert only(tmp_path).replay.difference == f"{len(lines) - 1} rows instead of {len(lines)}"


@pytest.mark.parametrize("device", ["cpu", "cuda:1"])
def test_lanes_and_gpus_may_round_but_not_do_other_steps(tmp_path: Path, device: str) -> None:
    directory = write_run(tmp_path, timing="lanes" if device == "cpu" else "shared")
    config = directory / "config.yaml"
    config.write_text(config.read_text().replace("device: cpu", f"device: {device}"))
    old = only(tmp_path)
    last = old.evaluations[-1]
    place = write_replay(directory, train_loss=last["train_loss"] * (1 + 1e-5))
    run = only(tmp_path)
    assert run.timing == "exclusive"
    assert run.replay.rounding == pytest.approx(1e-5, rel=1e-3)
    assert run.final("train_loss") == last["train_loss"]
    assert run.time_to_target(axis="seconds").value == pytest.approx(old.time_to_target(axis="seconds").value / 4)
    assert "but for rounding in 1 run: losses to 1e-05." in replay_notes(load(tmp_path))[0]
    rows = [json.loads(line) for line in (place / "history.jsonl").read_text().splitlines()]
    rows[5]["gradient_equivalents"] += 1
    (place / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "gradient_equivalents is" in only(tmp_path).replay.difference
    assert only(tmp_path).timing == old.timing


def test_a_replay_that_has_not_ended_is_none(tmp_path: Path) -> None:
    directory = write_run(tmp_path)
    write_replay(directory, end="interrupted")
    assert only(tmp_path).replay is None
    assert only(tmp_path).timing == "shared"
    assert replay_notes(load(tmp_path)) == []


def test_a_run_that_went_on_beside_others_did_not_have_the_machine_alone(tmp_path: Path) -> None:
    directory = write_run(tmp_path, timing="exclusive")
    assert only(tmp_path).timing == "exclusive"
    edit(directory / "provenance.json", resumed=[{"host": "other"}, {"timing": "shared"}])
    assert only(tmp_path).timing == "shared"


def test_the_report_ranks_and_draws_seconds_of_those_that_were_timed_alone(tmp_path: Path) -> None:
    for seed in range(6):
        write_run(tmp_path, method=SLOW, seed=seed, cost=20, every=20)
        write_replay(write_run(tmp_path, method=FAST, seed=seed, cost=20, every=20), slower=100.0)
    runs = load(tmp_path)
    rows = {row.label: row for row in ranking_table(runs)}
    assert (rows["fast"].timing, rows["fast"].seconds_rank) == ("exclusive", 1)
    assert (rows["slow"].timing, rows["slow"].seconds_rank) == ("shared", None)
    assert compare_methods(runs, list(rows.values()), "seconds") is None
    page = write_report(tmp_path).html.read_text()
    assert "seconds (the 1 of 2 settings that had the machine alone)" in page
    assert "The seconds of 6 runs are those of replays that had the machine alone" in page
    assert dict(provenance(runs))["timing"] == "exclusive (6 runs), shared (6 runs)"
    assert dict(provenance(runs))["replayed for their seconds"] == "6 runs on quiet, Example CPU"
    for seed in range(6):
        write_replay(load(tmp_path).select(optimizer="slow", seed=seed).runs[0].directory, load=3.5)
    runs = load(tmp_path)
    rows = {row.label: row for row in ranking_table(runs)}
    assert [rows[name].seconds_rank for name in ("slow", "fast")] == [1, 2]  # the other way round than by cost
    assert [rows[name].rank for name in ("slow", "fast")] == [2, 1]
    found = compare_methods(runs, ranking_table(runs), "seconds")
    assert found.tests["slow", "fast"].wins == 6
    assert any("6 replays began while something else ran on the machine" in note for note in replay_notes(runs))
    page = write_report(tmp_path).html.read_text()
    assert "do not compare their seconds" not in page


def test_the_report_says_who_ran_in_lanes_and_who_one_by_one(tmp_path: Path) -> None:
    assert lanes_note(load(tmp_path)) is None
    for seed, done in enumerate(("1 run of fast was", "2 runs of fast were")):
        write_run(tmp_path, method=FAST, seed=seed, timing="lanes", cost=5, every=20)
        assert lanes_note(load(tmp_path)) == f"{done} done in lanes, several in one process."
    write_run(tmp_path, method=SLOW, cost=5)
    said = "2 runs of fast were done in lanes, several in one process; 1 run of slow one by one."
    paths = write_report(tmp_path)
    for path in (paths.html, paths.markdown):
        assert said in path.read_text()


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ([], 5),
        (["optimizer=slow"], 3),
        (["optimizer=slow,fast", "seed=1"], 2),
        (["seed=0,2"], 3),
        (["optimizer.lr=0.001"], 3),
        (["optimizer.lr=1e-3", "seed=2"], 1),
        (["budget.epochs=30", "schedule=none", "escape=none", "task=digits_cnn", "timing=shared", "dtype=float32"], 5),
    ],
)
def test_runs_are_chosen_as_they_were_configured(tmp_path: Path, filters: list[str], count: int) -> None:
    for method, seeds in ((FAST, (0, 1)), (SLOW, (0, 1, 2))):
        for seed in seeds:
            write_run(tmp_path, method=method, seed=seed, cost=2, every=10)
    assert len(choose(load(tmp_path), filters)) == count


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        (["optimizer"], "'optimizer' chooses no runs: write key=value"),
        (["optimiser=fast"], "Runs cannot be chosen by 'optimiser'. Did you mean 'optimizer'?"),
        (["optimizer=fats"], "No run has optimizer=fats. Did you mean 'fast'? There are: fast, slow."),
        (["optimizer=fast", "seed=2"], "No run has seed=2. There are: 0."),
    ],
)
def test_a_choice_of_nothing_says_what_there_is(tmp_path: Path, filters: list[str], said: str) -> None:
    for method in (FAST, SLOW):
        write_run(tmp_path, method=method, cost=2, every=10)
    with pytest.raises(ConfigError) as caught:
        choose(load(tmp_path), filters)
    assert said in str(caught.value)
