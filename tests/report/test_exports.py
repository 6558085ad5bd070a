"""Figures, tables and records that are written beside the page."""

from __future__ import annotations

import csv
import importlib.util
import json
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from hybridopt import cli
from hybridopt.core.errors import ConfigError, HybridoptError
from hybridopt.report import ranking_table, write_report
from hybridopt.report.exports import csv_text, latex_tables, write_parquet
from hybridopt.results import load
from tests.synthetic_runs import Method, write_run

FAST = Method("fast_one", "first-order", 0.6, 20, {"gradient": 1}, noise=0.1)
SLOW = Method("slow & 5%", "first-order", 0.02, 20, {"gradient": 1})


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sweep")
    for seed in range(4):
        for method in (FAST, SLOW):
            write_run(root, method=method, seed=seed, every=20)
    return root


class TestFigures:
    def test_svg_stands_alone(self, sweep: Path) -> None:
        paths = write_report(sweep, figures=["svg"])
        names = {path.stem for path in paths.figures}
        assert "profiles-gradient_equivalents" in names
        assert "digits_cnn-train_loss-gradient_equivalents" in names
        assert not any(name.endswith("seconds") for name in names), "the runs shared their machine"
        for path in paths.figures:
            text = path.read_text(encoding="utf-8")
            root = ElementTree.fromstring(text)
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert "var(--" not in text
            assert "slow &amp; 5%" in text
            used = set(re.findall(r'class="(?:series )?(s\d+)"', text))
            assert used, "lines have looks"
            assert all(f".{name} .line{{stroke:#" in text for name in used)

    def test_negative_losses_are_drawn_on_linear_axes_whatever_the_scale(self, tmp_path: Path) -> None:
        history = write_run(tmp_path, method=FAST) / "history.jsonl"
        rows = [json.loads(line) for line in history.read_text().splitlines()]
        for row in rows:
            row.update({key: row[key] - 100 for key in ("loss", "train_loss", "validation_loss") if key in row})
        history.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths = write_report(tmp_path, figures=["svg"])
        for path in paths.figures:
            if "train_loss" in path.stem:
                assert re.search(r'class="line" d="M[^"]*L', path.read_text()), path
        figure = paths.html.read_text().partition("Training loss")[2].partition("</figure>")[0]
        variants = figure.split('<div class="variant ')[1:]
        assert {name for text in variants for name in re.findall("scale-[a-z]+", text.partition('"')[0])} == {
            "scale-linear",
            "scale-log",
            "scale-loglog",
        }
        assert all(re.search(r'class="line" d="M[^"]*L', text) for text in variants)

    @pytest.mark.parametrize(
        ("text", "message"), [("pgn", "Did you mean 'png'"), ("", "No figure format"), (",", "No f")]
    )
    def test_misspelt_formats_are_refused_before_anything_is_written(
        self, sweep: Path, tmp_path: Path, text: str, message: str
    ) -> None:
        with pytest.raises(ConfigError, match=message):
            write_report(sweep, tmp_path / "out", figures=[text])
        assert not (tmp_path / "out").exists()

    def test_without_matplotlib_the_error_names_the_extra(
        self, sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(HybridoptError, match=r"hybridopt\[figures\]"):
            write_report(sweep, tmp_path / "out", figures=["pdf"])
        assert not (tmp_path / "out").exists()

    @pytest.mark.skipif(importlib.util.find_spec("matplotlib") is None, reason="needs the extra figures")
    def test_pdf_and_png(self, tmp_path: Path) -> None:
        sweep = tmp_path / "sweep"
        write_run(sweep, method=FAST, every=20)
        first = write_report(sweep, tmp_path / "a", figures=["pdf", "png"]).figures
        again = write_report(sweep, tmp_path / "b", figures=["pdf"]).figures
        starts = {".pdf": b"%PDF", ".png": b"\x89PNG"}
        assert all(path.read_bytes().startswith(starts[path.suffix]) for path in first)
        same = {path.name: path.read_bytes() for path in again}
        assert all(same[path.name] == path.read_bytes() for path in first if path.suffix == ".pdf")


class TestTables:
    def test_csv_has_the_rankings_numbers(self, sweep: Path) -> None:
        paths = write_report(sweep)
        with paths.ranking.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        fast, slow = ranking_table(load(sweep))
        assert [row["optimizer"] for row in rows] == ["fast_one", "slow & 5%"]
        assert float(rows[0]["gradient_equivalents_median"]) == fast.gradient_equivalents.value
        assert float(rows[0]["gradient_equivalents_high"]) == fast.gradient_equivalents.high
        assert (rows[1]["gradient_equivalents_median"], rows[1]["censored"]) == ("", "4")
        assert float(rows[1]["gradient_equivalents_exceeds"]) == slow.gradient_equivalents.censored_at
        with paths.runs.open(newline="", encoding="utf-8") as file:
            runs = list(csv.DictReader(file))
        assert [row["seed"] for row in runs] == ["0", "1", "2", "3"] * 2
        assert {row["state"] for row in runs} == {"done"}

    def test_csv_of_uneven_records(self) -> None:
        assert csv_text([{"a": 1}, {"b": 'x,"y"', "a": None}]) == 'a,b\n1,\n,"x,""y"""\n'

    def test_parquet_where_it_can_be_written(self, sweep: Path) -> None:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        paths = write_report(sweep)
        assert paths.parquet is not None
        assert len(pandas.read_parquet(paths.parquet)) == 8

    def test_options_of_any_form_become_a_parquet_column(self, sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pandas = pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
        results = load(sweep)
        stages = [[{"name": "adam"}, "lbfgs"], None, "adam", math.nan, 3, ["a"], {}, 0.5]
        frame = pandas.DataFrame({"stages": stages, "number": [1.5, math.nan] * 4})
        monkeypatch.setattr(results, "runs_frame", lambda: frame)
        assert write_parquet(results, sweep / "runs.parquet")
        back = pandas.read_parquet(sweep / "runs.parquet")
        texts = ['[{"name":"adam"},"lbfgs"]', None, "adam", None, "3", '["a"]', "{}", "0.5"]
        assert [None if pandas.isna(value) else value for value in back["stages"]] == texts
        assert back["number"].dtype == float

    def test_latex_is_escaped_and_even(self, sweep: Path) -> None:
        text = latex_tables(load(sweep))
        assert r"fast\_one & 4/4 &" in text
        assert r"slow \& 5\% & 0/4 & $>$ 40.0" in text
        assert r"validation accuracy $\ge$ 0.95" in text
        body = text.partition(r"\midrule")[2].partition(r"\bottomrule")[0]
        counts = {len(re.findall(r"(?<!\\)&", line)) for line in body.strip().splitlines()}
        columns = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
        assert counts == {len(columns[0]) - 1}


class TestCommand:
    def test_writes_what_is_asked_for(self, sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "out"
        assert cli.main(["report", str(sweep), "--out", str(out), "--figures", "svg", "--latex"]) == 0
        said = capsys.readouterr().out.replace("\n", "")
        for name in ("report.html", "ranking.tex", "figures"):
            assert (out / name).exists()
            assert name in said
        assert cli.main(["report", str(sweep), "--figures", "jpeg"]) == 2
        assert cli.main(["report", str(sweep), "--latx"]) == 2

    def test_runs_of_older_versions(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path)
        for name in ("status.json", "provenance.json"):
            known = json.loads((directory / name).read_text())
            for key in ("task_facts", "timing", "targets", "summary"):
                known.pop(key, None)
            (directory / name).write_text(json.dumps(known))
        paths = write_report(tmp_path, figures=["svg"], latex=True)
        assert paths.latex is not None
        assert paths.figures
