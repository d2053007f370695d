"""What methods of pairs share: a goodness that is to be high for positives and low for negatives."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator
from torch import Tensor, nn

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import BlockInfo, size
from ffmodels.goodness import GOODNESS, LOSSES
from ffmodels.methods.base import Method

# As published, with mean_squares; of one negative, softmax is symba.
ALPHA = {"symba": 4.0, "swish": 6.0, "softmax": 4.0}


class PairMethod(Method):
    """A method whose rows are positives, then each time as many negatives, told apart by the goodness of each block."""

    reads_length = True

    goodness: Literal["sum_squares", "mean_squares", "norm"] = setting(
        "sum_squares", description="Goodness of a block's activation."
    )
    loss: Literal["softplus", "symba", "swish"] = setting(
        "softplus", description="Loss of a pair: softplus holds both against a threshold, the others each other."
    )
    threshold: float | None = setting(
        None, description="Threshold theta of softplus. [default: the goodness at a mean square of 0.1]"
    )
    alpha: float | None = setting(
        None, gt=0, description="Factor of the difference in symba and swish. [default: 4 in symba, 6 in swish]"
    )

    @model_validator(mode="after")
    def _of_the_loss(self) -> Self:
        """Raises SettingError for a setting that the loss does not have."""
        name, having = ("threshold", "softplus") if self.loss in ALPHA else ("alpha", "another")
        if (value := getattr(self, name)) is not None:
            raise SettingError(f"{name} is {value}, and loss {self.loss} has none: leave it out, or choose {having}")
        return self

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns the loss of a block's activation."""
        if self.loss in ALPHA:
            return PairLoss(self.goodness, self.loss, self.alpha or ALPHA[self.loss], self.negatives(classes))
        usual = GOODNESS[self.goodness].at(0.1, size(block.shape))  # a tenth of D, of the recipe in docs/results.md
        return PairLoss(self.goodness, self.loss, usual if self.threshold is None else self.threshold)

    def negatives(self, classes: int) -> int:
        """Returns how many negatives a positive has."""
        return 1


class PairLoss(nn.Module):
    """The loss of a block's activation; nothing to train.

    Args:
        goodness: a name in `GOODNESS`.
        loss: a name in `LOSSES`.
        constant: theta of softplus, alpha of the others.
        negatives: of each positive.
    """

    def __init__(self, goodness: str, loss: str, constant: float, negatives: int = 1) -> None:
        super().__init__()
        self.negatives = negatives
        self.goodness, self.loss, self.constant = GOODNESS[goodness], LOSSES[loss], constant

    def forward(self, h: Tensor, batch: object) -> Tensor:
        """Returns the mean loss of the positives, each beside its negatives."""
        goodness_NB = self.goodness.of(h).view(1 + self.negatives, -1)
        return self.loss(goodness_NB[0], goodness_NB[1:], self.constant).mean()
