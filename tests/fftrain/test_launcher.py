"""What `accelerate launch` asks for: taken, or refused by name."""

from __future__ import annotations

import json
import os

import pytest
import torch

from ffcore.errors import SettingError
from ffcore.machine import cores
from fftrain import pretrain
from fftrain.launcher import NOT_DONE, OWN_WORDS, make_accelerator
from fftrain.study import choose
from tests.fftrain.studies import SPEC
from tests.fftrain.training import SMALL, TINY, settings, weights
from tests.helpers import one_line, python

COMMANDS = [
    ["pretrain", *TINY, "--out"],
    ["evaluate"],
    ["study", "--preset", "smoke", "--dry-run", "--out"],
]


def precision(run):
    return json.loads((run / "config.json").read_text())["config"]["mixed_precision"]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_launchers_precision_is_taken_where_no_other_is_given_and_recorded(cli, tmp_path, monkeypatch):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('mixed_precision = "no"\n')
    for name, asked, options, used in (
        ("plain", None, [], "no"),
        ("option", None, ["--mixed-precision", "bf16"], "bf16"),
        ("launcher", "bf16", [], "bf16"),
        ("both", "BF16", ["--mixed-precision", "no"], "no"),
        ("recipe", "bf16", ["--config", recipe], "no"),
    ):
        if asked:
            monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
        ended = cli("fftrain", "pretrain", *TINY, *options, "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        assert precision(tmp_path / name) == used
        assert ("mixed precision is no here, not the launcher's bf16" in ended.err) == (name in ("both", "recipe"))
    assert weights(tmp_path / "launcher") == weights(tmp_path / "option") != weights(tmp_path / "plain")
    assert weights(tmp_path / "both") == weights(tmp_path / "recipe") == weights(tmp_path / "plain")


def test_a_run_goes_on_in_the_precision_that_it_began_in(cli, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "bf16").code == 0
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "no").code == 0
    for name, asked in (("bf16", "no"), ("no", "bf16")):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
        ended = cli("fftrain", "pretrain", "--resume", "--out", tmp_path / name, "--epochs", 2)
        assert ended.code == 0, ended.err
        assert precision(tmp_path / name) == name
        assert ("not the launcher's bf16" in ended.err) == (asked == "bf16")
    ended = cli("fftrain", "pretrain", "--resume", "--out", tmp_path / "no", "--mixed-precision", "bf16")
    one_line(ended, 2, "--mixed-precision is bf16, but the run to resume has no")
    small = {"dataset": "digits", "width": 24, "depth": 2, "limit": 80, "epochs": 3, "threads": 1}
    pretrain(settings(**small), tmp_path / "no", resume=True)  # none is named; the launcher asks for bf16
    assert precision(tmp_path / "no") == "no"


def test_in_python_an_accelerators_precision_is_the_runs(tmp_path):
    config = settings(**{**SMALL, "epochs": 1})
    pretrain(config, tmp_path / "run", accelerator=make_accelerator(1, "bf16"))
    assert precision(tmp_path / "run") == "bf16"
    told = settings(**SMALL, mixed_precision="bf16")
    with pytest.raises(SettingError, match="--mixed-precision is bf16, but the accelerator that was given has no"):
        pretrain(told, tmp_path / "other", accelerator=make_accelerator(1))
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("variable", [*NOT_DONE, "ACCELERATE_MIXED_PRECISION"])
def test_what_is_not_done_is_refused_by_name_in_every_command(cli, tmp_path, monkeypatch, trained, variable):
    values = {"ACCELERATE_MIXED_PRECISION": "fp8", "ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"}
    value = values.get(variable, "true" if "USE" in variable or "DOWNCAST" in variable else "4")
    monkeypatch.setenv(variable, value)
    asked = "mixed precision 'fp8'" if value == "fp8" else f"{NOT_DONE.get(variable)} ({variable} is {value})"
    for command, *options in COMMANDS:
        place = trained / "ff" if command == "evaluate" else tmp_path / "new"
        one_line(cli("fftrain", command, *options, place), 2, f"the launcher asks for {asked}")
    assert not (tmp_path / "new").exists()


def test_what_a_launcher_says_by_default_is_no_reason_to_refuse(monkeypatch):
    for variable in NOT_DONE:
        for value in OWN_WORDS.get(variable, ("false", "False", "0")):
            monkeypatch.setenv(variable, value.upper())
            make_accelerator(1)
            monkeypatch.delenv(variable)


def test_fp16_of_the_launcher_cannot_be_had_on_a_cpu_either(cli, tmp_path, monkeypatch, trained):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    ended = cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "run")
    one_line(ended, 2, "the launcher's mixed precision fp16 cannot be had on a CPU")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("told", "found"), [("1", 1), ("3", 3), ("2,1", 2), (" 2 ", 2), ("", None), ("0", None), ("many", None)]
)
def test_the_launchers_threads_are_taken(monkeypatch, threads, told, found):
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    make_accelerator(None)
    assert torch.get_num_threads() == found or (found is None and torch.get_num_threads() == cores())
    make_accelerator(2)
    assert torch.get_num_threads() == 2


