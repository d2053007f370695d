from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter, shift

from ffcore.errors import SettingError
from ffmodels.backbones.mlp import MLP
from ffmodels.conditions import Condition
from ffmodels.draws import Draws
from ffmodels.encoder import Encoder
from fftrain.evaluations.linear import Linear
from fftrain.evaluations.robustness import WAYS, Robustness, corrupted
from fftrain.features import Features, name_of
from tests.fftrain.evaluations.subjects import striped, subject_of

SMALL = {"epochs": 2, "images": 20, "noise": [0.2], "blur": [1.0], "shift": [2], "contrast": [0.5]}
STRENGTHS = {"noise": 0.2, "blur": 1.3, "shift": 2, "contrast": 0.3}


def draws(images, seed=0):
    return Draws(seed, 0, torch.as_tensor(images))


def pictures(count, shape=(1, 12, 9), seed=0):
    return torch.randint(0, 256, (count, *shape), generator=torch.Generator().manual_seed(seed)).to(torch.uint8)


@pytest.fixture
def data():
    return striped()


def test_noise_is_gaussian_of_its_deviation_and_cut():
    gray = torch.full((40, 3, 30, 30), 128, dtype=torch.uint8)
    for strength in (0.05, 0.1):
        found = corrupted(gray, "noise", strength, draws(range(40)), "test").double() / 255
        assert found.mean().item() == pytest.approx(128 / 255, abs=5 * strength / found.numel() ** 0.5)
        assert found.std().item() == pytest.approx(strength, rel=0.02)
    weak, strong = (corrupted(gray, "noise", s, draws(range(40)), "test").double() - 128 for s in (0.05, 0.1))
    assert (strong - 2 * weak).abs().max() <= 1.5  # the same noise, but for rounding
    cut = corrupted(gray, "noise", 3.0, draws(range(40)), "test")
    assert {*cut[cut != 128].tolist()} >= {0, 255}


@pytest.mark.parametrize("strength", [0.5, 1.0, 1.7])
def test_the_blur_is_that_of_scipy(strength):
    images = pictures(3, (3, 20, 17))
    found = corrupted(images, "blur", strength, draws(range(3)), "test").double()
    sigma, size = (0, 0, strength, strength), int(np.ceil(4 * strength))
    expected = gaussian_filter(images.double().numpy(), sigma, mode="mirror", radius=(0, 0, size, size))
    assert (found - torch.from_numpy(expected)).abs().max() <= 0.51  # which is what rounding takes


def test_a_blur_larger_than_the_image_is_cut_to_it():
    assert corrupted(pictures(2, (1, 4, 3)), "blur", 30.0, draws(range(2)), "test").shape == (2, 1, 4, 3)


def test_an_image_is_moved_one_of_eight_ways_and_its_edge_repeated():
    images = pictures(60)
    found = corrupted(images, "shift", 2, draws(range(60)), "test").numpy()
    ways = set()
    for image, moved in zip(images.numpy(), found, strict=True):
        fitting = [
            (right, down)
            for right, down in WAYS
            if np.array_equal(moved[0], shift(image[0], (2 * down, 2 * right), order=0, mode="nearest"))
        ]
        assert len(fitting) == 1
        ways |= {*fitting}
    assert ways == {*WAYS}


def test_contrast_is_what_is_left_of_the_difference_from_the_mean():
    images = pictures(4, (3, 8, 8))
    x = images.double()
    mean = x.mean((1, 2, 3), keepdim=True)
    found = corrupted(images, "contrast", 0.3, draws(range(4)), "test").double()
    assert (found - (mean + 0.3 * (x - mean))).abs().max() <= 0.51
    gray = corrupted(images, "contrast", 0.0, draws(range(4)), "test")
    assert all(len({*image.flatten().tolist()}) == 1 for image in gray)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_an_image_is_corrupted_alike_whatever_others_are_with_it(kind):
    images = pictures(9)
    whole = corrupted(images, kind, STRENGTHS[kind], draws(range(9)), "test")
    assert whole.dtype == torch.uint8
    assert not torch.equal(whole, images)
    for i in (0, 4, 8):
        assert torch.equal(corrupted(images[i : i + 1], kind, STRENGTHS[kind], draws([i]), "test")[0], whole[i])
    again, other = (corrupted(images, kind, STRENGTHS[kind], draws(range(9), seed), "test") for seed in (0, 1))
    assert torch.equal(again, whole)
    assert torch.equal(other, whole) == (kind in ("blur", "contrast"))
    assert torch.equal(corrupted(images, "", 0, draws(range(9)), "test"), images)


