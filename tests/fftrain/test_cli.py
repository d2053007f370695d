"""The commands as a user types them, with good and with bad input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from PIL import Image

from ffcore.files import read_json, write_json
from ffcore.plugins import Plugins
from ffmodels.evaluated import read
from ffmodels.parts import BACKBONES, METHODS
from fftrain.cli import KINDS
from fftrain.options import GONE
from fftrain.study import PRESETS
from tests.fftrain.studies import times
from tests.fftrain.training import TINY
from tests.helpers import one_line


def test_pretrain_prints_a_table_and_json_alone_on_standard_output(cli, tmp_path):
    ended = cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "a")
    assert ended.code == 0
    assert f"{tmp_path}/a: readout on digits, reading neutral" in " ".join(ended.out.split())
    assert "pretext accuracy" in ended.out
    assert "epoch 1/1" in ended.err
    ended = cli("fftrain", "pretrain", *TINY, "--out", tmp_path / "b", "--json")
    assert ended.json["run"] == f"{tmp_path}/b"
    [told] = ended.json["evaluations"]
    assert (told["evaluation"], told["settings"]["evaluation"]["split"]) == ("readout", "validation")
    predicts, *readers = told["records"]
    assert {record["blocks"] for record in readers} == {"block1", "block2", "blocks1-2-mean"}
    assert predicts["value"] in [record["value"] for record in readers if record["blocks"] == "blocks1-2-mean"]
    assert {record["images"] for record in told["records"]} == {143}


def test_without_out_the_run_is_named_by_what_it_is(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("fftrain", "pretrain", *TINY, "--view", "flip-h", "--recipe", "bp").code == 0
    assert (tmp_path / "runs" / "digits-flip-h-bp" / "backbone.safetensors").is_file()
    one_line(cli("fftrain", "pretrain", *TINY, "--view", "flip-h", "--recipe", "bp"), 1, "in use already", "--resume")


def test_a_recipe_may_name_its_view_and_a_run_without_labels_tells_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ended = cli("fftrain", "pretrain", *TINY, "--recipe", "ff-unsupervised")
    assert ended.code == 0
    assert ended.out == "runs/digits-plain-ff-unsupervised: ff-unsupervised, trained without labels\n"
    assert "accuracy" not in ended.err
    run = tmp_path / "runs" / "digits-plain-ff-unsupervised"
    assert cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 2).code == 0
    assert json.loads((run / "config.json").read_text())["config"]["view"] == {"name": "plain"}
    one_line(cli("fftrain", "evaluate", run), 1, "has nothing that tells labels", "hybrid-forward-forward")


def test_a_method_that_reads_labels_and_has_no_classifier_is_not_said_to_be_without_labels(cli, tmp_path):
    views = ("--view", "two-shifts", "--method", "info-nce", "--batch-size", "20")
    ended = cli("fftrain", "pretrain", *TINY, *views, "method.supervised=true", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert ended.out.endswith(": info-nce, trained, with nothing that tells labels\n")


def test_settings_of_parts_are_assigned_and_go_over_file_and_recipe(cli, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[method]\nthreshold = 3.0\ngoodness = "norm"\n[backbone]\nwidth = 9\n')
    options = ["--config", recipe, "method.threshold=2", "backbone.width=24"]
    ended = cli("fftrain", "pretrain", *TINY, "--recipe", "bp-goodness-all", *options, "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert config["method"] == METHODS.load("forward-forward")(goodness="norm", threshold=2.0).to_dict()
    assert config["backbone"] == BACKBONES.load("mlp")(width=24, depth=2).to_dict()
    assert (config["cut"], config["at"]) == ("never", "all")


def test_options_of_version_0_1_name_their_successors(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, successor in GONE.items():
        ended = cli("fftrain", "pretrain", *TINY, f"--{name}", "3")
        one_line(ended, 2, f"--{name} is gone: write {successor.format(3)}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", KINDS)
def test_parts_are_listed_and_each_with_its_settings(cli, kind):
    listed = cli("fftrain", "list", kind, "--json").json
    assert {row["name"] for row in listed} == {*KINDS[kind]}
    for name, about in KINDS[kind].items():
        assert about in cli("fftrain", "list", kind).out
        ended = cli("fftrain", "list", kind, name)
        assert ended.code == 0
        part = KINDS[kind].load(name) if isinstance(KINDS[kind], Plugins) else None
        for setting, field in getattr(part, "model_fields", {}).items():
            assert setting in ended.out
            assert field.description.split()[0] in ended.out


def test_a_kind_or_a_part_that_is_not_there(cli):
    one_line(cli("fftrain", "list", "losses"), 2, "'losses' is no kind of part: choose one of methods")
    one_line(cli("fftrain", "list", "methods", "cross-entropi"), 2, "did you mean cross-entropy?")
    one_line(cli("fftrain", "list", "recipes", "x"), 2, "choose one of")


def test_a_final_run_trains_on_the_validation_images_too_and_goes_on_so(cli, tmp_path):
    options = [option for option in TINY if option not in ("--limit", 80)]
    ended = cli("fftrain", "pretrain", *options, "--no-holdout", "--recipe", "bp", "--out", tmp_path / "run")
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
    small = 'dataset = "digits"\nlimit = 80\nepochs = 1\nthreads = 1\nlr = 0.5\n[backbone]\nwidth = 24\ndepth = 2\n'
    recipe.write_text(small)
    assert cli("fftrain", "pretrain", "--config", recipe, "--lr", "1e-3", "--out", tmp_path / "run").code == 0
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert (config["lr"], config["backbone"]["width"]) == (1e-3, 24)


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--dataset", "minst"], 2, ["'minst'", "did you mean mnist?"]),
        (["--view", "spin"], 2, ["'spin'", "flip-h, flip-hv"]),
        (["--method", "sgd"], 2, ["'sgd'", "cross-entropy, forward-forward"]),
        (["--method", "bp"], 2, ["write --recipe bp"]),
        (["--recipe", "sgd"], 2, ["--recipe is 'sgd'", "ff-unsupervised"]),
        (["--dataset", "digits", "--cut", "often"], 2, ["--cut is 'often'", "block, stage, never"]),
        (["width=3"], 2, ["'width=3' is no setting: write PART.KEY=VALUE"]),
        (["backbone.widht=3"], 2, ["backbone.widht", "did you mean width?"]),
        (["--dataset", "digits", "backbone.between=none"], 2, ["backbone.between is none"]),
        (["--method", "./none.py"], 2, ["none.py", "is no file"]),
        (["--dataset", "digits", "--limit", "80", "--no-holdout"], 2, ["--limit is 80", "--no-holdout trains on all"]),
        ([*TINY, "--mixed-precision", "fp16"], 2, ["--mixed-precision fp16"]),
        (["--track", "wandb"], 2, ["--track is 'wandb'", "tensorboard"]),
        (["backbone.width=0"], 2, ["backbone.width is 0", "at least 1"]),
        (["backbone.width=wide"], 2, ["backbone.width is 'wide'", "a whole number"]),
        (["--epochs", "many"], 2, ["--epochs", "many"]),
        (["--lr", "nan"], 2, ["--lr is nan"]),
        (["--config", "none.toml"], 2, ["none.toml", "no such file"]),
        (["--speed", "9"], 2, ["--speed"]),
        (["--dataset", "digits", "--view", "jigsaw", "--image-size", "9"], 2, ["jigsaw needs even sizes, not 9x9"]),
        (["--dataset", "digits", "--view", "jigsaw", "--image-size", "4"], 2, ["24 classes does not fit into the 4x4"]),
        (["--dataset", "imagefolder:none"], 1, ["none is no folder"]),
        (["--resume"], 2, ["--resume needs --out"]),
        (["--resume", "--out", "typo"], 2, ["--out typo holds no run to continue", "nothing says what to train"]),
        (["--resume", "--out", "typo", "--epochs", "9", "--dataset", "digits"], 2, ["--out typo holds no run"]),
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
    one_line(ended, 1, str(tmp_path / place), "cannot be made", "name another folder")
    assert "epoch" not in ended.err
    assert (tmp_path / "file").read_text() == "mine"


def test_a_batch_that_cannot_be_filled_leaves_nothing(cli, tmp_path):
    two = ["--dataset", "digits", "--limit", "100", "--method", "barlow", "--view", "two-shifts", "--epochs", "1"]
    for size in (128, 1):
        ended = cli("fftrain", "pretrain", *two, "--batch-size", size, "--out", tmp_path / "run")
        one_line(ended, 2, f"--batch-size is {size}")
        assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.name != ".lock"]
    ended = cli("fftrain", "pretrain", *two, "--batch-size", 50, "--out", tmp_path / "run", "backbone.width=20")
    assert ended.code == 0


def test_resume_goes_on_and_refuses_another_recipe(cli, tmp_path):
    run = tmp_path / "run"
    ended = cli("fftrain", "pretrain", *TINY, "--out", run, "--resume")
    assert (ended.code, f"{run} holds no run yet: it begins" in ended.err) == (0, True)
    one_line(
        cli("fftrain", "pretrain", "--resume", "--out", run, "--lr", "0.5"), 2, "--lr is 0.5, but the run to resume"
    )
    record = read_json(run / "config.json")
    del record["data"]["hub"]  # which earlier versions did not tell
    write_json(run / "config.json", record)
    ended = cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 2)
    assert ended.code == 0
    assert re.search(r"resuming .*run after epoch 1", ended.err)
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    again = cli("fftrain", "pretrain", "--resume", "--out", run)
    assert again.code == 0
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2
    one_line(cli("fftrain", "pretrain", "--resume", "--out", run, "--epochs", 1), 2, "--epochs is 1", "2")


def test_evaluate_and_report_of_a_run(cli, run_copy):
    options = ["--reading", "zeros", "--threads", 1]
    ended = cli("fftrain", "evaluate", run_copy, "linear", "linear.epochs=1", *options, "--json")
    assert ended.json["run"] == str(run_copy)
    [linear] = ended.json["evaluations"]
    ended = cli("fftrain", "evaluate", run_copy, "readout.split=test", *options[2:], "--json")
    [readout] = ended.json["evaluations"]
    assert (linear["evaluation"], linear["dataset"], linear["reading"]) == ("linear", "digits", "zeros")
    assert linear["settings"]["evaluation"]["epochs"] == 1
    assert {record["source"] for record in linear["records"]} == {"raw", "random", "ff"}
    assert (readout["evaluation"], readout["records"][0]["images"]) == ("readout", 359)
    for one in (linear, readout):
        assert read(Path(one["file"])).records == one["records"]
    before = times(run_copy)
    again = cli("fftrain", "evaluate", run_copy, "linear", "linear.epochs=1", *options, "--json")
    assert again.json["evaluations"] == [linear]  # what is there is done
    wrong = (
        (["readout.split=train"], "readout.split is 'train'", "validation, test"),
        (["liner"], "'liner'", "did you mean linear?"),
        (["linear.epoch=3"], "linear.epoch", "did you mean epochs?"),
        (["liner.epochs=3"], "did you mean linear.epochs?"),
        (["readout", "--reading", "zeros"], "readout reads as its method does: leave --reading out"),
        (["linear", "--target", "label"], "--target is 'label'", "class, pretext"),
    )
    for given, *words in wrong:
        one_line(cli("fftrain", "evaluate", run_copy, *given), 2, *words)
    assert times(run_copy) == before
    ended = cli("fftrain", "report", run_copy)
    assert ended.code == 0
    assert (run_copy / "report.html").is_file()
    for command in ("evaluate", "report"):
        one_line(cli("fftrain", command, run_copy / "none"), 1, "none")


def test_commands_and_options_of_version_0_1_that_measured_name_their_successors(cli, run_copy):
    for given, successor in (
        (["probe", run_copy], f"`fftrain evaluate {run_copy} linear`"),
        (["probe", "--reading", "zeros", run_copy, "--json"], "linear`"),
        (["analyse", run_copy, "--points", 0], f"`fftrain evaluate {run_copy} decoder tsne similarity`"),
        (["evaluate", run_copy, "--split", "test"], "write readout.split=test"),
    ):
        one_line(cli("fftrain", *given), 2, "is gone: write", successor)


def test_help_says_each_default_and_what_each_name_means(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    said = " ".join(cli("fftrain", "pretrain", "--help").out.split()).replace("- ", "-")
    for default in ("--no-grayscale", "--holdout", "mnist", "60"):
        assert f"[default: {default}]" in said
    measured = " ".join(cli("fftrain", "evaluate", "--help").out.split()).replace("- ", "-")
    for kind, named in KINDS.items():
        shown = measured if kind == "evaluations" else said
        assert all(f"{name} {' '.join(about.split())}" in shown for name, about in named.items()), kind
    said = " ".join(cli("fftrain", "study", "--help").out.split())
    assert all(f"{name} {about}" in said for name, about in PRESETS.items())
    assert "[env: FFSTUDY_DATA; default: ~/.cache/ffstudy]" in said


def test_the_summary_of_each_command_is_one_short_sentence(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("fftrain", "--help").out
    lines = out.partition("Commands:")[2].strip().splitlines()
    assert [line.split()[0] for line in lines] == ["pretrain", "list", "evaluate", "study", "report", "dump-images"]
    assert all(line.endswith(".") and not line.endswith("...") and len(line) <= 80 for line in lines)


def test_dump_images(cli, tmp_path):
    assert cli("fftrain", "dump-images", "digits", tmp_path / "png").code == 0
    files = list((tmp_path / "png").glob("*/*.png"))
    assert len(files) == 359
    with Image.open(files[0]) as image:
        assert image.size == (28, 28)
    one_line(cli("fftrain", "dump-images", "digits", tmp_path / "png"), 1, "in use already")
