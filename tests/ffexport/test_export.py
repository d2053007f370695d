from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ffexport.export import export_run, newest_run
from ffexport.graph import load_deployed, probes_of, with_dead_layer
from ffexport.onnx_format import OnnxFormat
from ffexport.parity import check_parity
from ffexport.registry import FORMATS
from ffmodels.errors import ExportError, RunError, SettingError
from ffmodels.files import read_json
from ffserve import Classifier, Model
from tests.helpers import ROOT, one_line, python


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory):
    """Both formats of both small runs: method -> folder."""
    folders = {method: tmp_path_factory.mktemp(method) for method in ("ff", "bp")}
    for method, out in folders.items():
        export_run(trained / method, list(FORMATS), out=out)
    return folders


def reference(run, about, images):
    """What the exported graph shall compute, in NumPy float64 from the run's weights."""
    from safetensors.numpy import load_file

    weights = load_file(run / "backbone.safetensors")
    probe = next((run / "probes").glob(f"*/{about['layers']}.safetensors"))
    chosen = read_json(probe.with_suffix(".json"))
    x = images.reshape(len(images), -1) / 255.0
    if chosen["slot"] == "neutral":
        x[:, : chosen["slot_classes"]] = 1 / chosen["slot_classes"]
    features = []
    for i in range(4):
        x = x / np.maximum(np.sqrt((x**2).mean(1, keepdims=True)), 1e-3)
        weight, bias = (weights[f"layers.{i}.linear.{part}"].astype(np.float64) for part in ("weight", "bias"))
        x = np.maximum(x @ weight.T + bias, 0)
        features.append(x / np.maximum(np.sqrt((x**2).mean(1, keepdims=True)), 1e-3))
    features = np.concatenate([features[i] for i in chosen["layers"]], axis=1)
    head = load_file(probe)
    logits = features @ head["linear.weight"].astype(np.float64).T + head["linear.bias"]
    exp = np.exp(logits - logits.max(1, keepdims=True))
    return {"features": features, "logits": logits, "probabilities": exp / exp.sum(1, keepdims=True)}


@pytest.mark.parametrize("method", ["ff", "bp"])
@pytest.mark.parametrize("batch", [1, 7, 256])
def test_the_file_computes_what_the_weights_say(trained, exported, method, batch):
    model = Model(exported[method] / "model.onnx")
    images = np.random.default_rng(batch).integers(0, 256, (batch, 1, 28, 28), dtype=np.uint8)
    images[0] = 0
    found = model.run(images)
    assert list(found) == ["features", "logits", "probabilities"]
    for name, expected in reference(trained / method, model.about.values, images.astype(np.float64)).items():
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_for_one_image_as_for_many(exported, name):
    form = FORMATS.load(name)
    run = form.load(exported["ff"] / form.file_name)
    images = np.random.default_rng(0).integers(0, 256, (256, 1, 28, 28), dtype=np.uint8)
    many = run(images)
    for i in (0, 17, 255):
        for one, whole in zip(run(images[i : i + 1]), many, strict=True):
            np.testing.assert_allclose(one[0], whole[i], rtol=1e-4, atol=1e-4)


def test_the_manifest_describes_the_files(exported, trained):
    manifest = read_json(exported["ff"] / "manifest.json")
    assert manifest["inputs"] == [{"name": "images", "dtype": "uint8", "shape": ["batch", 1, 28, 28]}]
    assert [output["name"] for output in manifest["outputs"]] == ["features", "logits", "probabilities"]
    assert manifest["files"].keys() == {"model.onnx", "model.ts"}
    for name, about in manifest["files"].items():
        content = (exported["ff"] / name).read_bytes()
        assert about["sha256"] == hashlib.sha256(content).hexdigest()
        assert about["bytes"] == len(content)
        assert about["parity"].keys() == {"random", "one", "black", "white", "samples", "dead layer"}
        assert about["largest_difference"] <= 1e-2
        assert about["same_class"] == 1.0
    best = probes_of(trained / "ff")[0]
    assert manifest["probe"] == best.name
    card = (exported["ff"] / "card.md").read_text()
    assert "model.onnx" in card
    assert f"{best.about['test']:.4f} on test" in card


