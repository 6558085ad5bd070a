"""An optimizer of one's own, a plugin: hybridopt run --plugin examples/my_optimizer.py (docs/own_optimizer.md)."""

from dataclasses import dataclass

import hybridopt as ho


@ho.register("barzilai_borwein")
class BarzilaiBorwein(ho.Optimizer):
    """Gradient steps with the secant's inverse curvature as rate (Barzilai and Borwein 1988), halved until they fall.

    Report: ``step_norm``, ``evaluations``, ``accepted``.
    """

    family, batch, summary = "quasi-newton", "full", "gradient steps at the secant's rate, halved"

    @dataclass
    class Config:
        lr: float = ho.option(1.0, ge=0, help="factor on every step")
        first: float = ho.option(0.1, gt=0, search=("log", 1e-3, 10.0), help="length of the first step")
        halvings: int = ho.option(20, ge=0, help="most halvings of a step")

    def update(self, objective):
        start, (value, gradient) = objective.position(), objective.value_and_grad()
        if not self.can_descend(value, float(gradient.norm())):
            return  # the report says why
        last, step = self.memory.get("last"), self.config.first / float(gradient.norm())
        if last and last["x"].numel() == start.numel():  # else frozen or thawed since
            s, y = start - last["x"], gradient - last["g"]
            step = float(s @ s) / float(s @ y) if float(s @ y) > 0 else step
        self.memory["last"] = {"x": start, "g": gradient}
        for trial in range(self.config.halvings + 1):
            change = -self.rate(objective) * step / 2**trial * gradient
            if accepted := objective.value(start + change) < value:
                objective.commit(start + change)
                break
        self.note(step_norm=float(change.norm()) if accepted else 0.0, evaluations=trial + 1, accepted=accepted)

    def moved(self, objective, reason):
        self.memory.pop("last", None)  # an escape's jump is no secant
