"""gRPC of `ffserve http`, asked by Triton's own client."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from ffserve.http.rpc import MESSAGES, TYPES, M, start_rpc
from ffserve.http.service import Service, Settings

triton = pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed", exc_type=ImportError)
pb = triton.service_pb2


@pytest.fixture
def client(server):
    with triton.InferenceServerClient(server.rpc) as found:
        yield found


def tensor(images):
    found = triton.InferInput("images", list(images.shape), "UINT8")
    found.set_data_from_numpy(images)
    return found


def test_fields_are_those_of_the_protocol():
    """Number and kind of each, against Triton's own messages: what one writes the other reads."""
    from tritonclient.grpc import model_config_pb2

    theirs = {
        "Flag": "ServerLiveResponse",
        "Named": "ModelReadyRequest",
        "Server": "ServerMetadataResponse",
        "Model": "ModelMetadataResponse",
        "Signature": "ModelMetadataResponse.TensorMetadata",
        "IndexRequest": "RepositoryIndexRequest",
        "Index": "RepositoryIndexResponse",
        "Entry": "RepositoryIndexResponse.ModelIndex",
        "Parameter": "InferParameter",
        "Contents": "InferTensorContents",
        "Tensor": "ModelInferRequest.InferInputTensor",
        "Requested": "ModelInferRequest.InferRequestedOutputTensor",
        "InferRequest": "ModelInferRequest",
        "InferAnswer": "ModelInferResponse",
        "ConfigAnswer": "ModelConfigResponse",
        "Config": "ModelConfig",
        "Input": "ModelInput",
        "Output": "ModelOutput",
        "Batching": "ModelDynamicBatching",
        "StatisticsAnswer": "ModelStatisticsResponse",
        "Statistics": "ModelStatistics",
        "Spans": "InferStatistics",
        "Span": "StatisticDuration",
    }
    assert {*theirs} == {*MESSAGES} - {"Nothing"}
    for ours, name in theirs.items():
        kind = pb if hasattr(pb, name.split(".")[0]) else model_config_pb2
        for part in name.split("."):
            kind = getattr(kind, part)
        found, wanted = (
            {field.number: (field.type, field.is_repeated) for field in each.DESCRIPTOR.fields}
            for each in (M[ours], kind)
        )
        assert found.items() <= wanted.items(), ours
    assert {name: model_config_pb2.DataType.Value(name) for name in TYPES} == TYPES


def test_triton_client_reads_health_and_metadata(client, models):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("gray", "1")
    assert client.get_server_metadata().name == "ffserve"
    assert {each.name for each in client.get_model_repository_index().models} == {*models, "mnist"}
    about = client.get_model_metadata("colour")
    assert [(each.name, each.datatype, [*each.shape]) for each in about.inputs] == [("images", "UINT8", [-1, 3, 5, 4])]
    assert {each.name: [*each.shape] for each in about.outputs}["logits"] == [-1, 3]


def test_triton_client_reads_what_rest_tells_of_configuration_and_statistics(client, server, models):
    client.infer("gray", [tensor(models["gray"].images(3))])
    for found, place in (
        (client.get_model_config("gray", as_json=True)["config"], "/v2/models/gray/config"),
        (client.get_inference_statistics("gray", "1", as_json=True), "/v2/models/gray/stats"),
        (client.get_inference_statistics(as_json=True), "/v2/models/stats"),
    ):
        assert as_numbers(found) == as_numbers(server.ask(place).json)


def as_numbers(value):
    """JSON of protobuf leaves out zeros, and has large numbers as texts."""
    if isinstance(value, dict):
        return {key: as_numbers(inner) for key, inner in value.items() if inner not in (0, "0")}
    if isinstance(value, list):
        return [*map(as_numbers, value)]
    return int(value) if str(value).isdigit() else value


@pytest.mark.parametrize("name", ["gray", "colour", "bare"])
def test_triton_client_gets_what_the_model_computes(client, models, name):
    for count in (1, 5, 70):
        images = models[name].images(count, seed=count)
        found = client.infer(name, [tensor(images)], request_id="mine")
        assert found.get_response().id == "mine"
        for output, expected in models[name].expected(images).items():
            np.testing.assert_allclose(found.as_numpy(output), expected, atol=1e-5)


