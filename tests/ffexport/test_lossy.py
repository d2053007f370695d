"""Lower precisions: what they keep, what they cost, and what is refused."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from ffcore.errors import DataError, ExportError, ImageError, SettingError
from ffcore.files import read_json
from ffcore.images import from_array
from ffexport import quantise
from ffexport.export import export_run
from ffexport.making import CLEARLY, _best
from ffexport.registry import PRECISIONS, SCHEMES, choose_formats, load_format
from ffexport.subject import load_subject
from ffexport.validation import LOST_ACCURACY, OTHER_CLASSES, at_most, check_validation, read_validation
from ffmodels.run import Run
from ffserve import Model
from ffserve.metadata import SUFFIXES
from tests.ffexport.checks import PROBE, content, metadata, probe_of, reference, samples


@pytest.mark.parametrize("name", ["onnx", "torchscript"])
def test_fp16_is_half_as_large_and_rounds_the_weights_alone(trained, exported, name):
    suffix = SUFFIXES[name]
    path, exact = (exported["ff"] / f"model{part}{suffix}" for part in (".fp16", ""))
    about = read_json(exported["ff"] / "manifest.json")["files"][path.name]
    weights = 2 * (784 * 48 + 3 * 48 * 48)
    assert (
        exact.stat().st_size - path.stat().st_size > 0.8 * weights
    )  # the exporter of ONNX keeps small ones in float32
    images = samples(trained / "ff")
    found = load_format(name).load(path)(images)
    assert all(output.dtype == np.float32 for output in found)
    blocks = probe_of(trained, "ff").about["blocks"]
    expected = reference(trained / "ff", blocks, "neutral", images, precision=np.float16)
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4)
    assert about["validation"]["same_class"] >= 0.98
    assert about["validation"]["accuracy_fp32"] - about["validation"]["accuracy"] <= 1 / 64
    assert about["parity"]["real"]["256"]["relative_error"] < about["atol"] == 1e-2


def test_a_torchscript_in_half_becomes_float_again(trained, exported):
    with pytest.warns((FutureWarning, DeprecationWarning)):
        module = torch.jit.load(str(exported["ff"] / "model.fp16.ts"))
    images = torch.from_numpy(samples(trained / "ff"))
    before = [output.clone() for output in module(images)]
    assert {p.dtype for p in module.parameters()} == {torch.float16, torch.float32}
    module.float()
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    torch.testing.assert_close(list(module(images)), before)


def test_nothing_overflows_where_half_would(trained, run_copy):
    from safetensors.torch import load_file, save_file

    path = run_copy / "backbone.safetensors"
    weights = load_file(path)
    for part in ("weight", "bias"):
        weights[f"blocks.0.0.{part}"] *= 3e4  # sums of squares far above what half holds
    save_file(weights, path)
    written = export_run(run_copy, ["torchscript"], precision="fp16", head="none")["files"]["model.features.fp16.ts"]
    assert written["parity"]["real"]["256"]["relative_error"] < 1e-3


def test_int8_quantises_the_backbones_products_alone(exported):
    path = exported["ff"] / "model.int8.onnx"
    types = {i.name: i.data_type for i in onnx.load(path).graph.initializer if len(i.dims) == 2}
    assert {TensorProto.INT8} == {kind for name, kind in types.items() if "blocks" in name}
    assert {TensorProto.FLOAT} == {kind for name, kind in types.items() if "head" in name}
    assert path.stat().st_size < (exported["ff"] / "model.onnx").stat().st_size / 2


def test_int8_answers_nearly_as_the_model_does_and_says_how_nearly(trained, exported):
    about = read_json(exported["ff"] / "manifest.json")["files"]["model.int8.onnx"]
    blocks = probe_of(trained, "ff").about["blocks"]
    images = samples(trained / "ff")
    expected = reference(trained / "ff", blocks, "neutral", images)
    found = Model(exported["ff"] / "model.int8.onnx").run(images)["features"]
    assert np.linalg.norm(found - expected) / np.linalg.norm(expected) < 0.05
    int8 = about["int8"]
    assert int8["tried"].keys() == set(SCHEMES)
    assert int8["tried"][int8["scheme"]] == about["validation"]
    assert about["validation"]["images"] == 64
    assert int8["calibration_images"] == (32 if int8["scheme"] == "static" else 0)
    assert int8["cpu"].keys() == {"machine", "model", "avx512_vnni", "avx_vnni"}
    assert metadata(exported["ff"] / "model.int8.onnx")["int8"] == int8["scheme"]
    card = (exported["ff"] / "card.md").read_text()
    assert f"{int8['scheme']}, on {int8['cpu']['model']}" in card


def test_static_int8_gives_an_image_the_same_in_any_batch(trained, traced, tmp_path):
    written = export_run(trained / "ff", precision="int8", int8="static", probe=PROBE, out=tmp_path)["files"]
    assert written["model.int8.onnx"]["int8"]["tried"].keys() == {"static"}
    run = load_format("onnx").load(tmp_path / "model.int8.onnx")
    images = samples(trained / "ff")
    many = run(images)[0]
    alone = np.concatenate([run(images[i : i + 1])[0] for i in range(len(images))])
    away = np.abs(alone - many).max(1)
    assert (away < 1e-5).mean() > 0.9  # a value between two steps may be rounded the other way
    assert away.max() < 0.5


def test_the_first_scheme_stays_unless_another_is_clearly_better():
    def tried(first, second, **classes):
        return {
            name: {"validation": {"relative_error": error, **classes}}
            for name, error in zip(SCHEMES, (first, second), strict=True)
        }

    assert _best(tried(0.02, 0.02 - CLEARLY / 2)) == "static"
    assert _best(tried(0.02, 0.02 - 2 * CLEARLY)) == "dynamic"
    assert _best(tried(0.02, 0.0, same_class=0.99)) == "static"
    assert _best({None: {"validation": None}}) is None


def spoilt(proto, calibration):
    """A scheme that loses the weights of the first block."""
    from onnx import numpy_helper

    for initializer in proto.graph.initializer:
        if initializer.name.startswith("encoder.backbone.blocks.0"):
            zeros = np.zeros(tuple(initializer.dims), dtype=np.float32)
            initializer.CopyFrom(numpy_helper.from_array(zeros, initializer.name))
    return proto


@pytest.mark.slow
def test_a_scheme_that_fails_gives_way_and_if_all_fail_nothing_is_written(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(quantise, "static", spoilt)
    bare = {"precision": "int8", "head": "none"}  # classes of so small a model change with any rounding
    written = export_run(trained / "ff", **bare, out=tmp_path)["files"]["model.features.int8.onnx"]["int8"]
    assert written["scheme"] == "dynamic"
    assert "differs" in written["tried"]["static"]["error"]
    before = content(tmp_path)
    monkeypatch.setattr(quantise, "dynamic", spoilt)
    with pytest.raises(ExportError, match=r"output features differs by .* of its size from the model on 256 real"):
        export_run(trained / "ff", **bare, out=tmp_path)
    with pytest.raises(ExportError):
        export_run(trained / "ff", **bare, out=tmp_path / "new")
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"images": 64, "same_class": 63 / 64, "accuracy": 0.9, "accuracy_fp32": 0.9 + 1 / 64}, None),
        ({"images": 64, "relative_error": 0.01}, None),
        ({"images": 1000, "same_class": 0.965, "accuracy": 0.89, "accuracy_fp32": 0.9}, None),
        ({"images": 64, "same_class": 58 / 64, "accuracy": 0.9, "accuracy_fp32": 0.9 + 3 / 64}, None),
        ({"images": 64, "same_class": 57 / 64}, "10.9% of 64 validation images get another class"),
        ({"images": 1000, "same_class": 0.964}, "3.6% of 1000 validation images get another class"),
        ({"images": 10**6, "same_class": 0.979}, "2.1% of 1000000 validation images get another class"),
        ({"images": 1000, "same_class": 1.0, "accuracy": 0.889, "accuracy_fp32": 0.9}, "falls by 1.10 points"),
        ({"images": 64, "same_class": 1.0, "accuracy": 0.8, "accuracy_fp32": 0.9}, "falls by 10.00 points"),
    ],
)
def test_what_validation_images_may_lose(figures, message):
    if message is None:
        check_validation(figures)
    else:
        with pytest.raises(ExportError, match=message):
            check_validation(figures)


@pytest.mark.parametrize("images", [64, 359, 1000, 5000])
@pytest.mark.parametrize("share", [OTHER_CLASSES, LOST_ACCURACY])
def test_a_file_at_the_limit_is_refused_once_in_hundreds(share, images):
    shown = np.random.default_rng(0).binomial(images, share, 100_000) / images
    assert 1e-5 < (shown > at_most(share, images)).mean() < 3e-3


def test_validation_images_come_from_class_folders(trained, tmp_path):
    images = np.random.default_rng(3).integers(0, 256, (6, 1, 28, 28), dtype=np.uint8)
    for i, image in enumerate(images):
        (tmp_path / str(i % 3)).mkdir(exist_ok=True)
        from_array(image).save(tmp_path / str(i % 3) / f"{i}.png")
    (tmp_path / "0" / "notes.txt").write_text("no image")
    subject = load_subject(Run.load(trained / "ff"))
    found = read_validation(subject, tmp_path)
    assert (found.images == images[[0, 3, 1, 4, 2, 5]]).all()
    assert found.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(found.calibration) == 3
    # The classes of another head are not the folders': they are not compared.
    assert read_validation(load_subject(Run.load(trained / "ff"), "readout"), tmp_path).labels is None
    (tmp_path / "2" / "bad.png").write_bytes(b"bad")
    with pytest.raises(ImageError, match=r"bad\.png"):
        read_validation(subject, tmp_path)
    (tmp_path / "2" / "bad.png").unlink()
    (tmp_path / "2").rename(tmp_path / "eleven")
    with pytest.raises(SettingError, match="has a folder 'eleven', which is no class of the model"):
        read_validation(subject, tmp_path)
    for folder in (tmp_path / "none", tmp_path / "0"):
        with pytest.raises(DataError, match="`fftrain dump-images"):
            read_validation(subject, folder)


def test_all_is_every_format_of_a_precision():
    assert choose_formats(["all"], "fp32") == ["onnx", "torchscript", "pt2"]
    assert choose_formats(["all", "onnx"], "int8") == ["onnx"]
    assert choose_formats(["pt2", "pt2"], "fp16") == ["pt2"]
    with pytest.raises(SettingError, match="--precision int8 is for --format onnx alone, not pt2"):
        choose_formats(["onnx", "pt2"], "int8")
    assert [*PRECISIONS.values()] == [1e-4, 1e-2, 1e-1]


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_weights_use_seven_bits_since_sums_of_eight_saturate_on_some_processors(trained, tmp_path, scheme):
    export_run(trained / "ff", precision="int8", head="none", int8=scheme, out=tmp_path)
    proto = onnx.load(tmp_path / "model.features.int8.onnx")
    found = [onnx.numpy_helper.to_array(t) for t in proto.graph.initializer if t.data_type == TensorProto.INT8]
    weights = [values for values in found if values.ndim == 2]
    assert weights
    assert 32 < max(np.abs(values.astype(int)).max() for values in weights) <= 64


@pytest.mark.slow
def test_weights_that_encoder_and_readout_share_are_halved_too(trained, tmp_path):
    export_run(trained / "ff", precision="fp16", head="readout", out=tmp_path)
    images = Run.load(trained / "ff").samples[0][:7]
    features, logits, _ = load_format("onnx").load(tmp_path / "model.readout.fp16.onnx", threads=1)(images)
    expected = Run.load(trained / "ff").readout()(torch.from_numpy(images).float() / 255)
    assert len(features) == 7
    np.testing.assert_allclose(logits, expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ff", "bp"])
def test_every_head_in_every_precision_and_format(trained, tmp_path, method):
    heads = ("probe", "readout", "none")
    for head in heads:
        for precision in PRECISIONS:
            export_run(trained / method, ["all"], head=head, precision=precision, out=tmp_path)
    assert len(read_json(tmp_path / "manifest.json")["files"]) == 7 * len(heads)
