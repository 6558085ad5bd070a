"""A trained model as files that need nothing of this library: weights as safetensors, a program of `torch.export`."""

from __future__ import annotations

import copy
import io
import logging
import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from hybridopt._version import __version__
from hybridopt.core import StoreError
from hybridopt.core.plugins import load_plugin
from hybridopt.experiment import jsonio
from hybridopt.experiment.build import build_optimizer, build_task
from hybridopt.experiment.config import Export, RunConfig, need_safetensors, resolve, to_plain
from hybridopt.experiment.identity import run_id
from hybridopt.experiment.layout import CHECKPOINT, FORMAT, PREVIOUS, check_format, read_config

if TYPE_CHECKING:
    from hybridopt.experiment.loop import Trainer

WEIGHTS = "weights.safetensors"
PROGRAM = "program.pt2"
DESCRIPTION = "hybridopt.json"
"""Extra file of a program: the same facts that the weights have as metadata."""

_EXAMPLES = 3
"""Samples that a program is traced with; torch specialises on 0 and 1."""

_log = logging.getLogger(__name__)


def export_at_end(config: RunConfig, trainer: Trainer) -> dict[str, Any]:
    """Writes what the config's `export` asks for into the run directory; what fails is told and costs nothing else.

    Args:
        config: The run's config.
        trainer: At the end of the run.

    Returns:
        What to add to the run's status: nothing, or ``exports`` with a file or an error for every kind asked for.
    """
    wanted = config.export
    if not (wanted.weights or wanted.program):
        return {}
    parts, directory, done = trainer.parts, trainer.store.directory, {}
    state, facts = _chosen(wanted.model, trainer.best.state_dict(), parts.optimizer, parts.model, trainer.step)
    facts = _facts(config, trainer.store.run_id) | facts
    for kind in ("weights", "program"):
        if not getattr(wanted, kind):
            continue
        try:
            if kind == "weights":
                path = write_weights(directory / WEIGHTS, state, facts)
            else:
                path = write_program(directory / PROGRAM, parts.model, state, parts.splits.train.inputs, facts)
            done[kind] = {"file": path.name, "model": facts["model"], "step": facts["step"], "error": None}
        except Exception as error:  # an export is not worth a run
            reason = f"{type(error).__name__}: {_first_line(error)}"
            _log.warning("The %s could not be exported (%s); the run itself is complete.", kind, reason)
            done[kind] = {"file": None, "model": facts["model"], "step": facts["step"], "error": reason}
    return {"exports": done}


def export_finished(
    directory: str | os.PathLike[str], kind: str, *, model: str = "best", out: str | os.PathLike[str] | None = None
) -> Path:
    """Exports the model of a run from its checkpoint, whether or not the run has ended.

    Args:
        directory: The run directory.
        kind: ``weights`` or ``program``.
        model: ``best`` (lowest validation loss) or ``last``.
        out: The file; None: ``weights.safetensors`` or ``program.pt2`` in the run directory.

    Returns:
        The file.

    Raises:
        StoreError: If the directory holds no usable checkpoint, or the file cannot be written.
        HybridoptError: If the model cannot be built again or exported, or safetensors is not installed.
    """
    if kind == "weights":
        need_safetensors()
    directory = Path(directory)
    check_format(directory)
    values = read_config(directory)
    identity = run_id(values)
    for plugin in values.get("plugins") or []:
        load_plugin(plugin)
    config = resolve({**values, "device": "cpu", "export": Export()})
    saved = _read_checkpoint(directory, identity)
    task = build_task(config)
    dtype = getattr(torch, config.dtype)
    module = task.model(config.seed).to(dtype=dtype)
    module.load_state_dict(saved["model"])
    optimizer = None
    if model == "last" or not saved["best"]["model"]:
        optimizer = build_optimizer(config, module)
        optimizer.load_state_dict(saved["optimizer"])
    state, facts = _chosen(model, saved["best"], optimizer, module, saved["step"])
    facts = _facts(config, identity) | facts
    path = Path(out) if out is not None else directory / (WEIGHTS if kind == "weights" else PROGRAM)
    if kind == "weights":
        return write_weights(path, state, facts)
    return write_program(path, module, state, task.splits(config.seed).train.to("cpu", dtype).inputs, facts)


