"""Which layers are seen: convolutions of all shapes, shared, tied, frozen, computed weights; equality with peers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import hybridopt as ho
from hybridopt.curvature import EKFAC, KFAC
from hybridopt.curvature.kronecker import capture
from tests.cases import Case, cases
from tests.curvature.kronecker_models import DOUBLE, block, errors, fisher, problem
from tests.curvature.reference import objective_of

CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "1d": (lambda: nn.Conv1d(2, 4, 3, 2, 2, 2, groups=2, bias=False), (6,)),
    "1d same, even kernel": (lambda: nn.Conv1d(2, 3, 4, padding="same"), (5,)),
    "2d strided": (lambda: nn.Conv2d(2, 3, (3, 2), (2, 1), (1, 0)), (4, 3)),
    "2d dilated, valid": (lambda: nn.Conv2d(2, 3, 2, dilation=(1, 2), padding="valid"), (4, 5)),
    "2d circular": (lambda: nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), (3, 3)),
    "2d depthwise": (lambda: nn.Conv2d(2, 4, 2, groups=2), (3, 4)),
    "3d": (lambda: nn.Conv3d(2, 2, 2, padding=1), (2, 3, 2)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_patches_and_gradients_give_the_gradient_of_a_convolution(name: str) -> None:
    torch.manual_seed(0)
    make, size = CONVOLUTIONS[name]
    first = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(size)](1, 2, 1)
    model = nn.Sequential(first, nn.Tanh(), make(), nn.Sigmoid()).to(DOUBLE)
    x = torch.randn(3, 1, *size, dtype=DOUBLE)
    objective = problem(model, F.mse_loss, x, torch.randn_like(model(x)))
    gradient = objective.space.tensors(objective.value_and_grad()[1])
    made = KFAC(objective)
    with capture(objective) as seen:
        seen.backward(seen.output_gradients)
        for layer, call in zip(made.layers, seen.calls, strict=True):
            g = call.gradients()
            a = layer.inputs(call, g)
            assert a.shape[1] == 3
            torch.testing.assert_close(torch.einsum("gnpo,gnpi->goi", g, a), layer.matrix(gradient))


@pytest.mark.parametrize("name", ["1d", "2d depthwise"])
def test_groups_are_blocks_of_their_own(name: str) -> None:
    torch.manual_seed(0)
    make, size = CONVOLUTIONS[name]
    layer = make()
    size = tuple(layer.dilation[i] * (layer.kernel_size[i] - 1) + 1 for i in range(len(size)))
    layer.padding = (0,) * len(size)  # one place: every group is a linear layer
    model = nn.Sequential(layer, nn.Flatten()).to(DOUBLE)
    x = torch.randn(4, 2, *size, dtype=DOUBLE)
    objective = problem(model, F.mse_loss, x, torch.randn_like(model(x)))
    made = KFAC(objective, kind="exact")
    assert made.layers[0].groups == 2
    assert "2 x" in made.describe()
    assert max(errors(made, fisher(objective))) < 1e-10


def features(rows: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, 4, dtype=DOUBLE), torch.randint(0, 3, (rows,))


class Twice(nn.Module):
    """One module called twice; the second time in the branch that the loss sees as well."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.shared(torch.tanh(self.shared(x)))))


class OneWeight(nn.Module):
    """Two layers with one weight and two biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.b(torch.tanh(self.a(x)))))


class Both(nn.Module):
    """A weight in a layer and in a product of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.a(x)) @ self.a.weight)


