"""Parameters as one flat vector: order, duplicates, dtypes, and storage that is never touched."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hybridopt.core import ObjectiveError
from hybridopt.objective import ParameterSpace


def parameters() -> list[nn.Parameter]:
    return [
        nn.Parameter(torch.arange(6.0).view(2, 3)),
        nn.Parameter(torch.tensor(7.0)),
        nn.Parameter(torch.ones(2)),
    ]


def test_order_and_shape():
    space = ParameterSpace(parameters())
    assert space.n == 9
    assert space.read().tolist() == [0, 1, 2, 3, 4, 5, 7, 1, 1]
    assert [v.shape for v in space.views(space.read())] == [(2, 3), (), (2,)]


def test_duplicates_and_constants_are_left_out():
    a, b, c = parameters()
    c.requires_grad_(False)
    space = ParameterSpace([b, a, b, c])
    assert space.parameters == [b, a]
    assert space.read().tolist() == [7, 0, 1, 2, 3, 4, 5]


def test_write_is_in_place_and_seen_by_autograd():
    space = ParameterSpace(parameters())
    before = [(p.data_ptr(), p._version) for p in space.parameters]
    space.write(torch.arange(9.0) * 10)
    assert space.read().tolist() == [0, 10, 20, 30, 40, 50, 60, 70, 80]
    for p, (pointer, version) in zip(space.parameters, before, strict=True):
        assert p.data_ptr() == pointer
        assert p._version > version
        assert p.is_leaf
        assert p.requires_grad


def test_read_is_a_copy():
    space = ParameterSpace(parameters())
    space.read().zero_()
    assert space.parameters[1].item() == 7


def test_read_into_a_given_vector():
    space = ParameterSpace(parameters())
    out = torch.full((9,), -1.0)
    assert space.read(out) is out
    assert out[6] == 7


def test_transposed_parameters_keep_their_layout():
    weight = nn.Parameter(torch.arange(6.0).view(3, 2).t())
    space = ParameterSpace([weight])
    assert space.read().tolist() == weight.detach().reshape(-1).tolist()
    space.write(torch.arange(6.0))
    assert weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert not weight.is_contiguous()


def test_missing_tensors_are_zeros():
    space = ParameterSpace(parameters())
    out = torch.full((9,), 5.0)
    space.pack([None, torch.tensor(2.0), None], out)
    assert out.tolist() == [0, 0, 0, 0, 0, 0, 2, 0, 0]


@pytest.mark.parametrize("wrong", [lambda a, b: [b, a], lambda a, b: [a.t(), b], lambda a, b: [a]])
def test_tensors_of_other_shapes_are_not_packed(wrong):
    space = ParameterSpace([nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4))])
    with pytest.raises((RuntimeError, ValueError)):
        space.pack(wrong(torch.ones(2, 3), torch.ones(4)))


def test_mixed_dtypes_meet_in_the_widest():
    single, double = nn.Parameter(torch.ones(2)), nn.Parameter(torch.full((1,), 1 / 3, dtype=torch.float64))
    space = ParameterSpace([single, double])
    assert space.dtype == torch.float64
    assert space.read()[2].item() == 1 / 3
    assert [t.dtype for t in space.tensors(space.read())] == [torch.float32, torch.float64]
    space.write(torch.tensor([2.0, 3.0, 1 / 7], dtype=torch.float64))
    assert single.dtype == torch.float32
    assert double.item() == 1 / 7


def test_half_precision_meets_single():
    half, single = nn.Parameter(torch.ones(2, dtype=torch.bfloat16)), nn.Parameter(torch.ones(2))
    assert ParameterSpace([half, single]).dtype == torch.float32


@pytest.mark.parametrize("none", [[], [nn.Parameter(torch.ones(2), requires_grad=False)]])
def test_needs_a_parameter(none):
    with pytest.raises(ObjectiveError, match="no parameter to optimize"):
        ParameterSpace(none)


def test_complex_parameters_are_refused():
    with pytest.raises(ObjectiveError, match="complex"):
        ParameterSpace([nn.Parameter(torch.ones(2, dtype=torch.complex64))])


def test_several_devices_are_refused():
    with pytest.raises(ObjectiveError, match=r"several devices \(cpu, meta\)"):
        ParameterSpace([nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, device="meta"))])


def test_versions_see_writes_and_new_storage():
    space = ParameterSpace(parameters())
    seen = [space.versions()]
    with torch.no_grad():
        space.parameters[0].add_(1)
    seen.append(space.versions())
    space.parameters[1].data = torch.tensor(7.0)
    seen.append(space.versions())
    assert seen[0] != seen[1] != seen[2]
    space.read()
    assert space.versions() == seen[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("size", [9, 2**16 + 3])
def test_standing_somewhere_is_noticed_to_the_last_entry(dtype, size):
    space = ParameterSpace([nn.Parameter(torch.ones(2, dtype=dtype)), nn.Parameter(torch.zeros(size, dtype=dtype))])
    where = space.read()
    assert space.stands_at(where)
    assert not space.stands_at(where[:-1])
    last = space.parameters[1].data  # writes through .data are seen by no version counter
    last[-1] = 1e-30
    assert not space.stands_at(where)
    last[-1] = -0.0
    assert space.stands_at(where), "as values, not as bits"
    last[-1] = where[-1] = torch.nan
    assert not space.stands_at(where)
