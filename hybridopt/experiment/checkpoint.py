"""What a run needs to go on exactly where it was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hybridopt.experiment.clock import PHASES
from hybridopt.experiment.randomness import random_state, set_random_state

if TYPE_CHECKING:
    from hybridopt.experiment.loop import Trainer


def save(trainer: Trainer) -> None:
    """Stores the complete state of a run as its newest checkpoint.

    Args:
        trainer: Between two steps.
    """
    parts = trainer.parts
    trainer.store.save_checkpoint(
        {
            "step": trainer.step,
            "seconds": trainer.clock.seconds,
            "phases": trainer.clock.phases,
            "model": parts.model.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "schedule": parts.schedule.state_dict(),
            "data": parts.data.state_dict(),
            "stopping": parts.stopping.state_dict(),
            "ledger": trainer.objective.ledger.state_dict(),
            "random": random_state(parts.device),
            "targets": trainer.targets.entries,
            "best": trainer.best.state_dict(),
            "latest": trainer.latest,
        }
    )


def restore(trainer: Trainer) -> bool:
    """Puts a run back to its newest checkpoint and its history to the rows that this had seen.

    Args:
        trainer: Freshly built.

    Returns:
        Whether there was a checkpoint; if not, the run starts from zero.
    """
    parts = trainer.parts
    state = trainer.store.resume()
    if state is None:
        return False
    trainer.step = state["step"]
    # Checkpoints from before there were phases say nothing of those beside training: unknown they stay.
    trainer.clock.add(state.get("phases") or {**dict.fromkeys(PHASES, math.nan), "training": state["seconds"]})
    parts.model.load_state_dict(state["model"])
    parts.optimizer.load_state_dict(state["optimizer"])
    parts.schedule.load_state_dict(state["schedule"])
    parts.data.load_state_dict(state.get("data", {}))  # absent in checkpoints from before there was a choice
    parts.stopping.load_state_dict(state.get("stopping", {}))
    trainer.objective.ledger.load_state_dict(state["ledger"])
    trainer.targets.entries = state["targets"]
    trainer.best.load_state_dict(state["best"])
    trainer.latest = state["latest"]
    set_random_state(state["random"], parts.device)
    return True