def test_the_metadata_are_all_that_serving_needs(exported, trained):
    about = Model(exported["ff"] / "model.onnx").about
    assert (about.channels, about.height, about.width) == (1, 28, 28)
    assert about.class_names == tuple("0123456789")
    assert about.values["task"] == "rotation"
    assert about.values["method"] == "ff"
    assert about.values["probe"]["test"] == probes_of(trained / "ff")[0].about["test"]
    extra = {"ffstudy.json": ""}
    with pytest.warns((FutureWarning, DeprecationWarning)):  # by torch's release
        torch.jit.load(str(exported["ff"] / "model.ts"), _extra_files=extra)
    stored = {p.key: p.value for p in onnx.load(exported["ff"] / "model.onnx").metadata_props}
    assert json.loads(extra["ffstudy.json"]) == stored


def test_a_probe_predicts_through_the_file_what_it_was_measured_at(exported, trained):
    from fftrain import load_data
    from fftrain.config import DataConfig

    test = load_data(DataConfig(dataset="digits")).test
    predicted = Classifier(exported["bp"] / "model.onnx").predict(list(test.images.numpy()), top_k=1)
    right = sum(p.label == str(label) for p, label in zip(predicted, test.labels.tolist(), strict=True))
    assert right / len(test) == pytest.approx(probes_of(trained / "bp")[0].about["test"], abs=1.5 / len(test))


def test_two_exports_are_the_same_bytes_without_a_trace_of_this_machine(trained, tmp_path):
    for out in ("one", "two"):  # each a process of its own: TorchScript numbers the types of a process
        ended = python("-m", "ffexport", trained / "ff", "--format", "all", "--out", tmp_path / out)
        assert ended.returncode == 0, ended.stderr
    for name in ("model.onnx", "model.ts", "manifest.json", "card.md"):
        content = (tmp_path / "one" / name).read_bytes()
        assert content == (tmp_path / "two" / name).read_bytes(), name
        assert str(ROOT).encode() not in content
        assert str(tmp_path).encode() not in content
        assert os.fsencode(Path.home()) + b"/" not in content


def test_the_bare_backbone_gives_the_last_three_layers(trained, tmp_path):
    export_run(trained / "ff", probe="none", out=tmp_path)
    model = Model(tmp_path / "model.onnx")
    assert model.about.class_names is None
    assert model.run(np.zeros((2, 1, 28, 28), dtype=np.uint8))["features"].shape == (2, 3 * 48)


def test_a_named_probe_and_what_no_output_reads_is_not_shipped(trained, exported, tmp_path):
    export_run(trained / "ff", list(FORMATS), probe="digits-neutral/layer1", out=tmp_path)
    assert Model(tmp_path / "model.onnx").about.values["layers"] == "layer1"
    export_run(trained / "ff", list(FORMATS), probe="digits-neutral/layer4", out=tmp_path / "deep")
    for name in ("model.onnx", "model.ts"):
        assert (tmp_path / name).stat().st_size < (tmp_path / "deep" / name).stat().st_size
    with pytest.raises(SettingError, match=r"--probe 'mnist/layer9' is not in .*, which has digits-neutral/layer1"):
        export_run(trained / "ff", probe="mnist/layer9", out=tmp_path)


def test_a_probe_of_other_weights_is_not_shipped(run_copy, trained):
    import shutil

    shutil.copy(trained / "bp" / "backbone.safetensors", run_copy / "backbone.safetensors")
    with pytest.raises(RunError, match="was trained on other weights: run `fftrain probe"):
        export_run(run_copy)


