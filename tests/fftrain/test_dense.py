"""What is read of each place of a scene, and the linear heads that read it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ffcore.errors import SettingError
from ffmodels.conditions import Condition, LabelSlot
from ffmodels.encoder import Encoder
from ffmodels.parts import BACKBONES
from fftrain import evaluate_run
from fftrain.dense import Head, read_maps, reader
from fftrain.evaluations.segmentation import Segmentation
from fftrain.scenes import Scenes
from tests.fftrain.evaluations.subjects import subject_of
from tests.fftrain.test_features import noise
from tests.fftrain.training import evaluation
from tests.parts import small

SHAPE, SIDE, NOWHERE = (1, 14, 14), 28, Path("none")


def encoder(name, condition=None, **settings):
    values = {key: value for key, value in {**small("backbone", name), **settings}.items() if key != "name"}
    backbone = BACKBONES.load(name)(**values).build(SHAPE, 0)
    return Encoder(condition or Condition(), backbone.requires_grad_(False)).eval()


def pictures(count=2, side=SIDE):
    return torch.rand(count, 1, side, side, generator=torch.Generator().manual_seed(0))


def windows(scene, step, length):
    """The window whose middle is that of each place, [places * places, length, length]; zeros beyond the scene."""
    padded, places = np.pad(scene, length), -(-len(scene) // step)
    starts = [length + i * step - (length - step) // 2 for i in range(places)]
    return np.stack([padded[y : y + length, x : x + length] for y in starts for x in starts])


@pytest.mark.parametrize(("stride", "step"), [(None, 3), (5, 5), (14, 14), (20, 20)])
def test_pixels_are_those_of_a_window_around_each_place(stride, step):
    [found] = reader(None, SHAPE, SIDE, stride)(pictures())
    expected = np.stack([windows(scene, step, 14) for scene in pictures()[:, 0].numpy()])
    assert found.shape[:3] == (2, *[-(-SIDE // step)] * 2)
    np.testing.assert_array_equal(found.numpy().reshape(expected.shape), expected)


@pytest.mark.parametrize("name", ["mlp", "vit", "pixels"])
def test_a_network_of_one_size_reads_windows(name):
    network = encoder(name)
    found = reader(network, SHAPE, SIDE, 7)(pictures())
    cut = torch.from_numpy(np.stack([windows(scene, 7, 14) for scene in pictures()[:, 0].numpy()]))
    expected = network(cut.view(-1, *SHAPE))
    assert [x.shape[-1] for x in found] == [*network.dims]
    for x, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(x.flatten(0, 2), wanted)


@pytest.mark.parametrize(("at_once", "most"), [(3, 3), (10, 8)])
def test_a_scene_is_cut_some_lines_of_windows_at_once(monkeypatch, at_once, most):
    network, held = encoder("mlp"), []
    expected = reader(network, SHAPE, SIDE, 7)(pictures())
    monkeypatch.setattr("fftrain.dense.rows_at_once", lambda encoder: at_once)
    network.register_forward_pre_hook(
        lambda _, given: held.append((len(given[0]), given[0].untyped_storage().nbytes()))
    )
    for x, wanted in zip(reader(network, SHAPE, SIDE, 7)(pictures()), expected, strict=True):
        torch.testing.assert_close(x, wanted)
    rows, sizes = zip(*held, strict=True)
    assert (sum(rows), max(rows)) == (2 * 16, most)
    assert max(sizes) < 16 * 4 * 14 * 14  # all windows of a scene


@pytest.mark.parametrize("name", ["convnet", "resnet"])
@pytest.mark.parametrize("condition", [Condition(), LabelSlot(4, SHAPE)], ids=["pixels", "label"])
def test_a_network_with_maps_reads_the_whole_scene(name, condition):
    network = encoder(name, condition)
    found = reader(network, SHAPE, SIDE, 7)(pictures())
    assert [x.shape[-1] for x in found] == [block.shape[0] for block in network.backbone.info]
    assert found[0].shape[1] > found[-1].shape[1]
    for x, features in zip(found, network(pictures()), strict=True):
        torch.testing.assert_close(network.backbone.pool(x.movedim(-1, 1)), features)


def test_a_head_is_linear_in_features_that_are_resized():
    maps = [torch.randn(2, side, side, dims).double() for side, dims in ((14, 3), (7, 5), (4, 2))]
    head = Head([3, 5, 2], 6, (14, 14)).double()
    assert not head(maps).any()
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    resize = torch.nn.Upsample((14, 14), mode="bilinear")
    features = torch.cat([resize(x.movedim(-1, 1)) for x in maps], 1)
    weight = torch.cat([part.weight for part in head.parts], 1)
    bias = sum(part.bias for part in head.parts)
    expected = torch.einsum("kd,bdhw->bkhw", weight, features) + bias[:, None, None]
    torch.testing.assert_close(head(maps), expected)
    fewer = Head([3], 6, (7, 7)).double()
    fewer.load_state_dict({key: head.state_dict()[key] for key in fewer.state_dict()})
    expected = torch.nn.functional.avg_pool2d(head.parts[0](maps[0]).movedim(-1, 1), 2)
    torch.testing.assert_close(fewer(maps[:1]), expected)


def test_maps_are_standardised_by_the_training_scenes():
    data = noise((20, 10, 10), 12)
    part = Segmentation(scenes=9)
    scenes = {split: part.scenes_of(data, split, NOWHERE) for split in ("train", "validation", "test")}
    assert [len(of) for of in scenes.values()] == [9, 3, 3]
    subject = subject_of(None, data)
    with read_maps(subject, scenes, 3) as maps:
        [train] = maps.of(()).batch("train", torch.arange(9))
        [again] = maps.batch("train", torch.arange(9))  # what is kept is as it was
        [test] = maps.batch("test", torch.tensor([2]))
    assert torch.equal(train, again)
    changes = train.flatten(0, 2).std(0, correction=0) > 0
    torch.testing.assert_close(train.flatten(0, 2).mean(0), torch.zeros(144), atol=1e-4, rtol=0)
    torch.testing.assert_close(train.flatten(0, 2).std(0, correction=0)[changes], torch.ones(int(changes.sum())))
    assert test.shape == (1, 8, 8, 144)
    raw = reader(None, data.shape, 24, 3)(scenes["test"].images[2:].float() / 255)[0]
    torch.testing.assert_close(test, (raw - maps.standards[0].mean_F) * maps.standards[0].scale_F)


def test_maps_in_a_mapped_file_give_the_same_figures(run_copy):
    config = evaluation("segmentation", scenes=6, epochs=1)
    [in_memory] = evaluate_run(run_copy, config)
    in_memory.path.unlink()
    [mapped] = evaluate_run(run_copy, config.changed(feature_memory=0))
    assert mapped.records == in_memory.records
    assert {record["blocks"] for record in mapped.records} == {
        "pixels",
        *(f"block{i}" for i in range(1, 5)),
        "blocks2-4",
    }


def test_a_scene_that_is_too_small_is_refused_with_what_mends_it(run_copy):
    for name in ("segmentation", "detection"):
        said = f"{name}.size is 30, and objects have up to 1.2 times the 28 pixels of an image: make it 34 or more"
        with pytest.raises(SettingError, match=said):
            evaluate_run(run_copy, evaluation(name, size=30))
        with pytest.raises(SettingError, match=f"{name}.size is 27, and a window has 28 pixels: make it no less"):
            evaluate_run(run_copy, evaluation(name, data="voc", size=27))
        with pytest.raises(SettingError, match=f"{name}.stride is 29, and a window has 28 pixels: make it no more"):
            evaluate_run(run_copy, evaluation(name, stride=29))


def test_what_is_told_of_many_classes_takes_fewer_scenes_at_once():
    scenes = Segmentation(scenes=9, size=64).scenes_of(noise((9, 9, 9), 8), "train", NOWHERE)
    assert Segmentation().rows(scenes, 10) == 8
    assert 1 <= Segmentation().rows(scenes, 1000) < 8


def test_scenes_may_be_of_any_part_of_a_batch():
    part = Segmentation(scenes=5, objects=2)
    scenes = part.scenes_of(noise((9, 9, 9), 8), "train", NOWHERE)
    some = scenes.at(torch.tensor([3, 1]))
    assert isinstance(some, Scenes)
    assert torch.equal(some.images[1], scenes.images[1])
    assert torch.equal(some.labels[0], scenes.labels[3])
