"""After a step, buffers and generators stand as after one forward pass, however often the step evaluated."""

from __future__ import annotations

import pytest
import torch

from tests.optimizers.catalogue import MODELS, ONE_FORWARD, Method, each, training


@each(ONE_FORWARD)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("full", [True, False], ids=["full batch", "mini-batches"])
def test_as_after_one_forward_pass(method: Method, model: str, full: bool) -> None:
    problem = training(model)
    optimizer = method.create(problem.model.parameters())
    for step in range(3):
        objective = problem.objective if full else problem.batch(step)
        twin = training(model)
        twin.model.load_state_dict(problem.model.state_dict())
        torch.manual_seed(100 + step)
        twin.model(objective.inputs)
        generator = torch.get_rng_state()
        torch.manual_seed(100 + step)
        optimizer.step(objective)
        assert torch.equal(torch.get_rng_state(), generator), "the generator"
        for (name, buffer), wanted in zip(problem.model.named_buffers(), twin.model.buffers(), strict=True):
            assert torch.equal(buffer, wanted), name
        assert problem.model.training


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