def broken(how):
    """A format that writes a file which computes something else."""

    class Broken(OnnxFormat):
        @staticmethod
        def load(path):
            run = OnnxFormat.load(path)

            def wrong(images):
                outputs = [output.copy() for output in run(images)]
                if how == "off":
                    outputs[1][-1, 0] += 0.5
                elif how == "nan" and not images.any():
                    outputs[0][:] = np.nan
                elif how == "shape":
                    outputs[0] = outputs[0][:1]
                return outputs

            return wrong

    return Broken


@pytest.mark.parametrize(("how", "message"), [("off", "differs by 0.5"), ("nan", "black"), ("shape", "eager gives")])
def test_a_file_that_computes_something_else_is_not_put_in_place(trained, tmp_path, monkeypatch, how, message):
    export_run(trained / "ff", out=tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr("ffexport.onnx_format.OnnxFormat", broken(how))
    with pytest.raises(ExportError, match=message):
        export_run(trained / "ff", out=tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_parity_sees_a_dead_layer_that_is_exported_carelessly(trained):
    dead = with_dead_layer(load_deployed(trained / "ff", probes_of(trained / "ff")[0]))
    images = np.zeros((1, 1, 28, 28), dtype=np.uint8)
    eager = [output.numpy() for output in dead(torch.from_numpy(images))]
    assert all(np.isfinite(output).all() for output in eager)

    def careless(batch):
        with np.errstate(invalid="ignore"):
            return [np.zeros_like(eager[0]) / 0.0, *eager[1:]]

    with pytest.raises(ExportError, match="output features differs by nan"):
        check_parity(dead, careless, {"black": images}, 1e-4)


@pytest.mark.parametrize(
    "damage", ["samples missing", "samples cut", "samples of another shape", "probe json", "probe cut"]
)
def test_a_damaged_run_is_named_and_nothing_is_written(run_copy, damage):
    probe = next((run_copy / "probes").glob("*/layer1.json"))
    if damage == "samples missing":
        (run_copy / "samples.npz").unlink()
    elif damage == "samples cut":
        (run_copy / "samples.npz").write_bytes((run_copy / "samples.npz").read_bytes()[:200])
    elif damage == "samples of another shape":
        np.savez(run_copy / "samples.npz", images=np.zeros((2, 3, 28, 28), dtype=np.uint8), labels=[0, 1])
    elif damage == "probe json":
        probe.write_text("{}")
    else:
        probe.with_suffix(".safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match="samples" if "samples" in damage else "layer1"):
        export_run(run_copy, probe="digits-neutral/layer1")
    assert not (run_copy / "export").exists()


def test_the_command(cli, run_copy, tmp_path, monkeypatch):
    ended = cli("ffexport", run_copy, "--format", "all", "--json")
    assert ended.code == 0
    assert ended.json["files"].keys() == {"model.onnx", "model.ts"}
    assert "model.onnx" in cli("ffexport", run_copy, "--format", "onnx").out
    one_line(cli("ffexport", run_copy, "--format", "tflite"), 2, "'tflite'", "onnx, torchscript")
    one_line(cli("ffexport", run_copy, "--atol", "-1"), 2, "--atol")
    one_line(cli("ffexport", tmp_path / "none"), 1, "is not a run folder")
    monkeypatch.chdir(tmp_path)
    one_line(cli("ffexport", "--format", "onnx"), 1, "no finished run under runs/")


def test_without_a_run_the_newest_is_taken_and_named(cli, trained, tmp_path, monkeypatch):
    import shutil

    shutil.copytree(trained / "bp", tmp_path / "runs" / "new")
    shutil.copytree(trained / "ff", tmp_path / "runs" / "old")
    os.utime(tmp_path / "runs" / "old" / "backbone.safetensors", (1, 1))
    monkeypatch.chdir(tmp_path)
    assert newest_run() == Path("runs/new")
    ended = cli("ffexport", "--format", "onnx")
    assert ended.code == 0
    assert "exporting runs/new, the newest run under runs/" in ended.err
    assert (tmp_path / "runs" / "new" / "export" / "model.onnx").is_file()