def test_numbers_in_contents_are_taken(client, models, server):
    images = models["gray"].images(2)
    request = pb.ModelInferRequest(model_name="gray")
    given = request.inputs.add(name="images", datatype="UINT8", shape=images.shape)
    given.contents.uint_contents.extend(images.ravel().tolist())
    answer = client._client_stub.ModelInfer(request)
    index = [each.name for each in answer.outputs].index("logits")
    found = np.frombuffer(answer.raw_output_contents[index], "<f4").reshape(2, 3)
    np.testing.assert_allclose(found, models["gray"].expected(images)["logits"], atol=1e-5)


def test_triton_client_asks_for_classes(client, models):
    images = models["gray"].images(2)
    wanted = [triton.InferRequestedOutput("probabilities", class_count=1), triton.InferRequestedOutput("features")]
    found = client.infer("gray", [tensor(images)], outputs=wanted)
    best = models["gray"].expected(images)["probabilities"].argmax(1)
    labels = [text.decode().split(":")[2] for text in found.as_numpy("probabilities").ravel()]
    assert labels == [models["gray"].classes[k] for k in best]
    assert found.as_numpy("features").shape == (2, 16)


def ask(server, change):
    request = pb.ModelInferRequest(model_name="gray", raw_input_contents=[bytes(16)])
    request.inputs.add(name="images", datatype="UINT8", shape=[1, 1, 4, 4])
    change(request)
    with triton.InferenceServerClient(server.rpc) as found:
        return found._client_stub.ModelInfer(request)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        (lambda r: setattr(r, "model_name", "none"), "NOT_FOUND", "'none'"),
        (lambda r: setattr(r, "model_version", "7"), "NOT_FOUND", "'7'"),
        (lambda r: r.ClearField("inputs"), "INVALID_ARGUMENT", "0 tensors"),
        (lambda r: setattr(r.inputs[0], "datatype", "FP32"), "INVALID_ARGUMENT", "'FP32'"),
        (lambda r: r.inputs[0].shape.append(1), "INVALID_ARGUMENT", "shape"),
        (lambda r: r.inputs[0].shape.__setitem__(0, 10**12), "INVALID_ARGUMENT", "1 to 1024"),
        (lambda r: r.raw_input_contents.append(b"x"), "INVALID_ARGUMENT", "more than once"),
        (lambda r: r.raw_input_contents.__setitem__(0, b"x"), "INVALID_ARGUMENT", "1 values"),
        (lambda r: r.inputs[0].contents.uint_contents.append(1), "INVALID_ARGUMENT", "more than once"),
        (
            lambda r: (r.ClearField("raw_input_contents"), r.inputs[0].contents.fp32_contents.append(1)),
            "INVALID_ARGUMENT",
            "uint_contents",
        ),
        (
            lambda r: (r.ClearField("raw_input_contents"), r.inputs[0].contents.uint_contents.extend([256] * 16)),
            "INVALID_ARGUMENT",
            "0 to 255",
        ),
        (lambda r: r.outputs.add(name="none"), "INVALID_ARGUMENT", "'none'"),
        (lambda r: r.inputs[0].parameters["shared_memory_region"].SetInParent(), "INVALID_ARGUMENT", "shared_memory"),
        (
            lambda r: setattr(r.outputs.add(name="logits").parameters["classification"], "string_param", "x"),
            "INVALID_ARGUMENT",
            "classification",
        ),
    ],
)
def test_what_is_wrong_is_named(server, change, code, words):
    import grpc

    with pytest.raises(grpc.RpcError) as refused:
        ask(server, change)
    assert refused.value.code().name == code
    assert words in refused.value.details()
    assert "\n" not in refused.value.details()


def test_what_is_not_served_is_said(client):
    with pytest.raises(triton.InferenceServerException, match="UNIMPLEMENTED"):
        client.load_model("gray")


def test_a_token_opens(models):
    import grpc

    async def work():
        service = Service({"gray": models["gray"].path}, Settings())
        rpc, port = await start_rpc(service, "127.0.0.1", 0, token=b"open-sesame", body=10**6)
        from tritonclient.grpc.aio import InferenceServerClient

        async with InferenceServerClient(f"127.0.0.1:{port}") as client:
            assert await client.is_server_live()
            for given in (None, {"authorization": "Bearer wrong"}):
                with pytest.raises(Exception, match="token"):
                    await client.get_server_metadata(headers=given)
            assert (await client.get_server_metadata(headers={"authorization": "Bearer open-sesame"})).name == "ffserve"
            with pytest.raises(Exception, match="larger than max"):
                await client.infer("gray", [tensor(np.zeros((10**6, 1, 4, 4), dtype=np.uint8))])
        await rpc.stop(0)

    asyncio.run(work())
    assert grpc.StatusCode.UNAUTHENTICATED
