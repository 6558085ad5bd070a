"""Where the time of the runs went: seconds by phase."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from hybridopt.report.chart import style_class
from hybridopt.report.figures import Palette
from hybridopt.report.ranking import median, ranking_table
from hybridopt.report.tables import Cell, method, stack, table
from hybridopt.report.text import number
from hybridopt.results import Results

NAMES = {
    "startup": "start-up",
    "training": "training",
    "evaluation": "evaluation",
    "recording": "recording",
    "checkpoints": "checkpoints",
}
NOTE = (
    "Where the time went: start-up is what lies between the start of a run's process and its first evaluation "
    "(imports, data, model, tracker), recording is rows and trackers, checkpoints includes exports; the clock waits "
    "for the device at every change. Training is not split by kind of call: to time single calls on a GPU it would "
    "have to wait after each, which changes what is measured."
)


def phases_note(results: Results) -> list[str]:
    """Returns what is to be known about phases, nothing if no run recorded them.

    Args:
        results: All runs of the report.
    """
    return [NOTE] if any(run.phases for run in results.runs) else []


@dataclasses.dataclass(frozen=True)
class PhaseRow:
    """Where the time of a setting's runs went.

    Attributes:
        label: Name of the setting.
        setting: Its identity.
        timing: What the seconds are worth: "exclusive", "shared", "lanes", "mixed", or "unknown".
        seconds: Median over seeds of the seconds of each phase, None where no run knows them.
        total: Median of the sums over phases, None where no run knows all.
        shares: Share of each phase in the time of all runs that know all phases; None if none does.
    """

    label: str
    setting: str
    timing: str
    seconds: dict[str, float | None]
    total: float | None
    shares: dict[str, float] | None


def phase_table(results: Results) -> list[PhaseRow]:
    """Returns where the time of every setting of one task went, in the ranking's order.

    Runs that recorded no phases (of older versions, or not ended) are left out, and settings of such runs only.

    Args:
        results: Runs of one task.
    """
    rows = []
    for ranked in ranking_table(results):
        known = [run.phases for run in results.runs if run.setting == ranked.setting and run.phases]
        if not known:
            continue
        whole = [one for one in known if all(math.isfinite(one.get(name, math.nan)) for name in NAMES)]
        sums = {name: sum(one[name] for one in whole) for name in NAMES}
        total = sum(sums.values())
        rows.append(
            PhaseRow(
                ranked.label,
                ranked.setting,
                ranked.timing,
                {name: median(one[name] for one in known if math.isfinite(one.get(name, math.nan))) for name in NAMES},
                median(sum(one[name] for name in NAMES) for one in whole),
                {name: amount / total for name, amount in sums.items()} if total > 0 else None,
            )
        )
    return rows


def phase_texts(rows: Sequence[PhaseRow]) -> list[list[str]]:
    """Returns the rows as texts: name, seconds with its share for every phase, total.

    Args:
        rows: What `phase_table` returned.
    """

    def cell(row: PhaseRow, name: str) -> str:
        share = "" if row.shares is None else f" ({100 * row.shares[name]:.0f} %)"
        return f"{number(row.seconds[name])}{share}"

    return [[row.label, *(cell(row, name) for name in NAMES), number(row.total)] for row in rows]


def phases_section(rows: Sequence[PhaseRow], seconds: str, palette: Palette) -> str:
    """Returns the part of the page about one task, empty if no run recorded phases.

    Args:
        rows: What `phase_table` returned.
        seconds: Title of a column of seconds.
        palette: Colours of the methods.
    """
    if not rows:
        return ""
    heads: list[Cell] = [("name", "optimizer"), *(("wrap", name) for name in NAMES.values())]
    heads += [("wrap", "share of the time"), ("wrap", f"in all [{seconds}]")]
    cells: list[list[Cell]] = [
        [
            ("name", method(row.label, palette)),
            *(("", number(row.seconds[name])) for name in NAMES),
            ("", stack(row.shares, NAMES)),
            ("", number(row.total)),
        ]
        for row in rows
    ]
    keys = "".join(f'<span><i class="k-{kind}"></i>{name}</span>' for kind, name in NAMES.items())
    kinds = [style_class(palette.index(row.label)) for row in rows]
    return f'<h3>Where the time went</h3><div class="keys">{keys}</div>{table(heads, cells, kinds)}'
