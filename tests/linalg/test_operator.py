"""Symmetric operators on matrices that are known: products, algebra, eigenpairs, the SciPy view."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hybridopt.core import CombinationError, ConfigError, NonFiniteError
from hybridopt.linalg.operator import Dense, Identity, Sum, SymmetricOperator

FLOAT = torch.float64


class Scaled(SymmetricOperator):
    """An operator that says its product and nothing else."""

    def _matvec(self, vector: Tensor) -> Tensor:
        return torch.arange(1.0, self.n + 1, dtype=self.dtype) * vector


def with_spectrum(values: Tensor) -> Tensor:
    """Returns a symmetric matrix with the given eigenvalues and random eigenvectors."""
    half = torch.randn(len(values), len(values), dtype=FLOAT, generator=torch.Generator().manual_seed(7))
    basis = torch.linalg.qr(half).Q
    return basis @ torch.diag(values) @ basis.T


def matrix(n: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    half = torch.randn(n, n, generator=generator, dtype=FLOAT)
    return half + half.T


def test_a_subclass_needs_only_its_product():
    operator = Scaled(4, dtype=FLOAT)
    assert torch.equal(operator.dense(), torch.diag(torch.arange(1.0, 5.0, dtype=FLOAT)))
    assert operator.trace() == 10.0
    assert operator.eigsh(2)[0].tolist() == pytest.approx([3.0, 4.0])


def test_a_subclass_without_a_product_says_so():
    with pytest.raises(TypeError, match="_matvec"):
        SymmetricOperator(3, dtype=FLOAT) @ torch.ones(3, dtype=FLOAT)


@pytest.mark.parametrize("columns", [None, 1, 5])
def test_dense_products(columns):
    a = matrix()
    other = torch.randn(12, dtype=FLOAT) if columns is None else torch.randn(12, columns, dtype=FLOAT)
    torch.testing.assert_close(Dense(a) @ other, a @ other)


@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 2, 2)])
def test_dense_must_be_square(shape):
    with pytest.raises(ConfigError, match="square"):
        Dense(torch.zeros(shape))


def test_product_is_a_new_tensor():
    vector = torch.ones(3, dtype=FLOAT)
    for operator in (Identity(3, dtype=FLOAT), Identity(), Dense(torch.eye(3, dtype=FLOAT)), 1 * Identity()):
        product = operator @ vector
        product.zero_()
        assert vector.sum() == 3, f"{operator!r} returned its argument"


def test_algebra():
    a, b = matrix(seed=0), matrix(seed=1)
    eye = torch.eye(12, dtype=FLOAT)
    found = (2 * Dense(a) - Dense(b) / 4 + 0.5 * Identity()) * 3
    torch.testing.assert_close(found.dense(), (2 * a - b / 4 + 0.5 * eye) * 3)


def test_sum_does_not_write_into_its_parts():
    a = matrix()
    total = -2.0 * Dense(a) + Dense(a)
    vector = torch.ones(12, dtype=FLOAT)
    first = total @ vector
    torch.testing.assert_close(total @ vector, first, rtol=0, atol=0)
    torch.testing.assert_close(Dense(a) @ vector, a @ vector)


def test_identities_alone():
    total = 2 * Identity() + Identity()
    vector = torch.ones(3)
    assert torch.equal(total @ vector, 3 * vector)
    assert torch.equal((total + Dense(torch.eye(3))) @ vector, 4 * vector)


def test_identity_keeps_the_form():
    tensors = [torch.ones(2, 2), torch.ones(3)]
    product = Identity() @ tensors
    assert [t.shape for t in product] == [t.shape for t in tensors]
    assert torch.equal(Identity() @ torch.ones(3, 2), torch.ones(3, 2))


def test_sized_identity_checks_its_vector():
    with pytest.raises(ConfigError, match="3 x 3"):
        Identity(3) @ torch.ones(4)
    with pytest.raises(ConfigError):
        Identity(3) @ torch.ones(4, 2)


def test_lists_need_parameter_shapes():
    with pytest.raises(ConfigError, match="flat vector"):
        Dense(torch.eye(3)) @ [torch.ones(3)]


@pytest.mark.parametrize("other", [Dense(torch.eye(3, dtype=FLOAT)), Dense(torch.eye(12)), Identity(3, dtype=FLOAT)])
def test_what_does_not_fit_is_not_added(other):
    with pytest.raises(CombinationError):
        Dense(matrix()) + other


@pytest.mark.parametrize(
    "wrong",
    [
        torch.ones(11, dtype=FLOAT),
        torch.ones(12),
        torch.ones(11, 12, dtype=FLOAT),
        torch.tensor(2.0).double(),
    ],
)
def test_what_does_not_fit_is_not_multiplied(wrong):
    for operator in (Dense(matrix()), Dense(matrix()) + Identity()):
        with pytest.raises(ConfigError):
            operator @ wrong


def test_the_advice_for_a_wrong_dtype_is_code_that_runs():
    with pytest.raises(ConfigError, match=r"vector\.to\('cpu', torch\.float64\)\.$") as caught:
        Dense(matrix()) @ torch.ones(12)
    advice = str(caught.value).rsplit("with ", 1)[1].rstrip(".")
    assert eval(advice, {"vector": torch.ones(12), "torch": torch}).dtype == FLOAT


def test_products_from_the_left():
    row, rows = torch.randn(12, dtype=FLOAT), torch.randn(5, 12, dtype=FLOAT)
    torch.testing.assert_close(row @ Dense(matrix()), row @ matrix())
    torch.testing.assert_close(rows @ Dense(matrix()), rows @ matrix())
    with pytest.raises(ConfigError, match="multiplied with shape"):
        torch.ones(12, 3, dtype=FLOAT) @ Dense(matrix())


def test_pythons_sum_adds_operators():
    torch.testing.assert_close(sum([Dense(matrix()), Dense(matrix(seed=1))]).dense(), matrix() + matrix(seed=1))


@pytest.mark.parametrize(
    ("addition", "shift"),
    [
        (lambda a: a + 0.5, 0.5),
        (lambda a: a - 1, -1.0),
        (lambda a: 2.0 + a, 2.0),
        (lambda a: a + np.float64(1.0), 1.0),
    ],
)
def test_numbers_are_added_as_multiples_of_the_identity(addition, shift):
    with pytest.raises(TypeError, match=r"A \+ .* \* Identity\(\)") as caught:
        addition(Dense(matrix()))
    advice = str(caught.value).split("write ")[1].split(", with")[0]
    shifted = eval(advice, {"A": Dense(matrix()), "Identity": Identity})
    torch.testing.assert_close(shifted.dense(), matrix() + shift * torch.eye(12, dtype=FLOAT))


def test_tensors_are_not_added():
    with pytest.raises(TypeError, match="Wrap it"):
        Dense(matrix()) + matrix()


def test_numpy_arrays_are_left_to_to_scipy():
    operator = Dense(matrix())
    for product in (lambda: operator @ np.ones(12), lambda: np.ones(12) @ operator):
        with pytest.raises(TypeError, match=r"torch.from_numpy.*to_scipy"):
            product()
    np.testing.assert_allclose(operator.to_scipy() @ np.ones(12), matrix().numpy() @ np.ones(12))


def test_numpy_scalars_are_factors():
    product = (np.float64(2.0) * Dense(torch.eye(3))) @ torch.ones(3)
    assert torch.equal(product, torch.full((3,), 2.0))


@pytest.mark.parametrize("which", ["LM", "SM", "LA", "SA", "BE"])
@pytest.mark.parametrize("k", [1, 3, 11, 12])
def test_eigenpairs(which, k):
    a = matrix()
    values, vectors = Dense(a).eigsh(k, which=which)
    spectrum = np.linalg.eigvalsh(a.numpy())
    if which == "BE":
        wanted = np.concatenate([spectrum[: k // 2], spectrum[len(spectrum) - (k - k // 2) :]])
    else:
        order = {"LM": -abs(spectrum), "SM": abs(spectrum), "LA": -spectrum, "SA": spectrum}[which]
        wanted = np.sort(spectrum[np.argsort(order)[:k]])
    np.testing.assert_allclose(values.numpy(), wanted, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(a @ vectors, vectors * values, rtol=0, atol=1e-7)
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(k, dtype=FLOAT), rtol=0, atol=1e-7)


def test_eigenpairs_of_a_known_spectrum():
    spectrum = torch.tensor([-3.0, -0.1, 0.2, 0.4, 0.5, 0.6, 0.9, 1.0, 2.0, 7.0], dtype=FLOAT)
    values, _ = Dense(with_spectrum(spectrum)).eigsh(3)
    assert values.tolist() == pytest.approx([-3.0, 2.0, 7.0])


def test_eigenpairs_are_repeatable():
    operator = Dense(matrix())
    torch.manual_seed(0)
    first = operator.eigsh(2)[1]
    torch.manual_seed(1)
    assert torch.equal(operator.eigsh(2)[1], first)


def test_eigsh_leaves_the_generator_alone():
    state = torch.get_rng_state()
    Dense(matrix()).eigsh(2)
    assert torch.equal(torch.get_rng_state(), state)


def test_zero_operator():
    values, vectors = Dense(torch.zeros(10, 10)).eigsh(3)
    assert values.tolist() == [0, 0, 0]
    assert torch.equal(vectors.T @ vectors, torch.eye(3))


@pytest.mark.parametrize("k", [2, 10])
def test_operator_that_is_not_finite(k):
    with pytest.raises(NonFiniteError, match="not finite"):
        Dense(torch.full((10, 10), float("nan"))).eigsh(k)


@pytest.mark.parametrize("k", [0, 13, -1])
def test_number_of_eigenpairs(k):
    with pytest.raises(ConfigError, match="between 1 and the dimension 12"):
        Dense(matrix()).eigsh(k)


def test_unknown_end_of_the_spectrum():
    with pytest.raises(ConfigError, match="'LM'"):
        Dense(matrix()).eigsh(2, which="largest")


def test_repr_says_size_and_dtype():
    assert repr(Dense(torch.eye(3))) == "Dense(n=3, dtype=torch.float32, device=cpu)"


def test_sum_lists_its_terms():
    total = Sum([(2.0, Identity(3)), (1.0, Dense(torch.eye(3)))])
    assert total.shape == (3, 3)
    assert torch.equal(total.dense(), 3 * torch.eye(3))
