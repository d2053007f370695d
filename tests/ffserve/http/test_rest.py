"""REST of `ffserve http`, asked by Triton's own client and by plain HTTP."""

from __future__ import annotations

import gzip
import io
import json
import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image, ImageDraw
from prometheus_client.parser import text_string_to_metric_families

from ffexport.triton import config
from ffserve.http.openapi import document
from ffserve.http.protocol import EXTENSIONS, STAGES
from tests.ffserve.http.conftest import refused
from tests.ffserve.test_robust_images import bad_images, good_images


@pytest.fixture
def client(server):
    triton = pytest.importorskip("tritonclient.http", reason="tritonclient is not installed", exc_type=ImportError)
    with triton.InferenceServerClient(server.address) as found:
        yield found


def tensor(images, binary=True):
    from tritonclient.http import InferInput

    found = InferInput("images", list(images.shape), "UINT8")
    found.set_data_from_numpy(images, binary_data=binary)
    return found


def wanted(name, **settings):
    from tritonclient.http import InferRequestedOutput

    return InferRequestedOutput(name, **settings)


def said(images, **more):
    """Returns a request as JSON."""
    given = {"name": "images", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    return {"inputs": [given], **more}


def a_seven(size=(60, 90), ink=(20, 20, 90), ground=(250, 240, 220)) -> bytes:
    picture = Image.new("RGB", size, ground)
    ImageDraw.Draw(picture).line([(15, 20), (45, 20), (25, 75)], fill=ink, width=5)
    kept = io.BytesIO()
    picture.save(kept, "PNG")
    return kept.getvalue()


def form(**files: bytes) -> tuple[bytes, str]:
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in files.items()
    ]
    return b"".join(parts) + b"--b--\r\n", "multipart/form-data; boundary=b"


