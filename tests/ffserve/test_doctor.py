"""What `ffserve doctor` finds on this machine, and what it makes of machines that are broken."""

from __future__ import annotations

import ctypes
import platform
import sys
from functools import partial
from importlib import metadata
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import PIL
import pytest
from onnx import TensorProto, helper

from ffcore.errors import FFStudyError
from ffserve import doctor, doctor_cli, trial
from ffserve.compare import compare_models
from ffserve.session import BUNDLED

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"
FAKE = """
import json, os, signal, sys, time
what = sys.argv[1]
if what == "providers":
    {providers}
    available = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    print(json.dumps({{"version": "1", "cuda": "13.0", "available": available}}))
elif what == "cuda":
    print(json.dumps({{"libraries": {{"libcuda.so.1": None}}, "gpus": ["H200"]}}))
elif what == "CPUExecutionProvider":
    {cpu}
    print(json.dumps({{"works": True, "seconds": 0.1}}))
else:
    {cuda}
"""


@pytest.fixture
def run(cli):
    return partial(cli, "ffserve")


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Stands a program in for what tries the providers: fake(cpu="...") is what it does for the CPU."""

    def stand_in(providers="pass", cpu="pass", cuda="pass"):
        path = tmp_path / "trial.py"
        path.write_text(FAKE.format(providers=providers, cpu=cpu, cuda=cuda))
        monkeypatch.setattr(doctor, "TRIAL", path)

    return stand_in


def facts(*, packages=("onnxruntime-gpu",), error="", cpu=True, cuda=None, cuda_works=False, model=None):
    """Returns what is judged, of a machine where all is well but for what is named."""
    providers = {CPU: {"works": cpu, "error": "" if cpu else "broken"}}
    if cuda is not None:
        providers[CUDA] = {"works": cuda_works, "error": "" if cuda_works else "CUDA failure 35"}
    return {
        "onnxruntime": {"packages": list(packages), "cuda": "13.0" if cuda else "", "error": error},
        "providers": providers if not error else {},
        "cuda": cuda,
        "model": model,
    }


def libraries(*missing, gpus=("H200",)):
    names = ("libcuda.so.1", "libcudart.so.13", "libcurand.so.10", "libcudnn.so.9")
    return {"libraries": {name: f"{name}: no" if name in missing else None for name in names}, "gpus": list(gpus)}


def test_this_machine(run, make_model, monkeypatch):
    made = make_model()
    monkeypatch.setenv("FFSERVE_MODEL", str(made.path))
    ended = run("doctor", "--json")
    assert (ended.code, ended.err) == (0, "")
    found = ended.json
    assert (found["ok"], found["problems"]) == (True, [])
    assert found["versions"]["python"] == platform.python_version()
    for name in ("ffstudy", "numpy", "pillow", *found["onnxruntime"]["packages"]):
        assert found["versions"][name] == metadata.version(name)
    assert found["onnxruntime"]["packages"] in (["onnxruntime-gpu"], ["onnxruntime"])
    assert list(found["providers"]) == onnxruntime.get_available_providers()
    assert found["providers"][CPU]["works"]
    assert found["extras"]["eval"] == []  # which these tests need
    assert found["machine"]["cores"] >= 1
    assert found["model"] == {"path": str(made.path), "error": "", "broken": False}
    if found["cuda"]:
        for name, why in found["cuda"]["libraries"].items():
            try:
                ctypes.CDLL(name)
            except OSError:
                continue  # it may lie in a wheel, where the system does not look
            assert why is None
        if not found["providers"][CUDA]["works"]:
            assert len(found["notes"]) == 1
            assert "models run on the CPU" in found["notes"][0] or "ffstudy[gpu]" in found["notes"][0]


def test_the_tables_say_what_matters(run, fake, make_model, monkeypatch):
    fake(cuda="print(json.dumps({'works': True, 'seconds': 1.0}))")
    monkeypatch.setenv("FFSERVE_MODEL", str(make_model().path))
    ended = run("doctor")
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.splitlines()[-1] == "ok: models run here"
    rows = [line.split() for line in ended.out.splitlines()]
    assert [CPU, "works"] in rows
    assert [CUDA, "works"] in rows
    assert ["libcuda.so.1", "loads"] in rows
    assert ["GPUs", "H200"] in rows
    assert ["python", platform.python_version()] in rows


def test_a_provider_that_crashes_or_hangs_is_a_line(run, fake, make_model, monkeypatch):
    monkeypatch.setenv("FFSERVE_MODEL", str(make_model().path))
    fake(cuda="os.kill(os.getpid(), signal.SIGSEGV)")
    ended = run("doctor", "--json")
    assert ended.code == 1
    assert ended.json["providers"][CUDA] == {"works": False, "seconds": None, "error": "signal 11"}
    assert ended.json["problems"] == ["CUDA does not work on H200 though its libraries are there: signal 11"]
    fake(cpu="time.sleep(60)", cuda="sys.exit('a\\nthe last line')")
    ended = run("doctor", "--json", "--time-limit", 3)
    assert ended.code == 1
    assert ended.json["providers"][CPU]["error"] == "no answer in 3 s"
    assert ended.json["providers"][CUDA]["error"] == "the last line"
    assert ended.json["model"] is None
    fake(providers="time.sleep(60)")
    ended = run("doctor", "--time-limit", 0.5)
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.splitlines()[-1].startswith("problem: onnxruntime cannot be used (no answer in 0.5 s): run pip")


def test_both_packages_at_once_are_found(tmp_path, monkeypatch):
    for name in ("onnxruntime", "onnxruntime_gpu"):
        folder = tmp_path / f"{name}-9.9.9.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 9.9.9\n")
        (folder / "top_level.txt").write_text("onnxruntime\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "ask", lambda what, limit: (None, "not asked"))
    found = doctor.examine()
    assert found["onnxruntime"]["packages"] == ["onnxruntime", "onnxruntime-gpu"]
    assert found["versions"]["onnxruntime"] == "9.9.9"
    (problem,) = (text for text in found["problems"] if "at once" in text)
    assert "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime" in problem


@pytest.mark.parametrize(
    ("found", "broken", "words"),
    [
        (facts(), None, ()),
        (facts(cuda=libraries(), cuda_works=True), None, ()),
        (facts(cuda=libraries("libcuda.so.1", gpus=())), False, ("no NVIDIA driver (libcuda.so.1)", "on the CPU")),
        (
            facts(cuda=libraries("libcuda.so.1", "libcudnn.so.9", gpus=())),
            False,
            ("no NVIDIA driver", "libcudnn.so.9 cannot be loaded: pip install 'ffstudy[gpu]'"),
        ),
        (facts(cuda=libraries(gpus=())), False, ("gives no GPU",)),
        (
            facts(cuda=libraries("libcurand.so.10", "libcudnn.so.9")),
            False,
            ("H200 is not used, libcurand.so.10, libcudnn.so.9 cannot be loaded: pip install 'ffstudy[gpu]'",),
        ),
        (facts(cuda=libraries()), True, ("CUDA does not work on H200", "CUDA failure 35")),
        (
            facts(cuda={"libraries": {}, "gpus": [], "error": "signal 11"}),
            True,
            ("CUDA's libraries cannot be looked for: signal 11",),
        ),
        (facts(cpu=False), True, (f"{CPU} does not work (broken)", "pip install --force-reinstall onnxruntime-gpu")),
        (facts(packages=(), error="No module named 'onnxruntime'"), True, ("run pip install", "onnxruntime")),
        (facts(packages=("onnxruntime", "onnxruntime-gpu")), True, ("pip uninstall -y onnxruntime onnxruntime-gpu",)),
        (facts(model={"error": "there is none", "broken": False}), False, ("there is none",)),
        (facts(model={"error": "it is damaged", "broken": True}), True, ("it is damaged",)),
    ],
)
def test_what_is_broken_is_told_from_what_is_not_there(found, broken, words):
    problems, notes = doctor.judge(found)
    assert (len(problems), len(notes)) == (broken is True, broken is False)
    for word in words:
        assert word in (problems + notes)[0]


def test_a_model_that_is_named_and_wrong_is_a_problem(run, fake, tmp_path, monkeypatch):
    fake(cuda="sys.exit(1)")
    for path in (tmp_path / "none.onnx", tmp_path / "damaged.onnx"):
        monkeypatch.setenv("FFSERVE_MODEL", str(path))
        ended = run("doctor", "--json")
        assert ended.code == 1
        assert ended.json["model"]["broken"]
        assert str(path) in ended.json["problems"][-1]
        (tmp_path / "damaged.onnx").write_bytes(b"damaged")


def test_requirements_that_are_not_met_are_named(monkeypatch):
    versions = {"ffstudy": "1", "numpy": "1.26.4", "pillow": "12.0.0", "extra": "1.0"}
    requires = {
        "ffstudy": [
            "numpy>=2.0",
            "pillow>=11",
            "typer; python_version < '3'",
            "extra[more]>=1; extra == 'gpu'",
            "gone>=2,<3; extra == 'eval'",
        ],
        "extra": ["inner~=4.0; extra == 'more'", "other; extra == 'less'"],
    }
    monkeypatch.setattr(doctor, "version", versions.get)
    monkeypatch.setattr(metadata, "requires", requires.get)
    assert [*doctor.unmet("ffstudy")] == [("numpy>=2.0", "numpy is 1.26.4, not >=2.0")]
    assert [text for _, text in doctor.unmet("ffstudy", "gpu")] == ["inner is not installed"]
    assert [*doctor.unmet("ffstudy", "eval")] == [("gone<3,>=2", "gone is not installed")]
    assert doctor.judge(facts())[0] == ["numpy is 1.26.4, not >=2.0: run pip install 'numpy>=2.0'"]


def test_the_trial_model_is_what_its_comment_says():
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 2]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "x"], ["y"])], "square", values[:1], values[1:])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    assert onnx.ModelProto.FromString(trial.MODEL) == proto
    session = onnxruntime.InferenceSession(trial.MODEL, providers=[CPU])
    x = np.array([[1, 2], [3, 4]], dtype=np.float32)
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], x @ x)


def test_a_provider_works_only_where_nothing_stands_in_for_it():
    assert doctor.ask(CPU, 60)[0]["works"]
    found, why = doctor.ask("NoSuchExecutionProvider", 60)
    assert found is None
    assert "NoSuchExecutionProvider" in why


def test_gpus_are_those_that_the_driver_names(monkeypatch):
    def name(buffer, size, number):
        buffer.value = [b"H200", b"L\xff4"][number]
        return 0

    def count(pointer):
        pointer._obj.value = 2
        return 0

    driver = SimpleNamespace(cuInit=lambda flags: 0, cuDeviceGetCount=count, cuDeviceGetName=name)
    assert trial.gpus(driver) == ["H200", "L\ufffd4"]
    driver.cuInit = lambda flags: 100  # no device
    assert trial.gpus(driver) == []


def test_library_names_follow_the_version_of_cuda(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    assert {"libcuda.so.1", "libcublas.so.12", "libcufft.so.11", "libcurand.so.10"} <= {*trial.libraries("12.8")}
    assert {"libcudart.so.13", "libcufft.so.12", "libcudnn.so.9"} <= {*trial.libraries("13.0")}
    monkeypatch.setattr(sys, "platform", "win32")
    assert {"nvcuda.dll", "cublas64_12.dll", "cufft64_11.dll"} <= {*trial.libraries("12.8")}


@pytest.mark.parametrize(
    ("lacks", "words"),
    [
        ([], "installed"),
        (["torch is not installed", "onnx is not installed"], "not installed: torch, onnx"),
        (["numpy is 1.26, not >=2", "onnx is not installed"], "not installed: onnx; numpy is 1.26, not >=2"),
    ],
)
def test_what_an_extra_lacks_is_named_once(lacks, words):
    assert doctor_cli._lacking(lacks) == words


def test_a_frozen_program_says_nothing_that_is_not_so(monkeypatch):
    """It has no Python to start, and its packages have left their metadata behind."""
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_, **__: pytest.fail("starts a program"))
    known = metadata.version

    def version(name):
        if name != "ffstudy":
            raise metadata.PackageNotFoundError(name)
        return known(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    monkeypatch.delenv("FFSERVE_MODEL", raising=False)
    found = doctor.examine()
    assert (found["ok"], found["problems"], found["extras"]) == (True, [], {})
    assert found["providers"]["CPUExecutionProvider"]["works"]
    assert found["versions"]["pillow"] == PIL.__version__
    assert None not in found["versions"].values()
    with pytest.raises(FFStudyError, match="a frozen program does not hold"):
        compare_models([BUNDLED])
