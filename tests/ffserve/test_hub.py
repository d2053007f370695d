"""Models that are named hf://OWNER/NAME, from a stand-in for the Hugging Face Hub on loopback."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import warnings

import numpy as np
import pytest
from PIL import Image

from ffcore.errors import HubError, HubUnreachable, ModelError, ModelNotFound, UsageError
from ffcore.files import sha256
from ffserve.candidates import find_candidates
from ffserve.predict import Classifier
from ffserve.session import Model, find_model
from tests.ffserve.conftest import write_model
from tests.helpers import one_line


@pytest.fixture
def digits(hub, tmp_path):
    """A repository with two models of other weights, and their manifest; gives the folder that it was made of."""
    folder = tmp_path / "export"
    write_model(folder / "model.onnx")
    write_model(folder / "model.int8.onnx", bias=np.array([5.0, 0.0, 0.0]))
    (folder / "model.ts").write_bytes(b"code")
    files = {path.name: {"sha256": sha256(path)} for path in folder.iterdir()}
    (folder / "manifest.json").write_text(json.dumps({"files": files, "probe": None}))
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# digits\n")
    hub.add("me/digits", {path.name: path.read_bytes() for path in folder.iterdir()})
    return folder


def test_every_command_answers_as_from_the_folder(hub, digits, cli, tmp_path, monkeypatch):
    Image.linear_gradient("L").resize((4, 4)).save(tmp_path / "a.png")
    first = cli("ffserve", "predict", tmp_path / "a.png", "--model", "hf://me/digits", "--json")
    assert first.code == 0, first.err
    here = cli("ffserve", "predict", tmp_path / "a.png", "--model", digits, "--json")
    assert first.json["predictions"] == here.json["predictions"]
    assert first.json["model"].endswith("/model.onnx")
    info = cli("ffserve", "info", "hf://me/digits/model.int8.onnx", "--json")
    assert info.json["bytes"] == (digits / "model.int8.onnx").stat().st_size
    monkeypatch.setenv("FFSERVE_MODEL", "hf://me/digits/model.int8.onnx")
    named = cli("ffserve", "features", tmp_path / "a.png", "--out", tmp_path / "f.npz")
    assert named.code == 0, named.err
    assert Classifier().predict([str(tmp_path / "a.png")])[0].label == "zero"
    assert [c.name for c in find_candidates(["hf://me/digits"], None)] == ["model.onnx", "model.int8.onnx"]


def test_only_what_is_taken_is_fetched_and_once(hub, digits):
    path = find_model("hf://me/digits")
    assert path.read_bytes() == (digits / "model.onnx").read_bytes()
    assert {*hub.downloads()} == {"model.onnx", "manifest.json", "README.md"}
    assert find_model("hf://me/digits") == path
    assert not hub.downloads()
    find_model("hf://me/digits/model.int8.onnx")
    assert hub.downloads() == ["model.int8.onnx"]


def test_a_server_tells_the_card_of_a_repository(hub, digits):
    pytest.importorskip("prometheus_client", reason="the extra http is not installed")
    from ffserve.http.service import Service, Settings, named

    about = Service(named(["hf://me/digits"]), Settings(threads=1)).about("digits")
    assert about["card"] == "# digits\n"


def test_what_was_fetched_is_there_without_a_network_and_said(hub, digits, monkeypatch, capsys, unused_port):
    from huggingface_hub import constants

    path = find_model("hf://me/digits")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    capsys.readouterr()
    commit = hub.repositories["me/digits"].branches["main"][:12]
    note = f"ffserve: note: hf://me/digits: commit {commit} is taken from the cache, since "
    assert find_model("hf://me/digits") == path
    assert capsys.readouterr().err == f"{note}HF_HUB_OFFLINE keeps the Hub from being asked (unset it)\n"
    shutil.rmtree(path.parents[2] / "trees")  # as older releases of the library leave it: it cannot tell what there is
    for name in ("digits/model.int8.onnx", "digits/none.onnx", "other"):
        with pytest.raises(HubUnreachable, match=f"^hf://me/{name}: it is not in the cache, and HF_HUB_OFFLINE keeps"):
            find_model(f"hf://me/{name}")
    assert not hub.asked
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for hub.refuse in (429, 500, 503):  # out of order
        assert find_model("hf://me/digits") == path
        assert capsys.readouterr().err == f"{note}the Hub answers {hub.refuse} (as the test wants): try again later\n"
    for hub.refuse in (401, 403, 404):  # it was withdrawn
        with pytest.raises(HubError, match=r"^hf://me/digits: (there is|the token)"):
            find_model("hf://me/digits")
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port}")
    assert find_model("hf://me/digits") == path
    assert "since the Hub cannot be reached" in capsys.readouterr().err
    with pytest.raises(HubUnreachable, match="it is not in the cache, and the Hub cannot be reached"):
        find_model("hf://me/digits/model.int8.onnx")


def test_a_revision_is_a_branch_or_a_commit(hub, digits):
    known = hub.repositories["me/digits"]
    before = known.branches["main"]
    known.commit("main", {"model.onnx": (digits / "model.int8.onnx").read_bytes()})
    known.commit("refs/pr/1", {"other.onnx": b"x"})
    for revision, file in {"": "model.int8.onnx", "@main": "model.int8.onnx", f"@{before}": "model.onnx"}.items():
        assert find_model(f"hf://me/digits{revision}").read_bytes() == (digits / file).read_bytes()
    assert find_model("hf://me/digits@refs%2Fpr%2F1").read_bytes() == b"x"


def test_of_several_files_one_is_taken_as_of_a_folder(hub, digits):
    files = hub.repositories["me/digits"].files()
    del files["model.onnx"]
    hub.add("me/one", files)
    assert find_model("hf://me/one").name == "model.int8.onnx"
    hub.add("me/two", {**files, "b.onnx": b"b"})
    with pytest.raises(
        ModelNotFound, match=r"hf://me/two has several .*of hf://me/two/ \(b\.onnx, model\.int8\.onnx\)"
    ):
        find_model("hf://me/two")
    hub.add("me/below", {"export/model.onnx": b"e", "model.onnx": b"m"})
    assert find_model("hf://me/below").read_bytes() == b"e"


def test_a_file_that_is_not_the_manifests_is_refused(hub, digits):
    known = hub.repositories["me/digits"]
    known.commit("main", {**known.files(), "model.onnx": known.files()["model.int8.onnx"]})
    with pytest.raises(ModelError, match="SHA-256"):
        Model(find_model("hf://me/digits"))


def test_a_file_that_is_damaged_in_the_cache_is_fetched_again_as_the_line_says(hub, digits):
    path = find_model("hf://me/digits")
    content = path.read_bytes()
    path.resolve().write_bytes(content[:-1])
    with pytest.raises(ModelError, match=r"changed or copied in part; delete /.*, and it is fetched again$") as error:
        Model(find_model("hf://me/digits"))
    shutil.rmtree(str(error.value).partition("; delete ")[2].removesuffix(", and it is fetched again"))
    assert Model(find_model("hf://me/digits")).path.read_bytes() == content


def test_files_that_may_hold_code_are_never_taken(hub, digits):
    from huggingface_hub import snapshot_download

    with pytest.raises(UsageError, match=r"names no \.onnx file: .* may hold code"):
        find_model("hf://me/digits/model.ts")
    snapshot_download("me/digits")
    assert [c.name for c in find_candidates(["hf://me/digits"], None)] == ["model.onnx", "model.int8.onnx"]


@pytest.mark.parametrize(
    ("named", "code", "words"),
    [
        ("hf://me/none", 1, ["hf://me/none: there is no such repository", "private"]),
        ("hf://me/hidden", 1, ["hf://me/hidden: there is no such repository", "private", "hf auth login", "HF_TOKEN"]),
        ("hf://me/digits@none", 1, ["hf://me/digits@none", "no such revision"]),
        ("hf://me/digits/none.onnx", 1, ["hf://me/digits/none.onnx does not exist"]),
        ("hf://me/words", 1, ["hf://me/words has no .onnx file", "--push-to-hub"]),
        ("hf://digits", 2, ["hf://digits names no model on the Hub", "hf://OWNER/NAME"]),
        ("hf://", 2, ["names no model on the Hub"]),
        ("hf://me/a--b", 2, ["hf://me/a--b is no name on the Hub", "--"]),
        ("hf://me/digits/../../a.onnx", 2, ["names no .onnx file"]),
    ],
)
def test_what_cannot_be_had_is_an_error_of_one_line(hub, digits, cli, monkeypatch, named, code, words):
    hub.add("me/words", {"README.md": b"words", "manifest.json": b"{}"})
    hub.add("me/hidden", {}, private=True)
    if "hidden" in named:
        monkeypatch.setenv("HF_TOKEN", "")
    one_line(cli("ffserve", "info", named), code, *words)


@pytest.mark.parametrize(
    ("status", "words"), [(403, ["the token may not"]), (500, ["answers 500 (as the test wants)"])]
)
def test_a_hub_that_refuses_is_an_error_of_one_line(hub, cli, status, words):
    hub.refuse = status
    one_line(cli("ffserve", "predict", "a.png", "--model", "hf://me/digits"), 1, "hf://me/digits: ", *words)


def test_without_a_network_or_the_library_one_line_says_so(hub, cli, monkeypatch, unused_port):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused_port}")
    one_line(
        cli("ffserve", "info", "hf://me/digits"),
        1,
        "hf://me/digits: it is not in the cache",
        "the Hub cannot be reached",
        "HF_ENDPOINT",
    )
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    one_line(cli("ffserve", "info", "hf://me/digits"), 1, "huggingface_hub is not installed: run pip install")


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), RuntimeError("xet: No space left on device")]
)
def test_a_full_disk_is_told_with_the_place_and_once(hub, digits, tmp_path, monkeypatch, error):
    import huggingface_hub

    def fail(*_: object, **__: object) -> None:
        warnings.warn("Not enough free disk space to download the file", stacklevel=1)
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    told = rf"^hf://me/digits: {tmp_path}/hf/hub cannot be written \(No space left on device\): free .* with HF_HOME$"
    with pytest.raises(HubError, match=told):
        find_model("hf://me/digits")


def test_a_server_calls_a_model_as_its_repository(hub, digits, monkeypatch):
    pytest.importorskip("starlette")
    from ffserve.http.service import named

    found = named(["hf://me/digits", "hf://me/digits/model.int8.onnx", "mine=hf://me/digits@main"])
    assert list(found) == ["digits", "digits.int8", "mine"]
    monkeypatch.setenv("FFSERVE_MODEL", "hf://me/digits")
    assert list(named([])) == ["digits"]


def test_a_server_shows_a_cards_words_without_its_metadata():
    pytest.importorskip("starlette")
    from ffserve.http.service import _words

    assert _words("---\ntags:\n- onnx\n---\n\n# a on b\n\n---\nmore\n---\n") == "# a on b\n\n---\nmore\n---\n"
    assert _words("# a\n---\nb\n---\n") == "# a\n---\nb\n---\n"


def test_a_folder_of_that_name_is_none_of_the_hubs(hub, digits, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits, tmp_path / "hf:" / "me" / "mine")
    with pytest.raises(HubError):
        find_model("hf://me/mine")
    assert find_model("hf:/me/mine").is_file()
