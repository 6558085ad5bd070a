"""The parameters as one flat vector, and the slots of a module in which they sit."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from hybridopt.core import ObjectiveError
from hybridopt.objective.smoothness import reached_leaves

_LARGE = 2**15  # entries


class ParameterSpace:
    """An ordered set of parameters, seen as one flat vector of length `n`.

    The storage of the parameters is never touched or re-allocated: flat vectors are packed copies.

    Args:
        parameters: Tensors that require a gradient, in the order of the flat vector; repeated ones count once.

    Raises:
        ObjectiveError: If there is none, or if they lie on several devices or are complex.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        unique = {id(parameter): parameter for parameter in parameters if parameter.requires_grad}
        self.parameters: list[Tensor] = list(unique.values())
        if not self.parameters:
            raise ObjectiveError(
                "There is no parameter to optimize: none of those given has requires_grad=True. Pass parameters that "
                "require a gradient, or unfreeze some with parameter.requires_grad_(True)."
            )
        if any(isinstance(parameter, nn.parameter.UninitializedParameter) for parameter in self.parameters):
            raise ObjectiveError(
                "A lazy layer has no parameters yet (nn.LazyLinear and the like). Call the model once on a batch, "
                "then make the optimizer and the objective."
            )
        devices = {parameter.device for parameter in self.parameters}
        if len(devices) > 1:
            raise ObjectiveError(
                f"The parameters lie on several devices ({', '.join(sorted(map(str, devices)))}); a flat vector of "
                "them lies on one. Move the model to one device, or use a first-order optimizer."
            )
        self.device: torch.device = self.parameters[0].device
        if self.device.type == "meta":
            raise ObjectiveError(
                "The parameters are on the meta device, where they have no values. Give the model memory first: "
                "model.to_empty(device=...), then initialize it or load its weights."
            )
        dtypes = {parameter.dtype for parameter in self.parameters}
        if any(not dtype.is_floating_point for dtype in dtypes):
            raise ObjectiveError("Only real floating-point parameters can be optimized; complex ones are not.")
        self.dtype: torch.dtype = self.parameters[0].dtype
        for dtype in dtypes:
            self.dtype = torch.promote_types(self.dtype, dtype)
        self.uniform = len(dtypes) == 1
        self._kinds = [(parameter.dtype, parameter.device) for parameter in self.parameters]
        self.shapes = [parameter.shape for parameter in self.parameters]
        self.sizes = [parameter.numel() for parameter in self.parameters]
        self.n = sum(self.sizes)
        self._pairs = any(shape and shape[-1] == 2 for shape in self.shapes)

    def converted(self) -> bool:
        """Returns whether a parameter got another dtype or device since, as by ``model.double()``."""
        return any((p.dtype, p.device) != kind for p, kind in zip(self.parameters, self._kinds, strict=True))

    def views(self, vector: Tensor) -> list[Tensor]:
        """Returns views of a flat vector in the shapes of the parameters.

        Args:
            vector: Shape (n,), contiguous.
        """
        parts = zip(torch.split_with_sizes(vector, self.sizes), self.shapes, strict=True)
        return [part if len(shape) == 1 else part.view(shape) for part, shape in parts]

    def tensors(self, vector: Tensor) -> list[Tensor]:
        """Returns `vector` in the shapes and dtypes of the parameters (views where the dtype allows).

        Args:
            vector: Shape (n,).
        """
        parts = self.views(vector)
        if self.uniform:
            return parts
        return [part.to(parameter.dtype) for part, parameter in zip(parts, self.parameters, strict=True)]

    def stand_ins(self, vector: Tensor) -> list[Tensor]:
        """Returns `vector` as tensors that can stand in the model for the parameters; see `tensors`.

        Args:
            vector: Shape (n,).
        """
        parts = self.tensors(vector)
        if not self._pairs:
            return parts
        # Pairs may be seen as complex numbers (`torch.view_as_complex`), which have to begin at an even place.
        return [part.clone() if part.storage_offset() % 2 and part.shape[-1:] == (2,) else part for part in parts]

    def pack(self, tensors: Sequence[Tensor | None], out: Tensor | None = None) -> Tensor:
        """Copies tensors in the shapes of the parameters into one flat vector; None stands for zeros.

        Args:
            tensors: One per parameter.
            out: Where to; a new vector when None.

        Returns:
            Shape (n,).
        """
        if out is None:
            # One call where there is nothing to fill in or to convert: a third of the time of one copy each.
            if self._alike(tensors):
                with torch.no_grad():
                    return torch.cat([tensor.reshape(-1) for tensor in tensors])  # type: ignore[union-attr]
            out = torch.empty(self.n, dtype=self.dtype, device=self.device)
        targets = self.views(out)
        present = [(target, tensor) for target, tensor in zip(targets, tensors, strict=True) if tensor is not None]
        if len(present) < len(targets):
            out.zero_()
        with torch.no_grad():
            if present:
                values = [tensor.to_dense() if tensor.is_sparse else tensor for _, tensor in present]
                torch._foreach_copy_([target for target, _ in present], values)
        return out

    def _alike(self, tensors: Sequence[Tensor | None]) -> bool:
        """Whether tensors are what gradients of the parameters usually are: all there, dense, of their dtype."""
        if [None if tensor is None else tensor.shape for tensor in tensors] != self.shapes:
            return False
        plain = all(tensor.dtype == self.dtype and not tensor.is_sparse for tensor in tensors)  # type: ignore[union-attr]
        return plain and tensors[0].device == self.device  # type: ignore[union-attr]

    def read(self, out: Tensor | None = None) -> Tensor:
        """Returns a packed copy of the parameters' values.

        Args:
            out: Where to; a new vector when None.
        """
        with torch.no_grad():
            return self.pack([parameter.detach() for parameter in self.parameters], out)

    def stands_at(self, vector: Tensor) -> bool:
        """Returns whether the parameters have exactly the values of a flat vector.

        Args:
            vector: What `read` would return there; one of another shape, dtype or device is somewhere else.
        """
        if (vector.shape, vector.dtype, vector.device) != ((self.n,), self.dtype, self.device):
            return False
        parameters = self.parameters if self.uniform else [parameter.to(self.dtype) for parameter in self.parameters]
        return all(map(_equal, self.views(vector), parameters))

    def write(self, vector: Tensor) -> None:
        """Copies a flat vector into the parameters, in place and seen by autograd's version counters.

        Args:
            vector: Shape (n,).
        """
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.views(vector))

    def checked(self, vector: Tensor) -> Tensor:
        """Returns `vector` if it can stand for the parameters.

        Args:
            vector: Shape (n,), in this space's dtype and on its device.

        Raises:
            ObjectiveError: If it is something else.
        """
        if not isinstance(vector, Tensor):
            raise ObjectiveError(
                f"A point of this objective is a vector of shape ({self.n},), as objective.position() gives it, not "
                f"{type(vector).__name__}. Pack a list of tensors by objective.space.pack(tensors)."
            )
        if vector.shape != (self.n,) or vector.dtype != self.dtype or vector.device != self.device:
            raise ObjectiveError(
                f"A point of this objective is a vector of shape ({self.n},) in {self.dtype} on {self.device}, not one "
                f"of shape {tuple(vector.shape)} in {vector.dtype} on {vector.device}. Start from "
                "objective.position() and convert with .to()."
            )
        return vector

    def versions(self) -> list[tuple[int, int]]:
        """Returns what tells whether any parameter was written to or given other storage since."""
        return [(parameter._version, parameter.data_ptr()) for parameter in self.parameters]


