"""What the paper needs beside the library's parts: its random starts, and its algorithm to the letter.

hybridopt run --plugin papers/2017_du_saddle_octopus/parts.py task=near_saddle optimizer=perturbed_gd dtype=float64
"""

from dataclasses import dataclass

import torch
from omegaconf import OmegaConf

import hybridopt as ho
from hybridopt.core import option
from hybridopt.tasks import register
from hybridopt.tasks.saddle_functions import TAU
from hybridopt.tasks.saddles import SaddleTask, problem

# ${saddle_rate:NAME} in YAML: the step size of gradient descent that a problem states, here eta = 1 / (4 L).
OmegaConf.register_new_resolver("saddle_rate", lambda name: problem(name).lr, replace=True)


@register("near_saddle")
class NearSaddle(SaddleTask):
    """A saddle problem from a start uniform in the cube of side 2 around the saddle, drawn by the run's seed."""

    name = "near_saddle"
    summary = "a saddle problem from random starts near the saddle (Du et al. 2017); dtype=float64"

    @dataclass
    class Config(SaddleTask.Config):
        problem: str = option("octopus_5", help="name of the problem")

    def model(self, seed=0):
        generator = torch.Generator().manual_seed(seed)
        model = self.build_model()
        with torch.no_grad():
            for p in model.parameters():
                p += 2 * torch.rand(p.shape, generator=generator, dtype=p.dtype) - 1
        return model


@ho.register("perturbed_gd")
class PerturbedGD(ho.Optimizer):
    """Algorithm 1 of the paper, without its termination: gradient descent, and noise where the gradient is small.

    Report: ``perturbed``, whether the step began with noise.
    """

    family = "first-order"
    batch = "full"
    summary = "perturbed gradient descent as in Du et al. 2017, algorithm 1"

    @dataclass
    class Config:
        lr: float = option(0.1, ge=0, search=("log", 1e-3, 1.0), help="eta")
        radius: float = option(TAU / 100, gt=0, help="r, radius of the ball of the noise")
        threshold: float = option(TAU / 100, gt=0, help="g_thres, length of a gradient that calls for noise")
        wait: int = option(1, ge=0, help="t_thres, noise only if the last lies more steps back")
        seed: int = option(0, ge=0, help="seed of the noise")

    def update(self, objective):
        memory = self.memory
        if not memory:
            random = torch.Generator().manual_seed(self.config.seed).get_state()
            memory.update(since=self.config.wait + 1, random=random)
        value, gradient = objective.value_and_grad()
        length = float(gradient.norm())
        if length and not self.can_descend(value, length):  # not finite; a gradient of zero calls for noise
            return
        start, perturbed = objective.position(), length <= self.config.threshold and memory["since"] > self.config.wait
        if perturbed:
            start = start + self._noise(start)
            _, gradient = objective.value_and_grad(start)
        objective.commit(start - self.rate(objective) * gradient)
        memory["since"] = 1 if perturbed else memory["since"] + 1
        self.note(perturbed=perturbed)

    def _noise(self, x):
        """Returns a uniformly random point of the ball."""
        generator = torch.Generator()
        generator.set_state(self.memory["random"])
        normal = torch.randn(x.shape, generator=generator, dtype=torch.float64)
        share = torch.rand((), generator=generator, dtype=torch.float64) ** (1 / len(x))
        self.memory["random"] = generator.get_state()
        return (self.config.radius * share * normal / normal.norm()).to(x)
