"""The metadata of an ONNX file, beside what the onnx package reads."""

from __future__ import annotations

import io
import os

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from ffcore.errors import ModelError
from ffserve.about import stored_metadata
from ffserve.session import Model
from tests.ffserve.limited import limited
from tests.helpers import python

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)


def read(content):
    return stored_metadata(io.BytesIO(content), len(content))


def model(metadata=(), initializer=()):
    """An ONNX model of another program."""
    node = helper.make_node("Identity", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    proto = helper.make_model(helper.make_graph([node], "graph", ends[:1], ends[1:], initializer))
    for key, value in dict(metadata).items():
        proto.metadata_props.add(key=key, value=value)
    return proto


@given(st.dictionaries(TEXT, TEXT, max_size=4), st.integers(-(2**63), 2**63 - 1))
def test_what_is_stored_is_what_the_onnx_package_reads(metadata, number):
    proto = model(metadata)
    proto.model_version = number
    assert read(proto.SerializeToString()) == {p.key: p.value for p in proto.metadata_props} == metadata


@given(st.binary(max_size=200) | st.integers(0, 400).map(lambda cut: model({"a": "b" * 200}).SerializeToString()[:cut]))
def test_any_bytes_are_metadata_or_a_value_error(content):
    try:
        found = read(content)
    except ValueError:
        return
    assert all(isinstance(text, str) for pair in found.items() for text in pair)


def test_metadata_have_a_limit():
    with pytest.raises(ValueError, match="more than 16,777,216 bytes of metadata"):
        read(model({str(i): "x" * 2**20 for i in range(17)}).SerializeToString())


def test_a_large_file_of_another_program_is_refused_unread(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model().SerializeToString())
    with path.open("ab") as file:  # a graph of 1.9 GB, which takes no room on the disk
        size = 1_900_000_000
        length = bytes([size >> shift & 127 | (128 if shift < 28 else 0) for shift in range(0, 35, 7)])
        file.write(b"\x3a" + length)
        file.truncate(file.tell() + size)
    ended, peak = limited("predict", tmp_path, "--model", path)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1)
    assert b"model.onnx is of another program" in ended.stderr
    assert peak < 200 * 2**20


def test_a_bomb_of_another_program_is_never_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr("ffserve.session.open_session", lambda *_, **__: pytest.fail("it was loaded"))
    weight = numpy_helper.from_array(np.zeros(3, np.float32), "w")
    onnx.save(model(initializer=[weight]), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="of another program"):
        Model(tmp_path / "model.onnx")


def test_the_runtime_leaves_nothing_in_the_home_folder(tmp_path, make_model):
    ended = python(
        "-m", "ffserve", "info", make_model().path, env={**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": ""}
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [*tmp_path.rglob("deviceid"), *tmp_path.rglob("*.db")] == []
