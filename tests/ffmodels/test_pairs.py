"""Every loss of pairs with every goodness, value and gradient, against NumPy in float64; and what each is set by."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.goodness import GOODNESS, LOSSES
from ffmodels.pairs import PairLoss
from ffmodels.parts import METHODS
from fftrain.config import RunConfig
from tests.ffmodels.making import make

SIZE = 24


def reference(goodness, loss, constant, h, negatives=1):
    """The mean loss of pairs and its gradient by h, by the chain rule: float64."""
    squares = (h**2).sum(1)
    root = np.sqrt(np.maximum(squares, 1e-12))
    g, slope = {
        "sum_squares": (squares, 2 * h),
        "mean_squares": (squares / SIZE, 2 * h / SIZE),
        "norm": (root, h / root[:, None]),
    }[goodness]
    positive, *negatives = np.split(g, 1 + negatives)
    negative = negatives[0]

    def sigmoid(x):
        return np.exp(-np.logaddexp(0, -x))

    if loss == "softplus":
        losses = np.logaddexp(0, constant - positive) + np.logaddexp(0, negative - constant)
        of_g = np.concatenate([-sigmoid(constant - positive), sigmoid(negative - constant)])
    elif loss == "softmax":
        logits = constant * np.stack([positive, *negatives])
        shares = np.exp(logits - logits.max(0))
        shares /= shares.sum(0)
        losses = -np.log(shares[0])
        shares[0] -= 1
        of_g = constant * shares.flatten()
    else:
        x = -constant * (positive - negative)
        s = sigmoid(x)
        losses, of_x = (np.logaddexp(0, x), s) if loss == "symba" else (x * s, s + x * s * (1 - s))
        of_g = np.concatenate([-constant * of_x, constant * of_x])
    return losses.mean(), of_g[:, None] * slope / len(losses)


every = pytest.mark.parametrize(("goodness", "loss"), [*product(GOODNESS, LOSSES)])


@every
@pytest.mark.parametrize("constant", [0.3, 5.0])
@pytest.mark.parametrize("pairs", [1, 7])
def test_a_loss_and_its_gradient_match_numpy(goodness, loss, constant, pairs):
    h = np.random.default_rng(pairs).normal(scale=0.6, size=(2 * pairs, SIZE))
    given = torch.from_numpy(h).requires_grad_()
    found = PairLoss(goodness, loss, constant)(given, None)
    found.backward()
    expected, gradient = reference(goodness, loss, constant, h)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(given.grad, gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("goodness", GOODNESS)
@pytest.mark.parametrize("negatives", [1, 2, 6])
def test_softmax_over_several_negatives_matches_numpy(goodness, negatives):
    h = np.random.default_rng(negatives).normal(scale=0.6, size=((1 + negatives) * 5, SIZE))
    given = torch.from_numpy(h).requires_grad_()
    found = PairLoss(goodness, "softmax", 1.7, negatives)(given, None)
    found.backward()
    expected, gradient = reference(goodness, "softmax", 1.7, h, negatives)
    assert found.item() == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(given.grad, gradient, rtol=1e-10, atol=1e-14)
    if negatives == 1:
        other = PairLoss(goodness, "symba", 1.7)(torch.from_numpy(h), None)
        assert found.item() == pytest.approx(other.item(), rel=1e-12)


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [0.0, 1.0, 100.0])
def test_rows_that_are_alike_give_finite_numbers_in_every_precision(goodness, loss, dtype, value):
    h = torch.full((2, 2000), value, dtype=dtype, requires_grad=True)
    found = PairLoss(goodness, loss, 4.0)(h, None)
    found.backward()
    assert found.dtype == torch.float32
    assert torch.isfinite(found)
    assert torch.isfinite(h.grad).all()
    assert value or not h.grad.any()


def constants(name, goodness, **settings):
    _, _, units = make(name, goodness=goodness, **settings)
    return {unit.heads[str(unit.first)].constant for unit in units}


@pytest.mark.parametrize("name", ["forward-forward", "hybrid-forward-forward"])
@pytest.mark.parametrize(("goodness", "tenth"), [("sum_squares", 2.4), ("mean_squares", 0.1), ("norm", 2.4**0.5)])
def test_a_loss_has_a_threshold_or_an_alpha_of_its_own(name, goodness, tenth):
    """The default threshold is the goodness at a mean square of a tenth."""
    assert [*constants(name, goodness, width=SIZE)] == [pytest.approx(tenth)]
    assert constants(name, goodness, threshold=3.5) == {3.5}
    assert constants(name, goodness, loss="symba") == {4.0}
    assert constants(name, goodness, loss="swish") == {6.0}
    assert constants(name, goodness, loss="swish", alpha=0.5) == {0.5}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"loss": "swish", "threshold": 2.0},
            "threshold is 2.0, and loss swish has none: leave it out, or choose soft",
        ),
        (
            {"loss": "symba", "threshold": 0.0},
            "threshold is 0.0, and loss symba has none: leave it out, or choose soft",
        ),
        ({"alpha": 4.0}, "alpha is 4.0, and loss softplus has none: leave it out, or choose another"),
        ({"loss": "swish", "alpha": 0.0}, "alpha is 0.0: it must be above 0"),
        ({"loss": "hinge"}, "loss is 'hinge': choose one of softplus, symba, swish"),
    ],
)
def test_what_a_loss_does_not_have_is_refused_in_a_line(settings, said):
    for name in ("forward-forward", "hybrid-forward-forward"):
        with pytest.raises(SettingError, match=said) as refused:
            METHODS.load(name)(**settings)
        assert "\n" not in str(refused.value)
    with pytest.raises(SettingError, match="^method." + said):
        RunConfig(method={"name": "forward-forward", **settings})