def _equal(one: Tensor, other: Tensor) -> bool:
    """What `torch.equal` returns; that compares entry by entry, which takes five times as long where it matters."""
    if one.numel() < _LARGE or one.device.type != "cpu" or one.dtype not in (torch.float32, torch.float64):
        return torch.equal(one, other)
    return bool((one.numpy() == other.detach().numpy()).all())


class _Mirror(NamedTuple):
    """Where a module keeps a parameter besides registering it: under a key in a list or dict of its own.

    The recurrent layers do (`_flat_weights`), and watch by weak references whether the parameters are still the same.
    A table is looked up every time, since modules make new ones (the recurrent layers in ``.to()``).
    """

    attributes: dict[str, Any]
    name: str
    key: Any
    position: int

    def entry(self) -> Any:
        """Returns what sits there now, None if there is no such place any more."""
        try:
            return self.attributes[self.name][self.key]
        except LookupError:
            return None

    def put(self, entry: Any) -> None:
        """Puts something there, if there is such a place."""
        table = self.attributes.get(self.name)
        if isinstance(table, dict) or (isinstance(table, list) and self.key < len(table)):
            table[self.key] = entry


def _refuse_unlike_a_function(module: nn.Embedding | nn.EmbeddingBag) -> None:
    """Refuses options of embeddings with which no loss has the gradient that torch gives.

    Raises:
        ObjectiveError: If it has one of them.
    """
    what = None
    if module.max_norm is not None:
        what = "max_norm, which rewrites the weights in the forward pass"
    elif module.scale_grad_by_freq:
        what = "scale_grad_by_freq, which makes the gradient that of another function"
    if what is not None:
        raise ObjectiveError(
            f"An {type(module).__name__} has {what}, so the loss is no function that can be searched or have a "
            "curvature. Leave the option out (weight_decay bounds weights, too), or use a first-order optimizer."
        )


