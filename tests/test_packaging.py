"""What the distribution promises: who imports whom, what is public, what is shipped, and how fast a command answers."""

from __future__ import annotations

import ast
import json
import resource
import shutil
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest
from PIL import Image

from tests.ffserve.conftest import write_model
from tests.helpers import ROOT, python

FOLDERS = {
    "ffcore": "ffcore",
    "ffmodels": "models/ffmodels",
    "ffserve": "ffserve",
    "ffexport": "export/ffexport",
    "fftrain": "fftrain",
}
ALLOWED = {
    "ffcore": (),
    "ffmodels": ("ffcore",),
    "ffserve": ("ffcore",),
    "ffexport": ("ffcore", "ffmodels", "ffserve.console", "ffserve.metadata"),
    "fftrain": ("ffcore", "ffmodels", "ffserve.console"),
}
HEAVY = (
    "torch",
    "torchvision",
    "accelerate",
    "onnx",
    "onnxscript",
    "sklearn",
    "scipy",
    "matplotlib",
    "pyarrow",
    "huggingface_hub",
    "ray",
    "fsspec",
)
# Modules that import these at once, and are themselves imported where they are asked for.
OF_PARQUET = ("ffserve.parts", "ffserve.parquet")
SERVER = ("starlette", "uvicorn", "grpc", "google", "orjson", "prometheus_client")
PUBLIC = {
    "ffmodels": [
        "BACKBONES",
        "Backbone",
        "BackboneSettings",
        "Batch",
        "BlockInfo",
        "Condition",
        "Draws",
        "Encoder",
        "FFStudyError",
        "LinearHead",
        "METHODS",
        "Method",
        "Needs",
        "Readout",
        "Run",
        "ff_loss",
        "load_encoder",
        "load_head",
        "make_units",
    ],
    "ffserve": [
        "Classifier",
        "DeviceError",
        "FFStudyError",
        "ImageError",
        "Model",
        "ModelError",
        "Prediction",
        "UsageError",
        "find",
        "find_model",
        "read_image",
    ],
    "ffexport": ["DeployedModel", "FORMATS", "export_run", "newest_run"],
    "fftrain": [
        "DATASETS",
        "EVALUATIONS",
        "EvaluationConfig",
        "RunConfig",
        "Study",
        "VIEWS",
        "compare_runs",
        "evaluate_run",
        "linear_cka",
        "load_data",
        "plan",
        "pretrain",
        "run_study",
        "write_report",
    ],
}
COMMANDS = [
    "fftrain",
    "fftrain pretrain",
    "fftrain list",
    "fftrain evaluate",
    "fftrain study",
    "fftrain report",
    "fftrain dump-images",
    "ffexport",
    "ffserve",
    "ffserve predict",
    "ffserve info",
    "ffserve features",
    "ffserve evaluate",
    "ffserve compare",
    "ffserve http",
    "ffserve doctor",
]
HIDE_TORCH = """
import runpy, sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
sys.meta_path.insert(0, Hide())
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
"""
# The least that a command of Typer is, with what prints tables and, of training, what its settings are made of.
FLOOR = """
import {libraries}
app = typer.Typer()
@app.command()
def run(name: str = "x") -> None:
    "Does nothing."
app()
"""
LOADED = """
import json, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_module(sys.argv[0], run_name="__main__") if sys.argv[1:] else __import__(sys.argv[0])
except SystemExit as end:
    assert end.code == 0, end.code
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), file=sys.stderr)
"""


