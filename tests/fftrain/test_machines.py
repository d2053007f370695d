"""docs/scale.md, Clusters: what it shows is what happens, on one machine that stands in for several."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import psutil
import pytest

from tests.fftrain.test_cluster import trained, until, written
from tests.fftrain.training import OPTIONS, apart, epochs
from tests.helpers import ROOT, python
from tests.test_deployment import blocks

PAGE = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").partition("## Clusters")[2].partition("\n## ")[0]
# What a batch system brings along, and this checkout's program.
PROGRAMS = {
    "srun": 'exec "$@"',
    "scontrol": 'echo "$@" >> requeued',
    "fftrain": f'exec {sys.executable} -m fftrain "$@"',
}


@pytest.fixture
def environment(tmp_path):
    (tmp_path / "bin").mkdir()
    for name, text in PROGRAMS.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    sources = [str(ROOT / place) for place in ("", "models", "export")]
    path = os.pathsep.join([str(tmp_path / "bin"), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "PYTHONPATH": os.pathsep.join(sources)}


def shown(language):
    """The page's blocks of a language."""
    return [text for kind, text in blocks(f"{PAGE}\n") if kind == language]


@pytest.mark.slow
def test_every_block_of_the_shell_runs(tmp_path, environment):
    pytest.importorskip("ray", reason="ray is not installed")
    script = "set -e\n" + "\n".join(shown("sh"))
    ended = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=300, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert "1 cells (1 done)" in ended.stdout


@pytest.mark.slow
def test_a_job_array_that_is_preempted_is_requeued_and_goes_on(tmp_path, environment):
    _, name = written(tmp_path)
    (tmp_path / "long.toml").rename(tmp_path / "my.toml")
    (tmp_path / "study.sbatch").write_text(*shown("bash"))
    told = {"SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "1", "SLURM_CPUS_PER_TASK": "1"}

    def submitted():
        return subprocess.Popen(
            ["bash", "study.sbatch"], cwd=tmp_path, env={**environment, **told}, stderr=subprocess.PIPE, text=True
        )

    job, out = submitted(), tmp_path / "studies" / "mine"
    until(lambda: trained(out, name))
    [step] = [each for each in psutil.Process(job.pid).children(recursive=True) if "fftrain" in each.cmdline()]
    step.send_signal(signal.SIGTERM)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 128 + signal.SIGTERM == 143
    assert "stopped: `fftrain study --out studies/mine` goes on" in err
    assert (tmp_path / "requeued").read_text() == "requeue 7_1\n"
    again = submitted()
    _, err = again.communicate(timeout=300)
    assert again.returncode == 0, err
    [resumed] = re.findall(r"resuming .* after epoch (\d+)", err)
    assert int(resumed) >= 1
    assert epochs(out / "cells" / name) == [*range(1, 61)]
    assert (tmp_path / "requeued").read_text() == "requeue 7_1\n"


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_two_machines_agree_with_one_within_1e_4(tmp_path, environment, unused_port, launcher):
    command = ["-m", "fftrain", "pretrain", *OPTIONS, "--epochs", 3, "--batch-size", 50, "--limit", 451, "--out"]
    one = python(*command, tmp_path / "one")
    assert one.returncode == 0, one.stderr
    [config] = shown("yaml")
    for old, new in {
        "num_processes: 16": "num_processes: 2",
        "10.0.0.1": "127.0.0.1",
        "29500": str(unused_port),
        "mixed_precision: bf16": "mixed_precision: 'no'",
        "use_cpu: false": "use_cpu: true",
    }.items():
        assert old in config
        config = config.replace(old, new)
    (tmp_path / "cluster.yaml").write_text(config)

    def machine(rank):
        words = ["-m", "accelerate.commands.launch", "--config_file", tmp_path / "cluster.yaml", "--machine_rank", rank]
        if launcher == "torchrun":
            endpoint = ["--rdzv-backend", "c10d", "--rdzv-id", "run", "--rdzv-endpoint", f"localhost:{unused_port}"]
            words = ["-m", "torch.distributed.run", "--nnodes", 2, "--nproc-per-node", 1, *endpoint]
        return subprocess.Popen(
            [sys.executable, *map(str, [*words, *command, tmp_path / "two", "--processes", 2])],
            cwd=ROOT,
            env={**environment, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    machines = [machine(rank) for rank in (0, 1)]
    said = [each.communicate(timeout=300) for each in machines]
    assert [each.returncode for each in machines] == [0, 0], said
    assert sum("2 x cpu" in err for _, err in said) == 1
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-4