def test_triton_client_reads_health_and_metadata(client, models):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("gray")
    assert client.is_model_ready("gray", "1")
    assert not client.is_model_ready("none")
    assert client.get_server_metadata()["extensions"] == [*EXTENSIONS]
    assert {(each["name"], each["state"]) for each in client.get_model_repository_index()} == {
        (name, "READY") for name in (*models, "mnist")
    }
    about = client.get_model_metadata("colour")
    assert about["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 3, 5, 4]}]
    assert {each["name"]: each["shape"] for each in about["outputs"]} == {
        "features": [-1, 60],
        "logits": [-1, 3],
        "probabilities": [-1, 3],
    }


@pytest.mark.parametrize("name", ["gray", "colour", "bare"])
def test_the_configuration_is_that_of_a_repository_but_for_what_a_request_may_hold(client, models, name):
    from google.protobuf import json_format, text_format
    from tritonclient.grpc.model_config_pb2 import ModelConfig

    found = json_format.ParseDict(client.get_model_config(name, "1"), ModelConfig())
    shape = models[name].images(1).shape[1:]
    widths = {output: values.shape[1] for output, values in models[name].expected(models[name].images(1)).items()}
    expected = text_format.Parse(config(name, shape, widths, labels=False, dynamic=True), ModelConfig())
    for field in ("name", "platform", "input", "output"):
        assert getattr(found, field) == getattr(expected, field)
    assert found.max_batch_size == 1024
    assert [*found.dynamic_batching.preferred_batch_size] == [64]


def test_statistics_count_images_runs_and_seconds(client, models):
    def counted():
        [found] = client.get_inference_statistics("colour")["model_stats"]
        assert found in client.get_inference_statistics()["model_stats"]
        stages = found["inference_stats"]
        assert stages["fail"] == {"count": 0, "ns": 0}
        return np.array(
            [found["inference_count"], found["execution_count"], *(stages[s]["count"] for s in STAGES[:3])]
        ), np.array([stages[s]["ns"] for s in STAGES[:3]])

    before, spent_before = counted()
    for count in (3, 70):
        client.infer("colour", [tensor(models["colour"].images(count))])
    after, spent_after = counted()
    assert (after - before).tolist() == [73, 2, 2, 2, 2]
    queue, run, both = (spent_after - spent_before).tolist()
    assert queue > 0
    assert run > 0
    assert both == pytest.approx(queue + run, abs=10)


@pytest.mark.parametrize("name", ["gray", "colour", "bare"])
@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_gets_what_the_model_computes(client, models, name, binary):
    for count in (1, 2, 7, 70):
        images = models[name].images(count, seed=count)
        found = client.infer(name, [tensor(images, binary)], request_id=f"r{count}")
        assert found.get_response()["id"] == f"r{count}"
        assert found.get_response()["model_name"] == name
        for output, expected in models[name].expected(images).items():
            np.testing.assert_allclose(found.as_numpy(output), expected, atol=1e-5)


def test_triton_client_names_outputs_and_how_they_come(client, models):
    images = models["gray"].images(3)
    expected = models["gray"].expected(images)
    outputs = [wanted("probabilities", binary_data=False), wanted("features", binary_data=True)]
    found = client.infer("gray", [tensor(images)], outputs=outputs)
    assert [each["name"] for each in found.get_response()["outputs"]] == ["probabilities", "features"]
    for output in ("probabilities", "features"):
        np.testing.assert_allclose(found.as_numpy(output), expected[output], atol=1e-5)
    found = client.infer("gray", [tensor(images)], request_compression_algorithm="gzip")
    np.testing.assert_allclose(found.as_numpy("logits"), expected["logits"], atol=1e-5)
    found = client.infer("gray", [tensor(images)], request_compression_algorithm="deflate")
    np.testing.assert_allclose(found.as_numpy("logits"), expected["logits"], atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_triton_client_asks_for_classes(client, models, binary):
    images = models["gray"].images(4)
    expected = models["gray"].expected(images)["probabilities"]
    outputs = [wanted("probabilities", class_count=2, binary_data=binary)]
    found = client.infer("gray", [tensor(images)], outputs=outputs).as_numpy("probabilities")
    assert found.shape == (4, 2)
    for row, values in zip(found, expected, strict=True):
        ranked = np.argsort(-values)[:2]
        for text, k in zip(row, ranked, strict=True):
            value, index, label = (text.decode() if binary else text).split(":")
            assert (int(index), label) == (k, models["gray"].classes[k])
            assert float(value) == pytest.approx(values[k], abs=1e-5)
    more = client.infer("gray", [tensor(images)], outputs=[wanted("features", class_count=99, binary_data=binary)])
    assert more.as_numpy("features").shape == (4, 16)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_asks_with_json_nested_or_not(server, models, tmp_path):
    images = models["gray"].images(2)
    expected = models["gray"].expected(images)["logits"]
    nested = said(images, id="a")
    nested["inputs"][0]["data"] = images.tolist()
    for value in (said(images, id="a"), nested):
        (tmp_path / "body.json").write_text(json.dumps(value))
        command = ["curl", "-s", "-d", f"@{tmp_path / 'body.json'}", f"{server.url}/v2/models/gray/versions/1/infer"]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        assert found["id"] == "a"
        outputs = {each["name"]: each for each in found["outputs"]}
        assert outputs["logits"]["shape"] == [2, 3]
        np.testing.assert_allclose(np.reshape(outputs["logits"]["data"], (2, 3)), expected, atol=1e-5)


def test_predict_answers_as_the_command_does(server, cli, tmp_path):
    pictures = {"seven.png": a_seven(), "black.png": a_seven(ink=(0, 0, 0), ground=(255, 255, 255)), "no.png": b"text"}
    for name, content in pictures.items():
        (tmp_path / name).write_bytes(content)
    ended = cli(
        "ffserve", "predict", *[tmp_path / name for name in pictures], "--top-k", "3", "--json", "--device", "cpu"
    )
    expected = ended.json["predictions"]
    body, kind = form(**pictures)
    found = server.ask("/v1/predict?model=mnist&top_k=3", body, content_type=kind).json
    for there, here, name in zip(found["predictions"], expected, pictures, strict=True):
        assert there["file"] == name
        assert {**there, "file": ""} == json.loads(json.dumps({**here, "file": ""}).replace(f"{tmp_path}/", ""))
    assert found["predictions"][0]["top"][0]["class"] == "7"
    assert any("--invert no" in note for note in found["notes"])
    one = server.ask("/v1/predict?model=mnist&top_k=3", pictures["seven.png"]).json["predictions"]
    assert {**one[0], "file": ""} == {**expected[0], "file": ""}
    plain = server.ask("/v1/predict?model=mnist&invert=no&place=no&pixels=true", pictures["seven.png"]).json
    ended = cli(
        "ffserve", "predict", tmp_path / "seven.png", "--json", "--invert", "no", "--place", "no", "--device", "cpu"
    )
    assert plain["predictions"][0]["top"] == ended.json["predictions"][0]["top"]
    assert np.shape(plain["predictions"][0]["pixels"]) == (1, 28, 28)


def test_pixels_are_what_the_model_is_given(server):
    found = server.ask("/v1/predict?model=mnist&pixels=true", a_seven()).json["predictions"][0]
    pixels = np.array(found["pixels"], dtype=np.uint8)
    assert found["inverted"]
    assert found["placed"]
    outputs = server.infer("mnist", said(pixels[None])).json["outputs"]
    probabilities = next(each["data"] for each in outputs if each["name"] == "probabilities")
    top = found["top"][0]
    assert max(probabilities) == pytest.approx(top["probability"], abs=1e-5)
    assert np.argmax(probabilities) == int(top["class"])


def test_every_image_is_read_or_refused_in_the_words_of_the_command(server):
    for name, content in good_images().items():
        assert server.ask("/v1/predict?model=gray", content).status == 200, name
    for name, (content, *words) in bad_images().items():
        body, kind = form(**{name: content})
        answer = server.ask("/v1/predict?model=gray", body, content_type=kind)
        if answer.status != 200 or name not in ("icon.ico", "half.tif"):  # which some releases of Pillow read
            refused(answer, 400, name, *words)
    assert server.ask("/v2/health/ready").status == 200


def test_what_is_told_of_models(server, models):
    assert server.ask("/v1/models").json == {"models": [*models, "mnist"]}
    about = server.ask("/v1/models/mnist").json
    assert about["class_names"] == [str(k) for k in range(10)]
    assert about["card"].startswith("# mnist.onnx")
    assert "golden" not in about
    assert server.ask("/v1/models/bare").json["card"] is None
    for path in ("/v1/models/mnist", "/v1/models/gray", "/v2", "/v2/models/gray", "/metrics", "/openapi.json"):
        text = server.ask(path).content.decode()
        assert str(models["gray"].path.parent) not in text
        assert "mnist.onnx" not in text or path == "/v1/models/mnist"  # its card


def test_every_route_is_documented(server, models):
    from ffserve.http.app import make_app
    from ffserve.http.service import Service, Settings

    found = server.ask("/openapi.json").json
    assert found == json.loads(json.dumps(document([*models, "mnist"])))
    routes = {route.path for route in make_app(Service({"gray": models["gray"].path}, Settings())).app.routes}
    assert routes - {"/", "/page", "/metrics", "/openapi.json"} == set(found["paths"])
    for name in re.findall(r"#/components/schemas/(\w+)", json.dumps(found)):
        assert name in found["components"]["schemas"]


def test_metrics_count_what_was_asked(server, models):
    def value(name, **labels):
        for family in text_string_to_metric_families(server.ask("/metrics").content.decode()):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return sample.value
        return 0.0

    asked = {"protocol": "http", "route": "infer"}
    names = [
        ("ffserve_requests_total", {**asked, "status": "200"}),
        ("ffserve_requests_total", {**asked, "status": "400"}),
        ("ffserve_request_seconds_count", asked),
        ("ffserve_batch_images_sum", {"model": "gray"}),
    ]
    before = [value(name, **labels) for name, labels in names]
    server.infer("gray", said(models["gray"].images(5)))
    server.infer("gray", {"inputs": []})
    after = [value(name, **labels) for name, labels in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 2, 5]
    text = server.ask("/metrics").content.decode()
    assert {*re.findall(r'ffserve_infer_seconds_count\{model="gray",stage="(\w+)"\}', text)} == {*STAGES}
    assert value("ffserve_model_stale", model="gray") == 0
    assert value("process_resident_memory_bytes") > 1e6


def test_requests_are_logged_under_their_id(server, models):
    answer = server.ask(
        "/v2/models/gray/infer", json.dumps(said(models["gray"].images(2))).encode(), x_request_id="mine-1"
    )
    assert answer.headers["x-request-id"] == "mine-1"
    made = server.ask("/v2/health/live", x_request_id="two words").headers["x-request-id"]
    assert re.fullmatch(r"[0-9a-f]{32}", made)
    while not (lines := [line for line in server.log if line.get("request") == "mine-1"]):
        pass
    [line] = lines
    assert line["event"] == "request"
    assert (line["method"], line["path"], line["status"]) == ("POST", "/v2/models/gray/infer", 200)
    assert (line["model"], line["images"]) == ("gray", 2)
    assert line["ms"] > 0


def wrong(**changes):
    """Returns a request with its tensor changed."""
    tensor = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 4, 4], "data": [0] * 16} | changes
    return {"inputs": [{name: value for name, value in tensor.items() if value is not None}]}


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], ["the body", "an object"]),
        ({}, ["inputs", "an array"]),
        ({"inputs": []}, ["0 tensors"]),
        ({"inputs": [1]}, ["inputs[0]", "an object"]),
        (wrong(name="pixels"), ["'pixels' is unknown", "images"]),
        (wrong(datatype="FP32"), ["'FP32'", "UINT8"]),
        (wrong(shape=[1, 4, 4]), ["[1, 4, 4]", "[batch, 1, 4, 4]"]),
        (wrong(shape=[1, 1, 4, 5]), ["[1, 1, 4, 5]"]),
        (wrong(shape=[1, 1, 4, 4.0]), ["4.0"]),
        (wrong(shape="1144"), ["'1144'"]),
        (wrong(shape=[0, 1, 4, 4], data=[]), ["0 images", "1 to 1024"]),
        (wrong(shape=[-1, 1, 4, 4]), ["-1 images"]),
        (wrong(shape=[10**9, 1, 4, 4]), ["1000000000 images"]),
        (wrong(shape=[2, 1, 4, 4]), ["16 values", "32"]),
        (wrong(data=[0] * 15), ["15 values"]),
        (wrong(data=[256] * 16), ["not 0 to 255"]),
        (wrong(data=[-1] * 16), ["not 0 to 255"]),
        (wrong(data=[0.5] * 16), ["float", "whole numbers"]),
        (wrong(data=[True] * 16), ["bool"]),
        (wrong(data=["0"] * 16), ["str"]),
        (wrong(data=[[0] * 8, 0]), ["list", "whole numbers"]),
        (wrong(data=None), ["data", "an array"]),
        (wrong(parameters={"binary_data_size": 16}), ["both"]),
        (wrong(data=None, parameters={"binary_data_size": 16}), ["0 bytes", "16"]),
        (wrong(parameters={"shared_memory_region": "x"}), ["shared_memory_region"]),
        ({**wrong(), "id": 3}, ["id", "a text"]),
        ({**wrong(), "outputs": [{"name": "none"}]}, ["'none'", "features, logits, probabilities"]),
        ({**wrong(), "outputs": [{"name": "logits"}, {"name": "logits"}]}, ["twice"]),
        ({**wrong(), "outputs": [{"name": "logits", "parameters": {"classification": -1}}]}, ["at least 1"]),
        ({**wrong(), "outputs": [{"name": "logits", "parameters": {"classification": "2"}}]}, ["a whole number"]),
        ({**wrong(), "outputs": [{"name": "logits", "parameters": {"binary_data": 1}}]}, ["true or false"]),
    ],
)
def test_what_is_wrong_is_named(server, value, words):
    refused(server.infer("gray", value), 400, *words)