def imports(node, inside=False):
    """Yields (module, whether it is imported inside a function or for types alone) for every import below a node."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, inside) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "imports are absolute"
            # A name may be a module itself: `from ffserve import console`.
            yield from ((f"{child.module}.{alias.name}", inside) for alias in child.names)
        else:
            for_types = isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"
            within_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from imports(child, inside or for_types or within_function)


def within(name, packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("package", FOLDERS)
def test_imports_run_one_way(package):
    files = sorted((ROOT / FOLDERS[package]).rglob("*.py"))
    assert len(files) > 5
    for file in files:
        for name, _ in imports(ast.parse(file.read_text(encoding="utf-8"))):
            if within(name, FOLDERS):
                assert within(name, (package, *ALLOWED[package])), f"{file} imports {name}"


def test_nothing_of_training_is_imported_where_models_are_served():
    for file in (ROOT / "ffserve").rglob("*.py"):
        asked_for = within(".".join(file.relative_to(ROOT).with_suffix("").parts), OF_PARQUET)
        refused = (*({*HEAVY} - {"pyarrow", "fsspec"}),) if asked_for else (*HEAVY, *OF_PARQUET)
        for name, inside in imports(ast.parse(file.read_text(encoding="utf-8"))):
            assert inside or not within(name, refused), f"{file} imports {name}"
            assert not within(name, ("torch", "torchvision", "accelerate", "onnx")), f"{file} imports {name}"


@pytest.mark.parametrize(
    "code", ["import a.b", "from a.b import c", "from a import b", "def f():\n  from a.b import c"]
)
def test_the_import_check_sees_every_kind_of_import(code):
    ((name, inside),) = imports(ast.parse(code))
    assert within(name, ["a.b"])
    assert not within(name, ["a.c"])
    assert not within(name, ["a.b.d"])
    assert inside == code.startswith("def")


def test_serving_loads_no_torch(tmp_path):
    made = write_model(tmp_path / "model.onnx")
    Image.linear_gradient("L").save(tmp_path / "a.png")
    for arguments in (
        ["ffserve"],
        ["ffserve", "--help"],
        ["ffserve", "http", "--help"],
        ["ffserve", "info", made.path],
        ["ffserve", "predict", "--model", made.path, tmp_path / "a.png"],
    ):
        ended = python("-c", LOADED, *arguments)
        assert ended.returncode == 0, ended.stderr
        loaded = set(json.loads(ended.stderr))
        assert "ffserve" in loaded
        assert ("onnxruntime" in loaded) == (made.path in arguments)
        assert not loaded & {*HEAVY, *SERVER, "ffmodels", "fftrain", "ffexport"}


@pytest.mark.parametrize("package", PUBLIC)
def test_public_names(package):
    # In a process of its own, which imports as a user does.
    check = f"import {package} as p, json; [getattr(p, name) for name in p.__all__]; print(json.dumps(p.__all__))"
    ended = python("-c", check)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout) == PUBLIC[package]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    tree = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree)
    for folder in FOLDERS.values():
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    ended = python("-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "dist", tree)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (file,) = (tree / "dist").iterdir()
    with zipfile.ZipFile(file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_five_packages_whole(wheel):
    info = next(name.split("/")[0] for name in wheel if name.endswith("/METADATA"))
    assert {name.split("/")[0] for name in wheel} == {*FOLDERS, info}
    expected = {
        f"{package}/{file.relative_to(ROOT / folder)}"
        for package, folder in FOLDERS.items()
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {f"{package}/py.typed" for package in FOLDERS} | {"fftrain/report/report.html"} <= expected
    assert {name for name in wheel if not name.startswith(info)} == expected
    assert f"{info}/licenses/LICENSE" in wheel


def test_the_wheel_installs_the_three_commands(wheel):
    text = next(content for name, content in wheel.items() if name.endswith("/entry_points.txt")).decode()
    scripts = dict(line.split(" = ") for line in text.splitlines() if "=" in line)
    assert scripts == {name: f"{name}.cli:main" for name in ("fftrain", "ffexport", "ffserve")}
    assert text.count("[") == 1


def test_serving_installs_no_torch(wheel):
    metadata = message_from_bytes(next(content for name, content in wheel.items() if name.endswith("/METADATA")))
    required = metadata.get_all("Requires-Dist")
    base = {line.split(">=")[0] for line in required if "extra ==" not in line}
    assert base == {"numpy", "pillow", "typer", "rich", "packaging", "onnxruntime-gpu", "onnxruntime"}
    assert any(line.startswith("torch>=") and 'extra == "train"' in line for line in required)
    extras = {"train", "hf", "track", "eval", "http", "hub", "ray", "gpu", "dev"}
    assert extras == set(metadata.get_all("Provides-Extra"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_takes_little_more_than_a_program_of_one_command(command):
    """In processor time, beside a floor of the same moment: 0.1 to 0.2 s here."""
    program, *rest = command.split()
    source = FLOOR.format(libraries="rich.console, typer" + ", pydantic.main, pydantic.types" * (program == "fftrain"))
    best, floor = float("inf"), float("inf")
    for _ in range(5):
        floor = min(floor, seconds("-c", source, "--help"))
        best = min(best, seconds("-m", program, *rest, "--help"))
        if best < 1.75 * floor:
            break
    assert best < 1.75 * floor
    shown = python("-m", program, *rest, "--help").stdout
    assert f"Usage: {command}" in shown
    if rest or program == "ffexport":
        assert "Examples:" in shown
        assert f"\n    {command} " in shown


def seconds(*arguments):
    """Returns the processor time of a program that succeeds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = python(*arguments)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (ended.returncode, ended.stderr) == (0, "")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize("command", [["fftrain", "pretrain", "--dataset", "digits"], ["ffexport", "."]])
def test_without_torch_a_command_says_what_to_install(tmp_path, command):
    out = ["--out", tmp_path / "out"] if command[0] == "fftrain" else []
    ended = python("-c", HIDE_TORCH, *command, *out)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"{command[0]}: error: torch is not installed: run pip install 'ffstudy[train]'\n"
    assert not Path(tmp_path / "out").exists()
