"""What a cell costs is counted, not guessed from settings: of an MLP it is what one counts by hand."""

from __future__ import annotations

import pytest

from fftrain.study import plan, read_preset
from fftrain.study.cost import NOMINAL, estimate
from fftrain.study.sketch import products

WIDTH = 64
FIRST, INNER = 2 * 784 * WIDTH, 2 * WIDTH * WIDTH
FORWARD = FIRST + 3 * INNER


def cell(**more):
    return plan({"dataset": "digits", "parts": {"mlp": {"width": WIDTH}}, **more}, "x").cells[0]


@pytest.mark.parametrize(
    ("recipe", "view", "step", "told"),
    [
        # Two rows an image. Local: weights' gradients alone; through the blocks: inputs' too, but of the first.
        ("ff", "rotation", 2 * 2 * FORWARD, 4 * 4 * FORWARD),
        ("ff", "plain", 2 * 2 * FORWARD, 10 * FORWARD),
        ("ff-unsupervised", "plain", 2 * 2 * FORWARD + 2 * 2 * 28**3, 0),  # and the blurs of a mask
        ("bp-goodness-all", "jigsaw", 2 * (2 * FORWARD + 3 * INNER), 24 * 24 * FORWARD),
        ("bp", "rotation", 2 * FORWARD + 3 * INNER + 3 * 2 * WIDTH * 4, 4 * (FORWARD + 2 * WIDTH * 4)),
    ],
)
def test_products_are_those_that_are_done(recipe, view, step, told):
    found = cell(recipe=recipe, view=view)
    counted = products(found.config, found.facts)
    assert (counted.step, counted.told, counted.features) == (step, told, FORWARD)


def test_what_is_known_of_a_run_before_its_images_are():
    found = cell(recipe="ff").sketch
    assert found.dims == (WIDTH,) * 4
    assert found.readings == ("neutral", "zeros", "pixels", "random", *(f"label:{k}" for k in range(4)), "activations")
    assert found.tells
    assert found.weights == FORWARD // 2 + 4 * WIDTH
    assert not cell(recipe="ff-unsupervised").sketch.tells


def test_wider_networks_and_longer_trainings_cost_more():
    small = cell()
    for more in ({"parts": {"mlp": {"width": 4 * WIDTH}}}, {"settings": {"epochs": 100}}, {"view": "jigsaw"}):
        assert estimate(cell(**more), NOMINAL)["pretrain"] > estimate(small, NOMINAL)["pretrain"]
    assert estimate(small, NOMINAL).keys() == {"pretrain", "evaluate digits neutral class"}


def of_evaluations(names, recipe="ff", **parts):
    """What the evaluations of the own images cost."""
    made = cell(recipe=recipe, evaluation=names, parts={"mlp": {"width": WIDTH}, **parts})
    [name] = made.places
    return estimate(made, NOMINAL)[name]


def test_what_an_evaluation_costs_follows_its_settings():
    readout = of_evaluations([])
    first, second, third = (of_evaluations("linear", linear={"epochs": n}) - readout for n in (100, 200, 300))
    assert second == pytest.approx(2 * first)
    assert third == pytest.approx(3 * first)
    for name, key, (few, many) in (("decoder", "images", (100, 1000)), ("tsne", "points", (20, 100))):
        costs = [of_evaluations(name, **{name: {key: value}}) for value in (few, many)]
        assert readout < costs[0] < costs[1]
    for key, (few, many) in (("epochs", (1, 2)), ("per_class", (1, 10))):
        costs = [of_evaluations("finetune", finetune={"lr": [1e-3], key: value}) for value in (few, many)]
        assert readout < costs[0] < costs[1]
    clean, noisy = (of_evaluations("robustness", robustness={"noise": n, "epochs": 1}) for n in ([], [0.1, 0.2]))
    assert readout < clean < noisy
    every, one = (of_evaluations("linear", linear={"blocks": blocks}) - readout for blocks in (None, "block4"))
    assert every == pytest.approx(7 * one)  # four blocks, and three together
    for key, (few, many) in (("scenes", (30, 60)), ("stride", (14, 7)), ("size", (56, 112))):
        costs = [of_evaluations("segmentation", segmentation={"scenes": 30, "epochs": 1, key: v}) for v in (few, many)]
        assert readout < costs[0] < costs[1]
    once, thrice = (of_evaluations("few-labels", **{"few-labels": {"per_class": n}}) for n in ([5], [5, 5, 5]))
    assert thrice - readout == pytest.approx(3 * (once - readout))
    every = ["linear", "knn", "decoder", "tsne"]
    assert of_evaluations(every) - readout == pytest.approx(sum(of_evaluations(name) - readout for name in every))


def test_telling_the_test_split_costs_where_a_method_tells_alone():
    blind = cell(recipe="ff-unsupervised", evaluation=[])
    assert estimate(blind, NOMINAL).keys() == {"pretrain"}
    tells = cell(recipe="ff", evaluation=[])
    told = products(tells.config, tells.facts).told
    assert of_evaluations([]) > tells.facts.test * told / NOMINAL.flops > 0


def test_every_cell_of_the_presets_has_a_cost():
    for each in plan(read_preset("smoke"), "smoke").cells:
        costs = estimate(each, NOMINAL)
        assert costs.keys() == {"pretrain", *each.places}
        assert all(seconds > 0 for seconds in costs.values())
