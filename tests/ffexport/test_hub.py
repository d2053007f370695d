"""Exports on the Hugging Face Hub: the card's metadata, and what is uploaded to a stand-in on loopback."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard, snapshot_download

from ffcore.errors import HubError
from ffcore.files import read_json
from ffexport.card import card
from ffexport.hub import push
from ffmodels.run import Run, load_encoder
from ffserve.session import Model, find_model
from tests.ffexport.checks import PROBE, probe_of
from tests.helpers import one_line


def test_the_cards_metadata_are_the_hubs(trained, exported):
    text = (exported["ff"] / "card.md").read_text(encoding="utf-8")
    found = ModelCard(text)
    assert found.text.startswith("\n# forward-forward on digits")
    data = found.data
    assert (data.library_name, data.pipeline_tag) == ("ffstudy", "image-classification")
    assert {"forward-forward", "local-learning", "mlp", "onnx", "torchscript", "pt2"} == {*data.tags}
    assert data.get("license") is None
    assert data.get("datasets") is None  # the digits are not on it
    assert (data.model_name, data.metrics) == ("forward-forward on digits", ["accuracy"])
    told = {(r.dataset_name, r.dataset_split, r.metric_name): r.metric_value for r in data.eval_results}
    about = probe_of(trained, "ff").about
    for split in ("validation", "test"):
        value = told["digits", split, f"accuracy of model.fp16.onnx ({PROBE})"]
        assert value == pytest.approx(about[split], abs=1e-4)
    readout = read_json(exported["ff"] / "manifest.json")["files"]["model.readout.onnx"]["accuracy"]["validation"]
    (pretext,) = (value for (data, split, name), value in told.items() if "readout" in name and split == "validation")
    assert pretext == pytest.approx(readout, abs=1e-4)
    assert {r.task_type for r in data.eval_results} == {"image-classification"}


def test_the_card_names_license_and_data_set_where_they_are_known(run_copy, exported):
    manifest = read_json(exported["bp"] / "manifest.json")
    record = read_json(run_copy / "config.json")
    assert record["data"]["hub"] is None
    record["data"] |= {"name": "mnist", "hub": "ylecun/mnist"}
    record["config"] |= {"cut": "never", "track": "tensorboard"}
    for about in manifest["files"].values():
        about |= {"dataset": "mnist"}
    data = ModelCard(card(Run(run_copy, record), {**manifest, "license": "cc-by-4.0"})).data
    assert (data.license, data.datasets) == ("cc-by-4.0", ["ylecun/mnist"])
    assert {r.dataset_type for r in data.eval_results} == {"ylecun/mnist"}
    assert "local-learning" not in data.tags
    bare = {
        name: {**about, "class_names": None, "accuracy": None, "head": "none"}
        for name, about in manifest["files"].items()
    }
    data = ModelCard(card(Run(run_copy, record), {**manifest, "license": "other:mine-1.0", "files": bare})).data
    assert (data.license, data.license_name) == ("other", "mine-1.0")
    assert (data.pipeline_tag, data.eval_results, data.metrics) == ("image-feature-extraction", None, None)


def test_what_is_pushed_answers_and_loads_as_what_is_here(hub, trained, exported, tmp_path):
    out, run = exported["ff"], trained / "ff"
    url = push(run, out, "me/small")
    assert url == f"{hub.url}/me/small"
    files = hub.repositories["me/small"].files()
    names = {*read_json(out / "manifest.json")["files"]}
    weights = {"backbone.safetensors", "heads.safetensors"} & {path.name for path in run.iterdir()}
    assert {*files} == {".gitattributes", "README.md", "manifest.json", "config.json"} | names | weights
    assert files["README.md"] == (out / "card.md").read_bytes()
    assert all(files[name] == (out / name).read_bytes() for name in (*names, "manifest.json"))
    path = find_model("hf://me/small")
    assert path.read_bytes() == (out / "model.onnx").read_bytes()
    images = Run.load(run).samples[0][:5]
    for name, value in Model(out / "model.onnx", device="cpu").run(images).items():
        np.testing.assert_array_equal(Model(path, device="cpu").run(images)[name], value)
    there = snapshot_download("me/small")
    x = torch.from_numpy(images).float() / 255
    for mine, theirs in zip(load_encoder(run)(x), load_encoder(there)(x), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    assert Run.load(there).readout() is not None


def test_nothing_that_is_pushed_tells_of_the_machine(hub, run_copy, exported):
    record = read_json(run_copy / "config.json")
    record["config"] |= {"data_dir": "/home/somebody/data", "dataset": "imagefolder:/home/somebody/birds", "threads": 3}
    record["config"]["view"]["made_of"] = "/home/somebody/view.py"
    record["data"] |= {"name": "imagefolder:/home/somebody/birds", "skipped": ["/home/somebody/birds/a.png"]}
    record |= {"git_commit": "somebody's", "hardware": {"cpu": "somebody's"}}
    (run_copy / "config.json").write_text(json.dumps(record))
    out = shutil.copytree(exported["ff"], run_copy / "export")
    push(run_copy, out, "me/birds")
    files = hub.repositories["me/birds"].files()
    assert not [name for name, content in files.items() if b"somebody" in content]
    there = json.loads(files["config.json"])
    assert there["config"]["dataset"] == there["data"]["name"] == "imagefolder:birds"
    assert there["config"]["view"]["made_of"] == "view.py"
    assert there["data"]["digest"] == record["data"]["digest"]
    assert there["classes"] == record["classes"]


def test_a_second_push_is_one_commit_of_what_changed(hub, run_copy, exported):
    out = shutil.copytree(exported["ff"], run_copy / "export")
    push(run_copy, out, "small", private=True)  # of one's own
    known = hub.repositories["me/small"]
    assert known.private
    before = len(known.commits)
    push(run_copy, out, "me/small")
    assert len(known.commits) == before
    known.commit("main", {**known.files(), "notes/model.onnx": b"theirs"})
    manifest = read_json(out / "manifest.json")
    del manifest["files"]["model.int8.onnx"]
    (out / "manifest.json").write_text(json.dumps(manifest))
    push(run_copy, out, "me/small")
    assert len(known.commits) == before + 2
    assert "model.int8.onnx" not in known.files()
    assert known.files()["notes/model.onnx"] == b"theirs"
    url = push(run_copy, out, "me/small", revision="next/one")
    assert url == f"{hub.url}/me/small/tree/next%2Fone"
    assert known.branches["next/one"] == known.branches["main"]


def test_the_command_says_where_it_is(hub, cli, run_copy):
    options = ("--format", "torchscript", "--license", "MIT", "--push-to-hub", "me/mine", "--private")
    ended = cli("ffexport", run_copy, *options)
    assert ended.code == 0, ended.err
    assert ended.out.splitlines()[-1] == f"{hub.url}/me/mine"
    known = hub.repositories["me/mine"]
    assert known.private
    assert "license: mit\n" in known.files()["README.md"].decode()
    assert read_json(run_copy / "export" / "manifest.json")["license"] == "mit"
    again = cli("ffexport", run_copy, "--format", "torchscript", "--push-to-hub", "me/mine", "--json")
    assert again.json["hub"] == f"{hub.url}/me/mine"
    assert again.json["license"] == "mit"


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--push-to-hub", "me/a/b"], 2, ["--push-to-hub me/a/b is no name on the Hub", "namespace/repo_name"]),
        (["--push-to-hub", "me/-a"], 2, ["--push-to-hub me/-a is no name on the Hub"]),
        (["--push-to-hub", "me/a"], 1, ["--push-to-hub me/a needs a token", "hf auth login", "HF_TOKEN"]),
        (["--license", "-"], 2, ["--license - is no id", "cc-by-4.0, or other:NAME"]),
        (["--license", "Other"], 2, ["--license Other is no id", "other:NAME"]),
        (["--private"], 2, ["--private is of --push-to-hub"]),
        (["--revision", "next"], 2, ["--revision is of --push-to-hub"]),
    ],
)
def test_what_cannot_be_pushed_is_refused_before_the_export(hub, cli, run_copy, monkeypatch, options, code, words):
    monkeypatch.delenv("HF_TOKEN")
    one_line(cli("ffexport", run_copy, *options), code, *words)
    assert not (run_copy / "export").exists()
    assert not hub.asked


@pytest.mark.parametrize(
    ("status", "of", "words"),
    [
        (401, "/api/repos/", "the token is not valid"),
        (403, "/api/repos/", "the token may not do this"),
        (403, "/lfs/", "the token may not do this"),
        (409, "/api/models/me/a/commit", "it was changed by somebody else"),
        (412, "/", "the Hub answers 412 (as the test wants)"),
        (0, "/", "the Hub cannot be reached"),
    ],
)
def test_where_the_hub_refuses_the_export_is_whole(hub, trained, exported, monkeypatch, unused_port, status, of, words):
    from huggingface_hub import constants

    hub.refuse, hub.refused = status or None, of
    if status == 0:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port}")
    out = exported["ff"]
    with pytest.raises(HubError) as error:
        push(trained / "ff", out, "me/a")
    text = str(error.value)
    assert text.startswith(f"--push-to-hub me/a ({out} is whole): ")
    assert words in text
    assert len(text.splitlines()) == 1
    assert Model(out / "model.onnx", device="cpu")


def test_metadata_that_the_hub_refuses_are_told_and_nothing_is_uploaded(hub, run_copy, exported):
    out = shutil.copytree(exported["ff"], run_copy / "export")
    (out / "card.md").write_text("---\nlicense: not-on-its-list\n---\n")
    with pytest.raises(HubError, match=r'the Hub refuses what card.md says: "license" is not legal$') as error:
        push(run_copy, out, "me/a")
    assert "\n" not in str(error.value)
    assert not hub.repositories
    assert not hub.large


def test_an_answer_that_is_none_of_the_hubs_is_one_line(hub, trained, exported, monkeypatch):
    hub.refuse, hub.refused = 409, "/api/repos/create"  # without the repository's URL
    with pytest.raises(HubError, match=r"the Hub's answer cannot be read \(KeyError: 'url'\): look at HF_ENDPOINT"):
        push(trained / "ff", exported["ff"], "me/a")


def test_an_upload_without_a_network_is_refused_before_the_export(hub, cli, run_copy, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    ended = cli("ffexport", run_copy, "--push-to-hub", "me/a")
    one_line(ended, 1, "--push-to-hub me/a needs the network, and HF_HUB_OFFLINE keeps")
    assert not (run_copy / "export").exists()


def test_a_token_of_somebody_else_may_not_write(hub, trained, exported, monkeypatch):
    with pytest.raises(HubError, match="the token may not do this"):
        push(trained / "ff", exported["ff"], "others/a")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(HubError, match="the token is not valid"):
        push(trained / "ff", exported["ff"], "me/a")
    assert not hub.repositories
