"""Profiles, pairwise tests, learning rates and traces in the report: there when there is data, absent otherwise."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from hybridopt.experiment.layout import write_config
from hybridopt.report import ranking_table, write_report
from hybridopt.report.comparison import compare_methods, compare_profiles
from hybridopt.results import Target, load, sensitivities
from tests.synthetic_runs import Method, config_of, write_run

FAST = Method("fast", "first-order", 0.6, 20, {"gradient": 1}, noise=0.1)
MIDDLE = Method("middle", "newton", 0.3, 1, {"gradient": 1, "hvp": 0.5}, noise=0.1)
SLOW = Method("slow", "first-order", 0.02, 20, {"gradient": 1})
SECTIONS = ("Performance profiles", "Pair by pair", "Learning rate", "Along the run")


def rate(value: float, speed: float) -> Method:
    return Method("sgd", "first-order", speed, 20, {"gradient": 1}, options={"lr": value})


def add_to_steps(directory: Path, **report: float) -> None:
    path = directory / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        if row["type"] == "step":
            row["report"].update({name: value / row["step"] for name, value in report.items()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("seven")
    for seed in range(7):
        for method in (FAST, MIDDLE, SLOW):
            directory = write_run(
                root, method=method, seed=seed, timing="exclusive", every=1 if method is MIDDLE else 20, cost=20
            )
            if method is MIDDLE:
                add_to_steps(directory, damping=3.0)
    return root


def pages(root: Path) -> tuple[str, str]:
    paths = write_report(root)
    return paths.html.read_text(encoding="utf-8"), paths.markdown.read_text(encoding="utf-8")


class TestSections:
    def test_seeds_and_methods_give_all(self, seven: Path) -> None:
        page, markdown = pages(seven)
        for section in SECTIONS[:2]:
            assert section in page
            assert section in markdown
        assert "Along the run" in page
        assert "<figcaption>Damping" in page
        assert "7 common seeds, 3 tests." in page
        assert 'class="better"' in page
        assert "**" in markdown.partition("### Pair by pair")[2].partition("###")[0]

    def test_one_seed_has_none_of_them(self, tmp_path: Path) -> None:
        for method in (FAST, SLOW):
            write_run(tmp_path, method=method)
        page, markdown = pages(tmp_path)
        for section in SECTIONS:
            assert section not in page
            assert section not in markdown

    def test_few_seeds_are_said_to_be_few(self, tmp_path: Path) -> None:
        for seed in range(3):
            for method in (FAST, SLOW):
                write_run(tmp_path, method=method, seed=seed)
        page, markdown = pages(tmp_path)
        for text in (page, markdown):
            assert "3 common seeds: too few for a test (6 are needed)" in text
        assert 'class="better"' not in page
        assert 'class="grey"' in page

    def test_three_rates_give_a_figure(self, tmp_path: Path) -> None:
        for value, speed in ((0.01, 0.1), (0.1, 0.6), (1.0, 0.01)):
            for seed in range(2):
                write_run(tmp_path, method=rate(value, speed), seed=seed)
        page, markdown = pages(tmp_path)
        assert "<h3>Learning rate</h3>" in page
        assert "| sgd | 1.00 | ∞ |" in markdown, "the largest rate never reaches the target"
        assert "∞" not in page.partition("<h3>Learning rate</h3>")[2].partition("<h3>")[0]

    def test_not_begun_and_without_targets(self, tmp_path: Path) -> None:
        for seed in range(2):
            write_config(tmp_path / f"pending{seed}", config_of("digits_cnn", SLOW, seed))
            directory = write_run(tmp_path, method=FAST, seed=seed, provenance=False)
            status = json.loads((directory / "status.json").read_text())
            (directory / "status.json").write_text(json.dumps({**status, "targets": []}))
        page, _ = pages(tmp_path)
        assert "Pair by pair" not in page


class TestTables:
    def test_pairs_are_mirrored(self, seven: Path) -> None:
        runs = load(seven)
        found = compare_methods(runs, ranking_table(runs), "gradient_equivalents")
        assert found is not None
        assert found.names == ["fast", "middle", "slow"]
        there, back = found.tests["fast", "slow"], found.tests["slow", "fast"]
        assert there.ratio == pytest.approx(1 / back.ratio)  # type: ignore[operator]
        assert (there.wins, there.losses) == (back.losses, back.wins) == (7, 0)
        assert there.adjusted == back.adjusted == pytest.approx(3 * 2 / 2**7)

    def test_too_many_tests_for_the_seeds_are_announced(self, tmp_path: Path) -> None:
        for seed in range(6):
            for method in (FAST, MIDDLE, SLOW):
                write_run(tmp_path, method=method, seed=seed, every=50, cost=10)
        runs = load(tmp_path)
        found = compare_methods(runs, ranking_table(runs), "gradient_equivalents")
        assert found is not None
        assert "nothing can be significant" in found.note
        assert not any(test.significant() for test in found.tests.values())

    def test_seconds_only_from_runs_alone_on_their_machine(self, seven: Path, tmp_path: Path) -> None:
        assert compare_profiles(load(seven), "seconds") is not None
        for seed in range(4):
            for method in (FAST, SLOW):
                write_run(tmp_path, method=method, seed=seed, timing="shared", every=20)
            assert (compare_profiles(load(tmp_path), "gradient_equivalents") is None) == (seed < 3), "four problems"
        runs = load(tmp_path)
        assert compare_profiles(runs, "seconds") is None
        assert compare_methods(runs, ranking_table(runs), "seconds") is None

    def test_profiles_go_by_score(self, seven: Path) -> None:
        found = compare_profiles(load(seven), "gradient_equivalents")
        assert found is not None
        assert [one.name for one in found.profiles] == ["fast", "middle", "slow"]
        assert found.profiles[0].score() == 1.0
        assert found.profiles[2].score() == 0.0
        assert found.problems == 7


class TestSensitivity:
    def test_by_hand(self, tmp_path: Path) -> None:
        for value, speed in ((0.1, 0.6), (0.01, 0.1), (1.0, 0.01)):
            for seed in range(3):
                write_run(tmp_path, method=rate(value, speed), seed=seed, end="diverged" if value == 1.0 else "done")
        write_run(tmp_path, method=FAST)
        runs = load(tmp_path)
        (found,) = sensitivities(runs.runs)
        assert found.values == [0.01, 0.1, 1.0]
        assert [len(own) for own in found.by_value] == [3, 3, 3]
        finals = found.finals("train_loss")
        middle = sorted(run.final("train_loss") for run in runs if run.config["optimizer"].get("lr") == 0.1)  # type: ignore[type-var]
        assert finals[1] == middle
        assert finals[2] == [math.inf] * 3
        slow, fast, dead = found.times(Target("validation_accuracy", 0.95, "max"), "gradient_equivalents")
        assert fast.median < slow.median  # type: ignore[union-attr]
        assert math.isinf(dead.median)  # type: ignore[union-attr]

    def test_other_options_make_another_method(self, tmp_path: Path) -> None:
        for value in (0.1, 0.2, 0.3):
            for momentum in (0.0, 0.9):
                options = {"lr": value, "momentum": momentum}
                write_run(
                    tmp_path, method=Method("sgd", "first-order", 0.3, 1, {"gradient": 1}, options=options), cost=5
                )
        found = sensitivities(load(tmp_path).runs)
        assert [len(one.values) for one in found] == [3, 3]

    def test_two_rates_are_too_few(self, tmp_path: Path) -> None:
        for value in (0.1, 0.2):
            write_run(tmp_path, method=rate(value, 0.3), cost=5)
        assert sensitivities(load(tmp_path).runs) == []


def test_curves_of_reports_and_events(seven: Path, tmp_path: Path) -> None:
    run = next(run for run in load(seven) if run.optimizer == "middle")
    curve = run.curve("steps", "report.damping")
    assert curve.y == [3.0 / step for step in curve.x]
    assert len(curve) == len(run.steps)
    escaping = Method("newton_cg", "newton", 0.14, 1, {"gradient": 1}, escape="negative_curvature")
    write_run(tmp_path, method=escaping)
    (run,) = load(tmp_path).runs
    assert run.curve("steps", "event.decrease").y == [0.1]
    assert len(run.curve("steps", "report.none")) == 0