def _target(entry: Any) -> Any:
    return entry() if isinstance(entry, weakref.ref) else entry


class Slots:
    """The places in a module tree where given parameters and the buffers sit.

    A trial evaluation puts other tensors into these places and takes them out again. `torch.func.functional_call`
    is not used for that: it damages a model in which one submodule is registered under two names.

    Args:
        modules: The roots; their submodules are visited once each.
        parameters: The tensors whose places are wanted.

    Raises:
        ObjectiveError: If a parameter is in none of the modules.
    """

    def __init__(self, modules: Sequence[nn.Module], parameters: Sequence[Tensor]) -> None:
        index = {id(parameter): position for position, parameter in enumerate(parameters)}
        self._expected = list(parameters)
        self._registered: list[tuple[dict[str, Any], str, int]] = []
        self._mirrors: list[_Mirror] = []
        self._buffers: list[tuple[dict, str]] = []
        self._sparse: list[nn.Module] = []
        self.proven = False
        """Whether a trial has shown that the model reaches its parameters through these places only."""
        visited: set[int] = set()
        for root in modules:
            for module in root.modules():
                if id(module) in visited:
                    continue
                visited.add(id(module))
                if isinstance(module, nn.Embedding | nn.EmbeddingBag) and id(module.weight) in index:
                    _refuse_unlike_a_function(module)
                    if module.sparse:
                        self._sparse.append(module)
                attributes = vars(module)
                for name, table in attributes.items():
                    if isinstance(table, list | dict):
                        for key, entry in enumerate(table) if isinstance(table, list) else table.items():
                            position = index.get(id(_target(entry)))
                            if position is None:
                                continue
                            if name == "_parameters":
                                self._registered.append((table, key, position))
                            else:
                                self._mirrors.append(_Mirror(attributes, name, key, position))
                for name, tensor in module._buffers.items():
                    if tensor is not None:
                        self._buffers.append((module._buffers, name))
        found = {position for _, _, position in self._registered}
        missing = [position for position in range(len(parameters)) if position not in found]
        if missing and any(isinstance(module, torch.jit.ScriptModule) for root in modules for module in root.modules()):
            raise ObjectiveError(
                "A part of the model is a torch.jit.ScriptModule, which hides its parameters, so it cannot be "
                "evaluated at other points. Give the objective the Python module that it was made from, or use a "
                "first-order optimizer."
            )
        if missing:
            shapes = ", ".join(str(tuple(parameters[position].shape)) for position in missing[:3])
            raise ObjectiveError(
                f"{len(missing)} of the optimizer's parameters (shapes {shapes}{', ...' if len(missing) > 3 else ''}) "
                "do not belong to the objective's model. Build the optimizer from the parameters of the model (or of "
                "the loss module) that the objective was made with; a deep copy has parameters of its own."
            )

    def check(self) -> None:
        """Checks that the parameters still sit where they were found.

        Raises:
            ObjectiveError: If one was replaced by another tensor.
        """
        for table, name, position in self._registered:
            if table.get(name) is not self._expected[position]:
                raise ObjectiveError(
                    f"The model's parameter {name!r} was replaced by another tensor after the objective had been "
                    "used (by an assignment, load_state_dict(assign=True), a parametrization or pruning). Change the "
                    "model first; then make the optimizer and the objective."
                )

    @contextmanager
    def dense_gradients(self) -> Iterator[None]:
        """Context in which embeddings with ``sparse=True`` have dense gradients, which flat vectors are made of."""
        try:
            for module in self._sparse:
                module.sparse = False
            yield
        finally:
            for module in self._sparse:
                module.sparse = True

    def prove(self, loss: Tensor) -> None:
        """Checks, once, that a trial's loss was computed from the tensors that stood in for the parameters.

        Args:
            loss: With its graph, if it has one.

        Raises:
            ObjectiveError: If it leads to one of the parameters themselves: then trials would be silently wrong.
        """
        if self.proven:
            return
        if loss.requires_grad:
            own = {id(parameter): position for position, parameter in enumerate(self._expected)}
            reached = {own[id(leaf)] for leaf in reached_leaves(loss) if id(leaf) in own}
            if reached:
                names = ", ".join(sorted({str(name) for _, name, position in self._registered if position in reached}))
                raise ObjectiveError(
                    f"The model uses its own parameter ({names}) from elsewhere than the module's attribute of that "
                    "name (a closure, a tuple, an object of its own), so it cannot be evaluated at another point. Read "
                    "it from the attribute in the forward pass, or use a first-order optimizer."
                )
        self.proven = True

    @contextmanager
    def hold(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Puts tensors in the places of the parameters for a while.

        Args:
            tensors: One per parameter.

        Raises:
            ObjectiveError: If a parameter was replaced by another tensor.
        """
        self.check()
        held: list[tuple[_Mirror, Any]] = []
        try:
            for table, name, position in self._registered:
                table[name] = tensors[position]
            for mirror in self._mirrors:
                entry, tensor = mirror.entry(), tensors[mirror.position]
                if _target(entry) is self._expected[mirror.position]:
                    held.append((mirror, entry))
                    mirror.put(weakref.ref(tensor) if isinstance(entry, weakref.ref) else tensor)
            yield
        finally:
            for table, name, position in self._registered:
                table[name] = self._expected[position]
            for mirror, entry in held:
                mirror.put(entry)

    @contextmanager
    def cloned_buffers(self) -> Iterator[list[Tensor]]:
        """Lets an evaluation write to clones of the buffers.

        Yields:
            A list that is empty at first and holds what the evaluation left in the buffers, once it has ended.
        """
        originals = [(table, name, table[name]) for table, name in self._buffers]
        clones: dict[int, Tensor] = {}
        for _, _, original in originals:
            if id(original) not in clones:
                clones[id(original)] = original.clone()
        left: list[Tensor] = []
        try:
            for table, name, original in originals:
                table[name] = clones[id(original)]
            yield left
        finally:
            # Read from the tables: a module may have put a new tensor there instead of writing to the clone.
            values = [table.get(name) for table, name, _ in originals]
            for table, name, original in originals:
                table[name] = original
            left += [
                original if value is None else value.detach()
                for (_, _, original), value in zip(originals, values, strict=True)
            ]

    def adopt_buffers(self, values: Sequence[Tensor]) -> None:
        """Copies values that an evaluation left in its clones into the model's own buffers.

        Args:
            values: What `cloned_buffers` yielded.
        """
        with torch.no_grad():
            for (table, name), value in zip(self._buffers, values, strict=True):
                table[name].copy_(value)

    def differ(self, values: Sequence[Tensor]) -> bool:
        """Returns whether an evaluation left other values in its clones than the model's own buffers hold.

        Compared by value: torch's BatchNorm writes without raising the version counter.

        Args:
            values: What `cloned_buffers` yielded.
        """
        return any(
            not torch.equal(table[name], value) for (table, name), value in zip(self._buffers, values, strict=True)
        )

    @property
    def has_buffers(self) -> bool:
        """Whether the modules have any buffer."""
        return bool(self._buffers)
