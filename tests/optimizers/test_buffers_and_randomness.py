"""After a step, buffers and generators stand as after one forward pass, however often the step evaluated."""

from __future__ import annotations

import torch

from tests.optimizers.catalogue import ONE_FORWARD, Method, each, training


@each(ONE_FORWARD)
def test_buffers_keep_their_storage(method: Method) -> None:
    problem = training("both")
    storage = [buffer.data_ptr() for buffer in problem.model.buffers()]
    optimizer = method.create(problem.model.parameters())
    for step in range(3):
        optimizer.step(problem.batch(step))
    assert [buffer.data_ptr() for buffer in problem.model.buffers()] == storage


@each(ONE_FORWARD)
def test_a_model_in_evaluation_mode_keeps_its_statistics(method: Method) -> None:
    problem = training("both")
    problem.model.eval()
    before = [buffer.clone() for buffer in problem.model.buffers()]
    generator = torch.get_rng_state()
    optimizer = method.create(problem.model.parameters())
    for step in range(3):
        optimizer.step(problem.batch(step))
    assert not problem.model.training
    assert torch.equal(torch.get_rng_state(), generator)
    for buffer, was in zip(problem.model.buffers(), before, strict=True):
        assert torch.equal(buffer, was)
