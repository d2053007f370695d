"""Requests that arrive together run together, in order, and each by itself where one is at fault."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import numpy as np
import pytest

from ffcore.errors import ModelError
from ffserve.http import batching
from ffserve.http.batching import Batcher
from ffserve.http.protocol import Refused
from ffserve.http.service import Service, Settings


def images(*values):
    return np.array(values, dtype=np.uint8).reshape(-1, 1, 1, 1)


class Fake:
    """A model that waits until it may go on."""

    def __init__(self):
        self.sizes = []
        self.seconds = []
        self.go = Event()
        self.go.set()

    def spent(self, *told):
        self.seconds.append(told)

    def run(self, images_BCHW):
        self.go.wait(10)
        self.sizes.append(len(images_BCHW))
        if (images_BCHW == 13).any():
            raise ModelError("thirteen")
        return {"doubled": images_BCHW.reshape(-1, 1) * np.float32(2)}


def batched(work, *, most=4, delay=0.0):
    """Runs `work(batcher, model)` on an event loop; returns the sizes of the runs."""
    model, told = Fake(), []
    with ThreadPoolExecutor(1) as pool:
        made = Batcher(model.run, pool, most=most, delay=delay, told=told.append, spent=model.spent)
        asyncio.run(work(made, model))
    return model.sizes, told


def test_what_waits_runs_together_and_each_gets_its_own():
    async def work(batcher, model):
        model.go.clear()
        asked = [asyncio.ensure_future(batcher.run(images(i))) for i in range(1, 8)]
        await asyncio.sleep(0.05)
        model.go.set()
        for i, found in enumerate(await asyncio.gather(*asked), 1):
            assert found["doubled"].tolist() == [[2 * i]]
        assert batcher.rows == 0
        assert min([seconds for stage, seconds in model.seconds if stage == "queue"][4:]) > 0.04

    assert batched(work) == ([4, 3], [4, 3])


def test_whole_requests_run_and_a_larger_one_alone():
    async def work(batcher, model):
        sizes = [3, 2, 9, 1]
        asked = [asyncio.ensure_future(batcher.run(images(*[k] * k))) for k in sizes]
        for k, found in zip(sizes, await asyncio.gather(*asked), strict=True):
            assert found["doubled"].ravel().tolist() == [2 * k] * k

    assert batched(work)[0] == [3, 2, 9, 1]


def test_a_delay_waits_for_others_and_not_longer():
    async def work(batcher, model):
        first = asyncio.ensure_future(batcher.run(images(1)))
        await asyncio.sleep(0.05)
        await asyncio.gather(first, batcher.run(images(2)))
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(batcher.run(images(i)) for i in range(4)))  # full: nobody waits
        assert asyncio.get_running_loop().time() - began < 0.4

    assert batched(work, delay=0.5)[0] == [2, 4]


def test_one_at_fault_harms_no_other():
    async def work(batcher, model):
        found = await asyncio.gather(*(batcher.run(images(i)) for i in (1, 13, 2)), return_exceptions=True)
        assert isinstance(found[1], ModelError)
        assert [found[0]["doubled"].item(), found[2]["doubled"].item()] == [2, 4]
        assert Counter(stage for stage, _ in model.seconds) == {"queue": 2, "compute_infer": 2, "success": 2, "fail": 1}

    sizes, told = batched(work)
    assert sizes == [3, 1, 1, 1]
    assert told == [1, 1]


def test_who_left_is_passed_over():
    async def work(batcher, model):
        model.go.clear()
        first = asyncio.ensure_future(batcher.run(images(1)))
        await asyncio.sleep(0.05)
        left, kept = (asyncio.ensure_future(batcher.run(images(i))) for i in (2, 3))
        await asyncio.sleep(0)
        left.cancel()
        model.go.set()
        assert (await kept)["doubled"].item() == 6
        assert (await first)["doubled"].item() == 2
        assert batcher.rows == 0

    assert batched(work)[0] == [1, 1]


def test_too_many_are_refused(monkeypatch):
    monkeypatch.setattr(batching, "WAITING", 2)

    async def work(batcher, model):
        found = await asyncio.gather(*(batcher.run(images(i)) for i in range(3)), return_exceptions=True)
        assert [isinstance(each, Refused) for each in found] == [False, False, True]
        assert found[2].status == 503

    batched(work)


def test_answers_are_those_of_one_image_alone(models):
    """Over the whole way of the service, in batches that others share."""
    service = Service({"gray": models["gray"].path}, Settings(most=8))
    pictures = models["gray"].images(30)

    async def work():
        batcher = service.models["gray"].live.batcher
        return await asyncio.gather(*(batcher.run(picture[None]) for picture in pictures))

    found = np.concatenate([each["logits"] for each in asyncio.run(work())])
    np.testing.assert_allclose(found, models["gray"].expected(pictures)["logits"], atol=1e-5)


@pytest.mark.parametrize("scheme", ["static", "dynamic"])
def test_int8_with_ranges_of_a_batch_is_not_batched_with_strangers(make_model, scheme):
    made = make_model(about=lambda texts: texts.update(int8=f'"{scheme}"'))
    service = Service({"int8": made.path}, Settings(most=8))
    sizes = []
    batcher = service.models["int8"].live.batcher
    batcher._told = sizes.append

    async def work():
        await asyncio.gather(*(batcher.run(made.images(1, seed=i)) for i in range(4)))

    asyncio.run(work())
    assert sizes == ([4] if scheme == "static" else [1, 1, 1, 1])
