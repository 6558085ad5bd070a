"""K-FAC and EK-FAC where theory says what they are: exact cases, the nearest diagonal, closed forms, inverses."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hybridopt as ho
from hybridopt.core import CombinationError, ConfigError, ObjectiveError
from hybridopt.curvature import EKFAC, KFAC
from tests.curvature.kronecker_models import DOUBLE, Sequence, block, classification, errors, fisher, problem

BOTH = pytest.mark.parametrize("operator", [KFAC, EKFAC])


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def deep_linear() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4, bias=False), nn.Linear(4, 3))


def cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 3, 2), nn.Tanh(), nn.Flatten(),
        nn.Linear(12, 3),
    )  # fmt: skip


EXACT = {
    # One datum, no shared weights: the expectation of a product of one thing is that thing.
    "mlp, one datum": lambda: classification(mlp(), torch.randn(1, 4, dtype=DOUBLE), 3),
    "mlp, one datum, squared error": lambda: problem(
        mlp(), F.mse_loss, torch.randn(1, 4, dtype=DOUBLE), torch.randn(1, 3, dtype=DOUBLE)
    ),
    "mlp, one datum, bernoulli": lambda: problem(
        mlp(), F.binary_cross_entropy_with_logits, torch.randn(1, 4, dtype=DOUBLE), torch.rand(1, 3, dtype=DOUBLE)
    ),
    # Linear with a squared error: the output's Jacobian with respect to pre-activations is the same for all data.
    "deep linear": lambda: problem(
        deep_linear(), F.mse_loss, torch.randn(7, 4, dtype=DOUBLE), torch.randn(7, 3, dtype=DOUBLE)
    ),
    "deep linear, sum": lambda: problem(
        deep_linear(), nn.MSELoss(reduction="sum"), torch.randn(7, 4, dtype=DOUBLE), torch.randn(7, 3, dtype=DOUBLE)
    ),
    "deep linear on every position": lambda: problem(
        deep_linear(), F.mse_loss, torch.randn(5, 3, 4, dtype=DOUBLE), torch.randn(5, 3, 3, dtype=DOUBLE)
    ),
    "one place of a convolution": lambda: problem(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Flatten()),
        F.mse_loss,
        torch.randn(6, 2, 3, 3, dtype=DOUBLE),
        torch.randn(6, 3, dtype=DOUBLE),
    ),
    **{
        f"{kind.__name__}, one step, one datum": lambda kind=kind: classification(
            Sequence(kind, num_layers=2, bidirectional=True, batch_first=True), torch.randn(1, 1, 3, dtype=DOUBLE), 2
        )
        for kind in (nn.RNN, nn.GRU, nn.LSTM)
    },
}


@BOTH
@pytest.mark.parametrize("case", EXACT)
def test_blocks_are_those_of_the_fisher_matrix(operator: type[KFAC], case: str) -> None:
    torch.manual_seed(0)
    objective = EXACT[case]()
    made = operator(objective, kind="exact")
    assert made.fallback == []
    assert max(errors(made, fisher(objective))) < 1e-10


@pytest.mark.parametrize("setting", ["expand", "reduce"])
def test_the_settings_of_weight_sharing_are_exact_for_linear_networks(setting: str) -> None:
    # Eschenhagen et al. 2023, propositions 1 and 2: a loss on every position, or on the mean of the positions.
    torch.manual_seed(0)

    class Pooled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            z = self.first(x)
            return self.last(z if setting == "expand" else z.mean(1, keepdim=True))

    x = torch.randn(6, 4, 4, dtype=DOUBLE)
    model = Pooled().to(DOUBLE)
    objective = problem(model, F.mse_loss, x, torch.randn_like(model(x)))
    truth = fisher(objective)
    other = {"expand": "reduce", "reduce": "expand"}[setting]
    assert errors(KFAC(objective, kind="exact", setting=setting), truth)[0] < 1e-10
    assert errors(KFAC(objective, kind="exact", setting=other), truth)[0] > 0.05


def test_a_linear_recurrent_layer_with_a_loss_on_every_independent_step() -> None:
    # No recurrence (W_hh = 0, relu on its linear side): steps are independent positions of a linear layer.
    torch.manual_seed(0)
    model = Sequence(nn.RNN, nonlinearity="relu", every=True, batch_first=True).to(DOUBLE)
    with torch.no_grad():
        model.cell.weight_hh_l0.zero_()
        model.cell.bias_ih_l0.fill_(50.0)
    x = torch.randn(5, 4, 3, dtype=DOUBLE)
    objective = problem(model, F.mse_loss, x, torch.randn_like(model(x)))
    made = KFAC(objective, kind="exact")
    assert made.parameter_names(made.layers[0]) == ["cell.weight_ih_l0", "cell.bias_ih_l0"]
    assert errors(made, fisher(objective))[0] < 1e-10


APPROXIMATE = {
    "mlp": lambda: classification(mlp(), torch.randn(20, 4, dtype=DOUBLE), 3),
    "cnn": lambda: classification(cnn(), torch.randn(8, 2, 6, 6, dtype=DOUBLE), 3),
    "lstm": lambda: classification(Sequence(nn.LSTM), torch.randn(4, 6, 3, dtype=DOUBLE), 2, 6),
    "gru": lambda: classification(Sequence(nn.GRU, batch_first=True), torch.randn(6, 4, 3, dtype=DOUBLE), 2),
}


@pytest.mark.parametrize("setting", ["expand", "reduce", "nearest"])
@pytest.mark.parametrize("case", APPROXIMATE)
def test_ekfac_is_nearer_than_kfac_and_has_the_right_diagonal_in_its_basis(case: str, setting: str) -> None:
    torch.manual_seed(0)
    objective = APPROXIMATE[case]()
    truth = fisher(objective)
    kfac, ekfac = (operator(objective, kind="exact", setting=setting) for operator in (KFAC, EKFAC))
    near, far = errors(ekfac, truth), errors(kfac, truth)
    assert all(a <= b + 1e-12 for a, b in zip(near, far, strict=True))
    assert sum(near) < (1.0 if setting == "nearest" else 0.98) * sum(far)
    for layer in ekfac.layers:
        basis, place = ekfac.basis(layer), ekfac.indices(layer)[0].flatten()
        vectors = torch.kron(basis.output_vectors[0], basis.input_vectors[0])
        moments = (vectors.T @ truth[place][:, place] @ vectors).diagonal()
        torch.testing.assert_close(ekfac.values(layer).flatten(), moments, rtol=1e-9, atol=1e-13)


def single_output() -> ho.Objective:
    """One column only, so that one backward pass serves all; the first layer at three positions."""
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Flatten(), nn.Linear(15, 1))
    return problem(model, F.mse_loss, torch.randn(6, 3, 4, dtype=DOUBLE), torch.randn(6, 1, dtype=DOUBLE))


@pytest.mark.parametrize("make", [*APPROXIMATE.values(), single_output], ids=[*APPROXIMATE, "single output"])
def test_nearest_is_one_step_of_the_power_method_on_the_dense_block(make: Callable[[], ho.Objective]) -> None:
    torch.manual_seed(0)
    objective = make()
    truth = fisher(objective)
    start, made = (KFAC(objective, kind="exact", setting=setting) for setting in ("expand", "nearest"))
    assert all(a < b + 1e-12 for a, b in zip(errors(made, truth), errors(start, truth), strict=True))
    assert sum(errors(made, truth)) < 0.9 * sum(errors(start, truth))
    for layer in made.layers:
        (a0, g0), (a, g) = start.factors(layer), made.factors(layer)
        wanted = block(truth, made, layer).view(g.shape[1], a.shape[1], g.shape[1], a.shape[1])
        inputs = torch.einsum("oipj,op->ij", wanted, g0[0])
        outputs = torch.einsum("oipj,ij->op", wanted, inputs) / inputs.square().sum()
        torch.testing.assert_close(torch.kron(g[0], a[0]), torch.kron(outputs, inputs), rtol=1e-8, atol=1e-12)
        assert float(a.diagonal(dim1=1, dim2=2).sum()) == pytest.approx(float(a0.diagonal(dim1=1, dim2=2).sum()))


@BOTH
@pytest.mark.parametrize("case", APPROXIMATE)
def test_closed_forms_are_those_of_the_dense_matrix(operator: type[KFAC], case: str) -> None:
    torch.manual_seed(0)
    made = operator(APPROXIMATE[case](), kind="exact")
    dense = made.dense()
    torch.testing.assert_close(dense, dense.T)
    torch.testing.assert_close(made.diagonal(), dense.diagonal())
    assert made.trace() == pytest.approx(float(dense.trace()))
    assert made.frobenius_norm() == pytest.approx(float(dense.norm()))
    damped = dense + 0.1 * torch.eye(made.n, dtype=DOUBLE)
    assert made.log_determinant(shift=0.1) == pytest.approx(float(damped.logdet()))
    torch.testing.assert_close(made.eigenvalues().sort().values, torch.linalg.eigvalsh(dense), atol=1e-12, rtol=1e-8)
    vector = torch.randn(made.n, dtype=DOUBLE)
    torch.testing.assert_close(
        made.inverse_apply(vector, 0.1, "exact"), torch.linalg.solve(damped, vector), rtol=1e-8, atol=1e-10
    )
    listed = made @ made.space.tensors(vector)
    torch.testing.assert_close(made.space.pack(listed), dense @ vector)


def test_the_split_damping_is_that_of_martens_and_grosse() -> None:
    torch.manual_seed(0)
    made = KFAC(APPROXIMATE["cnn"](), kind="exact")
    vector, damping = torch.randn(made.n, dtype=DOUBLE), 0.03
    found = made.inverse_apply(vector, damping, "split")
    for layer in made.layers:
        a, g = (factor[0] for factor in made.factors(layer))
        pi = ((a.trace() / len(a)) / (g.trace() / len(g))) ** 0.5
        damped = torch.kron(
            g + damping**0.5 / pi * torch.eye(len(g), dtype=DOUBLE),
            a + pi * damping**0.5 * torch.eye(len(a), dtype=DOUBLE),
        )
        place = made.indices(layer)[0].flatten()
        torch.testing.assert_close(found[place], torch.linalg.solve(damped, vector[place]), rtol=1e-8, atol=1e-10)


def test_dead_layers_have_finite_inverses() -> None:
    objective = classification(mlp(), torch.zeros(5, 4, dtype=DOUBLE), 3)
    torch.nn.init.zeros_(objective.model[2].weight)
    torch.nn.init.zeros_(objective.model[0].bias)
    made = KFAC(objective, kind="exact")  # the last layer's inputs and the first layer's gradients are zero
    for rule in ("split", "exact"):
        assert made.inverse_apply(torch.ones(made.n, dtype=DOUBLE), 1e-3, rule).isfinite().all()


def sampled_mean(objective: ho.Objective, kind: str, count: int) -> Tensor:
    return KFAC(objective, kind=kind, samples=count, generator=torch.Generator().manual_seed(1)).dense()


@pytest.mark.parametrize("kind", ["monte_carlo", "propagation"])
def test_estimates_come_to_the_exact_factors(kind: str) -> None:
    torch.manual_seed(0)
    objective = APPROXIMATE["mlp"]()
    exact = KFAC(objective, kind="exact").dense()
    off = [float((sampled_mean(objective, kind, count) - exact).norm() / exact.norm()) for count in (1, 300)]
    assert off[1] < 0.05
    assert off[1] < 0.5 * off[0]


def test_the_diagonal_of_parameters_without_a_layer_is_that_of_the_fisher_matrix() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Tanh(), nn.Linear(5, 3))
    objective = classification(model, torch.randn(20, 4, dtype=DOUBLE), 3)
    made = KFAC(objective, samples=2000)
    assert made.fallback == ["1.weight", "1.bias"]
    truth = fisher(objective).diagonal()
    place = slice(25, 35)  # after the first layer's 20 + 5
    torch.testing.assert_close(made.diagonal()[place], truth[place], rtol=0.25, atol=1e-4)
    assert float((made.diagonal()[place] - truth[place]).norm() / truth[place].norm()) < 0.08


def test_the_empirical_factors_are_those_of_the_datas_own_gradients() -> None:
    torch.manual_seed(0)
    objective = APPROXIMATE["mlp"]()
    made = EKFAC(objective, kind="empirical")
    truth = ho.curvature.EmpiricalFisher(objective).dense()
    for layer in made.layers:
        basis, place = made.basis(layer), made.indices(layer)[0].flatten()
        vectors = torch.kron(basis.output_vectors[0], basis.input_vectors[0])
        moments = (vectors.T @ truth[place][:, place] @ vectors).diagonal()
        torch.testing.assert_close(made.values(layer).flatten(), moments, rtol=1e-9, atol=1e-13)


@BOTH
def test_micro_batches_change_nothing(operator: type[KFAC]) -> None:
    torch.manual_seed(0)
    objective = APPROXIMATE["cnn"]()
    whole = operator(objective, kind="exact")
    pieces = operator(objective.in_micro_batches(3), kind="exact")
    torch.testing.assert_close(pieces.dense(), whole.dense(), rtol=1e-9, atol=1e-12)


def test_auto_is_nearest_for_recurrent_layers_only() -> None:
    torch.manual_seed(0)

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.read = nn.Linear(3, 3), Sequence(nn.GRU, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.read(self.first(x))

    objective = classification(Both(), torch.randn(6, 4, 3, dtype=DOUBLE), 2)
    made, nearest, expand = (KFAC(objective, kind="exact", setting=name) for name in ("auto", "nearest", "expand"))
    assert [layer.kind for layer in made.layers] == ["linear", "recurrent", "recurrent", "linear"]
    for layer in made.layers:
        wanted = nearest if layer.kind == "recurrent" else expand
        for found, expected in zip(made.factors(layer), wanted.factors(layer), strict=True):
            torch.testing.assert_close(found, expected)
    pieces = KFAC(objective.in_micro_batches(4), kind="exact", setting="auto")
    torch.testing.assert_close(pieces.dense(), expand.dense())


def test_the_nearest_product_needs_the_whole_batch() -> None:
    with pytest.raises(CombinationError, match="setting=nearest needs the whole batch"):
        KFAC(APPROXIMATE["cnn"]().in_micro_batches(3), setting="nearest")


def test_the_ledger_pays_the_point_and_every_backward_pass() -> None:
    objective = APPROXIMATE["mlp"]()
    KFAC(objective, samples=2)
    assert objective.ledger.counts == {"forward": 0, "gradient": 1 + 2, "hvp": 0, "ggnvp": 0}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "type-2"}, r"kind must be one of 'monte_carlo', 'exact'"),
        ({"setting": "mean"}, r"setting must be one of 'expand', 'reduce', 'nearest'"),
        ({"samples": 0}, r"samples must be at least 1"),
    ],
)
def test_options_that_do_not_exist(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KFAC(APPROXIMATE["mlp"](), **options)


def test_what_cannot_be_done_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="KFAC needs an Objective, not a Linear"):
        KFAC(nn.Linear(2, 2))
    plain = ho.Objective.from_function(lambda x: (x**2).sum(), torch.ones(3))
    with pytest.raises(CombinationError, match="needs a model whose outputs go through a loss function"):
        KFAC(plain)
    nothing = problem(nn.LayerNorm(4), F.mse_loss, torch.randn(3, 4, dtype=DOUBLE), torch.zeros(3, 4, dtype=DOUBLE))
    with pytest.raises(CombinationError, match=r"found no layer that it knows.*use lbfgs, newton_cg"):
        KFAC(nothing)
    odd = problem(
        mlp(), lambda z, t: (z - t).cosh().mean(), torch.randn(3, 4, dtype=DOUBLE), torch.zeros(3, 3).double()
    )
    with pytest.raises(CombinationError, match=r"choose the kind 'propagation'.*or 'exact'"):
        KFAC(odd)
    assert max(errors(KFAC(odd, kind="exact"), fisher(odd))) < 1.0
    with pytest.raises(ConfigError, match=r"EKFAC are no products.*rule='exact'"):
        EKFAC(APPROXIMATE["mlp"]()).inverse_apply(torch.ones(43, dtype=DOUBLE), 0.1, "split")
    with pytest.raises(ConfigError, match=r"damping of an inverse must be > 0"):
        KFAC(APPROXIMATE["mlp"]()).inverse_apply(torch.ones(43, dtype=DOUBLE), 0.0)
