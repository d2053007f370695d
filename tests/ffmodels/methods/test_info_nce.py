from __future__ import annotations

import numpy as np
import pytest
import torch

from ffmodels.contrast import nce_loss
from ffmodels.parts import METHODS
from tests.ffmodels.making import K, batch, losses_of, make, projections

SMALL = {"projector": 8}


@pytest.mark.parametrize("supervised", [False, True])
def test_each_block_has_the_loss_of_its_own_projections_of_the_two_views(supervised):
    method, backbone, units = make("info-nce", projector=8, supervised=supervised, temperature=0.5)
    data = batch(views=2)
    found = losses_of(method, units, data)
    labels = data.labels if supervised else torch.arange(len(data.labels))
    for block, one, other in projections(backbone, units, data):
        rows = torch.from_numpy(np.concatenate([one, other]))
        assert found[block] == pytest.approx(nce_loss(rows, labels.repeat(2), 0.5).item(), rel=1e-4)


@pytest.mark.parametrize("supervised", [False, True])
def test_it_takes_full_batches_of_two_views_and_labels_where_it_is_supervised(supervised):
    method = METHODS.load("info-nce")(supervised=supervised)
    needs = method.needs()
    assert (needs.labels, needs.views, needs.partner, needs.drop_last) == (supervised, 2, False, True)
    assert method.readout(None, None, {}, K) is None
