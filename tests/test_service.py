"""docs/service.md: what it shows is what happens."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from ffserve.http.openapi import document
from ffserve.session import BUNDLED
from tests.helpers import ROOT, python
from tests.test_deployment import blocks, script

PAGE = ROOT / "docs" / "service.md"


def free_ports(count: int) -> list[int]:
    """Returns ports of this machine that nothing listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


@pytest.mark.slow
def test_every_block_runs(tmp_path):
    pytest.importorskip("tritonclient.http", reason="tritonclient is not installed", exc_type=ImportError)
    http, grpc = free_ports(2)
    page = PAGE.read_text(encoding="utf-8")
    page = page.replace("ffserve http >", f"ffserve http --port {http} --grpc-port {grpc} >")
    page = page.replace("127.0.0.1:8000", f"127.0.0.1:{http}").replace("127.0.0.1:8001", f"127.0.0.1:{grpc}")
    shown = [block for block in blocks(page) if block[0] in ("sh", "python")]
    (tmp_path / "blocks").mkdir()
    here = tmp_path / "here"
    here.mkdir()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    ended = subprocess.run(
        ["bash", "-c", script(shown, tmp_path / "blocks")],
        capture_output=True,
        text=True,
        cwd=here,
        env={**{k: v for k, v in os.environ.items() if k != "FFSERVE_MODEL"}, "PATH": path},
        timeout=120,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    body, form, command = (json.loads((here / f"{name}.json").read_text()) for name in ("body", "form", "command"))
    assert body["predictions"][0]["top"] == form["predictions"][0]["top"] == command["predictions"][0]["top"]
    assert body["predictions"][0]["top"][0]["class"] == "7"
    assert "is no image" in form["predictions"][1]["error"]
    [classes] = json.loads((here / "classes.json").read_text())["outputs"]
    assert re.fullmatch(r"[01]\.\d{6}:\d:\d", classes["data"][0])
    assert "model 'none' is unknown: there are mnist" in ended.stdout
    assert ended.stdout.count("(5, 10) (5, 2016)") == 2
    assert "exit code 0" in ended.stdout


@pytest.mark.slow
def test_a_minute_of_load_fails_no_request_and_memory_is_flat():
    """From 64 connections; benchmarks/serve_load.py ends with 1 where that is not so."""
    options = ["--rounds", 1, "--seconds", 2, "--soak", 60, "--least", 0, "--least-peer", 0]
    ended = python("benchmarks/serve_load.py", "--model", BUNDLED, *options)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert "'failed': 0" in ended.stdout


def test_the_container_has_what_the_server_needs():
    [text] = [text for language, text in blocks(PAGE.read_text(encoding="utf-8")) if language == "dockerfile"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = {
        re.split(r"[ <>=;]", each)[0] for each in project["dependencies"] + project["optional-dependencies"]["http"]
    }
    [line] = re.findall(r"--no-cache-dir (numpy .*?)&&", text.replace("\\\n", ""), re.DOTALL)
    assert {*line.split()} == needed - {"onnxruntime-gpu"}


def manifests():
    yaml = pytest.importorskip("yaml")
    return [yaml.safe_load(text) for language, text in blocks(PAGE.read_text(encoding="utf-8")) if language == "yaml"]


def strict(schema):
    """Returns a schema that knows no other properties than it names, as `kubectl --validate=strict` has it."""
    if isinstance(schema, list):
        return [*map(strict, schema)]
    if not isinstance(schema, dict):
        return schema
    closed = isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields")
    return {key: strict(value) for key, value in schema.items()} | ({"additionalProperties": False} if closed else {})


@pytest.mark.skipif("FFSTUDY_KSERVE_CRD" not in os.environ, reason="FFSTUDY_KSERVE_CRD names no file of KServe's")
def test_manifests_fit_the_schema_of_kserve():
    yaml, json_schema = pytest.importorskip("yaml"), pytest.importorskip("jsonschema_rs")
    crd = yaml.safe_load(Path(os.environ["FFSTUDY_KSERVE_CRD"]).read_text(encoding="utf-8"))
    [found] = [each["schema"]["openAPIV3Schema"] for each in crd["spec"]["versions"] if each["name"] == "v1beta1"]
    validator = json_schema.validator_for(strict(found["properties"]["spec"]))
    for manifest in manifests():
        validator.validate(manifest["spec"])
        for wrong in ({"minReplica": 1}, {"minReplicas": "one"}):
            assert not validator.is_valid({"predictor": manifest["spec"]["predictor"] | wrong})


def test_manifests_name_what_there_is(cli):
    custom, triton = manifests()
    for manifest in (custom, triton):
        assert (manifest["apiVersion"], manifest["kind"]) == ("serving.kserve.io/v1beta1", "InferenceService")
    [container] = custom["spec"]["predictor"]["containers"]
    assert container["name"] == "kserve-container"
    shown = cli("ffserve", "http", "--help").out
    assert all(option in shown for option in container["args"] if option.startswith("--"))
    [port] = container["ports"]
    paths = document([])["paths"]
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert asked["path"] in paths
        assert asked["port"] == port["containerPort"] == 8000
    assert triton["spec"]["predictor"]["model"]["protocolVersion"] == "v2"


def test_options_and_links_are_there():
    from typer.main import get_command

    import ffexport.cli
    import ffserve.cli

    page = PAGE.read_text(encoding="utf-8")
    options = {"--data-binary", "--help"}
    for command in (get_command(ffserve.cli.app).commands["http"], get_command(ffexport.cli.app)):
        options |= {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    options |= {"--top-k", "--json", "--model-repository", "--from", "--mount", "--wheel-dir"}
    options |= {"--no-cache-dir", "--no-deps", "--system", "--no-create-home"}
    assert {*re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", page)} <= options
    for target in re.findall(r"\]\((?!http)([^)#]+)", page):
        assert (PAGE.parent / target).exists(), target
