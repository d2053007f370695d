"""gRPC: the Open Inference Protocol's service, inference.GRPCInferenceService.

Its messages are made here, from their fields' numbers, in a pool of their own: nothing is generated, and a client of
the same protocol may live in this process.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from importlib.metadata import version
from typing import Any

import grpc
import numpy as np
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from ffcore.errors import FFStudyError
from ffserve.http.guard import ID, REQUESTS, TOKEN, allowed, refused
from ffserve.http.protocol import (
    DATATYPE,
    EXTENSIONS,
    SHARED,
    VERSION,
    Asked,
    Floats,
    Output,
    Refused,
    as_bytes,
    classified,
    images_of,
    metadata,
    outputs_of,
    pixels_of,
)
from ffserve.http.service import Service
from ffserve.session import Model

SERVICE = "inference.GRPCInferenceService"
TYPES = {"TYPE_INVALID": 0, "TYPE_UINT8": 2, "TYPE_FP32": 11}
# Fields: kind, name, number; `*` repeated, `map` from texts to Parameter. Of the last ones those that are told.
MESSAGES = {
    "Nothing": (),
    "Named": ("string name 1", "string version 2"),
    "Flag": ("bool flag 1",),
    "Server": ("string name 1", "string version 2", "*string extensions 3"),
    "Signature": ("string name 1", "string datatype 2", "*int64 shape 3"),
    "Model": (
        "string name 1",
        "*string versions 2",
        "string platform 3",
        "*Signature inputs 4",
        "*Signature outputs 5",
    ),
    "IndexRequest": ("string repository_name 1", "bool ready 2"),
    "Entry": ("string name 1", "string version 2", "string state 3", "string reason 4"),
    "Index": ("*Entry models 1",),
    "Parameter": ("bool flag 1", "int64 whole 2", "string text 3", "double number 4", "uint64 natural 5"),
    "Contents": (
        "*bool flags 1",
        "*int32 int32s 2",
        "*int64 int64s 3",
        "*uint32 uint32s 4",
        "*uint64 uint64s 5",
        "*float floats 6",
        "*double doubles 7",
        "*bytes texts 8",
    ),
    "Tensor": (
        "string name 1",
        "string datatype 2",
        "*int64 shape 3",
        "map parameters 4",
        "Contents contents 5",
    ),
    "Requested": ("string name 1", "map parameters 2"),
    "InferRequest": (
        "string model_name 1",
        "string model_version 2",
        "string id 3",
        "map parameters 4",
        "*Tensor inputs 5",
        "*Requested outputs 6",
        "*bytes raw 7",
    ),
    "InferAnswer": (
        "string model_name 1",
        "string model_version 2",
        "string id 3",
        "map parameters 4",
        "*Tensor outputs 5",
        "*bytes raw 6",
    ),
    "Input": ("string name 1", "DataType data_type 2", "*int64 dims 4"),
    "Output": ("string name 1", "DataType data_type 2", "*int64 dims 3"),
    "Batching": ("*int32 preferred_batch_size 1", "uint64 max_queue_delay_microseconds 2"),
    "Config": (
        "string name 1",
        "string platform 2",
        "int32 max_batch_size 4",
        "*Input input 5",
        "*Output output 6",
        "Batching dynamic_batching 11",
    ),
    "ConfigAnswer": ("Config config 1",),
    "Span": ("uint64 count 1", "uint64 ns 2"),
    "Spans": ("Span success 1", "Span fail 2", "Span queue 3", "Span compute_infer 5"),
    "Statistics": (
        "string name 1",
        "string version 2",
        "uint64 inference_count 4",
        "uint64 execution_count 5",
        "Spans inference_stats 6",
    ),
    "StatisticsAnswer": ("*Statistics model_stats 1",),
}
CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    404: grpc.StatusCode.NOT_FOUND,
    503: grpc.StatusCode.UNAVAILABLE,
}
log = logging.getLogger("ffserve.http")


def _messages() -> dict[str, Any]:
    """Returns the classes of the messages, by name."""
    file = FileDescriptorProto(name="ffserve.proto", package="ffserve", syntax="proto3")
    types = file.enum_type.add(name="DataType")
    for name, value in TYPES.items():
        types.value.add(name=name, number=value)
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "Parameter":
            message.oneof_decl.add(name="choice")
        for text in fields:
            kind, called, number = text.split() if text.count(" ") == 2 else ("map", *text.split()[1:])
            field = message.field.add(name=called, number=int(number), label=3 if kind[0] in "*m" else 1)
            kind = kind.removeprefix("*")
            if name == "Parameter":
                field.oneof_index = 0
            if kind == "map":
                entry = message.nested_type.add(name=f"{called.capitalize()}Entry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, label=1, type=FieldDescriptorProto.TYPE_STRING)
                entry.field.add(name="value", number=2, label=1, type_name=".ffserve.Parameter")
                field.type_name = f".ffserve.{name}.{entry.name}"
            elif kind in (*MESSAGES, types.name):
                field.type_name = f".ffserve.{kind}"
            else:
                field.type = FieldDescriptorProto.Type.Value(f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"ffserve.{name}")) for name in MESSAGES}


M = _messages()


async def start_rpc(
    service: Service, host: str, port: int, *, token: bytes | None = None, body: int
) -> tuple[grpc.aio.Server, int]:
    """Returns a server that answers, and its port.

    Args:
        service: what answers.
        host: an address or a name.
        port: 0 takes a free one.
        token: what clients must show; None: nothing.
        body: bytes of a request, at most.

    Raises:
        FFStudyError: where the port cannot be had.
    """
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", body),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),
        ],
        maximum_concurrent_rpcs=REQUESTS,
    )
    handlers = Calls(service, token).handlers()
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
    try:
        found = server.add_insecure_port(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
    except RuntimeError:
        found = 0
    if not found:
        raise FFStudyError(f"{host} port {port} cannot be had: choose another with --grpc-port, or --no-grpc")
    await server.start()
    return server, found


class Calls:
    """What each call answers."""

    def __init__(self, service: Service, token: bytes | None) -> None:
        self.service, self.token = service, token

    def handlers(self) -> dict[str, Any]:
        """Returns the calls by name."""
        made: dict[str, tuple[Callable[[Any, dict[str, Any]], Awaitable[Any]], str]] = {
            "ServerLive": (self.live, "Nothing"),
            "ServerReady": (self.ready, "Nothing"),
            "ModelReady": (self.model_ready, "Named"),
            "ServerMetadata": (self.server, "Nothing"),
            "ModelMetadata": (self.model, "Named"),
            "ModelConfig": (self.config, "Named"),
            "ModelStatistics": (self.statistics, "Named"),
            "RepositoryIndex": (self.index, "IndexRequest"),
            "ModelInfer": (self.infer, "InferRequest"),
        }
        return {
            name: grpc.unary_unary_rpc_method_handler(
                self._guarded(name, answer),
                request_deserializer=M[asked].FromString,
                response_serializer=lambda message: message.SerializeToString(),
            )
            for name, (answer, asked) in made.items()
        }

    async def live(self, request: Any, told: dict[str, Any]) -> Any:
        """Whether the process answers."""
        return M["Flag"](flag=True)

    async def ready(self, request: Any, told: dict[str, Any]) -> Any:
        """Whether requests are taken."""
        return M["Flag"](flag=not self.service.ending)

    async def model_ready(self, request: Any, told: dict[str, Any]) -> Any:
        """Whether a model answers."""
        self.service.served(request.name, request.version)
        return M["Flag"](flag=not self.service.ending)

    async def server(self, request: Any, told: dict[str, Any]) -> Any:
        """What the server is."""
        return M["Server"](name="ffserve", version=version("ffstudy"), extensions=EXTENSIONS)

    async def model(self, request: Any, told: dict[str, Any]) -> Any:
        """What a model takes and gives."""
        served = self.service.served(request.name, request.version)
        return M["Model"](**metadata(served.name, served.live.model))

    async def config(self, request: Any, told: dict[str, Any]) -> Any:
        """A model as Triton's clients configure themselves by it."""
        return M["ConfigAnswer"](config=self.service.config(request.name, request.version))

    async def statistics(self, request: Any, told: dict[str, Any]) -> Any:
        """How often a model, or each, was asked, and how long that took."""
        return M["StatisticsAnswer"](**self.service.statistics(request.name, request.version))

    async def index(self, request: Any, told: dict[str, Any]) -> Any:
        """Which models there are."""
        return M["Index"](models=self.service.index())

    async def infer(self, request: Any, told: dict[str, Any]) -> Any:
        """The outputs of a model for images."""
        served = self.service.served(request.model_name, request.model_version)
        live = served.live
        asked = read_request(request, live.model)
        told |= {"model": served.name, "images": len(asked.images_BCHW)}
        found = await self.service.infer(live, asked)
        return write_answer(served.name, asked, found, live.model.about.class_names)

    def _guarded(self, name: str, answer: Callable[[Any, dict[str, Any]], Awaitable[Any]]) -> Any:
        """Returns a call that is counted and logged, and whose errors are what the protocol has."""

        async def call(request: Any, context: Any) -> Any:
            began, status = time.perf_counter(), grpc.StatusCode.OK
            sent = dict(context.invocation_metadata() or ())
            given = str(sent.get("x-request-id") or getattr(request, "id", ""))
            size = request.ByteSize()
            told: dict[str, Any] = {"request": given if ID.fullmatch(given) else uuid.uuid4().hex}
            self.service.metrics.in_flight.inc()
            try:
                self.service.hold(size)
                if name not in ("ServerLive", "ServerReady") and not allowed(sent.get("authorization"), self.token):
                    raise Refused(TOKEN, 401)
                return await answer(request, told)
            except Exception as error:
                code, text = refused(error)
                status, told["error"] = CODES.get(code, grpc.StatusCode.INTERNAL), text
                if code == 500 and not isinstance(error, FFStudyError):
                    log.exception("internal error", extra={"request": told["request"]})
                await context.abort(status, text)
            finally:
                self.service.held -= size
                took = time.perf_counter() - began
                self.service.count("grpc", name, status.name, took)
                about = {"client": context.peer(), "method": name, "status": status.name, "ms": round(1000 * took, 2)}
                log.info("request", extra={**told, **about})

        return call