class Written(nn.Module):
    """Weights registered by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.v = nn.Parameter(torch.randn(5, 4)), nn.Parameter(torch.randn(3, 5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(torch.tanh(F.linear(input=x, weight=self.w)), self.v)


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model[0].weight.requires_grad_(False)
    model[2].bias.requires_grad_(False)
    return model


def computed() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3))


def in_place() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))


SEEN: dict[str, tuple[Callable[[], nn.Module], list[list[str]], list[str]]] = {
    "twice": (Twice, [["shared.weight", "shared.bias"], ["last.weight", "last.bias"]], []),
    "one weight, two biases": (
        OneWeight, [["a.weight"], ["a.bias"], ["b.bias"], ["last.weight", "last.bias"]], []
    ),
    "a layer and a product": (Both, [["last.weight", "last.bias"]], ["a.weight", "a.bias"]),
    "written by hand": (Written, [["w"], ["v"]], []),
    "frozen": (frozen, [["0.bias"], ["2.weight"]], []),
    "computed": (computed, [["2.weight", "2.bias"]], [
        "0.bias", "0.parametrizations.weight.original0", "0.parametrizations.weight.original1"]),
    "changed in place": (in_place, [["0.weight", "0.bias"], ["2.weight", "2.bias"]], []),
}  # fmt: skip


@pytest.mark.parametrize("name", SEEN)
def test_layers_and_the_rest_are_named_and_exact_for_one_datum(name: str) -> None:
    torch.manual_seed(0)
    make, layers, rest = SEEN[name]
    objective = problem(make(), F.cross_entropy, *features(1))
    made = KFAC(objective, kind="exact")
    assert [made.parameter_names(layer) for layer in made.layers] == layers
    assert made.fallback == rest
    assert all(parameter in made.describe() for parameter in rest)
    truth = fisher(objective)
    # For a weight that is used twice the uses count as independent, which for EK-FAC's moments they are not.
    exact = {"twice": EKFAC, "one weight, two biases": EKFAC}.get(name, KFAC)(objective, kind="exact")
    for layer in exact.layers:
        own, wanted = block(exact.dense(), exact, layer), block(truth, exact, layer)
        basis = exact.basis(layer)
        vectors = torch.kron(basis.output_vectors[0], basis.input_vectors[0])
        torch.testing.assert_close((vectors.T @ own @ vectors).diagonal(), (vectors.T @ wanted @ vectors).diagonal())
        if not isinstance(exact, EKFAC):
            torch.testing.assert_close(own, wanted)


def test_a_parameter_that_enters_a_layer_is_in_the_rest() -> None:
    class Prompt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.linear(x, F.linear(self.a.weight, self.a.weight)))

    made = KFAC(problem(Prompt(), F.cross_entropy, *features()))
    assert made.fallback == ["a.weight"]


@pytest.mark.parametrize("operator", [KFAC, EKFAC])
def test_samples_are_found_where_time_comes_first(operator: type[KFAC]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(DOUBLE)
    x, t = torch.randn(6, 3, 4, dtype=DOUBLE), torch.randn(6, 3, 3, dtype=DOUBLE)
    batch_first = operator(ho.Objective(model, F.mse_loss, x, t), kind="exact", setting="reduce")
    time_first = ho.Objective(model, F.mse_loss, x.transpose(0, 1), t.transpose(0, 1), samples=6)
    torch.testing.assert_close(operator(time_first, kind="exact", setting="reduce").dense(), batch_first.dense())


class Attending(nn.Module):
    """Attention of a sequence to itself or to its own reverse, with dropout."""

    def __init__(self, crossed: bool) -> None:
        super().__init__()
        self.attention, self.head = nn.MultiheadAttention(4, 2, dropout=0.3, batch_first=True), nn.Linear(4, 3)
        self.crossed = crossed

    def forward(self, x: Tensor) -> Tensor:
        other = x.flip(1) if self.crossed else x
        return self.head(self.attention(x, other, other)[0].mean(1))


def test_the_projections_of_attention_are_layers() -> None:
    torch.manual_seed(0)
    x, t = torch.randn(6, 5, 4, dtype=DOUBLE), torch.randint(0, 3, (6,))
    objective = problem(Attending(crossed=False), F.cross_entropy, x, t)
    gradient = objective.space.tensors(objective.value_and_grad()[1])
    made = KFAC(objective)
    assert made.fallback == []
    assert made.parameter_names(made.layers[0]) == ["attention.in_proj_weight", "attention.in_proj_bias"]
    with capture(objective) as seen:
        seen.backward(seen.output_gradients)
        for layer, call in zip(made.layers, seen.calls, strict=True):
            g = call.gradients()
            found = torch.einsum("gnpo,gnpi->goi", g, layer.inputs(call, g))
            torch.testing.assert_close(found, layer.matrix(gradient))
    crossed = KFAC(problem(Attending(crossed=True), F.cross_entropy, x, t))
    assert crossed.fallback == ["attention.in_proj_weight", "attention.in_proj_bias"]


def test_a_subset_of_the_parameters() -> None:
    objective = problem(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), F.cross_entropy, *features())
    whole = KFAC(objective, kind="exact")
    part = KFAC(objective.bind([{"params": objective.model[2].parameters()}]), kind="exact")
    assert part.n == 18
    torch.testing.assert_close(part.dense(), whole.dense()[-18:, -18:])


@cases(
    "mlp_tanh", "bce", "layer_norm", "batch_norm_eval", "dropout_train", "attention_weights", "transformer_eval",
    "tied", "shared_module", "listed", "several_inputs", "named_inputs", "mixed_dtypes", "embedding",
    "lstm_2_layers", "lstm_dropout", "gru_2_layers", "loss_with_parameter", "conv2d_frozen", "no_targets",
)  # fmt: skip
def test_the_catalogue_in_float32_and_float64(case: Case) -> None:
    results = []
    for dtype in (torch.float32, torch.float64):
        objective = objective_of(case, dtype)
        made = EKFAC(
            objective, kind="propagation" if case.name in ("no_targets", "loss_with_parameter") else "monte_carlo"
        )
        state = [parameter.clone() for parameter in objective.space.parameters]
        vector = torch.linspace(-1, 1, made.n).to(made.dtype)
        product = made @ vector
        assert float(vector @ product) >= 0
        inverse = made.inverse_apply(vector, 0.1)
        torch.testing.assert_close((made @ inverse + 0.1 * inverse), vector, rtol=1e-3, atol=1e-3)
        assert all(map(torch.equal, state, objective.space.parameters))
        results.append(product.double())
    torch.testing.assert_close(*results, rtol=2e-3, atol=2e-3 * float(results[1].abs().max()))


def test_several_outputs_of_several_terms() -> None:
    torch.manual_seed(0)

    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.a, self.b = nn.Linear(4, 5), nn.Linear(5, 3), nn.Linear(5, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            h = torch.tanh(self.body(x))
            return {"class": self.a(h), "value": self.b(h)}

    def loss(z: dict[str, Tensor], t: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(z["class"], t[0]) + 0.5 * F.mse_loss(z["value"], t[1])

    x, t = features(1)
    objective = problem(Heads(), loss, x, (t, torch.zeros(1, 1, dtype=DOUBLE)))
    truth = ho.curvature.GaussNewton(objective).dense()
    assert max(errors(KFAC(objective, kind="exact"), truth)[1:]) < 1e-10


def assert_equals_curvlinops(model: nn.Module, loss: nn.Module, x: Tensor, t: Tensor, setting: str, name: str) -> None:
    curvlinops = pytest.importorskip("curvlinops")
    peer = {"KFAC": curvlinops.KFACLinearOperator, "EKFAC": curvlinops.EKFACLinearOperator}[name]
    parameters = list(model.parameters())
    theirs = peer(
        model, loss, parameters, [(x, t)], fisher_type="type-2", kfac_approx=setting, separate_weight_and_bias=False,
        check_deterministic=False,
    )  # fmt: skip
    made = {"KFAC": KFAC, "EKFAC": EKFAC}[name](problem(model, loss, x, t), kind="exact", setting=setting)
    wanted = theirs @ torch.eye(made.n, dtype=DOUBLE)
    torch.testing.assert_close(made.dense(), wanted, rtol=1e-8, atol=1e-12)


def small_cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(3, 4, 2, dilation=2), nn.Sigmoid(), nn.Flatten(),
        nn.Linear(16, 3),
    )  # fmt: skip


# Its EKFAC with "reduce" takes the moments of the reduced gradients; ours are the data's own in both settings.
@pytest.mark.parametrize(("name", "setting"), [("KFAC", "expand"), ("KFAC", "reduce"), ("EKFAC", "expand")])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_linear_layers_and_convolutions_equal_curvlinops(name: str, setting: str, reduction: str) -> None:
    torch.manual_seed(0)
    x, t = torch.randn(5, 2, 8, 8, dtype=DOUBLE), torch.randint(0, 3, (5,))
    assert_equals_curvlinops(small_cnn().to(DOUBLE), nn.CrossEntropyLoss(reduction=reduction), x, t, setting, name)


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss()])
def test_other_losses_equal_curvlinops(loss: nn.Module) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(DOUBLE)
    t: Any = torch.randint(0, 2, (6, 3)).to(DOUBLE)
    assert_equals_curvlinops(model, loss, torch.randn(6, 4, dtype=DOUBLE), t, "expand", "KFAC")
