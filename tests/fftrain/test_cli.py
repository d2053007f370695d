"""The commands as a user types them, with good and with bad input."""

from __future__ import annotations

import json
import re
import sys

import pytest
from PIL import Image

from ffmodels.registry import GOODNESS, NORMALISATIONS
from fftrain.planning import PRESETS
from fftrain.registry import DATASETS, METHODS, TASKS
from tests.helpers import one_line

TINY = ["--dataset", "digits", "--width", 24, "--depth", 2, "--limit", 80, "--epochs", 1, "--threads", 1]


def test_pretrain_prints_a_table_and_json_alone_on_standard_output(cli, tmp_path):
    ended = cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "a")
    assert ended.code == 0
    assert "rotation accuracy on 143 validation images" in ended.out
    assert "epoch 1/1" in ended.err
    ended = cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "b", "--json")
    assert ended.json["validation"]["by"].keys() == {"layer1", "layer2", "layers1-2-mean"}


def test_without_out_the_run_is_named_by_what_it_is(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("fftrain", "pretrain", *TINY, "--task", "flip-h", "--method", "bp").code == 0
    assert (tmp_path / "runs" / "digits-flip-h-bp" / "backbone.safetensors").is_file()
    one_line(cli("fftrain", "pretrain", *TINY, "--task", "flip-h", "--method", "bp"), 1, "in use already", "--resume")


def test_unsupervised_ff_needs_no_task_and_its_run_is_named_by_its_own(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = cli("fftrain", "pretrain", *TINY, "--method", "ff-unsupervised")
    assert ended.code == 0
    assert "hybrid accuracy on 143 validation images, ff-unsupervised" in ended.out
    run = tmp_path / "runs" / "digits-hybrid-ff-unsupervised"
    assert json.loads((run / "config.json").read_text())["task"] == {
        "name": "hybrid",
        "class_names": ["hybrid", "image"],
        "slot": "pixels",
    }
    assert cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 2).code == 0
    assert json.loads((run / "config.json").read_text())["config"]["task"] == "hybrid"


def test_a_final_run_trains_on_the_validation_images_too_and_goes_on_so(cli, tmp_path):
    options = [option for option in TINY if option not in ("--limit", 80)]
    ended = cli("fftrain", "pretrain", *options, "--no-holdout", "--method", "bp", "--out", tmp_path / "run")
    assert ended.code == 0
    assert "bp on digits rotation: 1,438 images" in ended.err
    ended = cli("fftrain", "pretrain", "--resume", "--out", tmp_path / "run", "--epochs", 2)
    assert ended.code == 0
    assert "bp on digits rotation: 1,438 images" in ended.err
    ended = cli("fftrain", "pretrain", "--resume", "--out", tmp_path / "run", "--holdout")
    one_line(ended, 2, "--holdout is True, but the run to resume has False")


def test_a_tracker_that_is_not_installed_is_named_with_what_installs_it(cli, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    ended = cli("fftrain", "pretrain", *TINY, "--track", "tensorboard", "--out", tmp_path / "run")
    one_line(ended, 2, "--track tensorboard", "not installed", "pip install tensorboard")
    assert not (tmp_path / "run").exists()


def test_options_override_the_config_file(cli, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('dataset = "digits"\nwidth = 24\ndepth = 2\nlimit = 80\nepochs = 1\nthreads = 1\nlr = 0.5\n')
    assert cli("fftrain", "pretrain", "--config", recipe, "--lr", "1e-3", "--out", tmp_path / "run").code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["lr"], config["width"]) == (1e-3, 24)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--dataset", "minst"], 2, ["'minst'", "mnist, fashion-mnist"]),
        (["--task", "spin"], 2, ["'spin'", "rotation, flip-h"]),
        (["--method", "sgd"], 2, ["'sgd'", "ff, ff-unsupervised, bp"]),
        (["--method", "ff-unsupervised", "--task", "rotation"], 2, ["--task is 'rotation'", "leave --task out"]),
        (["--method", "bp", "--task", "hybrid"], 2, ["--task hybrid is for --method ff-unsupervised alone, not bp"]),
        (["--dataset", "digits", "--limit", "80", "--no-holdout"], 2, ["--limit is 80", "--no-holdout trains on all"]),
        ([*TINY, "--mixed-precision", "fp16"], 2, ["--mixed-precision fp16"]),
        (["--track", "wandb"], 2, ["--track is 'wandb'", "tensorboard"]),
        (["--width", "0"], 2, ["--width is 0", "at least 1"]),
        (["--width", "wide"], 2, ["--width", "wide"]),
        (["--lr", "nan"], 2, ["--lr is nan"]),
        (["--config", "none.toml"], 2, ["none.toml", "no such file"]),
        (["--speed", "9"], 2, ["--speed"]),
        (["--dataset", "digits", "--task", "jigsaw", "--image-size", "9"], 2, ["jigsaw needs even sizes, not 9x9"]),
        (["--dataset", "digits", "--task", "jigsaw", "--image-size", "4"], 2, ["24 classes does not fit into the 4x4"]),
        (["--dataset", "imagefolder:none"], 1, ["none is no folder"]),
        (["--resume"], 2, ["--resume needs --out"]),
    ],
)
def test_wrong_usage_is_one_line_and_leaves_nothing(cli, tmp_path, monkeypatch, options, code, words):
    monkeypatch.chdir(tmp_path)
    ended = cli("fftrain", "pretrain", *options)
    assert ended.err.lower().count("error:") == 1
    one_line(type(ended)(ended.code, ended.out, ended.err.replace("No such", "no such")), code, *words)
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_missing_data_set_names_what_mends_it(cli, tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.mnist.download_and_extract_archive", lambda *a, **k: refuse())
    ended = cli("fftrain", "pretrain", "--data-dir", tmp_path / "data", "--out", tmp_path / "run")
    one_line(ended, 1, "mnist is not in", "--data-dir", "digits")
    assert not (tmp_path / "run").exists()


def test_a_long_reason_of_a_failed_download_ends_with_a_whole_word(cli, tmp_path, monkeypatch):
    reason = " ".join(f"Tried mirror-{i:03d}, got: none." for i in range(40))

    def refuse(*arguments, **settings):
        raise RuntimeError(reason)

    monkeypatch.setattr("torchvision.datasets.mnist.MNIST.download", refuse)
    ended = cli("fftrain", "pretrain", "--data-dir", tmp_path / "data", "--out", tmp_path / "run")
    one_line(ended, 1, "mnist is not in", "--data-dir")
    said, _, rest = ended.err.partition("could not be downloaded (")[2].partition(" ...)")
    assert rest.startswith(": name the folder")
    assert len(said) > 100
    assert reason.startswith(said + " ")


@pytest.mark.parametrize("place", ["file", "file/run", "/proc/run"])
def test_a_place_that_cannot_be_written_is_refused_before_training(cli, tmp_path, place):
    (tmp_path / "file").write_text("mine")
    ended = cli("fftrain", "pretrain", *TINY, "--out", tmp_path / place)
    one_line(ended, 1, "--out")
    assert "epoch" not in ended.err
    assert (tmp_path / "file").read_text() == "mine"


def test_resume_goes_on_and_refuses_another_recipe(cli, tmp_path):
    run = tmp_path / "run"
    assert cli("fftrain", "pretrain", *TINY, "--out", run, "--resume").code == 0  # nothing there yet: it starts
    one_line(
        cli("fftrain", "pretrain", "--resume", "--out", run, "--lr", "0.5"), 2, "--lr is 0.5, but the run to resume"
    )
    ended = cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 2)
    assert ended.code == 0
    assert re.search(r"resuming .*run after epoch 1", ended.err)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    again = cli("fftrain", "pretrain", "--resume", "--out", run)
    assert again.code == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    one_line(cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 1), 2, "--epochs is 1", "2")


