from __future__ import annotations

import numpy as np
import pytest
import torch

from fftrain import evaluate_run
from fftrain.evaluations import decoder
from fftrain.evaluations.decoder import PENALTIES, decode
from fftrain.features import Features
from tests.fftrain.training import evaluation

SMALL = {"images": 200}

NAMES = ["block1", "block2", "block3", "block4", "blocks2-4"]


@pytest.mark.parametrize("most", [decoder.BYTES, 8 * 90 * 7])  # bytes of a chunk: all at once, or a few rows
@pytest.mark.parametrize("features", [12, 90])  # fewer and more than the 70 training images
def test_the_decoder_is_scikit_learns_ridge_with_the_penalty_that_validation_chooses(monkeypatch, features, most):
    from sklearn.linear_model import Ridge

    rng = np.random.default_rng(0)
    pixels = [rng.integers(256, size=(n, 20), dtype=np.uint8) for n in (70, 30, 40)]
    mixing = rng.normal(size=(20, features))
    inputs = [(p / 255) @ mixing + 0.3 * rng.normal(size=(len(p), features)) for p in pixels]
    # Away from the middle, and of other scales: the decoder centres them and divides all by one scale.
    inputs = [(x * np.linspace(1, 3, features) + 7).astype(np.float32) for x in inputs]
    monkeypatch.setattr(decoder, "BYTES", most)
    found = decode(Features(*map(torch.from_numpy, inputs)), Features(*map(torch.from_numpy, pixels)))

    def explained(penalty, split):
        x, y = inputs[0].astype(np.float64), pixels[0] / 255
        scale = np.sqrt(x.var(0).mean())
        ridge = Ridge(alpha=penalty * len(x)).fit(x / scale, y)
        target = pixels[split] / 255
        return 1 - ((target - ridge.predict(inputs[split] / scale)) ** 2).sum() / ((target - y.mean(0)) ** 2).sum()

    by_penalty = {penalty: explained(penalty, 1) for penalty in PENALTIES}
    assert found["penalty"] == max(by_penalty, key=by_penalty.get)
    assert found["validation"] == pytest.approx(by_penalty[found["penalty"]], abs=1e-6)
    assert found["test"] == pytest.approx(explained(found["penalty"], 2), abs=1e-6)


def test_an_invertible_map_keeps_all_pixels_and_noise_none():
    rng = np.random.default_rng(0)
    pixels = Features(*(torch.from_numpy(rng.integers(256, size=(n, 16), dtype=np.uint8)) for n in (400, 100, 100)))
    mixing = torch.from_numpy(np.linalg.qr(rng.normal(size=(16, 16)))[0]).float()
    parts = [(part.float() / 255) @ mixing for part in (pixels.train, pixels.validation, pixels.test)]
    found = decode(Features(*parts), pixels)
    assert found["validation"] > 0.999
    assert found["test"] > 0.999
    noise = Features(*(torch.randn(len(part), 16, generator=torch.Generator().manual_seed(0)) for part in parts))
    assert abs(decode(noise, pixels)["test"]) < 0.1
    blank = Features(*(torch.zeros(len(part), 16, dtype=torch.uint8) for part in parts))
    assert decode(noise, blank)["test"] == 0.0


def test_raw_pixels_are_the_ceiling_whatever_the_reading(run_copy):
    config = evaluation("decoder", images=300)
    found, other = evaluate_run(run_copy, config, config.changed(reading="zeros"))
    rows = {(row["source"], row["blocks"], row["split"]): row["value"] for row in found.records}
    sources = [("raw", "pixels"), *(("random", name) for name in NAMES), *(("ff", name) for name in NAMES)]
    assert [*rows] == [(*source, split) for source in sources for split in ("validation", "test")]
    for split in ("validation", "test"):
        assert rows["raw", "pixels", split] > 0.999
        assert max(row["value"] for row in found.records if row["split"] == split) == rows["raw", "pixels", split]
    assert {row["measure"] for row in found.records} == {"explained variance"}
    assert all(row["penalty"] in PENALTIES for row in found.records)
    assert (found.about["reading"], other.about["reading"]) == ("neutral", "zeros")
    of_pixels = [[row["value"] for row in one.records if row["source"] == "raw"] for one in (found, other)]
    assert of_pixels[0] == of_pixels[1]
    assert not [*run_copy.glob("evaluations/*.npz")]