def read_request(request: Any, model: Model) -> Asked:
    """Reads an InferRequest. Raises Refused where it is not what the protocol or the model asks for."""
    if len(request.inputs) != 1:
        raise Refused(f"inputs has {len(request.inputs)} tensors: the model takes one")
    [given] = request.inputs
    for parameters in (given.parameters, *(each.parameters for each in request.outputs)):
        if SHARED in parameters:
            raise Refused(f"{SHARED} is not served: send the tensor")
    there = [field.name for field, _ in given.contents.ListFields()]
    if len(request.raw) + len(there) > 1:
        raise Refused("the images are given more than once: in contents, or in raw_input_contents")
    if there and there != ["uint32s"]:
        raise Refused(f"contents of {DATATYPE} are uint_contents")
    asked = [Output(each.name, True, _classes(each.parameters)) for each in request.outputs]
    return Asked(
        id=request.id,
        images_BCHW=images_of(
            model,
            given.name,
            given.datatype,
            [*given.shape],
            request.raw[0] if request.raw else pixels_of([*given.contents.uint32s]),
        ),
        outputs=outputs_of(model, asked) or [Output(name, True) for name in model.widths],
    )


def write_answer(name: str, asked: Asked, found: Mapping[str, Floats], class_names: Iterable[str] | None) -> Any:
    """Returns an InferAnswer."""
    answer = M["InferAnswer"](model_name=name, model_version=VERSION, id=asked.id)
    names = None if class_names is None else [*class_names]
    for output in asked.outputs:
        values = found[output.name]
        if output.classes:
            rows = classified(values, output.classes, names)
            answer.outputs.add(name=output.name, datatype="BYTES", shape=np.array(rows).shape)
            answer.raw.append(as_bytes(text for row in rows for text in row))
        else:
            answer.outputs.add(name=output.name, datatype="FP32", shape=values.shape)
            answer.raw.append(np.ascontiguousarray(values, "<f4").tobytes())
    return answer


def _classes(parameters: Mapping[str, Any]) -> int:
    if "classification" not in parameters:
        return 0
    given = parameters["classification"]
    kind = given.WhichOneof("choice")
    if kind not in ("whole", "natural") or not getattr(given, kind):
        raise Refused("classification must be a whole number of at least 1")
    return int(getattr(given, kind))
