"""What goes wrong in a study: cells that fail, files that are damaged, kills at any write."""

from __future__ import annotations

import json
import os
import shutil
from itertools import count
from pathlib import Path

import pytest

from ffcore.errors import RunError, WriteError
from ffcore.files import read_json
from ffmodels.evaluated import evaluations
from fftrain.study import Shard, Study, run_study, steps
from tests.fftrain.studies import SPEC, cells, figures, folder_of_images, planned, times, weights
from tests.helpers import python


def test_a_cell_that_fails_is_reported_and_the_others_go_on(cli, tmp_path):
    spec = tmp_path / "failing.toml"
    spec.write_text(SPEC.replace('["ff", "bp", "ff-unsupervised"]', '["bp"]').replace("3e-3", "[1e30, 3e-3]"))
    out = tmp_path / "study"
    ended = cli("fftrain", "study", "--spec", spec, "--out", out, "--json")
    assert ended.code == 1
    assert [cell["status"] for cell in ended.json["cells"]] == ["failed", "done"]
    assert "not finite" in ended.json["cells"][0]["reason"]
    assert "Traceback" not in ended.err
    [failed] = (out / "failed").iterdir()
    assert read_json(failed)["step"] == "pretrain"
    again = cli("fftrain", "study", "--out", out, "--json")
    assert [cell["status"] for cell in again.json["cells"]] == ["failed", "done"]


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", "{"),
        ("evaluations/linear-*.jsonl", '{"measure": "seconds", "value": 3}\n'),
        pytest.param("evaluations/similarity-*.jsonl", "x\n", marks=pytest.mark.slow),
        pytest.param("evaluations/tsne-*.jsonl", "", marks=pytest.mark.slow),
        pytest.param("metrics.jsonl", "x\n", marks=pytest.mark.slow),
        pytest.param("config.json", None, marks=pytest.mark.slow),
        ("backbone.safetensors", "x"),
    ],
)
def test_a_damaged_cell_is_reported_and_can_be_redone_and_nothing_else_is_lost(copy, cli, finished, file, content):
    name, *others = cells(copy)
    path = next((copy / "cells" / name).glob(file))
    path.unlink() if content is None else path.write_text(content)
    before = {other: times(copy / "cells" / other) for other in others}
    ended = cli("fftrain", "study", "--out", copy, "--json")
    assert ended.code == 1
    assert {cell["name"]: cell["status"] for cell in ended.json["cells"]}[name] == "damaged"
    assert path.name in ended.err
    assert "--redo-damaged" in ended.err
    assert cli("fftrain", "study", "--out", copy, "--redo-damaged").code == 0
    assert (copy / "discarded" / f"{name}-1").is_dir()
    assert {other: times(copy / "cells" / other) for other in others} == before
    assert weights(copy) == weights(finished[0])
    assert len([*(copy / "pairs").iterdir()]) == 1


def test_weights_that_do_not_fit_are_found_when_they_are_read(copy, cli, trained):
    """The file is whole, but another network's."""
    name = next(iter(cells(copy)))
    shutil.copy(trained / "ff" / "backbone.safetensors", copy / "cells" / name)
    [decoder] = (copy / "cells" / name / "evaluations").glob("decoder-*.jsonl")
    decoder.unlink()
    for _ in range(2):
        ended = cli("fftrain", "study", "--out", copy, "--json")
        assert ended.code == 1
        found = {cell["name"]: cell for cell in ended.json["cells"]}[name]
        assert found["status"] == "damaged"
        assert "backbone.safetensors does not fit" in found["reason"]
    assert cli("fftrain", "study", "--out", copy, "--redo-damaged").code == 0


@pytest.mark.parametrize("file", ["samples.npz", "evaluations/tsne-*.npz"])
def test_what_a_report_would_call_damaged_is_damaged(copy, cli, file):
    name = next(name for name in cells(copy) if "-ff-s0" in name)
    [path] = (copy / "cells" / name).glob(file)
    path.write_bytes(b"garbage")
    ended = cli("fftrain", "study", "--out", copy, "--json")
    assert ended.code == 1
    assert {cell["name"]: cell["status"] for cell in ended.json["cells"]}[name] == "damaged"
    assert path.name in ended.err


