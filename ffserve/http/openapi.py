"""The OpenAPI document of the server."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from ffserve.account import WORDS
from ffserve.http.protocol import DATATYPE, INPUT, ROWS, STAGES, VERSION
from ffserve.stream import INVERT, PLACE

JSON, BINARY = "application/json", "application/octet-stream"
TEXT: dict[str, Any] = {"type": "string"}
WHOLE: dict[str, Any] = {"type": "integer"}
FLAG: dict[str, Any] = {"type": "boolean"}
NUMBER: dict[str, Any] = {"type": "number"}


def array(items: Any, **more: Any) -> dict[str, Any]:
    """Returns the schema of an array."""
    return {"type": "array", "items": items, **more}


def thing(required: list[str], **properties: Any) -> dict[str, Any]:
    """Returns the schema of an object."""
    return {"type": "object", "required": required, "properties": properties}


def ref(name: str) -> dict[str, str]:
    """Returns a reference to a schema."""
    return {"$ref": f"#/components/schemas/{name}"}


TENSOR = {"name": TEXT, "datatype": TEXT, "shape": array(WHOLE)}
CONFIGURED = thing(["name", "data_type", "dims"], name=TEXT, data_type=TEXT, dims=array(WHOLE))
SCHEMAS: dict[str, Any] = {
    "Error": thing(["error"], error={**TEXT, "description": "Why the request was refused, in one line."}),
    "Live": thing(["live"], live=FLAG),
    "Ready": thing(
        ["ready", "stale"],
        ready=FLAG,
        stale={
            "type": "object",
            "additionalProperties": TEXT,
            "description": "Models whose new file was refused, and why; the old one answers.",
        },
    ),
    "Server": thing(["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=array(TEXT)),
    "Index": array(thing(["name", "version", "state", "reason"], name=TEXT, version=TEXT, state=TEXT, reason=TEXT)),
    "Model": thing(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=TEXT,
        versions=array(TEXT),
        platform=TEXT,
        inputs=array(thing([*TENSOR], **TENSOR)),
        outputs=array(thing([*TENSOR], **TENSOR)),
    ),
    "ModelReady": thing(["name", "ready"], name=TEXT, ready=FLAG, reason=TEXT),
    "Config": thing(
        ["name", "platform", "max_batch_size", "input", "output"],
        name=TEXT,
        platform=TEXT,
        max_batch_size=WHOLE,
        input=array(CONFIGURED),
        output=array(CONFIGURED),
        dynamic_batching=thing([], preferred_batch_size=array(WHOLE), max_queue_delay_microseconds=WHOLE),
    ),
    "Statistics": thing(
        ["model_stats"],
        model_stats=array(
            thing(
                ["name", "version", "inference_count", "execution_count", "inference_stats"],
                name=TEXT,
                version=TEXT,
                inference_count={**WHOLE, "description": "Images."},
                execution_count={**WHOLE, "description": "Runs."},
                inference_stats=thing(
                    [*STAGES], **dict.fromkeys(STAGES, thing(["count", "ns"], count=WHOLE, ns=WHOLE))
                ),
            )
        ),
    ),
    "Models": thing(["models"], models=array(TEXT)),
    "About": thing(["name", "card"], name=TEXT, card={"type": ["string", "null"]}),
    "InferRequest": thing(
        ["inputs"],
        id=TEXT,
        parameters=thing([], binary_data_output=FLAG),
        inputs=array(
            thing(
                ["name", "datatype", "shape"],
                name={"type": "string", "enum": [INPUT]},
                datatype={"type": "string", "enum": [DATATYPE]},
                shape=array(WHOLE, minItems=4, maxItems=4, description=f"[1 to {ROWS}, channels, height, width]"),
                parameters=thing([], binary_data_size=WHOLE),
                data={"type": "array", "items": {}, "description": "Pixels 0 to 255, nested or not."},
            ),
            minItems=1,
            maxItems=1,
        ),
        outputs=array(
            thing(["name"], name=TEXT, parameters=thing([], binary_data=FLAG, classification={**WHOLE, "minimum": 1}))
        ),
    ),
    "InferAnswer": thing(
        ["model_name", "model_version", "outputs"],
        model_name=TEXT,
        model_version=TEXT,
        id=TEXT,
        outputs=array(thing([*TENSOR], **TENSOR, parameters={"type": "object"}, data=array({}))),
    ),
    "Predictions": thing(
        ["model", "device", "predictions", "notes"],
        model=TEXT,
        device=TEXT,
        predictions=array(
            thing(
                ["file"],
                file=TEXT,
                error=TEXT,
                top=array(thing(["class", "probability"], **{"class": TEXT, "probability": NUMBER})),
                **{what: {**FLAG, "description": words} for what, words in WORDS.items()},
                pixels=array(array(array(WHOLE)), description="[C, H, W], as the model sees them."),
            )
        ),
        notes=array(TEXT),
    ),
}


def _answers(schema: str, *codes: int, binary: bool = False) -> dict[str, Any]:
    content: dict[str, Any] = {JSON: {"schema": ref(schema)}}
    if binary:
        content[BINARY] = {}
    words = {
        400: "What was sent is not right.",
        401: "The server wants its token.",
        404: "There is no such model.",
        408: "The body came too slowly.",
        413: "The body is too large.",
        415: "The body is packed in an unknown way.",
        503: "The server is busy, or ends.",
    }
    refused = {
        str(code): {"description": words[code], "content": {JSON: {"schema": ref("Error")}}} for code in (401, *codes)
    }
    return {"200": {"description": "The answer.", "content": content}, **refused}


def _query(name: str, schema: Any, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": text}


def _get(summary: str, schema: str, *codes: int) -> dict[str, Any]:
    return {"get": {"summary": summary, "responses": _answers(schema, *codes)}}


def document(models: Iterable[str]) -> dict[str, Any]:
    """Returns the document of a server of models by these names."""
    body_codes = (400, 408, 413, 415, 503)
    named = {**TEXT, "enum": [*models]}
    name = {"name": "name", "in": "path", "required": True, "schema": named}
    infer = {
        "parameters": [
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "schema": {"type": "integer", "minimum": 0},
                "description": "Bytes of the JSON, where binary tensors lie behind it.",
            }
        ],
        "summary": "Outputs for images.",
        "requestBody": {"required": True, "content": {JSON: {"schema": ref("InferRequest")}, BINARY: {}}},
        "responses": _answers("InferAnswer", 404, *body_codes, binary=True),
    }
    predict = {
        "summary": "Classes of images, as `ffserve predict` has them, and what was done for each.",
        "parameters": [
            _query("model", named, "By default the first."),
            _query("top_k", {**WHOLE, "minimum": 1, "maximum": 999_999}, "Classes of each image, by default 5."),
            _query("invert", {"type": "string", "enum": [*INVERT]}, "Whether images are turned into their negatives."),
            _query("place", {"type": "string", "enum": [*PLACE]}, "Whether ink is placed as the model's own drawings."),
            _query("pixels", FLAG, "Whether the images as the model sees them are told."),
        ],
        "requestBody": {
            "required": True,
            "content": {
                BINARY: {},
                "image/*": {},
                "multipart/form-data": {"schema": thing(["file"], file={"type": "string", "format": "binary"})},
            },
        },
        "responses": _answers("Predictions", 404, *body_codes),
    }
    places: dict[str, Any] = {
        "/v2": _get("What the server is.", "Server"),
        "/v2/health/live": _get("Whether the process answers.", "Live"),
        "/v2/health/ready": _get("Whether requests are taken.", "Ready", 503),
        "/v2/repository/index": {
            "post": {"summary": "Which models there are.", "responses": _answers("Index", *body_codes)}
        },
        "/v2/models/stats": _get("How often each model was asked, and how long it took.", "Statistics"),
        "/v1/models": _get("The models in short.", "Models"),
        "/v1/models/{name}": {"parameters": [name], **_get("What a model says of itself.", "About", 404)},
        "/v1/predict": {"post": predict},
    }
    numbered = {**name, "name": "version", "schema": {**TEXT, "enum": [VERSION]}}
    for place, parameters in (
        ("/v2/models/{name}", [name]),
        ("/v2/models/{name}/versions/{version}", [name, numbered]),
    ):
        places |= {
            place: {"parameters": parameters, **_get("What a model takes and gives.", "Model", 404)},
            f"{place}/ready": {"parameters": parameters, **_get("Whether a model answers.", "ModelReady", 404)},
            f"{place}/config": {"parameters": parameters, **_get("A model's configuration.", "Config", 404)},
            f"{place}/stats": {
                "parameters": parameters,
                **_get("How often a model was asked, and how long it took.", "Statistics", 404),
            },
            f"{place}/infer": {"parameters": parameters, "post": infer},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ffserve",
            "version": version("ffstudy"),
            "summary": "The Open Inference Protocol, version 2.",
        },
        "paths": places,
        "components": {
            "schemas": SCHEMAS,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"token": []}],
    }
