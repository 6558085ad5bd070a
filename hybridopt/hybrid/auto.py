"""A portfolio of optimizers: paid trials from the same point, and on with the best."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ConfigError, option
from hybridopt.escape import snapshot as snapshots
from hybridopt.hybrid.members import Holder
from hybridopt.objective import Objective
from hybridopt.objective.autocast import in_forward_only
from hybridopt.objective.ledger import WEIGHTS
from hybridopt.objective.randomness import RandomState
from hybridopt.optimizers.base import Stepping, resolve_config

RULE = "auto"
"""Key in the state under which the portfolio remembers."""

_SAME = 0.05
"""How far the best may lie ahead, relative to what it gained, for the one that ran before to stay."""


@dataclass
class AutoConfig:
    """Options of `Auto`.

    Attributes:
        portfolio: Names of optimizers, or mappings with ``name`` and ``options``.
        trial_cost: What each of them may spend in a trial, in gradients of a batch's size.
        run_cost: What the best may then spend until the next trials.
        growth: Factor on `run_cost` each time the trials confirm the one that ran.
        probes: Last losses of a trial whose mean is its score, where the batches differ.
    """

    portfolio: list[Any] = option(["adam", "lbfgs", "newton_cg"], help="names, or mappings with name and options")
    trial_cost: float = option(20.0, gt=0, search=("log", 5, 100), help="cost of each trial, in gradients of a batch")
    run_cost: float = option(200.0, gt=0, search=("log", 50, 1000), help="cost until the next trials")
    growth: float = option(2.0, ge=1, help="factor on run_cost when the trials confirm the one that ran")
    probes: int = option(10, ge=1, help="last losses of a trial that make its score, where the batches differ")


class Auto(Holder):
    """Tries each optimizer of a portfolio for the same cost from the same point, goes on with the best, and asks again.

    At the start, and whenever `run_cost` has been spent, parameters, buffers and state are saved; each member steps
    until it has spent `trial_cost`, and all is put back for the next. The one that ended lowest is taken where it
    ended, so its trial is not lost; the others' are undone to the last bit, but their cost stays in the ledger. The
    member that ran before keeps its state in its trial and is only given up for one that gained clearly more (by a
    twentieth); the others begin anew. On the same data the score is the function at the end; where the batches
    differ, the mean of the last losses, each of which was taken before the step on its batch. A trial whose loss is no
    longer finite ends at once; that step reports the loss at the point to which it went back. So does a trial with a
    step that cost nothing, as of a line search where the gradient is zero: it would never spend its share.

    An expensive method makes few steps in a trial, a cheap one many. Everything is deterministic, and a run that is
    resumed within a trial goes on in it. An evaluation in a trial sees the point that the trial set out from. A
    learning-rate schedule acts on whichever member steps: its factor on the present one's rate is carried over to the
    next. Escapes are those of the whole: while a jump waits for its verdict no trial ends.

    Report: that of the stepping member, ``member``, ``trial`` (whether it is one), and ``failed`` where a trial ended
    for a loss that is not finite. Events: ``trial`` (``member``, ``score``, ``steps``, ``cost``) and ``chosen``.

    Args:
        params: Parameters, named parameters or param groups.
        config: An instance of `Config`, instead of `options`.
        escape: What to do at a saddle.
        **options: Fields of `Config`.

    Raises:
        ConfigError: If the portfolio has fewer than two members, or one is not as described.
        CombinationError: If a member is itself a hybrid.
    """

    Config = AutoConfig
    batch = "full"
    summary = "paid trials of a portfolio, then on with the best"

    def __init__(self, params: Iterable[Any], config: Any = None, *, escape: Any = None, **options: Any) -> None:
        config = resolve_config(type(self), config, options)
        plan = []
        for place, entry in enumerate(config.portfolio):
            entry = {"name": entry} if isinstance(entry, str) else entry
            if (
                not isinstance(entry, dict)
                or set(entry) - {"name", "options"}
                or not isinstance(entry.get("name"), str)
            ):
                raise ConfigError(f"portfolio[{place}] must be a name, or a mapping with name and options: {entry!r}.")
            plan.append((entry["name"], dict(entry.get("options") or {})))
        if len(plan) < 2:
            raise ConfigError("A portfolio needs at least two optimizers; use the one itself.")
        self._names = [name for name, _ in plan]
        self._hold(params, plan, config, escape)

    @property
    def active(self) -> Stepping:
        """The member that does the next step."""
        return self._members[self.state[RULE].get("turn", 0)]

    @property
    def on_trial(self) -> bool:
        """Whether the steps are those of a trial, which may be undone."""
        return bool(self.state.get(RULE, {}).get("trial", False))

    def trial_ends(self) -> list[Tensor]:
        """Returns the points at which the members that had their trial in this round ended, as flat vectors."""
        return [end["taken"]["position"] for end in self.state.get(RULE, {}).get("ends", [])]

    @in_forward_only
    def step(self, objective: Objective | None = None) -> Tensor:  # type: ignore[override]
        """Does one step of the member whose turn it is, then looks whether its trial or its run is over.

        Args:
            objective: The loss as a function of the parameters.

        Returns:
            The loss at the step's starting point.

        Raises:
            ObjectiveError: If it is not an `Objective`, or cannot be evaluated.
        """
        self._check_objective(objective)
        assert objective is not None
        memory = self.state[RULE]
        if not memory:
            memory.update(
                turn=0, trial=True, incumbent=None, before=None, ends=[], losses=[], steps=0, paid={}, key="",
                same=True, run_cost=self.config.run_cost,
            )  # fmt: skip
        # For the evaluation of a model in the middle of a trial; no part of the state.
        bound = objective.bind(self.param_groups)
        self.__dict__["_places"] = bound.space, bound.slots
        if memory["trial"] and memory["before"] is None:
            memory["before"] = self._snapshot(objective)
        before = dict(objective.ledger.samples)
        member: Any = self.active
        loss = member.step(objective)
        self.report = member.report
        self.note(member=self._names[memory["turn"]], trial=memory["trial"])
        memory["same"] = memory["same"] and memory["key"] in ("", objective.key)
        memory["key"] = objective.key
        memory["steps"] += 1
        memory["losses"] = [*memory["losses"], loss][-self.config.probes :]
        idle = memory["trial"] and objective.ledger.samples == before
        for kind, samples in objective.ledger.samples.items():
            memory["paid"][kind] = memory["paid"].get(kind, 0) + samples - before[kind]
        spent = sum(WEIGHTS[kind] * samples for kind, samples in memory["paid"].items()) / objective.work
        limit = self.config.trial_cost if memory["trial"] else memory["run_cost"]
        failed = memory["trial"] and not math.isfinite(float(loss))
        # A jump of an escape may have to put this member's state back.
        if (spent >= limit or failed or idle) and (self.escape is None or not self.escape.busy(self)):
            bound = objective.bind(self.param_groups, regularize=self.coupled_decay)
            bound.renew()
            # Scores draw no random numbers from what the next step will see.
            random = RandomState(bound.space.device)
            if memory["trial"]:
                self._end_trial(bound, spent)
            else:
                self._begin_trials(bound)
            if failed:
                # The trial is over and undone; what the step reports is where it leaves the model.
                loss = torch.as_tensor(bound.value() - bound.regularization(), dtype=loss.dtype, device=loss.device)
                self.note(loss=loss, failed=True)
            random.restore()
        self._watch(objective, loss)
        return loss

    # -- trials ----------------------------------------------------------------------------------------------------

    def _snapshot(self, objective: Objective) -> dict[str, Any]:
        """Everything but what the portfolio and the escape themselves remember."""
        taken = snapshots.take(self, objective.bind(self.param_groups))
        taken["state"].pop(RULE, None)
        return taken

    def _restore(self, taken: dict[str, Any], objective: Objective) -> None:
        memory = self.state[RULE]
        snapshots.put_back(taken, self, objective)
        self.state[RULE] = memory

    def _give_turn(self, turn: int) -> None:
        """Makes it a member's turn, with its own options; the factor of a schedule on the rate is kept."""
        memory = self.state[RULE]
        last = self._own_options[memory["turn"]]
        for group, was, own in zip(self.param_groups, last, self._own_options[turn], strict=True):
            factor = group["lr"] / was["lr"] if was.get("lr") else 1.0
            group.update(own)
            if "lr" in own:
                group["lr"] = own["lr"] * factor
        memory.update(turn=turn, steps=0, losses=[], paid={}, key="", same=True)

    def _begin_trials(self, objective: Objective) -> None:
        memory = self.state[RULE]
        memory.update(trial=True, ends=[], before=self._snapshot(objective))
        self._next(0)

    def _next(self, turn: int) -> None:
        """Begins a member's trial at the snapshot; all but the one that ran begin with an empty state."""
        memory = self.state[RULE]
        if turn != memory["incumbent"]:
            for key in [key for key in self.state if key not in (RULE, snapshots.STATE)]:
                del self.state[key]
        self._give_turn(turn)

    def _end_trial(self, objective: Objective, spent: float) -> None:
        memory = self.state[RULE]
        turn = memory["turn"]
        if not snapshots.fits(memory["before"], objective):
            # Parameters were frozen or thawed: nothing is left to compare with or go back to, so it goes on from here.
            self._run(turn)
            return
        if memory["same"]:
            start, score = objective.value(memory["before"]["position"]), objective.value()
        else:
            losses = [float(loss) for loss in memory["losses"]]
            start, score = math.nan, sum(losses) / len(losses)
        score = score if math.isfinite(score) else math.inf
        memory["ends"].append({"score": score, "start": start, "taken": self._snapshot(objective)})
        self.report.events.append(
            {"event": "trial", "member": self._names[turn], "score": score, "steps": memory["steps"], "cost": spent}
        )
        if turn + 1 < len(self._members):
            self._restore(memory["before"], objective)
            self._next(turn + 1)
            return
        self._choose(objective)

    def _choose(self, objective: Objective) -> None:
        memory = self.state[RULE]
        scores = [end["score"] for end in memory["ends"]]
        best = min(range(len(scores)), key=lambda place: scores[place])
        ran = memory["incumbent"]
        if ran is not None and ran < len(scores):
            # Against the worst finite score, where the start is not known on these batches.
            start = memory["ends"][best]["start"]
            if math.isnan(start):
                start = max((score for score in scores if math.isfinite(score)), default=scores[best])
            if scores[ran] - scores[best] <= _SAME * abs(start - scores[best]):
                best = ran
        chosen = memory["ends"][best]
        failed = not math.isfinite(chosen["score"])
        # Where all failed, the point is that from which they set out.
        self._restore(memory["before"] if failed else chosen["taken"], objective)
        self._give_turn(best)
        grown = memory["run_cost"] * self.config.growth if ran == best else self.config.run_cost
        self._run(best, grown)
        self.report.events.append({"event": "chosen", "member": self._names[best], "score": chosen["score"]})
        self.active.moved(objective, "restore")

    def _run(self, turn: int, run_cost: float | None = None) -> None:
        """Lets a member run until the next trials."""
        self.state[RULE].update(
            turn=turn, trial=False, incumbent=turn, before=None, ends=[], losses=[], steps=0, paid={}, key="",
            same=True, run_cost=self.config.run_cost if run_cost is None else run_cost,
        )  # fmt: skip

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Context in which the model stands where a run would go on: in a trial, at the point from which it set out.

        Otherwise it is the stepping member's context.
        """
        memory, places = self.state.get(RULE, {}), self.__dict__.get("_places")
        before = memory.get("before") if memory.get("trial") else None
        if places is None or before is None or before["position"].numel() != places[0].n:
            with self.active.evaluation():
                yield
            return
        space, slots = places
        position = space.read()
        buffers = [table[name].clone() for table, name in slots._buffers]
        space.write(before["position"])
        slots.adopt_buffers(before["buffers"])
        try:
            yield
        finally:
            space.write(position)
            slots.adopt_buffers(buffers)

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_names": self._names}
