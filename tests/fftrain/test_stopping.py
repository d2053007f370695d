"""Commands that are stopped, and what a person sees of how far they are."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ffserve import console
from fftrain import evaluate_run, progress
from fftrain.parts import EVALUATIONS
from fftrain.progress import Reporter, TerminalReporter
from fftrain.run import RunFolder
from fftrain.stopping import AGAIN, stopping
from tests.fftrain.training import evaluation
from tests.helpers import ROOT, one_line

TINY = ["--dataset", "digits", "backbone.width=24", "backbone.depth=2", "--limit", "800", "--threads", "1"]


class Lines(Reporter):
    """Remembers the lines."""

    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def training(run, **how):
    """A training of the command that goes on for long, after its first epoch."""
    child = subprocess.Popen(
        [sys.executable, "-m", "fftrain", "pretrain", *TINY, "--epochs", "5000", "--out", run],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        **how,
    )
    deadline = time.monotonic() + 120
    while not any((run / "checkpoint").glob("epoch-*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    return child


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, *(pytest.param(n, marks=pytest.mark.slow) for n in (signal.SIGINT, signal.SIGUSR1))]
)
def test_a_stopped_training_names_the_command_that_goes_on(cli, tmp_path, number):
    run = tmp_path / "my run"
    child = training(run)
    child.send_signal(number)
    _, err = child.communicate()
    assert child.returncode == 128 + number
    assert "Traceback" not in err
    word = "interrupted" if number == signal.SIGINT else "terminated"
    assert f"fftrain: error: {word}; nothing half-written is left" in err
    done = RunFolder(run).epochs_done
    assert done >= 1
    assert f"stopped after epoch {done} of 5000: `fftrain pretrain --resume --out '{run}'` goes on" in err
    assert not [*run.rglob("*.partial")]
    ended = cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", done + 1)
    assert ended.code == 0, ended.err


def test_what_was_told_to_be_ignored_is_ignored(tmp_path):
    """As nohup does with SIGHUP."""
    child = training(tmp_path / "run", preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    done = RunFolder(tmp_path / "run").epochs_done
    child.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 60
    while RunFolder(tmp_path / "run").epochs_done < done + 3 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert child.poll() is None
    child.send_signal(signal.SIGUSR1)
    child.communicate()
    assert child.returncode == 128 + signal.SIGUSR1


def test_what_goes_on_is_said_only_where_it_does(cli, run_copy, tmp_path):
    assert "the same command starts again" in RunFolder(tmp_path / "none").stopped(3)
    begun = tmp_path / "begun"
    begun.mkdir()
    (begun / "config.json").write_bytes((run_copy / "config.json").read_bytes())
    assert RunFolder(begun).stopped(3) == (
        f"stopped in epoch 1 of 3, of which nothing is kept: `fftrain pretrain --resume --out {begun}` starts it again"
    )
    ended = cli("fftrain", "pretrain", "--resume", "--out", begun)
    assert ended.code == 0, ended.err
    assert "after epoch 0" in ended.err


@pytest.fixture
def default_signals():
    """Signals as a new process has them."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in console.ENDING}
    yield
    for number, how in before.items():
        signal.signal(number, how)


def test_a_command_that_is_done_leaves_signals_as_they_were(default_signals):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    before = {number: signal.getsignal(number) for number in console.ENDING}
    with console.unwinding():
        assert {n for n in console.ENDING if signal.getsignal(n) != before[n]} == {*console.ENDING} - {signal.SIGHUP}
    assert {number: signal.getsignal(number) for number in console.ENDING} == before


@pytest.mark.parametrize("stop", [KeyboardInterrupt, console.Stopped(143)])
def test_what_is_said_is_said_once_and_the_command_ends_as_it_would_have(stop):
    reporter = Lines()
    with stopping(reporter, lambda: AGAIN):
        pass
    assert reporter.lines == []
    with pytest.raises(type(stop) if isinstance(stop, BaseException) else stop), stopping(reporter, lambda: AGAIN):
        raise stop
    assert reporter.lines == [AGAIN]


def test_a_second_signal_does_not_stop_the_clearing_up(default_signals):
    cleared = []

    def work():
        try:
            signal.raise_signal(signal.SIGUSR1)
        finally:
            signal.raise_signal(signal.SIGTERM)
            cleared.append(True)

    with pytest.raises(console.Stopped) as end, console.unwinding():
        work()
    assert cleared
    assert end.value.code == 128 + signal.SIGUSR1


def test_of_several_processes_each_ends_at_once(monkeypatch, default_signals):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with console.unwinding():
        assert all(signal.getsignal(number) is signal.SIG_DFL for number in console.ENDING)


def test_a_stopped_evaluation_and_study_say_so(cli, monkeypatch, run_copy, tmp_path):
    def stop(*arguments, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(EVALUATIONS.load("linear"), "fit", stop)
    ended = cli("fftrain", "evaluate", run_copy, "linear", "--threads", 1)
    assert AGAIN in ended.err
    one_line(ended, 130, "interrupted")
    monkeypatch.setattr("fftrain.study.folder.Study.run_cell", stop)
    out = tmp_path / "study"
    ended = cli("fftrain", "study", "--preset", "smoke", "--out", out, "--threads", 1)
    assert f"stopped: `fftrain study --out {out}` goes on" in ended.err
    one_line(ended, 130, "interrupted")


def test_where_no_bar_is_drawn_a_quiet_time_ends_in_a_line(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    reporter = TerminalReporter()
    for _ in reporter.track(range(100), 100, "probe 2/11", ahead=200):
        now[0] += 1
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "probe 2/11: 30 of 100, about 4.5 min left",
        "probe 2/11: 60 of 100, about 4.0 min left",
        "probe 2/11: 90 of 100, about 3.5 min left",
    ]
    for _ in reporter.track(range(100), 100, "epoch 1/3"):
        reporter.note("a line")
        now[0] += 29
    assert set(capsys.readouterr().err.splitlines()) == {"a line"}


def test_epochs_say_how_long_the_rest_takes_and_probes_what_they_read(cli, tmp_path):
    run: Path = tmp_path / "run"
    ended = cli("fftrain", "pretrain", *TINY, "--epochs", 3, "--out", run)
    lines = [line for line in ended.err.splitlines() if line.startswith("epoch ")]
    assert [bool(re.search(r" s, about \S+ (s|min|h) left$", line)) for line in lines] == [True, True, False]
    ended = cli("fftrain", "evaluate", run, "linear", "linear.epochs=1", "--threads", 1)
    names = ["raw pixels", *(f"{of} {name}" for of in ("random", "ff") for name in ("block1", "block2", "blocks1-2"))]
    said = r"^probe (.*): validation \d\.\d{4} \(lr \S+, weight decay \S+\)$"
    assert re.findall(said, ended.err, re.MULTILINE) == names


def test_the_time_left_counts_the_probes_of_the_same_features_that_come_after(run_copy):
    class Ahead(Reporter):
        def __init__(self):
            self.ahead = []

        def track(self, items, total, what, ahead=0.0):
            self.ahead += [ahead] if what.startswith("probe ") else []
            yield from items

    reporter = Ahead()
    evaluate_run(run_copy, evaluation("linear", epochs=2), reporter=reporter)
    widths = [48, 48, 48, 48, 144]
    of_blocks = [2 * sum(widths[i + 1 :]) / widths[i] for i in range(5)]
    assert reporter.ahead == pytest.approx([0, *of_blocks, *of_blocks])
