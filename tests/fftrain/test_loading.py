from __future__ import annotations

import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.draws import Draws
from ffmodels.run import Run
from fftrain.loading import pretext_data
from fftrain.training import pretrain
from tests.fftrain.training import SMALL, data_of, settings


def test_pretext_labels_are_drawn_once_and_say_what_was_done(trained, monkeypatch):
    run, data = Run.load(trained / "ff"), data_of(settings("ff", dataset="digits"))
    found = pretext_data(run, data)
    assert found.class_names == ("0", "90", "180", "270")
    for name in ("train", "validation", "test"):
        split, whole = found.split(name), data.split(name)
        turned = [torch.rot90(image, int(k), (1, 2)) for image, k in zip(whole.images, split.labels, strict=True)]
        assert torch.equal(split.images, torch.stack(turned))
    monkeypatch.setattr("fftrain.memory.BYTES", 4 * 28 * 28 * 7)  # seven images at once
    again = pretext_data(run, data)
    assert torch.equal(again.test.labels, found.test.labels)
    assert torch.equal(again.test.images, found.test.images)
    assert torch.equal(found.test.labels, Draws(0, 2, torch.arange(len(data.test))).integers("pretext", 0, 4))


def test_a_view_that_makes_no_labels_has_no_pretext_data(tmp_path):
    config = settings("bp", view="plain", **{**SMALL, "epochs": 0})
    pretrain(config, tmp_path / "run")
    with pytest.raises(SettingError, match="view makes no labels: leave --target out"):
        pretext_data(Run.load(tmp_path / "run"), data_of(config))
