"""Whether bf16 pays on this CPU is said, and the run is the same."""

from __future__ import annotations

import json
import time

import pytest
import torch

from fftrain import precision
from tests.fftrain.training import TINY, weights

SAID = "of fp32's speed on this CPU"


def test_a_run_says_once_that_bf16_is_slower_and_by_how_much_and_is_the_same(cli, tmp_path, monkeypatch):
    for name, speeds in (("slow", (130.0, 80.0)), ("fast", (50.0, 80.0)), ("alike", (80.0, 79.0))):
        monkeypatch.setattr(precision, "speeds", lambda rows, width, found=speeds: found)
        ended = cli("fftrain", "pretrain", *TINY, "--mixed-precision", "bf16", "--out", tmp_path / name)
        assert ended.code == 0, ended.err
        lines = [line for line in ended.err.splitlines() if SAID in line]
        assert len(lines) == (name == "slow")
    monkeypatch.undo()
    assert cli("fftrain", "pretrain", *TINY, "--mixed-precision", "bf16", "--out", tmp_path / "timed").code == 0
    assert len({weights(tmp_path / name) for name in ("slow", "fast", "alike", "timed")}) == 1
    assert json.loads((tmp_path / "slow" / "config.json").read_text())["config"]["mixed_precision"] == "bf16"
    monkeypatch.setattr(precision, "speeds", lambda rows, width: (130.0, 80.0))
    assert precision.slower_in_bf16(1, 1) == (
        "bf16 runs at 0.62 of fp32's speed on this CPU (80 against 130 GFLOP/s at this size): "
        "--mixed-precision no is faster"
    )


def test_a_run_in_full_precision_times_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.setattr(precision, "speeds", lambda rows, width: pytest.fail("it was timed"))
    assert SAID not in cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "run").err


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (64, 500), (10**5, 10**6)])
def test_the_trial_is_short_and_draws_nothing(rows, width, monkeypatch):
    before, began = torch.get_rng_state(), time.perf_counter()
    said = precision.slower_in_bf16(rows, width)
    assert time.perf_counter() - began < 30  # a fraction of a second on a machine that is free
    assert torch.equal(torch.get_rng_state(), before)
    assert said is None or SAID in said
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


def test_the_figures_are_products_over_time(monkeypatch):
    now = [0.0]

    def clock():
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(precision.time, "perf_counter", clock)
    fp32, bf16 = precision.speeds(10, 20)
    assert fp32 == pytest.approx(4 * 10 * 20 * 20 / 1e9 / 0.01)
    assert bf16 == pytest.approx(fp32)
