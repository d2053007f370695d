"""What is not exported, and that nothing of it is left."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from ffcore.errors import ExportError, RunError, SettingError, WriteError
from ffcore.files import read_json, write_json
from ffexport import registry
from ffexport.export import export_run
from ffexport.graph import with_dead_block
from ffexport.manifest import make_manifest, read_before
from ffexport.onnx_format import check_opset
from ffexport.parity import check_exact, check_near
from ffexport.reference import REAL, references
from ffexport.subject import load_subject, probes_of
from ffexport.torch_formats import TorchScriptFormat
from ffmodels.run import Run
from fftrain import evaluate_run
from tests.ffexport.checks import content
from tests.fftrain.training import evaluation


def broken(how):
    """A format that writes a file which computes something else."""

    class Broken(TorchScriptFormat):
        @staticmethod
        def load(path, *, threads=None):
            run = TorchScriptFormat.load(path)

            def wrong(images):
                outputs = [output.copy() for output in run(images)]
                if how == "off" and len(images) == 7:
                    outputs[1][-1, 0] += 0.5
                elif how == "nan" and not images.any():
                    outputs[0][:] = np.nan
                elif how == "shape":
                    outputs[0] = outputs[0][:, :1]
                elif how == "dead" and path.stem == "dead":
                    outputs[0][0] += 1
                return outputs

            return wrong

    return Broken


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("off", r"logits differs by 0.5 from the model in float64 on 7 real images, more than .* --atol 0.0001 allow"),
        ("nan", "differs by nan from the model in float64 on 1 black images"),
        ("shape", r"output features is float32 \(1, 1\) on 1 real images, the model gives float32"),
        ("dead", "output features differs by 1 from the model in float64 on 1 dead block images"),
    ],
)
def test_a_file_that_computes_something_else_is_not_put_in_place(trained, tmp_path, monkeypatch, how, message):
    export_run(trained / "ff", ["torchscript"], out=tmp_path / "there")
    before = content(tmp_path / "there")
    monkeypatch.setattr("ffexport.torch_formats.Pt2Format", broken(how))
    for out in (tmp_path / "there", tmp_path / "new"):
        with pytest.raises(ExportError, match=message):  # though the first of the two is right
            export_run(trained / "ff", ["torchscript", "pt2"], out=out)
    assert content(tmp_path / "there") == before
    assert not (tmp_path / "new").exists()


def test_parity_sees_a_dead_block_that_is_exported_carelessly(trained):
    dead = with_dead_block(load_subject(Run.load(trained / "ff")).model)
    compared = references(dead, {"black": np.zeros((1, 1, 28, 28), dtype=np.uint8)})
    assert all(np.isfinite(output).all() for output in compared[0].exact)

    def careless(batch):
        with torch.no_grad(), np.errstate(invalid="ignore"):
            features, *others = dead(torch.from_numpy(batch))
            return [features.numpy() * 0 / 0.0, *(other.numpy() for other in others)]

    with pytest.raises(ExportError, match="output features differs by nan"):
        check_exact([*dead.outputs], careless, compared, 1e-4)
    with pytest.raises(ExportError, match="output features is not finite on 1 black images"):
        check_near([*dead.outputs], careless, compared, 1e-1)


@pytest.mark.parametrize(("case", "refused"), [(REAL, True), ("random", False)])
def test_a_lossy_file_is_held_to_real_images_alone(trained, case, refused):
    model = load_subject(Run.load(trained / "ff")).model
    compared = references(model, {case: np.random.default_rng(0).integers(0, 256, (7, 1, 28, 28), dtype=np.uint8)})

    def run(images):
        features, logits, probabilities = (output.numpy() for output in model(torch.from_numpy(images)))
        return [features * 1.5, logits, probabilities]

    if refused:
        with pytest.raises(ExportError, match=r"output features differs by 0.5 of its size from the model on 256 real"):
            check_near([*model.outputs], run, compared, 0.1)
    else:
        figures = check_near([*model.outputs], run, compared, 0.1)
        assert figures[case]["7"]["relative_error"] == pytest.approx(0.5, rel=1e-3)
        assert figures[case]["256"]["same_class"] == 1.0


@pytest.mark.parametrize(
    "damage", ["samples missing", "samples cut", "samples of another shape", "probe json", "probe cut"]
)
def test_a_damaged_run_is_named_and_nothing_is_written(run_copy, damage):
    probe = next((run_copy / "probes").glob("*/block1.json"))
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
    with pytest.raises(RunError, match="samples" if "samples" in damage else "block1"):
        export_run(run_copy, probe="digits-neutral/block1")
    assert not (run_copy / "export").exists()


def test_damaged_weights_are_not_called_those_of_another_probe(run_copy):
    weights = run_copy / "backbone.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(RunError, match=r"backbone.safetensors is damaged"):
        export_run(run_copy)
    weights.unlink()
    with pytest.raises(RunError, match=r"backbone.safetensors"):
        export_run(run_copy)


@pytest.mark.parametrize(("key", "value"), [("validation", "x"), ("blocks", [7]), ("class_names", 3)])
def test_a_value_of_a_probe_that_is_not_legal_is_a_damaged_run(run_copy, key, value):
    path = next((run_copy / "probes").glob("*/block1.json"))
    write_json(path, read_json(path) | {key: value})
    with pytest.raises(RunError, match=r"run is damaged, a value in its files is not legal \("):
        load_subject(Run.load(run_copy), None, "digits-neutral/block1")


@pytest.mark.parametrize("text", ["{}", "[]", '{"files": {"model.ts": {}}}', "{"])
def test_a_manifest_of_another_program_is_left_alone(trained, tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(RunError, match=r"manifest.json is (no manifest that `ffexport` wrote|damaged)"):
        export_run(trained / "ff", ["torchscript"], out=tmp_path)
    assert content(tmp_path) == {"manifest.json": text.encode()}


def test_a_file_that_cannot_be_placed_leaves_no_manifest_that_names_it(trained, tmp_path):
    (tmp_path / "out" / "model.ts").mkdir(parents=True)
    with pytest.raises(WriteError, match=r"model.ts cannot be written"):
        export_run(trained / "ff", ["torchscript"], out=tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.ts"]


def test_a_folder_that_cannot_be_made_is_named_and_no_other_is_left(trained, tmp_path, monkeypatch):
    with pytest.raises(WriteError, match=r"x cannot be made \(File name too long\)"):
        export_run(trained / "ff", ["torchscript"], out=tmp_path / ("x" * 300))
    monkeypatch.setattr("ffexport.torch_formats.Pt2Format", broken("shape"))
    with pytest.raises(ExportError):
        export_run(trained / "ff", ["pt2"], out=tmp_path / "a" / "b" / "c")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"formats": ["tflite"]}, "--format 'tflite' is unknown: choose one of onnx, torchscript, pt2"),
        ({"precision": "int4"}, "--precision 'int4' is unknown: choose one of fp32, fp16, int8"),
        ({"precision": "int8", "int8": "mixed"}, "--int8 'mixed' is unknown: choose one of static, dynamic"),
        ({"head": "mlp"}, "--head 'mlp' is unknown: choose one of probe, readout, none"),
        ({"head": "goodness"}, "--head goodness is --head readout now"),
        ({"atol": 0.0}, "--atol is 0.0: it must be above 0"),
        ({"atol": float("nan")}, "--atol is nan"),
        ({"opset": 17}, "--opset is 17: choose one of 18 .* to [0-9]+ "),
        ({"opset": 1000}, "--opset is 1000: choose one of 18"),
        ({"opset": 999, "formats": ["torchscript"]}, "--opset 999 is for --format onnx, not torchscript"),
    ],
)
def test_settings_that_are_not_legal_are_named(trained, tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        export_run(trained / "ff", out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_probe_is_asked_for_where_there_is_none(run_copy):
    import shutil

    shutil.rmtree(run_copy / "probes")
    with pytest.raises(
        SettingError, match=r"--head probe needs a probe, and .* has none: run `fftrain evaluate .* linear`"
    ):
        load_subject(Run.load(run_copy), "probe")
    assert load_subject(Run.load(run_copy)).head == "none"
    assert load_subject(Run.load(run_copy), None, "none").head == "none"


def test_a_probe_of_drawn_labels_is_refused_and_never_chosen(run_copy):
    evaluate_run(run_copy, evaluation("linear", epochs=2, blocks="block1", lr=1e-3, weight_decay=0.0, reading="random"))
    run = Run.load(run_copy)
    [drawn] = [probe for probe in probes_of(run) if probe.about["reading"] == "random"]
    write_json(drawn.path.with_suffix(".json"), drawn.about | {"validation": 1.0})
    with pytest.raises(
        SettingError, match=rf"--probe {drawn.name} reads a label drawn for each image, .* choose digits-n"
    ):
        export_run(run_copy, probe=drawn.name)
    assert load_subject(run).probe.about["reading"] == "neutral"
    assert not (run_copy / "export").exists()


def test_opsets_that_torch_writes_and_the_runtime_reads_are_taken():
    for opset in (18, registry.OPSET, 23):
        check_opset(opset)


def test_the_manifest_keeps_files_of_the_same_weights_and_drops_others(trained, run_copy, tmp_path):
    def written(subject, name):
        manifest = make_manifest(tmp_path, subject, {name: {"head": subject.head}}, read_before(tmp_path))
        (tmp_path / name).write_bytes(b"")
        write_json(tmp_path / "manifest.json", manifest)
        return manifest["probe"], [*manifest["files"]]

    best, other = (load_subject(Run.load(run_copy), "probe", probe.name) for probe in probes_of(Run.load(run_copy))[:2])
    bare = load_subject(Run.load(run_copy), "none")
    assert written(best, "model.onnx") == (best.probe.name, ["model.onnx"])
    both = ["model.features.onnx", "model.onnx"]
    assert written(bare, "model.features.onnx") == (best.probe.name, both)
    assert written(best, "model.ts") == (best.probe.name, [*both, "model.ts"])
    assert written(other, "model.pt2") == (other.probe.name, ["model.features.onnx", "model.pt2"])
    (tmp_path / "model.pt2").unlink()
    assert written(bare, "model.features.onnx") == (None, ["model.features.onnx"])
    another = load_subject(Run.load(trained / "bp"), "none")
    assert written(another, "model.features.ts") == (None, ["model.features.ts"])


def test_a_kill_leaves_nothing(cli, run_copy, monkeypatch):
    def killed(self, form, path):
        path.write_bytes(b"half a file")
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("it went on")

    monkeypatch.setattr("ffexport.making.Maker.make", killed)
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert cli("ffexport", run_copy).code == 143
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not (run_copy / "export").exists()
