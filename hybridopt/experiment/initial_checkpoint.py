"""Starting from the parameters of another run, or from a file of weights."""

from __future__ import annotations

import dataclasses
import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hybridopt.core import ConfigError, DataError, option
from hybridopt.experiment.initialization import Initialization
from hybridopt.experiment.layout import CHECKPOINT


class Checkpoint(Initialization):
    """Takes the model's parameters and buffers from a run of this library or from a file.

    The optimizer starts anew; to go on with a run, start it again in its directory. What is read is one of: a run
    directory, a ``checkpoint.pt``, a saved ``state_dict``, or a ``.safetensors`` file (needs the extra ``export``). The
    run's provenance has the file's SHA-256.

    Args:
        config: An instance of `Config`.
        seed: Of the run; nothing is drawn here.
    """

    @dataclasses.dataclass
    class Config:
        """Options of `Checkpoint`.

        Attributes:
            path: A run directory or a file; made absolute.
            which: Of a run: the parameters of its ``last`` step, or those of its ``best`` validation loss.
        """

        path: str = option("", help="a run directory, checkpoint.pt, state_dict or .safetensors file")
        which: str = option("last", choices=["last", "best"], help="of a run: last step or best validation loss")

        def __post_init__(self) -> None:
            if self.path and isinstance(self.path, str):
                self.path = str(Path(self.path).expanduser().absolute())

    summary = "from a run, a state_dict or a .safetensors file"

    def apply(self, model: nn.Module) -> dict[str, Any]:
        """Loads the parameters.

        Raises:
            ConfigError: If no path is given, or the parameters are those of another model.
            DataError: If the file is missing or cannot be read.
        """
        if not self.config.path:
            raise ConfigError("initialization=checkpoint needs initialization.path=RUN_DIRECTORY or a file of weights.")
        path = Path(self.config.path)
        path = path / CHECKPOINT if path.is_dir() else path
        if not path.is_file():
            raise DataError(f"There is no {path} to start from. Set initialization.path to a run directory or a file.")
        state = self._weights(path)
        own = model.state_dict()
        wrong = [f"{name} is missing" for name in own if name not in state]
        wrong += [f"{name} is too much" for name in state if name not in own]
        wrong += [
            f"{name} has shape {tuple(tensor.shape)} instead of {tuple(own[name].shape)}"
            for name, tensor in state.items()
            if name in own and tensor.shape != own[name].shape
        ]
        if wrong:
            more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
            raise ConfigError(
                f"The weights in {path} are not those of this task's model: {'; '.join(wrong[:3])}{more}. Use the "
                "task and the options that they were trained with."
            )
        model.load_state_dict(state)
        return {"path": str(path), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}

    def _weights(self, path: Path) -> dict[str, Tensor]:
        if path.suffix == ".safetensors":
            try:
                from safetensors.torch import load_file
            except ImportError as error:
                raise ConfigError(
                    f"Reading {path.name} needs the package safetensors: pip install 'hybridopt[export]'."
                ) from error
            return load_file(path)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
            raise DataError(f"{path} cannot be read with weights_only=True: {str(error).splitlines()[0]}") from error
        if isinstance(content, Mapping) and isinstance(content.get("state"), Mapping) and "run_id" in content:
            state = content["state"]
            content = state["model"] if self.config.which == "last" else state["best"]["model"]
            if not content:
                raise DataError(f"{path} has no best parameters yet. Use initialization.which=last.")
        if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
            raise DataError(f"{path} holds neither a run's checkpoint nor a state_dict of tensors.")
        return dict(content)
