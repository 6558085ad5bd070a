"""Axes, curves and the drawing."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from hybridopt.report.chart import HEIGHT, WIDTH, Guide, draw
from hybridopt.report.curves import Line, Marker, line_of, thin
from hybridopt.report.scales import fit
from hybridopt.results import load
from tests.synthetic_runs import METHODS, Method, write_run

STEADY = Method("steady", "first-order", 0.2, 20, {"gradient": 1})


def line(x: list[float], y: list[float], **more: object) -> Line:
    fields = {"index": 0, "label": "a", "low": [], "high": [], "markers": [], **more}
    return Line(x=x, y=y, **fields)  # type: ignore[arg-type]


class TestScale:
    @pytest.mark.parametrize("log", [False, True])
    @pytest.mark.parametrize(
        ("low", "high"),
        [(0.001, 1000.0), (0.02, 0.9), (0.9, 0.98), (3.0, 4.0), (1e-12, 1e12), (5.0, 5.0), (80.0, 2400.0)],
    )
    def test_ticks_lie_on_the_axis_and_tell_apart(self, low: float, high: float, log: bool) -> None:
        scale = fit([low, high], 0, 100, log)
        assert scale is not None
        ticks = scale.ticks()
        assert 2 <= len(ticks) <= 12
        assert len({text for _, text in ticks}) == len(ticks)
        assert all(-0.1 <= scale(value) <= 100.1 for value, _ in ticks)

    def test_ends_and_middle(self) -> None:
        linear, log = fit([1, 100], 0, 10, False), fit([1, 100], 0, 10, True)
        assert linear is not None
        assert log is not None
        assert (linear(1), linear(100)) == (0, 10)
        assert (log(1), log(10), log(100)) == pytest.approx((0, 5, 10))
        assert log(0) == 0

    def test_nothing_to_show(self) -> None:
        assert fit([math.nan, math.inf], 0, 1, False) is None
        assert fit([0.0, -1.0], 0, 1, True) is None


class TestThin:
    def test_keeps_both_ends_and_the_shape(self) -> None:
        x = [float(value) for value in range(5000)]
        few, values = thin(x, [math.exp(-value / 50) for value in x], 100)
        assert len(few) <= 102
        assert (few[0], few[-1]) == (0.0, 4999.0)
        assert sum(value < 50 for value in few) > 15, "the fast start of a curve must keep its points"
        assert all(y == math.exp(-value / 50) for value, y in zip(few, values, strict=True))

    def test_short_ones_stay(self) -> None:
        assert thin([1.0, 2.0], [3.0, 4.0]) == ([1.0, 2.0], [3.0, 4.0])


class TestLines:
    def test_one_run_is_drawn_as_it_is(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        (run,) = load(tmp_path).runs
        found = line_of([run], "seconds", "train_loss", "min", index=0, label="adam")
        assert found is not None
        assert found.y == run.curve("seconds", "train_loss").y
        assert found.low == []

    def test_seeds_give_median_and_band(self, tmp_path: Path) -> None:
        for seed in range(3):
            write_run(tmp_path, method=STEADY, seed=seed)
        runs = load(tmp_path).runs
        found = line_of(runs, "steps", "train_loss", "min", index=0, label="steady")
        assert found is not None
        at = found.x.index(runs[0].evaluations[10]["step"])
        values = sorted(run.evaluations[10]["train_loss"] for run in runs)
        assert (found.low[at], found.y[at], found.high[at]) == pytest.approx(tuple(values))

    def test_a_diverged_seed_counts_as_infinitely_bad(self, tmp_path: Path) -> None:
        for seed in range(3):
            write_run(tmp_path, method=STEADY, seed=seed, end="diverged" if seed == 0 else "done")
        runs = load(tmp_path).runs
        found = line_of(runs, "steps", "train_loss", "min", index=0, label="steady")
        assert found is not None
        others = sorted(run.evaluations[-1]["train_loss"] for run in runs[1:])
        assert found.x[-1] == runs[1].end("steps"), "the two good seeds go on"
        assert found.y[-1] == others[1], "median of two numbers and infinity"
        assert found.high[-1] == math.inf

    def test_ends_where_most_seeds_end(self, tmp_path: Path) -> None:
        for seed in range(3):
            write_run(tmp_path, method=STEADY, seed=seed, end="done" if seed == 0 else "failed")
        runs = load(tmp_path).runs
        found = line_of(runs, "steps", "train_loss", "min", index=0, label="steady")
        assert found is not None
        assert found.x[-1] == runs[1].end("steps") < runs[0].end("steps")  # type: ignore[operator]

    def test_no_values_no_line(self, tmp_path: Path) -> None:
        write_run(tmp_path)
        assert line_of(load(tmp_path).runs, "steps", "validation_f1", "max", index=0, label="adam") is None

    def test_events_sit_on_the_line(self, tmp_path: Path) -> None:
        write_run(tmp_path, method=METHODS[8])
        write_run(tmp_path, method=METHODS[9])
        switching, escaping = sorted(load(tmp_path).runs, key=lambda run: run.optimizer)
        for run, kind in ((switching, "switch"), (escaping, "escape")):
            found = line_of([run], "gradient_equivalents", "train_loss", "min", index=0, label="x")
            assert found is not None
            (marker,) = found.markers
            assert marker.kind == kind
            event = next(row for row in run.events if row["event"] != "target")
            assert marker.x == event["gradient_equivalents"]
            assert min(found.y) <= marker.y <= max(found.y)
        assert (
            "from adam, to lbfgs"
            in line_of([switching], "steps", "train_loss", "min", index=0, label="x").markers[0].title
        )  # type: ignore[union-attr]


class TestDraw:
    def test_is_xml_and_inside_its_frame(self) -> None:
        lines = [line([0, 1, 2], [1, 0.1, 0.01], low=[0.5, 0.05, 0.005], high=[2, 0.2, 0.02])]
        chart = draw(
            lines, x_title="steps & more", description='a "loss"', y_log=True, guides=[Guide(2.3, "<", "target")]
        )
        assert chart is not None
        root = ElementTree.fromstring(chart.svg)
        paths = [node.get("d", "") for node in root.iter("path") if node.get("class") in ("line", "band")]
        assert len(paths) == 2
        for path in paths:
            for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path):
                assert 0 <= float(x) <= WIDTH
                assert 0 <= float(y) <= HEIGHT

    def test_no_nan_gets_into_the_drawing(self) -> None:
        broken = line([0, 1, 2, 3, 4], [1.0, math.nan, 0.5, math.inf, 0.2])
        chart = draw([broken], x_title="steps", description="")
        assert chart is not None
        assert not re.search(r"nan|inf", chart.svg, re.IGNORECASE)
        (path,) = re.findall(r'class="line" d="([^"]*)"', chart.svg)
        assert path.count("M") == 3, "the line is broken at NaN and infinity"

    def test_log_axis_leaves_out_zero(self) -> None:
        chart = draw([line([0, 1, 10], [1, 0.5, 0.1])], x_title="steps", description="", x_log=True, y_log=True)
        assert chart is not None
        assert chart.x.low == 1

    def test_a_diverging_line_does_not_flatten_the_others(self) -> None:
        wild = line([0, 1, 2], [1.0, 1e9, math.inf], markers=[Marker(1, 1e9, "diverged", "diverged")])
        tame = line([0, 1, 2], [1.0, 0.5, 0.1], index=1)
        chart = draw([tame, wild], x_title="steps", description="", ceiling=1.25)
        assert chart is not None
        assert chart.y.high < 1.5
        assert "mark diverged" in chart.svg, "the mark stands where the line leaves the chart"
        assert max(abs(float(y)) for y in re.findall(r"L[\d.]+ (-?[\d.]+)", chart.svg)) < 5 * HEIGHT

    def test_nothing_to_draw(self) -> None:
        assert draw([], x_title="steps", description="") is None
        assert draw([line([1], [math.nan])], x_title="steps", description="") is None

    def test_one_point(self) -> None:
        chart = draw([line([1.0], [2.0])], x_title="steps", description="")
        assert chart is not None
        assert "<circle" in chart.svg