@pytest.mark.parametrize("file", ["evaluations/tsne-*.npz", "evaluations/knn-*.jsonl", "probes/*/block1.safetensors"])
def test_a_lost_file_of_an_evaluation_is_made_again_and_nothing_else(copy, file):
    found = Study(copy, planned(f'evaluation = ["linear", "tsne", "knn"]\n{SPEC}'))
    assert run_study(found, command="test", shard=Shard()) == {}
    cell = next(cell for cell in found.spec.cells if cell.config.label == "ff")
    [path] = found.folder(cell).glob(file)
    path.unlink()
    before = times(found.folder(cell))
    assert found.state(cell).left == ("evaluate digits neutral class",)
    assert run_study(found, command="test", shard=Shard()) == {}
    assert found.state(cell).status == "done"
    assert path.is_file()
    changed = {other for other, then in times(found.folder(cell)).items() if before.get(other) != then}
    of = {"linear" if "probes" in other.parts else other.name.partition("-")[0] for other in changed}
    assert of == {"linear" if "probes" in path.parts else path.name.partition("-")[0]}


def test_a_finished_cell_without_its_weights_is_damaged_and_nothing_is_forgotten(copy):
    found = Study(copy, planned())
    cell = found.spec.cells[0]
    (found.folder(cell) / "backbone.safetensors").unlink()
    before = times(found.folder(cell))
    assert cell.name in run_study(found, command="test", shard=Shard())
    assert found.state(cell).status == "damaged"
    assert times(found.folder(cell)) == before
    assert len([*(found.folder(cell) / "evaluations").glob("*.jsonl")]) == 6


def test_a_damaged_or_outdated_comparison_is_made_again(copy):
    [pair] = (copy / "pairs").iterdir()
    whole = pair.read_bytes()
    for content in ("{", json.dumps({**json.loads(whole), "weights": ["a", "b"]})):
        pair.write_text(content)
        assert run_study(Study(copy, planned()), command="test", shard=Shard()) == {}
        assert pair.read_bytes() == whole


def test_a_comparison_that_fails_is_reported_and_recorded(copy, monkeypatch):
    [pair] = (copy / "pairs").iterdir()
    pair.unlink()

    def fail(*arguments, **more):
        raise RunError("no good")

    monkeypatch.setattr("fftrain.study.work.compare_runs", fail)
    failed = run_study(Study(copy, planned()), command="test", shard=Shard())
    assert [*failed.values()] == ["no good"]
    assert read_json(copy / "failed" / f"pair-{pair.stem}.json")["error"] == "no good"
    monkeypatch.undo()
    assert run_study(Study(copy, planned()), command="test", shard=Shard()) == {}
    assert not [*(copy / "failed").iterdir()]


def test_a_full_disk_is_no_damage_and_is_tried_again(copy, monkeypatch):
    found = Study(copy, planned(SPEC.replace("epochs = 3", "epochs = 4")))

    def fail(*arguments, **more):
        raise WriteError("no space left")

    monkeypatch.setattr(steps, "evaluate_run", fail)
    assert set(run_study(found, command="test", shard=Shard()).values()) == {"no space left"}
    assert {found.state(cell).status for cell in found.spec.cells} == {"failed"}
    monkeypatch.undo()
    assert run_study(found, command="test", shard=Shard()) == {}
    assert {found.state(cell).status for cell in found.spec.cells} == {"done"}


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 2, 3, 4, 5])
def test_killed_at_any_write_a_study_ends_as_if_it_had_not_been(tmp_path, monkeypatch, first):
    """Every file is written through `replacing`: here the n-th write never happens, then the study goes on."""

    class KilledError(BaseException):
        pass

    text = SPEC.replace('["ff", "bp", "ff-unsupervised"]', '["ff"]').replace("epochs = 2", "epochs = 1")
    text = text.replace("points = 40", "points = 12").replace("width = 24", "width = 24\ndepth = 1")
    whole = tmp_path / "whole"
    run_study(Study(whole, planned(text)), command="test", shard=Shard())
    replace = Path.replace
    for n in count(first, 5):
        writes = 0

        def kill(self, target, at=n):
            nonlocal writes
            writes += 1
            if writes == at:
                raise KilledError
            return replace(self, target)

        out = tmp_path / f"killed{n}"
        monkeypatch.setattr(Path, "replace", kill)
        try:
            run_study(Study(out, planned(text)), command="test", shard=Shard())
        except KilledError:
            pass
        else:
            break
        finally:
            monkeypatch.setattr(Path, "replace", replace)
        assert run_study(Study(out, planned(text)), command="test", shard=Shard()) == {}
        assert figures(out) == figures(whole)
        assert weights(out) == weights(whole)
        names = [sorted(str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()) for root in (out, whole)]
        assert names[0] == names[1]
        shutil.rmtree(out)
    assert n > 12