@pytest.mark.parametrize(
    ("body", "length", "words"),
    [
        (b"{", None, ["no JSON"]),
        (b'{"inputs": [NaN]}', None, ["no JSON"]),
        (b"\xff\xfe", None, ["no JSON"]),
        (b"[" * 100_000, None, ["no JSON"]),
        (b"[]," * 200_000, None, ["600000 bytes", "at most"]),
        (b"{}", "-1", ["'-1'"]),
        (b"{}", "two", ["'two'"]),
        (b"{}", "9" * 5000, ["whole number"]),
        (b"{}", "3", ["3", "2 bytes"]),
        (b'{"inputs": []}' + bytes(16), "14", ["0 tensors"]),
    ],
)
def test_a_body_that_is_wrong_is_refused(server, body, length, words):
    headers = {} if length is None else {"inference_header_content_length": length}
    refused(server.ask("/v2/models/gray/infer", body, **headers), 413 if "at most" in words else 400, *words)


@pytest.mark.parametrize(
    ("size", "there"), [(16, 15), (16, 17), (10**12, 16), (-16, 16), (16.0, 0), (True, 1), ("16", 16)]
)
def test_a_length_that_lies_is_refused(server, size, there):
    head = json.dumps(wrong(data=None, parameters={"binary_data_size": size})).encode()
    answer = server.ask("/v2/models/gray/infer", head + bytes(there), inference_header_content_length=str(len(head)))
    refused(answer, 400, "behind the JSON")


