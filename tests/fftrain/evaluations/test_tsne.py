from __future__ import annotations

import numpy as np
import pytest

from ffcore.errors import SettingError
from fftrain import evaluate_run, load_data
from fftrain.config import DataSettings
from fftrain.data import sample
from fftrain.evaluations.tsne import embed
from tests.fftrain.training import evaluation

SMALL = {"points": 20}


def test_t_sne_is_the_same_for_the_same_seed_and_takes_any_input():
    features = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    points = embed(features, 5.0, 0)
    assert points.shape == (40, 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    assert np.array_equal(points, embed(features, 5.0, 0))
    assert not np.array_equal(points, embed(features[::-1], 5.0, 1)[::-1])
    assert embed(features[:4], 500.0, 0).shape == (4, 2)  # perplexity beyond the points
    assert np.isfinite(embed(features[:, :1], 5.0, 0)).all()
    assert not embed(np.full_like(features, 0.1), 5.0, 0).any()


def test_points_lie_beside_their_record_and_go_with_it(run_copy):
    [found] = evaluate_run(run_copy, evaluation("tsne", points=40, perplexity=500))
    assert [record["value"] for record in found.records] == [40]
    assert found.settings["evaluation"]["perplexity"] == 500
    with np.load(found.arrays) as file:
        arrays = dict(file)
    assert sorted(arrays) == ["block1", "block2", "block3", "block4", "labels"]
    assert arrays["labels"].dtype == np.int64
    assert np.array_equal(arrays["labels"], sample(load_data(DataSettings(dataset="digits")).validation, 40).labels)
    for i in range(1, 5):
        assert arrays[f"block{i}"].shape == (40, 2)
        assert arrays[f"block{i}"].dtype == np.float32

    [other] = evaluate_run(run_copy, evaluation("tsne", points=40, reading="zeros"))  # beside it
    assert {*run_copy.glob("evaluations/*.npz")} == {found.arrays, other.arrays}
    [again] = evaluate_run(run_copy, evaluation("tsne", points=40))  # in its place
    assert {*run_copy.glob("evaluations/*.npz")} == {again.arrays, other.arrays}
    assert not found.path.exists()


def test_fewer_points_than_have_neighbours_are_refused():
    with pytest.raises(SettingError, match=r"tsne\.points"):
        evaluation("tsne", points=3)