@pytest.mark.parametrize("kind", STRENGTHS)
def test_nothing_is_drawn_or_made_on_another_device(kind):
    images = pictures(3).to("meta")
    found = corrupted(images, kind, STRENGTHS[kind], Draws(0, 0, torch.arange(3, device="meta")), "test")
    assert (found.device.type, found.shape, found.dtype) == ("meta", images.shape, torch.uint8)


def told(head, features, choice, network, images, labels):
    """The accuracy of a probe on images, written out."""
    x = images / 255
    x = x.flatten(1) if network is None else torch.cat(network(x), 1)[:, choice.columns]
    train = features.train.double() / (255 if network is None else 1)
    x = (x - train.mean(0)) / train.var(0, correction=0).mean().sqrt()
    return (head(x.float()).argmax(-1) == labels).double().mean().item()


def test_accuracies_are_those_of_the_probe_that_was_fitted_on_clean_images(data):
    encoder = Encoder(Condition(), MLP(width=16, depth=2).build((1, 6, 6), 0).requires_grad_(False)).eval()
    settings = Robustness(epochs=20, images=500, noise=[0.1, 0.5], blur=[1.0], shift=[], contrast=[], seed=3)
    for network in (None, encoder):
        made = network and Features(
            *(torch.cat(network(s.images / 255), 1) for s in (data.train, data.validation, data.test))
        )
        subject = subject_of(made or Features.of_pixels(data), data)
        subject.encoder = network
        records = [*settings.measure(subject)]
        blocks = ["pixels"] if network is None else ["block1", "block2", "blocks1-2"]
        found = {(r["measure"], r["split"], r["blocks"]): r["value"] for r in records}
        assert len(found) == len(records) == (2 * 2 + 3) * len(blocks)
        for choice in subject.choices():
            features = choice.features.standardised(together=True)
            probe = Linear(epochs=20, seed=3)
            head, reached = probe.fit(features, data, torch.device("cpu"), subject.reporter, "x")

            name, near = name_of(choice.blocks), 1.1 / len(data.test)  # a tie may fall either way
            assert found["clean accuracy", "validation", name] == pytest.approx(reached["validation"], abs=1.1 / 90)
            assert found["clean accuracy", "test", name] == pytest.approx(reached["test"], abs=near)
            each = []
            for kind, strength in (("noise", 0.1), ("noise", 0.5), ("blur", 1.0)):
                images = corrupted(data.test.images, kind, strength, draws(range(80), 3), "test")
                each.append(found[f"accuracy under {kind} {strength:g}", "test", name])
                assert each[-1] == pytest.approx(
                    told(head, features, choice, network, images, data.test.labels), abs=near
                )
            assert found["accuracy under corruptions", "test", name] == pytest.approx(np.mean(each))
            assert each[0] > each[1]  # the noise hides the bar


def test_strengths_that_are_near_each_other_are_told_apart_and_each_is_measured_once(data):
    settings = Robustness(epochs=1, images=20, noise=[0.1, 0.1000001, 0.1], blur=[1], shift=[], contrast=[])
    measures = [
        r["measure"] for r in settings.measure(subject_of(Features.of_pixels(data), data)) if r["split"] == "test"
    ]
    names = [name.removeprefix("accuracy under ") for name in measures]
    assert names == ["clean accuracy", "corruptions", "noise 0.1", "noise 0.1000001", "blur 1"]


def test_what_cannot_be_done_is_said(data):
    none = Robustness(noise=[], blur=[], shift=[], contrast=[])
    with pytest.raises(SettingError, match="robustness corrupts no image: give noise, blur, shift or contrast"):
        none.check_facts(data.facts, 1)
    with pytest.raises(SettingError, match=r"robustness.shift is 6, but images are 6x6: move them by less"):
        Robustness(shift=[1, 6]).check_facts(data.facts, 1)
    for wrong in ({"noise": [0]}, {"blur": [-1.0]}, {"shift": [1.5]}, {"contrast": [1]}, {"images": 0}):
        with pytest.raises(SettingError, match=next(iter(wrong))):
            Robustness(**wrong)
