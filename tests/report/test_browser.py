"""The page in a real browser: no error on the console, and every switch works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from hybridopt.report import write_report
from tests.synthetic_runs import METHODS, Method, write_quickstart, write_run

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no chromium here")

PROBE = """
<script>
const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length);
const outcome = {};
outcome.first = seen(".variant").map((e) => e.className);
document.querySelector("label[for=axis-seconds]").click();
document.querySelector("label[for=scale-loglog]").click();
outcome.switched = seen(".variant").map((e) => e.className);
const lines = () => seen(".series .line").length;
outcome.lines = lines();
document.querySelector(".legend label").click();
outcome.without = lines();
document.querySelector(".legend label").dispatchEvent(new MouseEvent("dblclick", {bubbles: true}));
outcome.only = lines();
document.querySelector(".legend button").click();
outcome.all = lines();
const plot = seen(".variant svg.plot")[0];
const box = plot.getBoundingClientRect();
const at = {clientX: box.left + box.width * 0.6, clientY: box.top + 40, bubbles: true};
plot.dispatchEvent(new PointerEvent("pointermove", at));
outcome.tip = document.querySelector(".tip").innerText;
plot.dispatchEvent(new PointerEvent("pointerleave", {}));
outcome.gone = document.querySelector(".tip") === null;
outcome.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const box2 = document.createElement("pre");
box2.id = "outcome";
box2.textContent = JSON.stringify(outcome);
document.body.append(box2);
</script></body>
"""

COMPARISON = """
<script>
const seen = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.getClientRects().length);
const after = (title) => [...document.querySelectorAll("h3")].find((e) => e.textContent === title);
const outcome = {};
outcome.sections = ["Pair by pair", "Learning rate"].filter(after);
outcome.profiles = seen("#profiles svg.plot").length;
outcome.rates = after("Learning rate").nextElementSibling.nextElementSibling.querySelectorAll("svg.plot").length;
const cells = () => seen(".task .matrix td.better, .task .matrix td.worse, .task .matrix td.grey");
outcome.cells = cells().length;
outcome.titled = cells().filter((e) => e.querySelector("span[title]")).length;
const details = document.querySelector("#profiles details");
outcome.closed = !details.open;
details.querySelector("summary").click();
outcome.scores = details.open && seen("#profiles .matrix tbody td:not(.name):not(.muted)").length;
const lines = () => seen("#profiles .series .line").length;
outcome.lines = lines();
document.querySelector(".legend label").click();
outcome.hidden = lines();
outcome.empty = seen("svg.plot").filter((e) => e.getBoundingClientRect().height < 50).length;
outcome.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const box2 = document.createElement("pre");
box2.id = "outcome";
box2.textContent = JSON.stringify(outcome);
document.body.append(box2);
</script></body>
"""


def open_page(page: Path, profile: Path, width: int) -> tuple[str, list[str]]:
    """Returns the page's final content and what was said on the console."""
    assert BROWSER is not None
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-extensions",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        "--virtual-time-budget=3000",
        "--dump-dom",
    ]
    try:
        done = subprocess.run(
            [BROWSER, *options, f"--user-data-dir={profile}", f"--window-size={width},2000", page.as_uri()],
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the browser does not come up here")
    if "<html" not in done.stdout:
        pytest.skip(f"the browser does not run here: {done.stderr[-300:]}")
    return done.stdout, re.findall(r"CONSOLE.*", done.stderr)


def probe(report: Path, tmp_path: Path, width: int, script: str = PROBE) -> dict[str, Any]:
    page = tmp_path / "probe.html"
    page.write_text(report.read_text(encoding="utf-8").replace("</body>", script), encoding="utf-8")
    content, console = open_page(page, tmp_path / "profile", width)
    assert console == []
    (found,) = re.findall(r'<pre id="outcome">(.*?)</pre>', content, re.DOTALL)
    return json.loads(found.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_quickstart(tmp_path_factory.mktemp("sweep"))).html


@pytest.mark.parametrize("width", [1280, 500])
def test_switches_legend_and_read_out(report: Path, tmp_path: Path, width: int) -> None:
    outcome = probe(report, tmp_path, width)
    assert len(outcome["first"]) == 4
    assert all("axis-gradient_equivalents" in name and "scale-log" in name.split() for name in outcome["first"])
    assert len(outcome["switched"]) == 4
    assert all("axis-seconds" in name and "scale-loglog" in name for name in outcome["switched"])
    assert outcome["lines"] == 4 * len(METHODS)
    assert outcome["without"] == 4 * (len(METHODS) - 1)
    assert outcome["only"] == 4
    assert outcome["all"] == 4 * len(METHODS)
    assert "seconds" in outcome["tip"]
    assert "adam" in outcome["tip"]
    assert "NaN" not in outcome["tip"]
    assert outcome["gone"]
    assert outcome["wide"] == 0, "the page must not scroll sideways"


@pytest.mark.parametrize("width", [1280, 500])
def test_comparison_sections(tmp_path: Path, width: int) -> None:
    sweep = tmp_path / "sweep"
    for place, (value, speed) in enumerate(((0.01, 0.1), (0.1, 0.6), (0.2, 0.3))):
        options = {"lr": value}
        method = Method("a_long_name_of_an_optimizer", "newton", speed, 20, {"gradient": 1}, options=options)
        for seed in range(6):
            write_run(sweep, method=method, seed=seed, timing="exclusive", every=20 if place else 1)
    outcome = probe(write_report(sweep).html, tmp_path, width, COMPARISON)
    assert outcome["sections"] == ["Pair by pair", "Learning rate"]
    assert outcome["profiles"] == 2, "gradient-equivalents and seconds"
    assert outcome["rates"] == 3, "final loss, and times on both axes"
    assert outcome["cells"] == 2 * 6, "every ordered pair on both axes"
    assert outcome["titled"] == outcome["cells"]
    assert outcome["closed"]
    assert outcome["scores"] == 2 * 6
    assert outcome["hidden"] < outcome["lines"], "the legend hides a method in the profiles too"
    assert outcome["empty"] == 0, "no drawing without a size"
    assert outcome["wide"] == 0, "the page must not scroll sideways"


def test_an_error_on_the_console_would_be_seen(tmp_path: Path) -> None:
    page = tmp_path / "broken.html"
    page.write_text("<!doctype html><html><body><script>missing()</script></body></html>")
    _, console = open_page(page, tmp_path / "profile", 800)
    assert any("missing is not defined" in line for line in console)
