"""Thousands of requests that nobody would write: each is answered, none by an error of the server's own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

has_schemathesis = pytest.mark.skipif(not find_spec("schemathesis"), reason="schemathesis is not installed")
SETTINGS = settings(deadline=None, database=None, suppress_health_check=list(HealthCheck))
LIMITS = ("positive_data_acceptance",)  # what a schema cannot say: that a shape fits, that bytes are an image


def generated(server, examples, folder):
    """Runs schemathesis against a server; returns how many cases it made, where none showed a fault."""
    program = Path(sys.executable).with_name("schemathesis")
    command = [program, "run", f"{server.url}/openapi.json", "--max-examples", str(examples), "--no-color"]
    command += ["--phases", "coverage,fuzzing", "--exclude-checks", ",".join(LIMITS), "--seed", "1"]
    ended = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=1800, cwd=folder)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]
    return int(re.search(r"([\d,]+) generated", ended.stdout)[1].replace(",", ""))


@has_schemathesis
def test_schemathesis_finds_no_fault_in_a_few_cases_of_each_operation(server):
    import schemathesis
    from schemathesis.generation import GenerationMode
    from schemathesis.specs.openapi import checks

    statuses, left_out = set(), [getattr(checks, name) for name in LIMITS]
    for operation in schemathesis.openapi.from_url(f"{server.url}/openapi.json").get_all_operations():

        @settings(SETTINGS, max_examples=2, derandomize=True)
        @given(case=st.one_of(*map(operation.ok().as_strategy, GenerationMode)))
        def each(case):
            statuses.add(case.call_and_validate(excluded_checks=left_out).status_code)

        each()
    assert statuses >= {200, 400}


@has_schemathesis
@pytest.mark.slow
def test_schemathesis_finds_no_fault_in_thousands(server, tmp_path):
    assert generated(server, 450, tmp_path) >= 5000
    assert server.ask("/v2/health/ready").json == {"ready": True, "stale": {}}


def one_of(right, *others):
    """Mostly what is right, so that what follows is reached too."""
    return st.integers(0, 9).flatmap(lambda k: st.one_of(*others) if k == 0 else right)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
lengths = st.integers(-(2**70), 2**70) | st.sampled_from([0, 15, 17, 2**31, 2**63])
parameters = st.fixed_dictionaries(
    {},
    optional={
        "binary_data_size": one_of(st.just(16), lengths, anything),
        "shared_memory_region": anything,
        "binary_data": one_of(st.booleans(), anything),
        "classification": one_of(st.integers(1, 5), lengths, anything),
    },
)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": one_of(st.just("images"), anything),
        "datatype": one_of(st.just("UINT8"), st.sampled_from(["FP32", "BYTES", "uint8"]), anything),
        "shape": one_of(st.just([1, 1, 4, 4]), st.lists(lengths, max_size=6), anything),
        "data": one_of(st.just([7] * 16), st.lists(lengths, max_size=20), anything),
        "parameters": one_of(parameters, anything),
    },
)
outputs = st.fixed_dictionaries(
    {}, optional={"name": one_of(st.sampled_from(["logits", "features"]), anything), "parameters": parameters}
)
requests = st.fixed_dictionaries(
    {},
    optional={
        "id": one_of(st.text(max_size=5), anything),
        "inputs": one_of(st.lists(tensors, min_size=1, max_size=1), st.lists(tensors, max_size=3), anything),
        "outputs": one_of(st.lists(outputs, max_size=3), anything),
        "parameters": one_of(st.fixed_dictionaries({}, optional={"binary_data_output": anything}), anything),
    },
)
RIGHT = {"name": "images", "datatype": "UINT8", "shape": [1, 1, 4, 4], "parameters": {"binary_data_size": 16}}
right = st.fixed_dictionaries({"inputs": st.just([RIGHT])}, optional={"outputs": st.lists(outputs, max_size=2)})
heads = one_of(one_of(right, requests).map(lambda value: json.dumps(value).encode()), st.binary(max_size=40))


def frames(server, count):
    """Sends JSON with binary tensors behind it, cut, damaged, and with lengths that lie."""
    host, _, port = server.address.partition(":")
    connection = HTTPConnection(host, int(port), timeout=60)
    statuses = []

    @settings(SETTINGS, max_examples=count)
    @given(
        head=heads,
        tail=one_of(st.just(bytes(range(16))), st.binary(max_size=40)),
        lie=one_of(st.just(None), st.integers(-3, 3), st.text("0123456789-+ .xe", min_size=1, max_size=25)),
        cut=one_of(st.just(None), st.integers(0, 60)),
        plain=one_of(st.just(False), st.just(True)),
    )
    def each(head, tail, lie, cut, plain):
        length = str(len(head) + lie) if isinstance(lie, int) else lie or str(len(head))
        headers = {} if plain else {"Inference-Header-Content-Length": length}
        connection.request("POST", "/v2/models/gray/infer", (head + tail)[:cut], headers)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status in (200, 400), content
        if answer.status == 400:
            told = json.loads(content)
            assert told.keys() == {"error"}
            assert "\n" not in told["error"]
        statuses.append(answer.status)

    each()
    connection.close()
    return statuses


def test_the_binary_framing_takes_or_refuses(server):
    assert {*frames(server, 150)} == {200, 400}


@pytest.mark.slow
def test_the_binary_framing_takes_or_refuses_thousands(server):
    statuses = frames(server, 5000)
    assert len(statuses) >= 5000
    assert statuses.count(200) > 50
