"""Sums over the processes of a group; all communication of the library is here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hybridopt.core import ObjectiveError

APART = (
    "The processes do not stand at the same parameters, or do not ask for the same evaluation, so their sums would "
    "mean nothing. Make the model under the same seed everywhere, or send that of the first process to the others "
    "(for p in model.parameters(): torch.distributed.broadcast(p.detach(), 0)), and give the optimizer the same "
    "options, seed and saved state in every process."
)
"""What is said to processes that have gone apart."""

_ODD = -7046029254386353131  # 2^64 over the golden ratio
_PARTS = 64
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class Ranks:
    """The processes of a group of `torch.distributed`.

    Sums are what the collective makes of them, which is the same on every process; numbers in half precision are summed
    in float32.

    Args:
        process_group: The group; None for all processes.

    Attributes:
        rank: Which of them this is.
        size: How many there are.

    Raises:
        ObjectiveError: If there is no process group, or this process is not in it.
    """

    def __init__(self, process_group: Any = None) -> None:
        if not torch.distributed.is_available() or not torch.distributed.is_initialized():
            raise ObjectiveError(
                "There is no process group. Start the program with torchrun --nproc-per-node=N program.py, and call "
                "torch.distributed.init_process_group('gloo') ('nccl' on GPUs) before."
            )
        self.group = process_group
        self.rank: int = torch.distributed.get_rank(process_group)
        self.size: int = torch.distributed.get_world_size(process_group)
        if self.rank < 0:
            raise ObjectiveError("This process does not belong to the process group that the objective was given.")
        self._marks: Tensor | None = None

    def __deepcopy__(self, memo: Any) -> Ranks:
        return self  # a group is of the process and cannot be copied

    def gather(self, numbers: Sequence[int], device: torch.device) -> list[list[int]]:
        """Returns the whole numbers of every process, in the order of their ranks.

        Args:
            numbers: As many on each, within 63 bits.
            device: Where the group communicates.
        """
        own = torch.tensor(numbers, dtype=torch.int64, device=device)
        everyone = [torch.empty_like(own) for _ in range(self.size)]
        torch.distributed.all_gather(everyone, own, group=self.group)
        return torch.stack(everyone).tolist()

    def gather_words(self, words: Sequence[str]) -> list[str]:
        """Returns the words of all processes, each once, in order of first appearance.

        Args:
            words: Of this process.
        """
        everyone: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(everyone, list(words), group=self.group)
        return list(dict.fromkeys(word for one in everyone for word in one))

    def sum_numbers(self, numbers: Sequence[float], device: torch.device) -> list[float]:
        """Returns sums in float64.

        Args:
            numbers: As many on each process.
            device: Where the group communicates.
        """
        return self._sum(torch.tensor(numbers, dtype=torch.float64, device=device)).tolist()

    def total(self, tensor: Tensor, weight: float = 1.0) -> Tensor:
        """Returns the sum of a tensor over the processes; a contiguous tensor may be overwritten.

        Args:
            tensor: Of the same shape on each.
            weight: Of this process's.
        """
        if tensor.dtype in (torch.float16, torch.bfloat16):
            return self.total(tensor.float(), weight).to(tensor.dtype)
        tensor = tensor.contiguous()
        return self._sum(tensor.mul_(weight) if weight != 1.0 else tensor)

    def total_for(self, vector: Tensor, part: Tensor, weight: float) -> Tensor:
        """Returns the sum of the processes' parts of a product, making sure that all of them multiply the same vector.

        One collective: behind the part go the digits of the vector's checksum and their squares, small enough to be
        summed without rounding, and all are equal if and only if their variance is zero.

        Args:
            vector: What is multiplied.
            part: This process's part of the product.
            weight: Of this part.

        Raises:
            ObjectiveError: If the vectors differ; on all processes.
        """
        mark = checksum([vector])
        digits = [float(mark >> shift & 63) for shift in (0, 6, 12, 18)]
        tail = torch.tensor([*digits, *(digit * digit for digit in digits)], dtype=torch.float32, device="cpu")
        dtype = torch.float64 if part.dtype == torch.float64 else torch.float32
        flat = torch.empty(part.numel() + len(tail), dtype=dtype, device=part.device)
        torch.mul(part.reshape(-1).to(dtype), weight, out=flat[: part.numel()])
        flat[part.numel() :] = tail
        sums = self._sum(flat)[part.numel() :].tolist()
        if not all(self.equal(sums[at], sums[at + 4]) for at in range(4)):
            raise ObjectiveError(
                "The processes multiply the same matrix with different vectors, and the sum of their parts would mean "
                "nothing. Draw random vectors from generators that are seeded alike: pass generator="
                "torch.Generator().manual_seed(0), or the same seed to the optimizer in every process."
            )
        return flat[: part.numel()].to(part.dtype).view(part.shape)

    def total_each(self, tensors: Sequence[Tensor], weight: float = 1.0) -> list[Tensor]:
        """Returns sums of tensors over the processes, by one collective for each dtype and device.

        Args:
            tensors: As many, and of the same shapes, on each.
            weight: Of this process's.
        """
        out: list[Tensor] = list(tensors)
        for kind in dict.fromkeys((tensor.dtype, tensor.device) for tensor in tensors):
            places = [place for place, tensor in enumerate(tensors) if (tensor.dtype, tensor.device) == kind]
            flat = self.total(torch.cat([tensors[place].reshape(-1) for place in places]), weight)
            for place, part in zip(places, flat.split([tensors[place].numel() for place in places]), strict=True):
                out[place] = part.view(tensors[place].shape)
        return out

    def total_of(
        self, gradients: Sequence[Tensor | None], loss: Tensor, parameters: Sequence[Tensor], weight: float = 1.0
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Returns the sums of a loss and of gradients, which are None only where they are None on all processes.

        Args:
            gradients: One per parameter.
            loss: Scalar.
            parameters: For shapes and dtypes.
            weight: Of this process's.

        Raises:
            ObjectiveError: If a gradient is sparse, or the parameters differ between processes. Looking at that would
                make the host wait for the device, so all calls but the first look at what the one before them found.
        """
        if any(gradient is not None and gradient.is_sparse for gradient in gradients):
            raise ObjectiveError("Sparse gradients are not summed over processes: make the embedding sparse=False.")
        marks = _marks(parameters)
        head = torch.stack([weight * loss.detach().to(marks[0]), *marks])
        present = [float(gradient is not None) for gradient in gradients]
        numbers = self._sum(torch.cat([head, torch.tensor(present, dtype=torch.float64, device=head.device)]))
        self._compare(numbers[1:3])
        full = [torch.zeros_like(p) if g is None else g for g, p in zip(gradients, parameters, strict=True)]
        sums: list[Tensor | None] = list(self.total_each(full, weight))
        if any(gradient is None for gradient in gradients):
            used = numbers[3:].tolist()
            sums = [total if count else None for total, count in zip(sums, used, strict=True)]
        return numbers[0].to(loss.dtype), sums

    def _compare(self, marks: Tensor) -> None:
        """Makes sure that all processes stand at the same parameters: now, or a step late to not wait for a device."""
        due = marks if self._marks is None else self._marks
        self._marks = marks
        if not self.equal(*due.tolist()):
            self._marks = None
            raise ObjectiveError(APART)

    def equal(self, total: float, squares: float) -> bool:
        """Returns whether whole numbers are the same on all processes: their variance is zero, without rounding.

        Args:
            total: Their sum over the processes.
            squares: The sum of their squares; both far below 2^53.
        """
        return total * total == self.size * squares

    def _sum(self, tensor: Tensor) -> Tensor:
        torch.distributed.all_reduce(tensor, group=self.group)
        return tensor