def write_weights(path: Path, state: Mapping[str, torch.Tensor], facts: Mapping[str, Any]) -> Path:
    """Writes tensors in the format safetensors, in which reading executes nothing.

    Args:
        path: The file.
        state: Parameters and buffers by name; tensors that share memory are written twice.
        facts: Become the file's metadata, as texts.

    Raises:
        StoreError: If the state holds anything but tensors, or the file cannot be written.
    """
    need_safetensors()
    from safetensors.torch import save

    odd = [name for name, tensor in state.items() if not isinstance(tensor, torch.Tensor)]
    if odd:
        raise StoreError(f"safetensors holds tensors only, and {', '.join(odd)} is none: use the run's checkpoint.")
    tensors = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in state.items()}
    # "format" is where readers of safetensors look up the framework.
    jsonio.write_atomic(path, save(tensors, {"format": "pt", **{key: str(value) for key, value in facts.items()}}))
    return path


def write_program(
    path: Path,
    model: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    inputs: torch.Tensor,
    facts: Mapping[str, Any],
) -> Path:
    """Writes a model as a program of `torch.export`: ``torch.export.load(path).module()`` runs it without its code.

    The program is the model in evaluation mode on the CPU. It takes any number of samples where the model can be
    traced so, else as many as it was traced with; ``batch`` in its description says which. Before it is written, its
    outputs are compared with the model's.

    Args:
        path: The file.
        model: Stays as it is.
        state: Parameters and buffers that the program gets.
        inputs: A few samples or more, shape (samples, ...).
        facts: Written into the file as ``hybridopt.json``.

    Raises:
        StoreError: If the model cannot be traced, the program computes something else, or it cannot be written.
    """
    module = copy.deepcopy(model).cpu()
    module.load_state_dict(state)
    module.eval()
    inputs = inputs[: 2 * _EXAMPLES - 1].detach().cpu()
    few = inputs[:_EXAMPLES]
    program, batch = None, "any"
    if len(few) < len(inputs):
        try:
            program = _trace(module, few, inputs, {0: torch.export.Dim("batch")})
        except Exception as error:
            _log.info("The program takes a fixed number of samples: %s.", _first_line(error))
    if program is None:
        batch = str(len(few))
        try:
            program = _trace(module, few, few, None)
        except Exception as error:
            raise StoreError(
                f"torch.export cannot trace {type(model).__name__}: {type(error).__name__}: {_first_line(error)} "
                "The weights can be exported all the same."
            ) from error
    buffer = io.BytesIO()
    description = jsonio.dumps({**facts, "batch": batch, "inputs": list(few.shape[1:]), "input_dtype": str(few.dtype)})
    torch.export.save(program, buffer, extra_files={DESCRIPTION: description})
    jsonio.write_atomic(path, buffer.getbuffer())
    return path


def _trace(module: torch.nn.Module, few: torch.Tensor, others: torch.Tensor, dynamic: Any) -> Any:
    """Returns the program of a module once it has computed what the module does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # recurrent layers list their weights anew while they are traced
        program = torch.export.export(module, (few,), dynamic_shapes=None if dynamic is None else (dynamic,))
    with torch.no_grad():
        expected, found = module(others), program.module()(others)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)
    return program


def _chosen(
    model: str, best: Mapping[str, Any], optimizer: Any, module: torch.nn.Module, step: int
) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Returns the wanted parameters and what to say of them; without any evaluation the last are the best."""
    if model == "best" and best["model"]:
        return dict(best["model"]), {"model": "best", "step": best["step"], "validation_loss": best["loss"]}
    with optimizer.evaluation():  # averaging methods answer with their average
        state = {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}
    return state, {"model": "last", "step": step}


def _facts(config: RunConfig, identity: str) -> dict[str, Any]:
    plain = to_plain(config)
    return {
        "task": plain["task"]["name"],
        "optimizer": plain["optimizer"].get("cls") or plain["optimizer"]["name"],
        "escape": plain["escape"]["name"],
        "seed": config.seed,
        "dtype": config.dtype,
        "run_id": identity,
        "run_format": FORMAT,
        "hybridopt": __version__,
        "torch": torch.__version__,
    }


def _read_checkpoint(directory: Path, identity: str) -> dict[str, Any]:
    """Returns the newest usable state of a run, and changes nothing in its directory."""
    problems = []
    for name in (CHECKPOINT, PREVIOUS):
        path = directory / name
        if not path.exists():
            continue
        try:
            content = torch.load(path, weights_only=True, map_location="cpu")
            if content["run_id"] != identity:
                raise ValueError("it belongs to another run")
            return content["state"]
        except (OSError, ValueError, LookupError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            problems.append(f"{name}: {_first_line(error)}")
    found = f" ({'; '.join(problems)})" if problems else ""
    raise StoreError(
        f"{directory} has no usable checkpoint{found}. Start the run again: it writes one every checkpoint_every "
        "seconds and at its end."
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0] if text else type(error).__name__