def test_probe_evaluate_and_report_of_a_run(cli, run_copy):
    ended = cli("fftrain", "probe", run_copy, "--epochs", 1, "--slot", "zeros", "--threads", 1, "--json")
    assert ended.json["dataset"] == "digits"
    assert {row["source"] for row in ended.json["rows"]} == {"raw", "random", "ff"}
    ended = cli("fftrain", "evaluate", run_copy, "--split", "test", "--threads", 1, "--json")
    assert ended.json["images"] == 359
    one_line(cli("fftrain", "evaluate", run_copy, "--split", "train"), 2, "--split is 'train'")
    ended = cli("fftrain", "report", run_copy)
    assert ended.code == 0
    assert (run_copy / "report.html").is_file()
    for command in ("probe", "evaluate", "report"):
        one_line(cli("fftrain", command, run_copy / "none"), 1, "none")


def test_help_says_each_default_and_what_each_name_means(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    said = " ".join(cli("fftrain", "pretrain", "--help").out.split()).replace("- ", "-")
    for default in ("--no-grayscale", "--holdout", "mnist", "60"):
        assert f"[default: {default}]" in said
    assert "[rotation|flip-h|flip-v|flip-hv|jigsaw|supervised|hybrid] [default: rotation; ff-unsupervised" in said
    for registry in (DATASETS, TASKS, METHODS, GOODNESS, NORMALISATIONS):
        assert all(f"{name} {entry.about}" in said for name, entry in registry.items())
    said = " ".join(cli("fftrain", "study", "--help").out.split())
    assert all(f"{name} {about}" in said for name, about in PRESETS.items())
    assert "[env: FFSTUDY_DATA; default: ~/.cache/ffstudy]" in said


def test_the_summary_of_each_command_is_one_short_sentence(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("fftrain", "--help").out
    lines = out.partition("Commands:")[2].strip().splitlines()
    assert len(lines) == 7
    assert all(line.endswith(".") and not line.endswith("...") and len(line) <= 80 for line in lines)


def test_dump_images(cli, tmp_path):
    assert cli("fftrain", "dump-images", "digits", tmp_path / "png").code == 0
    files = list((tmp_path / "png").glob("*/*.png"))
    assert len(files) == 359
    with Image.open(files[0]) as image:
        assert image.size == (28, 28)
    one_line(cli("fftrain", "dump-images", "digits", tmp_path / "png"), 1, "in use already")
