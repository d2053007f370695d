"""What a report says where runs differ, lack something or have odd names."""

from __future__ import annotations

import shlex
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib import colors

from ffcore.errors import RunError
from ffcore.files import read_json, write_json
from fftrain import RunConfig, write_report
from fftrain.parts import merged
from fftrain.report.blocks import Curve, block_lines
from fftrain.report.figures import LOOKS, styles, svg
from fftrain.report.frame import collect
from fftrain.report.inventory import command as command_of
from fftrain.report.inventory import seconds as seconds_of
from fftrain.report.means import Mean
from fftrain.report.pictures import embeddings, training_curves
from fftrain.run import RunFolder
from tests.fftrain.reports import (
    NAMES,
    cell_name,
    change,
    files_of,
    lines_of,
    measured,
    part,
    pretext,
    probes,
    records,
    remeasured,
    reported,
    said,
)


def test_what_was_measured_with_other_settings_is_not_shown(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))

    def plan(epochs, images, points, reading):
        def do(content):
            for one in content["cells"][0]["evaluations"]:
                part = one["settings"]["evaluation"]
                if part["name"] == "linear":
                    part["epochs"] = epochs if one["reading"] == "neutral" else 2
                elif part["name"] == "decoder":
                    part["images"], one["reading"], one["settings"]["reading"] = images, reading, reading
                elif part["name"] == "tsne":
                    part["points"] = points

        change(root / "study.json", do)

    plan(2, 200, 60, "neutral")
    tables, problems = reported(root, drawn=True)
    assert problems == {}
    assert (root / "figures" / "tsne-digits-rotation.svg").read_text().count("ff, seed 0")
    assert "ff" in [row["of"] for row in records(tables["Explained variance of the pixels, in %"])]
    plan(50, 10_000, 1000, "neutral")
    tables, problems = reported(root, drawn=True)
    assert problems == {
        cell_name("ff", 0): (
            "incomplete",
            "not measured: linear of digits, reading neutral, class (measured with other settings: epochs 2, not 50); "
            "decoder of digits, reading neutral (measured with other settings: images 200, not 10000); "
            "tsne of digits, reading neutral (measured with other settings: points 60, not 1000)",
        )
    }
    rows = records(tables["Transfer: test accuracy of linear probes in %"])
    assert {r["digits"] for r in rows if r["method"] == "ff"} == {"not measured"}
    assert {r["digits"] for r in rows if r["method"] == "bp"} != {"not measured"}
    rows = records(tables["Explained variance of the pixels, in %"])
    assert "ff" not in [row["of"] for row in rows]
    assert "ff, seed 0" not in (root / "figures" / "tsne-digits-rotation.svg").read_text()
    kept = [r for r in read_json(root / "results.json") if r["run"] == cell_name("ff", 0)]
    assert {r["reading"] for r in kept if r["measure"] == "probe accuracy" and r["target"] == "class"} == {"zeros"}
    assert not {"explained variance", "points"} & {r["measure"] for r in kept}
    plan(2, 200, 60, "zeros")
    assert reported(root)[1][cell_name("ff", 0)][1] == "not measured: decoder of digits, reading zeros"
    plan(2, 200, 60, "neutral")
    change(root / "study.json", lambda content: content["cells"][0]["evaluations"][0]["settings"].update(limit=9))
    assert reported(root)[1][cell_name("ff", 0)][1].endswith("(measured with other settings: limit None, not 9)")


def test_raw_is_one_measurement_unless_it_differs(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("ff", 1))

    def shown(tables):
        place = "What the label pixels hold when features are read: test accuracy in %"
        found = [records(tables["Transfer: test accuracy of linear probes in %"])[0]["digits raw"]]
        found += [row["raw"] for row in records(tables[place])[:1]]
        blocks = records(tables["Linear probes by block, in %"])
        return [*found, next(row["pixels"] for row in blocks if row["of"] == "raw")]

    [value] = {probes(measured(root, "ff", seed), "neutral", "raw")[1] for seed in (0, 1)}
    assert shown(reported(root)[0]) == [f"{100 * value:.1f}"] * 3

    def other(record):
        if record["measure"] == "probe accuracy" and (record["source"], record["split"]) == ("raw", "test"):
            record["value"] = value + 0.02

    remeasured(root / "cells" / cell_name("ff", 1), other)
    assert shown(reported(root)[0]) == [said([value, value + 0.02])] * 3