def test_other_requests_that_are_refused(server):
    refused(server.infer("none", wrong()), 404, "'none'", "gray, colour, bare, mnist")
    refused(server.ask("/v2/models/gray/versions/2"), 404, "no version '2'")
    refused(server.ask("/v2/models/gray/infer"), 405)
    refused(server.ask("/nothing"), 404, "/openapi.json")
    refused(server.ask("/v2/repository/models/gray/load", b"{}"), 404, "/openapi.json")
    refused(server.ask("/page/../../pyproject.toml"), 404)
    refused(server.ask("/v1/models/none"), 404)
    refused(server.ask("/v1/predict?model=bare", a_seven()), 400, "no classes")
    refused(server.ask("/v1/predict?model=none", a_seven()), 404)
    refused(server.ask("/v1/predict?colour=1", a_seven()), 400, "'colour'")
    for query in ("top_k=0", "top_k=x", "pixels=maybe", "invert=perhaps", "place=perhaps"):
        name, _, value = query.partition("=")
        refused(server.ask(f"/v1/predict?model=mnist&{query}", a_seven()), 400, name, value)
    refused(server.ask("/v1/predict?model=mnist", b""), 400, "empty")
    refused(server.ask("/v1/predict?model=mnist", b"some text"), 400, "is no image but a text file")
    body, kind = form(**{f"{i}.png": b"x" for i in range(65)})
    refused(server.ask("/v1/predict?model=mnist", body, content_type=kind), 400, "64")
    refused(server.ask("/v1/predict?model=mnist", b"--b", content_type="multipart/form-data; boundary=b"), 400)
    refused(server.ask("/v1/predict?model=mnist", b"--b", content_type="multipart/form-data"), 400)
    refused(server.ask("/v2/models/gray/infer", b"{}", content_encoding="br"), 415, "'br'")
    refused(server.ask("/v2/models/gray/infer", b"{}", content_encoding="gzip"), 400, "no gzip")
    refused(server.ask("/v2/models/gray/infer", gzip.compress(b"{}")[:-4], content_encoding="gzip"), 400, "cut off")
    bomb = gzip.compress(bytes(33 * 2**20))
    refused(server.ask("/v2/models/gray/infer", bomb, content_encoding="gzip"), 413, "33,554,432")
    refused(server.ask("/v2/models/gray/infer", bytes(33 * 2**20)), 413, "33,554,432")
