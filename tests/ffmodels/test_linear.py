from __future__ import annotations

import numpy as np
import pytest
import torch

from ffcore.errors import RunError
from ffmodels import linear
from ffmodels.linear import LinearHead, Standardisation, blocks_name, last_blocks, load_head
from ffmodels.run import save_weights


def test_standardisation_agrees_with_numpy_where_float32_sums_do_not(monkeypatch):
    values = 1000 + np.random.default_rng(0).normal(size=(2000, 7)) * np.logspace(-2, 2, 7)
    values[:, 3] = 0.1
    values = values.astype(np.float32)
    for most in (linear.BYTES, 8 * 7 * 3, 1):  # chunks of 512 rows, of 3 and of 1
        monkeypatch.setattr(linear, "BYTES", most)
        found = Standardisation.of(torch.from_numpy(values))
        wide = values.astype(np.float64)
        np.testing.assert_allclose(found.mean_F.numpy(), wide.mean(0), rtol=1e-7)
        np.testing.assert_allclose(found.std_F.numpy(), wide.std(0), rtol=1e-6, atol=1e-12)
        assert found.scale_F[3] == 0


def test_standardisation_folds_into_the_head():
    features = torch.rand(500, 6) * torch.tensor([1.0, 5.0, 0.1, 20.0, 1.0, 0.0]) + 3
    standardisation = Standardisation.of(features)
    weight, bias = torch.randn(4, 6), torch.randn(4)
    folded = LinearHead.folded(weight, bias, standardisation)
    expected = (features - features.mean(0)) / features.std(0, correction=0).clamp(min=1e-6)
    expected[:, 5] = 0  # a dead unit tells nothing
    torch.testing.assert_close(folded(features), expected @ weight.T + bias, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(standardisation.apply_(features.clone()), expected, rtol=1e-4, atol=1e-4)
    assert torch.equal(folded.linear.weight[:, 5], torch.zeros(4))


def test_blocks_are_named_as_people_count_them():
    assert [blocks_name(blocks) for blocks in ((0,), (1,), (1, 2, 3))] == ["block1", "block2", "blocks2-4"]
    assert [last_blocks(count) for count in (1, 2, 3, 5)] == [(0,), (0, 1), (0, 1, 2), (2, 3, 4)]


def test_a_head_comes_back_and_one_of_another_shape_is_refused(tmp_path):
    head = LinearHead(3, 2)
    save_weights(head, tmp_path / "head.safetensors")
    loaded = load_head(tmp_path / "head.safetensors", 3, 2)
    assert torch.equal(loaded.linear.weight, head.linear.weight)
    assert not loaded.training
    with pytest.raises(RunError, match="does not fit"):
        load_head(tmp_path / "head.safetensors", 4, 2)