def test_seeds_that_are_not_tested_yet_are_lacking(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("ff", 1), ("bp", 0), ("bp", 1))
    values = {
        split: [pretext(measured(root, "ff", seed), split) for seed in (0, 1)] for split in ("validation", "test")
    }

    def row():
        return records(tables["Pretext accuracy in %"])[0]

    files_of(root / "cells" / cell_name("ff", 1), "readout", split="test")[0].unlink()
    tables, problems = reported(root)
    test = values["test"][0]
    assert row()["digits"] == said([test], lacking=" of 2: seed 1 not measured")
    assert row()["digits difference"] == f"{100 * test - 98.9:+.1f}"
    assert problems == {cell_name("ff", 1): ("incomplete", "not measured: readout on test of digits, reading neutral")}
    [gap] = records(tables["ff less bp, in points"])
    assert "validation" not in gap["pretext gap"]
    files_of(root / "cells" / cell_name("ff", 0), "readout", split="test")[0].unlink()
    tables, _ = reported(root)
    assert row()["digits"] == said(values["validation"], "validation")
    assert (row()["digits published"], row()["digits difference"]) == ("98.9", "")
    [gap] = records(tables["ff less bp, in points"])
    assert "validation" in gap["pretext gap"]
    assert "validation" in gap["difficulty"]


def test_the_gap_says_what_is_on_both_axes(study):
    text = (study[0] / "report.md").read_text()
    assert "The other stands on both axes" in text
    assert "Supervised training is not in it" in text


@pytest.mark.parametrize(
    "last", [pytest.param("nine", marks=pytest.mark.slow, id="latin"), pytest.param("\u732b\u5c4b", id="cjk")]
)
def test_names_that_matplotlib_reads_in_another_way_are_shown(study, tmp_path, last):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0), ("bp", 0, "plain"))
    for path in (root / "cells").glob("*/config.json"):
        names = [*NAMES, last]
        change(path, lambda record, names=names: record["data"].update(class_names=names))
        if "plain" in path.parent.name:
            change(path, lambda record, names=names: record.update(classes=names))
    reported(root, drawn=True)
    for name in ("tsne-digits-rotation", "seen-bp-digits-plain"):
        svg = (root / "figures" / f"{name}.svg").read_text()
        parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
        parts = [p.text.strip() for p in ElementTree.fromstring(svg, parser).iter() if isinstance(p.text, str)]
        assert set(parts) >= ({*NAMES, last} if name.startswith("tsne") else {"$_$", "$x", r"\$5$"})


def test_lines_of_a_figure_look_different_though_methods_are_more_than_looks():
    methods = [f"m{i}" for i in range(12)]
    found = styles([(f"{method}, {what}", method) for method in methods for what in ("probe", "readout")], methods)
    looks = [(of["color"], str(of.get("linestyle")), of.get("markerfacecolor")) for of in found.values()]
    assert len({*looks}) == len(looks) == 24
    first = styles([("a", "m0"), ("b", "m7")], methods)
    assert first["a"] == dict(LOOKS[0])  # as in every figure
    assert first["b"] == dict(LOOKS[1])


def test_legends_show_every_name():
    of = {"block1": Mean(values={0: 0.5}, lacking={})}
    curves = [Curve(dataset="$_$", panel="$_$ \u732b", name=name, style="ff", means=of) for name in ("_a", "$b$", "c")]
    assert svg(block_lines(curves, "%", 0.0), "").count("</text>") >= 4
    records = [{"epoch": 1, **{s: {"accuracy": 0.5, "loss": {"a": 1.0}} for s in ("train", "validation")}}]
    for figure in (block_lines(curves, "%", 0.0), training_curves({"$_$": {"_a": [records], "$b$": [records]}}, {})):
        [legend] = figure.legends
        assert [text.get_text().strip() for text in legend.get_texts()][:2] == ["_a", "$b$"]


def test_each_of_ten_classes_has_a_colour_of_its_own_in_an_embedding():
    labels = np.arange(30) % 10
    points = np.random.default_rng(0).normal(size=(30, 2)).astype(np.float32)
    figure = embeddings({"ff, seed 0": ({"block1": points}, labels)}, [f"class {k}" for k in range(10)])
    drawn = [colors.to_rgb(line.get_color()) for line in figure.axes[0].lines]
    assert len({line.get_marker() for line in figure.axes[0].lines}) == len(drawn) == 10
    # Red and green as a reader without green cones sees them (Vienot 1999), beside what all see.
    mixed = np.array([[0.293, 0.707, 0.0], [0.293, 0.707, 0.0], [-0.022, 0.022, 1.0]])
    for seen in (np.eye(3), mixed):
        shown = np.array(drawn) ** 2.2 @ seen.T
        shown = np.clip(shown, 0, 1) ** (1 / 2.2)
        distances = np.linalg.norm(shown[:, None] - shown[None], axis=-1)[np.triu_indices(10, 1)]
        assert distances.min() > 0.15