def test_fewer_threads_than_could_be_had_are_said(cli, tmp_path, monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr("fftrain.launcher.cores", lambda: 6)
    ended = cli("fftrain", "pretrain", *TINY[:-2], "--out", tmp_path / "run")
    assert "CPU threads: 1, as the launcher says (OMP_NUM_THREADS), where 6 could be had (--threads 6)" in ended.err
    assert json.loads((tmp_path / "run" / "config.json").read_text())["hardware"]["cpu_threads"] == 1
    assert "CPU threads" not in cli("fftrain", "evaluate", tmp_path / "run", "--threads", 1).err


def test_the_cells_of_a_study_have_the_launchers_precision_where_the_spec_says_none(tmp_path, monkeypatch, cli):
    spec = tmp_path / "mine.toml"
    other = SPEC.replace("[evaluate]", '[recipes.bp]\nmixed-precision = "no"\n\n[evaluate]')
    spec.write_text(other)

    def used(planned):
        return {cell.config.label: cell.config.mixed_precision for cell in planned.cells}

    before = choose(None, spec, None, {})
    assert {*used(before).values()} == {"no"}
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    launched = choose(None, spec, None, {})
    assert used(launched) == {"ff": "bf16", "bp": "no", "ff-unsupervised": "bf16"}
    assert {*used(choose(None, spec, None, {"mixed_precision": "no"})).values()} == {"no"}
    out = tmp_path / "study"
    out.mkdir()
    (out / "study.json").write_text(json.dumps(launched.to_dict()))
    for asked in ("bf16", "no"):  # it goes on as it began, whatever launches it
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", asked)
        assert [cell.name for cell in choose(None, None, out, {}).cells] == [cell.name for cell in launched.cells]
    (out / "study.json").write_text(json.dumps(before.to_dict()))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert [cell.name for cell in choose(None, None, out, {}).cells] == [cell.name for cell in before.cells]
    ended = cli("fftrain", "study", "--out", out, "--dry-run")
    assert "mixed precision is no here, not the launcher's bf16" in ended.err


def launch(*arguments, several=False):
    """Runs a program as `accelerate launch` does."""
    words = ["--multi_gpu", "--num_processes", 2, "--main_process_port", 0] if several else ["--num_processes", 1]
    words += ["--num_machines", 1, "--dynamo_backend", "no", "--num_cpu_threads_per_process", 1]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    return python("-m", "accelerate.commands.launch", *words, *arguments, env=environment)


@pytest.mark.parametrize(
    ("option", "several"),
    [
        (["--gradient_accumulation_steps=4"], False),
        pytest.param(["--gradient-clipping", "1.0"], True, marks=pytest.mark.slow),
    ],
)
def test_what_the_real_launcher_keeps_to_itself_is_refused_too(tmp_path, option, several):
    """It hands --gradient_accumulation_steps on to DeepSpeed alone."""
    command = ["-m", "fftrain", "pretrain", *TINY, "--out", tmp_path / "run"]
    ended = launch("--mixed_precision", "no", *option, *command, several=several)
    assert ended.returncode
    assert "which is not done here" in ended.stderr
    assert "gradient" in next(line for line in ended.stderr.splitlines() if "fftrain: error" in line)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_options_of_a_program_of_ones_own_are_its_own(tmp_path):
    program = tmp_path / "train.py"
    program.write_text("from fftrain.launcher import make_accelerator\nmake_accelerator(1)\n")
    ended = launch("--mixed_precision", "no", program, "--gradient_accumulation_steps", 4, "--num_processes", 3)
    assert ended.returncode == 0, ended.stderr


CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
mixed_precision: bf16
num_machines: 1
num_processes: {}
use_cpu: true
"""


def test_the_real_launcher_and_processes_that_it_did_not_start(tmp_path):
    command = ["-m", "fftrain", "pretrain", *TINY[:-2], "--out", tmp_path / "run"]
    words = ["--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no", "--dynamo_backend", "no"]
    ended = python("-m", "accelerate.commands.launch", "--cpu", *words, *command)
    assert "the launcher was asked for 2 processes and started one" in ended.stderr
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.format(2))
    ended = python("-m", "accelerate.commands.launch", "--config_file", config, *command)
    assert "the launcher was asked for several processes and started one" in ended.stderr
    assert not (tmp_path / "run").exists()
    config.write_text(CONFIG.format(1))
    environment = {**os.environ, "MASTER_PORT": "29500"}  # as some batch scripts set for every program
    words = ["--config_file", config, "--num_cpu_threads_per_process", 1]
    ended = python("-m", "accelerate.commands.launch", *words, *command, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert precision(tmp_path / "run") == "bf16"
    assert json.loads((tmp_path / "run" / "config.json").read_text())["hardware"]["cpu_threads"] == 1