def test_fewer_images_than_tsne_needs_are_no_reason_to_go_on_for_ever(tmp_path):
    folder_of_images(tmp_path / "few", [8] * 12)
    text = SPEC.replace('"digits"', f'"imagefolder:{tmp_path}/few"').replace("limit = 300\n", "")
    text = text.replace('["ff", "bp", "ff-unsupervised"]', '["ff"]').replace("images = 100", "images = 10")
    found = Study(tmp_path / "x", planned(text))
    assert found.spec.cells[0].facts.validation < 4
    assert run_study(found, command="test", shard=Shard()) == {}
    assert found.state(found.spec.cells[0]).status == "done"
    [tsne] = [one for one in evaluations(found.folder(found.spec.cells[0])) if one.name == "tsne"]
    assert [record["value"] for record in tsne.records] == [0]


def test_a_plan_that_was_lost_is_written_anew_and_its_cells_are_kept(copy, cli, spec):
    for content in ("{", "{}", None):
        path = copy / "study.json"
        path.unlink() if content is None else path.write_text(content)
        before = weights(copy)
        ended = cli("fftrain", "study", "--spec", spec, "--out", copy)
        assert ended.code == 0, ended.err
        assert "3 cells (3 done)" in ended.out
        assert weights(copy) == before


def test_a_start_that_was_killed_leaves_a_folder_that_can_be_used(tmp_path):
    (tmp_path / ".study.json.0123.partial").write_text("{")
    Study(tmp_path, planned()).create("test")
    assert (tmp_path / "study.json").exists()


@pytest.mark.slow
def test_of_two_processes_a_failing_cell_does_not_end_the_others_and_pairs_of_many_data_sets_are_compared(tmp_path):
    for name, sizes in (("mixed", [8, 9] * 20), ("a b", [8] * 40), ("c", [6] * 40), ("d", [10] * 40)):
        folder_of_images(tmp_path / name, sizes)
    datasets = ", ".join(f'"imagefolder:{tmp_path}/{name}"' for name in ("mixed", "a b", "c", "d"))
    text = SPEC.replace('"digits"', datasets).replace(', "ff-unsupervised"', "").replace("limit = 300\n", "")
    text = text.replace("epochs = 2", "epochs = 1")
    (tmp_path / "many.toml").write_text(text)
    out = tmp_path / "two"
    launch = "torch.distributed.run --standalone --nproc-per-node 2 -m fftrain study"
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    ended = python("-m", *launch.split(), "--spec", tmp_path / "many.toml", "--out", out, env=environment)
    assert ended.returncode == 1
    assert len([*(out / "pairs").iterdir()]) == 3, ended.stderr
    states = {
        cell["name"]: cell["status"]
        for cell in Study(out, planned(text.replace("epochs = 2", "epochs = 1"))).listing(Shard())
    }
    assert sorted(states.values()) == ["done"] * 6 + ["failed"] * 2
    assert all(name.startswith("mixed") for name, status in states.items() if status == "failed")


def test_an_image_folder_that_has_changed_is_noticed(tmp_path):
    folder_of_images(tmp_path / "data", [8] * 40)
    text = SPEC.replace('"digits"', f'"imagefolder:{tmp_path}/data"').replace("limit = 300\n", "")
    text = text.replace('["ff", "bp", "ff-unsupervised"]', '["ff"]')
    assert run_study(Study(tmp_path / "x", planned(text)), command="test", shard=Shard()) == {}
    for i in range(10):
        shutil.copy(tmp_path / "data" / "cat" / "0.png", tmp_path / "data" / "cat" / f"new{i}.png")
    other = Study(tmp_path / "x", planned(text.replace("epochs = 3", "epochs = 4")))
    [reason] = run_study(other, command="test", shard=Shard()).values()
    assert "has changed since" in reason
