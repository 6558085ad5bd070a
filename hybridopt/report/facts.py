"""What the report states beside the ranking: cost, events, failures, provenance, and what it all is worth."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

from hybridopt.report.ranking import median, ranking_table
from hybridopt.report.text import DASH, one_line, plural
from hybridopt.results import Results, Run
from hybridopt.results.paired import MIN_SEEDS

COSTS = ("forward", "gradient", "hvp", "ggnvp")


@dataclasses.dataclass(frozen=True)
class CostRow:
    """What a setting's runs paid, medians over seeds.

    Attributes:
        label: Name of the setting.
        setting: Its identity.
        calls: Number of calls by kind.
        shares: Share of the cost by kind, None when it was not recorded on how many samples the calls ran.
        gradient_equivalents: Total cost.
        seconds: Training seconds.
    """

    label: str
    setting: str
    calls: dict[str, float | None]
    shares: dict[str, float] | None
    gradient_equivalents: float | None
    seconds: float | None


@dataclasses.dataclass(frozen=True)
class EventRow:
    """One kind of event of one setting.

    Attributes:
        label: Name of the setting.
        setting: Its identity.
        event: The event's name.
        times: How often, over all runs.
        runs: In how many runs.
        first_step: Step of the first one.
        first_cost: Gradient-equivalents spent then.
    """

    label: str
    setting: str
    event: str
    times: int
    runs: int
    first_step: float | None
    first_cost: float | None


@dataclasses.dataclass(frozen=True)
class Failure:
    """A run that did not end well.

    Attributes:
        task: Name of the task.
        label: Name of the setting.
        seed: The run's seed.
        state: "failed", "diverged", "killed" or "interrupted".
        message: Why, on one line.
        directory: Where it lies, below the sweep's directory.
    """

    task: str
    label: str
    seed: Any
    state: str
    message: str
    directory: str


def standing(results: Results) -> str:
    """Says in one line what the numbers are worth: how many seeds, tuned or not.

    Args:
        results: All runs of the comparison.

    Example:
        >>> from pathlib import Path
        >>> standing(Results(Path("."), []))
        'no runs'
    """
    if not results.runs:
        return "no runs"
    settings = results.settings()
    seeds = [len(runs) for runs in settings.values()]
    few, many = min(seeds), max(seeds)
    amount = plural(few, "seed") if few == many else f"{few} to {many} seeds"
    tuned = [run for run in results.runs if run.tuned]
    if len(tuned) == len(results.runs):
        return f"tuned{_effort(tuned)}, {amount}" + (
            "" if few >= MIN_SEEDS else f": too few seeds for a test ({MIN_SEEDS} are needed)"
        )
    if tuned:
        others = _untuned(results)
        share = f"{len(settings) - len(others)} of {len(settings)} settings tuned{_effort(tuned)}, {amount}"
        return f"{share}; not {', '.join(others)}: what is tuned and what is not cannot be compared"
    alternatives = {(run.task, run.optimizer, run.escape) for run in results.runs}
    kind = "defaults" if len(alternatives) == len(settings) else "untuned settings"
    return f"{kind}, {amount}: a demonstration, not a comparison"


def _untuned(results: Results) -> list[str]:
    """Names of the settings not all of whose runs are tuned, with their tasks where there are several."""
    found, labels = [], results.labels()
    several = len({run.task for run in results.runs}) > 1
    for setting, runs in results.settings().items():
        if not all(run.tuned for run in runs):
            found.append(f"{labels[setting]} on {runs[0].task}" if several else labels[setting])
    return found


def _effort(runs: Sequence[Run]) -> str:
    """Trials and cost of the tuning behind the runs, as far as recorded: " (8 to 12 trials, cost 160 to 165 each)"."""
    efforts = [run.provenance["tuning"] for run in runs]
    texts = []
    for key, pattern in (("trials", "{} trials"), ("gradient_equivalents", "cost {} each")):
        known = [one.get(key) for one in efforts]
        if not all(isinstance(value, int | float) for value in known):
            return ""
        low, high = f"{min(known):.4g}", f"{max(known):.4g}"
        texts.append(pattern.format(low if low == high else f"{low} to {high}"))
    return f" ({', '.join(texts)})"


def cost_table(results: Results) -> list[CostRow]:
    """Returns what every setting of one task paid, in the ranking's order.

    Args:
        results: Runs of one task.
    """
    rows = []
    for ranked in ranking_table(results):
        runs = [run for run in results.runs if run.setting == ranked.setting]
        costs = [cost for run in runs if (cost := _cost(run))]
        calls = {kind: median(cost.get(kind) for cost in costs) for kind in COSTS}
        rows.append(
            CostRow(
                ranked.label,
                ranked.setting,
                calls,
                _shares(costs),
                ranked.total_gradient_equivalents,
                ranked.total_seconds,
            )
        )
    return rows


def event_table(results: Results) -> list[EventRow]:
    """Returns how often which event happened in one task: switches, escapes, restarts.

    Args:
        results: Runs of one task.
    """
    labels = results.labels()
    rows = []
    for setting, runs in results.settings().items():
        found: dict[str, list[tuple[Run, dict[str, Any]]]] = {}
        for run in runs:
            for event in run.events:
                name = str(event.get("event", "event"))
                if name != "target":
                    found.setdefault(name, []).append((run, event))
        for name, events in found.items():
            first = min(events, key=lambda pair: pair[1].get("step", math.inf))[1]
            rows.append(
                EventRow(
                    labels[setting],
                    setting,
                    name,
                    len(events),
                    len({id(run) for run, _ in events}),
                    first.get("step"),
                    first.get("gradient_equivalents"),
                )
            )
    return rows


def failures(results: Results) -> list[Failure]:
    """Returns the runs that failed, diverged, were killed or interrupted.

    Args:
        results: Any runs.
    """
    labels = results.labels()
    found = []
    for run in results.runs:
        if run.state not in ("failed", "diverged", "killed", "interrupted"):
            continue
        error = run.status.get("error") or {}
        message = f"{error.get('type', 'Error')}: {error.get('message', '')}" if error else run.status.get("reason")
        if run.state == "killed":
            message = "its process ended without a word; start the sweep again to go on from its checkpoint"
        try:
            where = str(run.directory.relative_to(results.directory))
        except ValueError:
            where = str(run.directory)
        found.append(Failure(run.task, labels[run.setting], run.seed, run.state, one_line(message), where))
    return found


def provenance(results: Results) -> list[tuple[str, str]]:
    """Returns where the runs come from, as names and texts; differing values are all listed, with counts.

    Args:
        results: Any runs.
    """
    facts: list[tuple[str, str]] = []
    known = [run.provenance for run in results.runs if run.provenance]
    if not known:
        return facts
    names = dict.fromkeys(name for one in known for name in one.get("versions") or {})
    versions = [
        ", ".join(_distinct(f"{name} {(one.get('versions') or {}).get(name, DASH)}" for one in known)) for name in names
    ]
    facts.append(("versions", " · ".join(versions)))
    commits = (
        f"{one['commit'][:12]}{' with changes ' + str(one['dirty']) if one.get('dirty') else ''}"
        for one in known
        if one.get("commit")
    )
    facts.append(("hybridopt commit", ", ".join(_distinct(commits)) or "not a checkout"))
    for title, key in (("device", "device"), ("processor", "cpu"), ("host", "host"), ("system", "platform")):
        values = _distinct(str(one[key]) for one in known if one.get(key))
        if values:
            facts.append((title, ", ".join(values)))
    facts.append(("threads of a run", ", ".join(_distinct(str(one.get("threads", DASH)) for one in known))))
    facts.append(("timing", ", ".join(_distinct(run.timing or "unknown" for run in results.runs if run.provenance))))
    replays = [run.replay.provenance for run in results.runs if run.replay is not None]
    if replays:
        places = _distinct(f"{one.get('host', DASH)}, {one.get('cpu', DASH)}" for one in replays)
        facts.append(("replayed for their seconds", f"{plural(len(replays), 'run')} on {'; '.join(places)}"))
    starts = sorted(str(one["started"])[:19].replace("T", " ") for one in known if one.get("started"))
    if starts:
        facts.append(("started (UTC)", starts[0] if starts[0] == starts[-1] else f"{starts[0]} to {starts[-1]}"))
    resumed = sum(1 for one in known if one.get("resumed"))
    if resumed:
        facts.append(("resumed after a stop", plural(resumed, "run")))
    return facts


def _cost(run: Run) -> dict[str, Any] | None:
    return next((row["cost"] for row in reversed(run.evaluations) if isinstance(row.get("cost"), dict)), None)


def _shares(costs: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    from hybridopt.objective.ledger import WEIGHTS

    totals = dict.fromkeys(COSTS, 0.0)
    for cost in costs:
        samples = cost.get("samples")
        if not isinstance(samples, dict):
            return None
        for kind in COSTS:
            totals[kind] += WEIGHTS[kind] * (samples.get(kind) or 0)
    whole = sum(totals.values())
    return {kind: total / whole for kind, total in totals.items()} if whole else None


def _distinct(values: Iterable[str]) -> list[str]:
    counts = collections.Counter(values)
    if len(counts) == 1:
        return list(counts)
    return [f"{value} ({plural(amount, 'run')})" for value, amount in counts.most_common()]
