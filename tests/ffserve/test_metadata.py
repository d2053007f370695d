"""What exported files say of themselves, those of version 0.1 among them."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ffserve import Classifier, Model, find_model
from ffserve.metadata import HEADS, PRECISIONS, SUFFIXES, Named, decode, encode


def test_a_name_tells_what_a_file_is():
    names = [Named(*parts) for parts in itertools.product(HEADS, SUFFIXES, PRECISIONS)]
    assert [Named.of(Path("runs/int8.old") / name.file) for name in names] == names
    assert len({name.file for name in names}) == len(names) == 27
    assert sorted(names, key=lambda name: name.order) == names
    assert Named("probe", "onnx", "fp32").file == "model.onnx"
    assert Named("readout", "onnx", "fp32").file == "model.readout.onnx"
    assert Named("none", "torchscript", "fp16").file == "model.features.fp16.ts"
    assert Named.of(Path("mine.onnx")) == ("probe", "onnx", "fp32")


def test_what_is_written_is_read():
    values = {"format": 1, "class_names": ["é", "1"], "ink": None, "golden": {"tolerance": 0.01}}
    texts = encode(values)
    assert texts["ffstudy.class_names"] == '["é", "1"]'
    assert decode({**texts, "another": "program's"}) == values
    with pytest.raises(ValueError, match="NaN is no number"):
        decode({"ffstudy.border": "NaN"})


@pytest.mark.parametrize(("task", "target"), [("supervised", "class"), ("rotation", "pretext")])
def test_the_readout_of_version_01_is_one(make_model, task, target):
    """Its keys and its file's name were others."""

    def as_then(texts):
        texts |= {"head": '"goodness"', "task": json.dumps(task), "layers": '"layers2-4"', "slot": '"neutral"'}
        texts |= {"goodness": '{"name": "sum_squares", "layers": "layers2-4", "temperature": 3.0}'}

    made = make_model("model.goodness.int8.onnx", about=as_then)
    about = Model(made.path).about
    assert (about.head, about.target) == ("readout", target)
    assert Named.of(made.path) == ("readout", "onnx", "int8")


def test_a_file_that_version_01_exported_is_served():
    """Its code made it: FF on the embedded digits, 2x16, a probe, `ffexport --precision int8`."""
    classifier = Classifier(Path(__file__).parent / "version-0.1.int8.onnx")
    about = classifier.model.about
    assert about.values["version"] == "0.1.0"
    assert {"task", "layers", "slot"} <= about.values.keys()
    assert (about.head, about.target, about.precision) == ("probe", "class", "int8")
    assert about.class_names == tuple("0123456789")
    digits = load_digits()
    found = classifier.predict(list(np.rint(digits.images[:200] * 255 / 16).astype(np.uint8)), top_k=1)
    assert np.mean([int(one.label) == label for one, label in zip(found, digits.target, strict=False)]) > 0.85


def test_the_model_that_ships_is_the_one_of_its_card(monkeypatch):
    monkeypatch.delenv("FFSERVE_MODEL", raising=False)
    classifier = Classifier(find_model())
    path, about = classifier.model.path, classifier.model.about
    card = (path.parent / "card.md").read_text(encoding="utf-8")
    assert f"| mnist.onnx | {path.stat().st_size:,} | {hashlib.sha256(path.read_bytes()).hexdigest()} |" in card
    assert "Accuracy as trained: {validation} on validation, {test} on test.".format(**about.values["probe"]) in card
    assert (about.head, about.target, about.precision) == ("probe", "class", "fp32")
    assert about.class_names == tuple("0123456789")
    one = np.zeros((28, 28), dtype=np.uint8)
    one[4:24, 13:16] = 255
    assert classifier.predict([one], top_k=1)[0].label == "1"
