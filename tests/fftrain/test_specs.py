"""The specs that come along or stand in the documentation are legal, and hold what they promise."""

from __future__ import annotations

import tomllib

import pytest

from ffcore.errors import SettingError
from fftrain.study import PRESETS, choose, plan, read_preset
from tests.fftrain.studies import folder_of_images
from tests.helpers import ROOT

# The methods of the study.
STUDIED = {"ff", "bp", "bp-goodness-last", "bp-goodness-all", "ff-unsupervised"}
SPECS = sorted((ROOT / "docs" / "specs").glob("*.toml"))
# Whose cells take seconds to be planned.
LONG = {"matrix", "matrix-2000", "redundancy", "goodness", "goodness-conv-10k"}
LONG |= {"depth", "depth-10k", "depth-resnet18", "depth-resnet18-10k", "tasks", "tasks-10k"}
CROSS_ENTROPY = ("local-ce", "cross-entropy cut=never")


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory):
    """A folder with small ones of those that the specs name, with their classes and as many images as they ask for."""
    folder = tmp_path_factory.mktemp("specs")
    folder_of_images(folder / "data" / "cifar10-jpeg", [32] * 200, classes=10)
    folder_of_images(folder / "photos", [28] * 200)
    return folder


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_legal_and_hold_what_they_promise(name):
    cells = plan(read_preset(name), name).cells
    assert {cell.config.label for cell in cells} == STUDIED
    if name == "paper":
        assert {c.config.dataset for c in cells} == {"mnist", "fashion-mnist", "svhn", "cifar10"}
        assert {c.config.view.part_name for c in cells} == {"rotation", "flip-h", "flip-hv", "jigsaw", "plain"}
        assert {c.config.seed for c in cells} == {0, 1, 2}
        protocol = {(c.config.epochs, c.config.lr, c.config.holdout) for c in cells}
        assert protocol == {(60, 1e-4, False)}
        assert {(c.config.backbone.width, c.config.backbone.depth) for c in cells} == {(2000, 4)}
        probes = [e.evaluation for c in cells for e in c.evaluations if e.evaluation.called == "linear"]
        assert {probe.epochs for probe in probes} == {100}
        assert all(
            {"linear", "decoder", "tsne", "similarity"} <= {e.evaluation.called for e in c.evaluations} for c in cells
        )
    with pytest.raises(SettingError, match=r"--preset is 'papper': choose one of paper, quick, smoke"):
        read_preset("papper")


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, marks=[pytest.mark.slow] * (p.stem in LONG)) for p in SPECS],
    ids=lambda path: path.stem,
)
def test_the_specs_of_the_results_are_legal(path, stand_ins, monkeypatch):
    """Each stands for as many cells as docs/results.md says."""
    monkeypatch.chdir(stand_ins)
    counts = {"mnist": 29, "fashion-mnist": 5, "cifar10-jpeg": 4, "gap": 4, "gap-plain-probe": 3, "width": 2}
    counts |= {"shipped": 1, "search-1": 46, "search-2": 23, "search-3": 4, "search-rates": 9}
    counts |= {"claim-cifar10": 18, "scff-mnist": 3, "predsim-mnist": 12, "ff-mended": 18, "ff-overlap": 9}
    counts |= {"channelwise-cifar10": 6, "info-nce-cifar10": 9, "predsim-cifar10": 9, "matrix": 180}
    counts |= {"scff-cifar10": 4, "claim-mnist": 18, "claim-cifar10-long": 2, "claim-search": 18, "redundancy": 108}
    counts |= {"goodness": 72, "matrix-2000": 54, "depth": 126, "depth-resnet18": 36, "tasks": 22, "colour": 2}
    counts |= {"depth-10k": 144, "depth-resnet18-10k": 30, "tasks-10k": 22}
    counts |= {"goodness-conv-10k": 48, "losses-10k": 45}
    counts |= {"study-formula": 60, "swish-search": 8, "study-formula-cifar10": 3, "study-formula-full": 3, "theta": 22}
    cells = choose(None, path, None, {}).cells
    assert len(cells) == counts[path.stem]
    for method in (cell.config.method for cell in cells):  # none goes by a default that another version may change
        assert getattr(method, "threshold", 0.0) is not None or method.loss != "softplus"


def test_the_spec_that_the_documentation_shows_is_legal(stand_ins, monkeypatch):
    monkeypatch.chdir(stand_ins)
    text = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    cells = plan(tomllib.loads(text.partition("```toml")[2].partition("```")[0]), "docs").cells
    found = dict.fromkeys((cell.config.view.part_name, cell.config.label) for cell in cells)
    assert [*found] == [
        *(("plain", label) for label in ("ff", "bp")),
        *((v, m) for v in ("rotation", "jigsaw") for m in ("ff", "bp-goodness-all", *CROSS_ENTROPY)),
    ]
    # Two rates, or BP's own; two widths; three seeds; two data sets.
    assert len(cells) == (24 + 12) + 2 * 4 * 24
