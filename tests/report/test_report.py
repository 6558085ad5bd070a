"""The page and its Markdown twin: complete, self-contained, and readable whatever the runs look like."""

from __future__ import annotations

import html.parser
import json
import math
import re
from pathlib import Path

import pytest

from hybridopt.core.errors import StoreError
from hybridopt.experiment.layout import write_config
from hybridopt.experiment.store import RunStore
from hybridopt.report import write_report
from tests.synthetic_runs import METHODS, TASKS, Method, config_of, write_quickstart, write_run

VOID = {"meta", "input", "wbr", "br", "link", "img"}


class Page(html.parser.HTMLParser):
    """Reads a page and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.ids: list[str] = []
        self.visible: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.attributes.append((tag, name, value or ""))
            if name == "id":
                self.ids.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.extend((tag, name, value or "") for name, value in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.visible.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.visible).split())


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = write_quickstart(tmp_path_factory.mktemp("quickstart"))
    write_report(directory)
    return directory


@pytest.fixture(scope="module")
def page(sweep: Path) -> Page:
    return Page(write_report(sweep).html.read_text(encoding="utf-8"))


def read(directory: Path) -> tuple[Page, str]:
    paths = write_report(directory)
    return Page(paths.html.read_text(encoding="utf-8")), paths.markdown.read_text(encoding="utf-8")


class TestPage:
    def test_needs_nothing_from_outside(self, sweep: Path, page: Page) -> None:
        text = (sweep / "report.html").read_text(encoding="utf-8")
        assert set(re.findall(r"https?://[^\s\"'<)]+", text)) == {"http://www.w3.org/2000/svg"}
        for tag, name, value in page.attributes:
            if name in ("src", "href", "data"):
                assert value.startswith("#"), f"<{tag} {name}={value!r}>"
        assert "@import" not in text
        assert "url(" not in text

    def test_says_what_it_is(self, page: Page) -> None:
        assert "Defaults, 1 seed: a demonstration, not a comparison" in page.text
        assert "do not compare their seconds" in page.text
        assert "seconds, shared" in page.text
        assert "trivial predictor's loss 2.303" in page.text
        assert "validation accuracy ≥ 0.95; train loss ≤ 0.05" in page.text

    def test_names_everything(self, page: Page) -> None:
        for method in METHODS:
            assert method.name in page.text.replace("_ ", "_")
        for text in (
            "> 40.0",
            "quasi-newton",
            "escape: negative curvature",
            "Gauss-Newton products",
            "Where the time went start-up training evaluation recording checkpoints optimizer",
            "RuntimeError: CUDA out of memory <b>",
            "the loss is nan",
            "0123456789ab",
            "Example CPU",
            "torch 2.13.0",
            "adam: lr=0.001",
        ):
            assert text in page.text, text

    def test_shows_no_garbage(self, sweep: Path, page: Page) -> None:
        without_reason = page.text.replace("the loss is nan", "")
        assert not re.search(r"\b(nan|none|inf|infinity|null|undefined)\b", without_reason.lower())
        markdown = (sweep / "report.md").read_text(encoding="utf-8").replace("the loss is nan", "")
        assert not re.search(r"\b(nan|None|inf)\b", markdown)

    def test_ids_are_unique_and_labels_belong_to_switches(self, page: Page) -> None:
        assert len(page.ids) == len(set(page.ids))
        targets = {value for tag, name, value in page.attributes if (tag, name) == ("label", "for")}
        assert targets <= set(page.ids)
        assert {"axis-steps", "axis-gradient_equivalents", "axis-seconds", "scale-linear", "scale-log"} <= targets

    def test_every_axis_is_drawn_beforehand(self, page: Page) -> None:
        variants = [value for tag, name, value in page.attributes if name == "class" and value.startswith("variant")]
        for axis in ("steps", "gradient_equivalents", "seconds"):
            for scale in ("linear", "log", "loglog"):
                shown = [v for v in variants if f"axis-{axis}" in v and f"scale-{scale}" in v.split()]
                assert len(shown) == 4, "two figures of two tasks"

    def test_uneven_lengths_open_with_a_logarithmic_axis(self, sweep: Path, tmp_path: Path) -> None:
        def opens_with(directory: Path) -> list[str]:
            text = write_report(directory).html.read_text(encoding="utf-8")
            return re.findall(r'id="((?:axis|scale)-\w+)"[^>]* checked>', text)

        for method, cost in ((METHODS[0], 4), (METHODS[1], 5), (METHODS[4], 60)):
            write_run(tmp_path, method=method, cost=cost)
        assert opens_with(sweep) == ["axis-gradient_equivalents", "scale-log"]
        assert opens_with(tmp_path) == ["axis-gradient_equivalents", "scale-loglog"]

    def test_data_for_the_script_is_strict_json(self, sweep: Path) -> None:
        text = (sweep / "report.html").read_text(encoding="utf-8")
        (found,) = re.findall(r'<script type="application/json" id="curves">(.*?)</script>', text, re.DOTALL)
        data = json.loads(found, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
        assert len(data) == 4
        for axes in data.values():
            assert set(axes) == {"steps", "gradient_equivalents", "seconds"}
            for lines in axes.values():
                assert len(lines) == len(METHODS)

    def test_several_seeds_have_bands(self, tmp_path: Path) -> None:
        for seed in range(3):
            write_run(tmp_path, seed=seed)
        found, markdown = read(tmp_path)
        assert "bands hold the lowest to the highest" in found.text
        assert ("path", "class", "band") in found.attributes
        assert "3 of 3" in found.text
        assert "3/3" in markdown


class TestMarkdown:
    def test_has_the_same_ranking(self, sweep: Path, page: Page) -> None:
        text = (sweep / "report.md").read_text(encoding="utf-8")
        assert text.startswith("# quickstart\n\n**Defaults, 1 seed: a demonstration, not a comparison**")
        for task in TASKS:
            assert f"\n## {task}\n" in text
        rows = [line for line in text.splitlines() if line.startswith("| 1 | adam |")]
        assert len(rows) == 3, "two main targets and one other"
        for cell in rows[0].strip("| ").split(" | "):
            assert cell.replace("1/1", "yes") in page.text

    def test_tables_have_even_rows(self, sweep: Path) -> None:
        blocks = re.findall(r"(?:^\|.*\n)+", (sweep / "report.md").read_text(encoding="utf-8"), re.MULTILINE)
        assert len(blocks) >= 8
        for block in blocks:
            assert len({line.count("|") - line.count("\\|") for line in block.splitlines()}) == 1


class TestOddRuns:
    def test_no_runs(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no runs"):
            write_report(tmp_path)

    def test_only_pending(self, tmp_path: Path) -> None:
        write_config(tmp_path / "run", config_of("digits_cnn", METHODS[0], 0))
        found, _ = read(tmp_path)
        assert "1 run not finished yet" in found.text
        assert "no values recorded" in found.text

    def test_killed_running_and_torn(self, tmp_path: Path) -> None:
        directory = write_run(tmp_path, end="running")
        with open(directory / "history.jsonl", "ab") as file:
            file.write(b'{"type":"eval')
        found, markdown = read(tmp_path)
        assert "killed" in found.text
        assert "start the sweep again" in markdown

    @pytest.mark.parametrize("name", ["provenance.json", "status.json", "history.jsonl", "config.yaml"])
    def test_missing_files(self, tmp_path: Path, name: str) -> None:
        (write_run(tmp_path) / name).unlink()
        write_run(tmp_path, method=METHODS[0])
        found, _ = read(tmp_path)
        assert "momentum" in found.text

    def test_everything_is_nan(self, tmp_path: Path) -> None:
        config = config_of("digits_cnn", METHODS[0], 0)
        with RunStore(tmp_path / "run", config) as store:
            store.resume()
            axes = {"step": 1, "epoch": 1, "gradient_equivalents": 1.0, "seconds": math.nan}
            store.append({"type": "step", **axes, "loss": math.nan})
            store.append({"type": "evaluation", **axes, "train_loss": math.nan, "validation_loss": math.inf})
            store.write_status({"status": "diverged", "reason": "the loss is not finite"})
        found, _ = read(tmp_path)
        assert "no values recorded" in found.text
        assert "nan" not in found.text.lower().replace("provenance", "")

    def test_only_step_rows(self, tmp_path: Path) -> None:
        with RunStore(tmp_path / "run", config_of("digits_cnn", METHODS[0], 0)) as store:
            store.resume()
            for step in range(1, 50):
                axes = {"step": step, "epoch": step / 10, "gradient_equivalents": step / 10, "seconds": step / 5}
                store.append({"type": "step", **axes, "loss": 1 / step})
        found, _ = read(tmp_path)
        assert "Training loss on the batch" in found.text

    def test_names_are_escaped(self, tmp_path: Path) -> None:
        evil = Method("<script>alert(1)</script>", "first-order", 0.3, 20, {"gradient": 1}, options={"x": "</script>"})
        config = {**config_of("digits_cnn", evil, 0), "experiment": "<b>&amp;"}
        directory = write_run(tmp_path / "source")
        with RunStore(tmp_path / "run", config) as store:
            store.resume()
            for row in (directory / "history.jsonl").read_text().splitlines():
                store.append(json.loads(row))
            store.write_status({"status": "failed", "error": {"type": "E", "message": "a | b\n<i>"}})
        found, markdown = read(tmp_path / "run")
        assert "<script>alert(1)</script>" in found.text.replace("_ ", "_")
        assert sum(tag == "script" for tag, _, _ in found.attributes) == 2, "only the data's two attributes"
        assert "a \\| b <i>" in markdown

    def test_many_settings_stay_readable(self, tmp_path: Path) -> None:
        for place in range(20):
            method = Method("sgd", "first-order", 0.02 * place, 5, {"gradient": 1}, options={"lr": 0.01 * (place + 1)})
            write_run(tmp_path, method=method, cost=10)
        found, _ = read(tmp_path)
        assert "and 6 more in grey" in found.text
        assert "sgd lr=0.07" in found.text

    def test_out_of_the_way(self, tmp_path: Path) -> None:
        write_run(tmp_path / "runs")
        paths = write_report(tmp_path / "runs", tmp_path / "elsewhere" / "deep")
        assert paths.html == tmp_path / "elsewhere" / "deep" / "report.html"
        assert paths.markdown.exists()
        assert not (tmp_path / "runs" / "report.html").exists()

    def test_cannot_be_written(self, tmp_path: Path) -> None:
        write_run(tmp_path / "runs")
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match="Could not write"):
            write_report(tmp_path / "runs", tmp_path / "file")