def checksum(tensors: Sequence[Tensor]) -> int:
    """Returns a number that differs where any bit of the tensors does, nearly always.

    Args:
        tensors: Of floating-point numbers.
    """
    return int(_checksum(tensors))


def _marks(tensors: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """A checksum small enough to be squared and summed without rounding, and its square."""
    mark = (_checksum(tensors) % 2**20).double()
    return mark, mark * mark


def _checksum(tensors: Sequence[Tensor]) -> Tensor:
    words = [_as_integers(tensor.detach()) for tensor in tensors]
    if len(words) > 1:
        sums = torch.stack([part.sum(dtype=torch.int64).to(words[0].device) for part in words])
    else:
        # By itself it may be a vector of random signs, which one sum would only count.
        flat = words[0].reshape(-1)
        whole = len(flat) // _PARTS * _PARTS
        sums = torch.cat([flat[:whole].view(_PARTS, -1).sum(1, dtype=torch.int64), flat[whole:]])
    places = torch.arange(1, len(sums) + 1, device=sums.device) * _ODD
    total = _mixed(_mixed(sums + places) * _ODD).sum()
    return total ^ (total >> 32)


def _mixed(words: Tensor) -> Tensor:
    """Brings bits from above into the lowest ones, which are all zero for numbers that were converted from float32."""
    return (words ^ (words >> 32)) * _ODD


def _as_integers(tensor: Tensor) -> Tensor:
    """The bits of a tensor, in words of eight bytes where it lies so: these are summed without being converted."""
    size = tensor.element_size()
    if tensor.is_contiguous() and tensor.numel() * size % 8 == 0 and tensor.storage_offset() * size % 8 == 0:
        return tensor.view(-1).view(torch.int64)
    return tensor.view(_INTEGERS[size])
