"""What methods of pairs share: a goodness that is to be high for positives and low for negatives."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BlockInfo, size
from ffmodels.goodness import GOODNESS, ff_loss
from ffmodels.methods.base import Method


class PairMethod(Method):
    """A method whose rows are positives, then as many negatives, told apart by the goodness of each block."""

    goodness: Literal["sum_squares", "mean_squares", "norm"] = setting(
        "sum_squares", description="Goodness of a block's activation."
    )
    threshold: float | None = setting(
        None, description="Threshold theta of the goodness. [default: its value at a mean square of 0.1]"
    )

    def check(self, backbone: Backbone, classes: int) -> None:
        """Raises SettingError where goodness could be read off a length that is handed on."""
        if backbone.between == "none":
            raise SettingError(
                f"backbone.between is none, and {self.part_name} would read its goodness off the length of the block "
                "below: choose rms or layer"
            )

    def head(self, block: BlockInfo, classes: int) -> nn.Module:
        """Returns the FF loss of a block's activation."""
        return PairLoss(self.goodness, self.threshold, size(block.shape))


class PairLoss(nn.Module):
    """The FF loss of a block's activation; nothing to train.

    Args:
        goodness: a name in `GOODNESS`.
        threshold: theta; None means the goodness at a mean square of 0.1, the tenth of D that docs/results.md found.
        size: D.
    """

    def __init__(self, goodness: str, threshold: float | None, size: int) -> None:
        super().__init__()
        self.goodness = GOODNESS[goodness]
        self.threshold = self.goodness.at(0.1, size) if threshold is None else threshold

    def forward(self, h: Tensor, batch: object) -> Tensor:
        """Returns the mean FF loss of the pairs."""
        positive_B, negative_B = self.goodness.of(h).chunk(2)
        return ff_loss(positive_B, negative_B, self.threshold).mean()