def test_a_value_error_of_reading_is_a_damaged_file(page, tmp_path):
    root = shutil.copytree(page[0], tmp_path / "runs")
    about = {"bytes": 1, "sha256": "0", "largest_difference": "much"}
    write_json(root / "ff" / "export" / "manifest.json", {"files": {"model.onnx": about}})
    with pytest.raises(RunError, match="is damaged"):
        write_report(root)


@pytest.mark.parametrize("content", ['{"error": "e", "step": "test", "damaged": true}', "{", "[]"])
def test_what_failed_once_is_done_where_nothing_lacks(study, tmp_path, content):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    for name in (cell_name("ff", 0), cell_name("bp", 0)):
        (root / "failed").mkdir(exist_ok=True)
        (root / "failed" / f"{name}.json").write_text(content)
        (root / "cells" / name / "failed.json").write_text(content)
    (root / "cells" / cell_name("bp", 0) / "backbone.safetensors").unlink()
    _, problems = reported(root)
    assert [cell.state for cell in collect(root).cells] == ["done", "failed"]
    assert [*problems] == [cell_name("bp", 0)]
    (root / "failed" / f"{cell_name('bp', 0)}.json").unlink()
    assert collect(root).cells[1].state == "missing"


def test_a_comparison_that_failed_says_why(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    pair = [cell_name("ff", 0), cell_name("bp", 0)]
    change(root / "study.json", lambda plan: plan.update(pairs=[pair]))
    failed = root / "failed" / f"pair-{'--'.join(pair)}.json"
    assert reported(root)[1] == {"--".join(pair): ("missing", "not compared")}
    write_json(failed, {"error": "other shapes", "step": "compare", "damaged": False, "traceback": None})
    assert reported(root)[1] == {"--".join(pair): ("failed", "compare: other shapes")}
    write_json(root / "pairs" / f"{'--'.join(pair)}.json", read_json(study[0] / "pairs" / f"{'--'.join(pair)}.json"))
    assert reported(root)[1] == {}


def test_wall_time_is_that_of_all_epochs_and_evaluations(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("bp", 0))
    path = root / "cells" / cell_name("bp", 0)
    epochs = sum(record["seconds"] for record in RunFolder(path).read_metrics())
    seconds = [lines_of(file)[0]["value"] for file in (path / "evaluations").glob("*.jsonl")]
    assert min(seconds) > 0
    found = collect(root)
    assert seconds_of(found)[found.cells[0].name] == {
        "pretraining": pytest.approx(epochs),
        "evaluations": pytest.approx(sum(seconds)),
        "all": pytest.approx(epochs + sum(seconds)),
    }
    shutil.rmtree(path / "evaluations")
    found = collect(root)
    assert seconds_of(found)[found.cells[0].name] == {"pretraining": epochs, "evaluations": 0.0, "all": epochs}


def commands(root, *names):
    """The commands that the report tells of these, by what they measure."""
    rows = records(reported(root)[0]["Commands of every measurement"])
    return [shlex.split(row["command"]) for row in rows if row["of"] in names]


def test_each_figure_can_be_measured_again_by_its_command(study, tmp_path, cli, monkeypatch):
    root = part(study, tmp_path / "tiny", ("ff", 0), ("bp", 0))
    pair = [cell_name("ff", 0), cell_name("bp", 0)]
    change(root / "study.json", lambda plan: plan.update(pairs=[pair]))
    shutil.copytree(study[0] / "pairs", root / "pairs")
    run = root / "cells" / pair[0]
    files_of(run, "linear", target="pretext")[0].unlink()  # doctored
    before = {path: lines_of(path) for path in (run / "evaluations").glob("*.jsonl")}
    told = commands(root, pair[0], "--".join(pair))
    assert len(told) == len(before) + 1 == 8
    shutil.rmtree(run / "evaluations")
    monkeypatch.chdir(root)
    files = {}
    for words in told:
        ended = cli(*words, "--threads", 1, "--json")
        assert ended.code == 0, (words, ended.err)
        [one] = ended.json["evaluations"]
        files[root / one["file"]] = one["records"]
    for path, (head, *found) in before.items():
        again, *same = lines_of(path)
        assert {**again, "value": 0} == {**head, "value": 0}
        assert same == found == files.pop(path)
    [[path, compared]] = files.items()
    assert lines_of(path)[0]["settings"]["evaluation"]["against"] == str(root / "cells" / pair[1])
    kept = read_json(root / "pairs" / f"{'--'.join(pair)}.json")
    values = [record["value"] for record in compared if record["measure"] == f"cka to cells/{pair[1]}"]
    assert values == pytest.approx([value for line in kept["cka"] for value in line])


def test_a_command_names_what_was_used_and_what_is_there_is_not_measured_again(study, tmp_path, cli, monkeypatch):
    root = part(study, tmp_path / "tiny", ("ff", 0))
    name = cell_name("ff", 0)
    words = {" ".join(command[3:5]): command for command in commands(root, name)}
    place = ["--dataset", "digits", "--reading", "neutral", "--target", "class"]
    assert words["decoder decoder.images=200"][5:] == place
    assert words["tsne tsne.points=60"][5:] == place
    assert words["readout --dataset"][4:] == place  # its split is the default
    assert words["readout readout.split=test"][5:] == place
    [path] = files_of(root / "cells" / name, "decoder")
    before = {file: file.read_bytes() for file in path.parent.iterdir()}
    monkeypatch.chdir(root)
    for command in words.values():
        if "pretext" not in command:  # doctored
            ended = cli(*command, "--json")
            assert ended.code == 0, ended.err
            [one] = ended.json["evaluations"]
            head, *found = lines_of(root / one["file"])
            assert one == {**head, "file": one["file"], "records": found}
    assert {file: file.read_bytes() for file in path.parent.iterdir()} == before


def test_a_command_names_every_setting_that_is_no_default(page, tmp_path, cli, monkeypatch):
    root = shutil.copytree(page[0], tmp_path / "my runs")
    monkeypatch.chdir(root)
    words = ["knn.neighbours=[1, 3]", "knn.temperature=0.5", "--limit", 60, "--target", "pretext"]
    ended = cli("fftrain", "evaluate", "ff", "knn", *words, "--json")
    assert ended.code == 0, ended.err
    [command] = [command for command in commands(root, "ff") if "knn" in command]
    assert cli(*command, "--json").json == ended.json
    assert {*map(str, words)} < {*command}


def test_figures_of_an_earlier_report_are_deleted_and_no_others(study, tmp_path):
    root = part(study, tmp_path / "tiny", ("bp", 0), ("ff-unsupervised", 0, "plain"))
    (root / "figures").mkdir()
    (root / "figures" / "seen-ff-unsupervised-digits-plain.svg").write_text("mine")
    (root / "report.md").write_text("![mine](figures/mine.svg)\n")
    (root / "figures" / "mine.svg").write_text("mine")
    reported(root)
    before = {path.name for path in (root / "figures").iterdir()}
    change(root / "study.json", lambda plan: plan["cells"].pop(1))
    reported(root)
    after = {path.name for path in (root / "figures").iterdir()}
    assert before - after == {"seen-ff-unsupervised-digits-plain.svg"}
    assert "mine.svg" in after


@pytest.mark.parametrize(
    "settings",
    [
        {"order": "greedy", "unit_epochs": (2, 1), "unit_lr": (3e-3, 2e-3), "backbone": {"name": "mlp", "depth": 2}},
        {"order": "overlap", "cut": "2", "method": {"name": "self-contrastive", "positive": (1.0, 2.0)}},
        {"order": "greedy", "cut": "2", "at": "last", "view": "plain", "epochs": 4},
    ],
)
def test_the_command_of_a_training_is_read_as_its_settings(settings, cli, tmp_path):
    """As the command line reads it: the run that it begins has them all, and no default is written."""
    small = {
        "dataset": "digits",
        "limit": 40,
        "batch_size": 20,
        "threads": 1,
        "eval_images": 10,
        "mixed_precision": "no",
    }
    small |= {"epochs": 3} if "unit_epochs" not in settings and "epochs" not in settings else {}
    config = RunConfig(**merged({"backbone": {"name": "mlp", "width": 8, "depth": 4}}, small, settings))
    words = shlex.split(command_of(config.to_dict(), str(tmp_path / "run")))
    assert not any("negative" in word or "penalty" in word for word in words)
    ended = cli(*words)
    assert ended.code == 0, ended.err
    assert RunFolder(tmp_path / "run").read_config() == config
