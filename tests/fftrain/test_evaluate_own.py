"""Evaluations and networks of somebody's own are measured as those that come along."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ffcore.plugins import trust
from ffmodels.evaluated import lines
from ffmodels.run import load_encoder
from fftrain import compare_runs, load_data
from fftrain.config import DataSettings
from fftrain.features import choices, name_of
from tests.fftrain.evaluating import NAMES, contents, told
from tests.helpers import one_line

MINE = """
from ffcore.settings import setting
from fftrain.evaluations.base import Evaluation

class Mine(Evaluation):
    \"\"\"Counts.\"\"\"

    by: float = setting(1.0, description="What a feature counts.")

    def measure(self, subject):
        if subject.main:
            yield {"measure": "images", "value": len(subject.data.train)}
        for choice in subject.choices():
            yield {"measure": "features", "blocks": choice.name, "value": self.by * choice.features.train.shape[1]}
"""


def test_an_evaluation_of_ones_own_may_tell_of_no_split(cli, run_copy, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    words = ["evaluate", run_copy, mine, "mine.by=0.5", "--threads", 1]
    ended = cli("fftrain", *words, "--json")
    assert ended.code == 0, ended.err
    [found] = ended.json["evaluations"]
    assert (found["evaluation"], found["settings"]["evaluation"]["by"]) == ("mine", 0.5)
    assert not any("split" in record for record in found["records"])
    values = {(r["source"], r["measure"], r.get("blocks", "")): r["value"] for r in found["records"]}
    count = len(load_data(DataSettings(dataset="digits")).train)
    dims = dict(zip(NAMES, [24.0] * 4 + [72.0], strict=True))
    assert values == {
        **{(source, "images", ""): count for source in ("raw", "random", "ff")},
        ("raw", "features", "pixels"): 392.0,
        **{(source, "features", name): dim for source in ("random", "ff") for name, dim in dims.items()},
    }
    rows = lines(found["records"])
    assert rows[0] == {"measure": "images", "features of": "raw", "blocks": "", "value": f"{count:,}"}
    assert rows[1]["value"] == "392.0000"
    before = contents(run_copy)
    ended = cli("fftrain", *words)
    assert "392.0000" in ended.out
    assert contents(run_copy) == before
    mine.write_text(MINE.replace("Counts", "Counts what there is"))  # other code may tell something else
    [other] = cli("fftrain", *words, "--json").json["evaluations"]
    assert other["file"] != found["file"]
    assert not Path(found["file"]).exists()


@pytest.mark.parametrize("value", ["float('nan')", "float('inf')", "'much'", "True", "None"])
def test_what_is_no_number_is_refused_and_not_kept(cli, run_copy, tmp_path, value):
    mine = tmp_path / "mine.py"
    mine.write_text(re.sub(r'"value": [^}]*}', f'"value": {value}}}', MINE))
    before = contents(run_copy)
    ended = cli("fftrain", "evaluate", run_copy, mine, "--threads", 1)
    one_line(ended, 2, "evaluation mine gave a record that is not of a number", "nothing of it is kept")
    assert contents(run_copy) == before


FUNNEL = """
from torch import nn
from ffcore.settings import setting
from ffmodels.backbones.base import Backbone, BackboneSettings, size

class Funnel(BackboneSettings):
    \"\"\"A convolution, then ever narrower blocks.\"\"\"

    channels: int = setting(6, ge=1, description="Of the convolution.")

    def make(self, shape):
        conv = nn.Sequential(nn.Conv2d(shape[0], self.channels, 3, padding=1, stride=4), nn.ReLU())
        flat = nn.Sequential(nn.Flatten(), nn.Linear(self.channels * (shape[1] // 4) * (shape[2] // 4), 40), nn.ReLU())
        narrow = nn.Sequential(nn.Linear(40, 17), nn.ReLU())
        return Backbone(nn.Identity(), [conv, flat, narrow], shape=shape, between=self.between)
"""


def test_a_backbone_of_ones_own_whose_blocks_differ_in_width_is_read_by_its_activations(cli, tmp_path):
    mine = tmp_path / "funnel.py"
    mine.write_text(FUNNEL)
    run = tmp_path / "run"
    options = ["--recipe", "bp", "--dataset", "digits", "--backbone", mine, "--epochs", 3, "--lr", 3e-3, "--threads", 1]
    ended = cli("fftrain", "pretrain", *options, "backbone.channels=5", "--out", run)
    assert ended.code == 0, ended.err
    trust(str(mine))
    found = load_encoder(run)
    assert found.dims == (5, 40, 17)
    words = ["linear", "linear.epochs=20", "decoder", "decoder.images=100", "tsne", "tsne.points=20", "readout"]
    ended = cli("fftrain", "evaluate", run, *words, "--threads", 1, "--trust-plugin", mine)
    assert ended.code == 0, ended.err
    results = told(run)
    test = load_data(DataSettings(dataset="digits")).test
    with torch.no_grad():
        features = found(test.images.float() / 255)
    rows = {r["blocks"]: r["value"] for r in results["linear"].records if (r["source"], r["split"]) == ("bp", "test")}
    assert [*rows] == ["block1", "block2", "block3", "blocks1-3"]
    for blocks in choices(found):
        head = load_file(run / "probes" / "digits-pixels" / f"{name_of(blocks)}.safetensors")
        assert head["linear.weight"].shape == (10, sum(found.dims[i] for i in blocks))
        logits = torch.cat([features[i] for i in blocks], 1) @ head["linear.weight"].T + head["linear.bias"]
        measured = (logits.argmax(-1) == test.labels).double().mean().item()
        assert measured == pytest.approx(rows[name_of(blocks)], abs=1.5 / len(test))
    assert rows["block2"] > 0.6
    with np.load(results["tsne"].arrays) as file:
        assert sorted(file) == ["block1", "block2", "block3", "labels"]
    decoded = {name: results["decoder"].value(split="test", source="bp", blocks=name) for name in rows}
    assert decoded["blocks1-3"] > decoded["block2"] > decoded["block3"] > 0.05
    compared = compare_runs(run, run, images=40)
    assert compared["blocks"] == ["block1", "block2", "block3"]
    np.testing.assert_allclose(np.diag(compared["cka"]), 1)
