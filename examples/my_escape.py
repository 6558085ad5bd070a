"""An escape of one's own, a plugin: hybridopt run --plugin examples/my_escape.py escape=power (docs/own_escape.md)."""

from dataclasses import dataclass

import torch

from hybridopt.core import option
from hybridopt.escape import Escape, EscapeConfig, Proposal, register


@register("power")
class Power(Escape):
    summary = "jumps along a direction of negative curvature that power iteration finds"

    @dataclass
    class Config(EscapeConfig):
        products: int = option(20, ge=1, help="Hessian products for one search")
        length: float = option(0.1, gt=0, help="of the first jump; doubled at every try")

    def propose(self, optimizer, objective, attempt, random):
        space, shift = objective.space, 0.0
        v = torch.randn(space.n, generator=random, dtype=torch.float64, device="cpu").to(space.device, space.dtype)
        with objective.at() as point:
            hessian = point.hessian()
            for _ in range(self.config.products):
                v = v / v.norm()
                product = hessian @ v
                curvature = float(v @ product)
                shift = max(shift, 1.1 * float(product.norm()))
                found, v = v, shift * v - product  # of shift I - H the largest eigenvalue is H's least
        if not curvature < 0:  # NaN where the Hessian is zero
            return Proposal(None, lambda_min=curvature)
        return Proposal(self.config.length * 2**attempt * found, lambda_min=curvature)
