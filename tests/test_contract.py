"""What holds of every method on every network and of every view: over the listing of their directories, none left out.

Exports of all of them are tried in tests/ffexport.
"""

from __future__ import annotations

import weakref
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import nn

from ffmodels.backbones.base import Between
from ffmodels.draws import Draws
from ffmodels.units import make_units
from fftrain.data import load_data
from fftrain.loader import Loader
from fftrain.loop import step
from fftrain.parts import BACKBONES, METHODS, VIEWS
from fftrain.training import pretrain
from tests.parts import ALL, BACKBONE, SOME, small, small_run
from tests.together import run_together

SHAPE, K = (1, 14, 14), 4
PAIRS = [pytest.param(*pair, marks=[] if pair in SOME else pytest.mark.slow) for pair in ALL]
every_pair = pytest.mark.parametrize(("method", "backbone"), PAIRS)


@pytest.fixture(autouse=True)
def _one_thread():
    """What is tried is too small to be shared out."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Trained:
    """A method on a network over some images, all in small."""

    def __init__(
        self,
        method,
        backbone,
        /,
        *,
        cut="block",
        at="all",
        device="cpu",
        images=24,
        rows=24,
        process=0,
        processes=1,
        **values,
    ):
        config = small_run(method, backbone, **values)
        self.method = config.method
        self.backbone = config.backbone.build(SHAPE, 0)
        self.units = make_units(self.method, self.backbone, K, cut=cut, at=at)
        for unit in self.units:
            unit.to(device)
        generator = torch.Generator().manual_seed(0)
        self.loader = Loader(
            images=torch.randint(256, (images, *SHAPE), dtype=torch.uint8, generator=generator).to(device),
            labels=torch.randint(K, (images,), generator=generator).to(device),
            view=config.view,
            needs=self.method.needs(),
            batch_size=rows,
            seed=0,
            process=process,
            processes=processes,
        )
        self.batch, self.weight = next(self.loader.epoch(1))

    def optimizers(self, lr, kind=torch.optim.SGD):
        found = []
        for unit in self.units:
            parameters = [*unit.parameters()]
            found.append(kind(parameters, lr=lr) if parameters else None)
        return found

    @property
    def learns(self):
        """Whether there is something to train, and what trains it: there is none for pixels, nor for no method."""
        return self.method.trains and all([*unit.parameters()] for unit in self.units)

    def step(self, optimizers, units=None):
        """The losses of all units, whose optimizers have taken a step."""
        found = {}
        step(
            self.method,
            K,
            self.units if units is None else units,
            optimizers,
            self.batch,
            backward=lambda loss: loss.backward(),
            watch=lambda losses, batch, optimizer: found.update(losses),
            weight=self.weight,
        )
        return found

    def gradients(self):
        """Of each block, with its head and, for the first, the stem; taken as the loop takes them, and not used."""
        parts = [
            [p for module in self.parts(index) for p in module.parameters()] for index in range(len(self.backbone.info))
        ]
        found = {}

        class Kept:
            def __init__(self, unit):
                self.unit = unit

            def step(self):
                found.update({id(p): p.grad.clone() for p in self.unit.parameters() if p.grad is not None})

            def zero_grad(self):
                self.unit.zero_grad()

        self.step([Kept(unit) for unit in self.units])
        return [[found[id(p)] for p in part if id(p) in found] for part in parts]

    def parts(self, index):
        heads = [unit.heads[str(index)] for unit in self.units if str(index) in unit.heads]
        return [self.backbone.blocks[index], *heads, *([self.backbone.stem] if index == 0 else [])]


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@every_pair
def test_some_steps_lower_every_loss(method, backbone):
    made = Trained(method, backbone)
    optimizers = made.optimizers(1e-3, torch.optim.Adam)
    first = made.step(optimizers)
    for _ in range(60):
        last = made.step(optimizers)
    assert [*first] == [f"block{index + 1}" for index in range(len(made.backbone.info))]
    assert all((last[name] < first[name]) == made.learns for name in first), (first, last)


@every_pair
@pytest.mark.parametrize("cut", ["block", "never"])
def test_a_gradient_crosses_a_block_where_it_is_not_cut_and_there_alone(method, backbone, cut):
    made = Trained(method, backbone, cut=cut)
    before = made.gradients()
    if not made.learns:
        assert not any(gradient.any() for of_block in before for gradient in of_block)
        return
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for module in made.parts(len(before) - 1):
            for p in module.parameters():
                p.add_(torch.randn(p.shape, generator=generator))
    after = made.gradients()
    assert all(before)
    for below, changed in zip(before[:-1], after[:-1], strict=True):
        assert same(below, changed) == (cut == "block")
    assert not same(before[-1], after[-1])


@every_pair
def test_a_units_graph_and_gradients_are_gone_before_the_next_runs(method, backbone):
    made, saved, ran = Trained(method, backbone), [], []

    class Saved:
        """What a graph keeps for its backward."""

        def __init__(self, tensor):
            self.tensor = tensor

    def pack(tensor):
        kept = Saved(tensor)
        saved.append(weakref.ref(kept))
        return kept

    class Watched(nn.Module):
        def __init__(self, unit):
            super().__init__()
            self.unit = unit

        def forward(self, h, batch):
            assert not any(reference() is not None for reference in saved)
            assert all(p.grad is None for unit in made.units for p in unit.parameters())
            h, losses = self.unit(h, batch)
            ran.append(sum(reference() is not None for reference in saved))
            return h, losses

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept.tensor):
        made.step(made.optimizers(0.1), [Watched(unit) for unit in made.units])
    assert len(ran) == len(made.units)
    assert all(ran) == any([*unit.parameters()] for unit in made.units)


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        *((method, {}) for method, backbone in ALL if backbone == BACKBONE),
        *(("cross-entropy", {"between": between}) for between in get_args(Between) if between != "group"),
        ("cross-entropy", {"between": "group", "groups": 2}),
    ],
)
def test_gradients_of_maps_lie_as_maps_do(method, settings):
    """With channels last, or nowhere, as those of a mean: of another layout everything below makes a copy."""
    made, gradients = Trained(method, BACKBONE, backbone={"keeps": 1, **settings}), []

    def watch(layer, inputs, h):
        if h.requires_grad and h.is_contiguous(memory_format=torch.channels_last):
            h.register_hook(gradients.append)

    for layer in nn.ModuleList(made.units).modules():
        if not [*layer.children()] and not isinstance(layer, nn.AdaptiveAvgPool2d):  # whose few numbers are flattened
            layer.register_forward_hook(watch)
    made.step(made.optimizers(0.1))
    assert gradients
    for gradient in gradients:
        assert gradient.is_contiguous(memory_format=torch.channels_last) or 0 in gradient.stride()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_network_is_made_where_there_are_no_numbers(backbone):
    """A study is planned there: whatever their size, networks take neither time nor memory."""
    with torch.device("meta"):
        made = small_run("cross-entropy", backbone).backbone.build(SHAPE, 0)
    assert all(p.is_meta for p in made.parameters())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_features_are_normalised_and_pooled_in_either_order(backbone):
    network = Trained("untrained", backbone).backbone.double()
    for block, h in zip(network.info, network(torch.rand(3, *SHAPE, dtype=torch.float64)), strict=True):
        torch.testing.assert_close(block.features(h), network.pool(block.normalise(h)))


@every_pair
def test_a_step_needs_no_number_from_the_device(method, backbone):
    """On the meta device there are none: an operand left on the CPU, an .item() and a bool of a tensor raise."""
    made = Trained(method, backbone, device="meta")
    losses = made.step(made.optimizers(0.1))
    assert all(loss.device.type == "meta" for loss in losses.values())


@every_pair
def test_a_run_that_goes_on_ends_as_one_that_was_never_stopped(tmp_path, method, backbone):
    for name, epochs in (("whole", 2), ("resumed", 1)):
        pretrain(small_run(method, backbone, epochs=epochs), tmp_path / name)
    pretrain(small_run(method, backbone), tmp_path / "resumed", resume=True)
    assert files(tmp_path / "whole") == files(tmp_path / "resumed")


def files(run: Path):
    """The weights of a run, as they lie there."""
    return {file.name: file.read_bytes() for file in run.glob("*.safetensors")}


@every_pair
def test_how_much_is_measured_changes_nothing(tmp_path, method, backbone):
    for count in (1, 40):
        pretrain(small_run(method, backbone, epochs=1, eval_images=count), tmp_path / str(count))
    assert files(tmp_path / "1") == files(tmp_path / "40")


def float64(batch):
    partner = None if batch.partner is None else batch.partner.double()
    return replace(batch, views=tuple(view.double() for view in batch.views), partner=partner)


def train_all(pairs):
    """The weights of each pair after some steps in float64, on all processes that work together.

    Shares are uneven, and the last batch has one row. In float32 the optimizer makes steps of mere rounding, where a
    gradient is 0 but for it.
    """
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    found = {}
    for pair in pairs:
        made = Trained(*pair, images=40, rows=13, process=rank, processes=world)
        units = [unit.double() for unit in made.units]
        wrapped = [nn.parallel.DistributedDataParallel(u) if world > 1 and [*u.parameters()] else u for u in units]
        optimizers = made.optimizers(1e-3, torch.optim.AdamW)
        for epoch in (1, 2):
            for batch, weight in made.loader.epoch(epoch):
                made.batch, made.weight = float64(batch), weight
                made.step(optimizers, wrapped)
        found[pair] = {f"{i}.{name}": x for i, unit in enumerate(units) for name, x in unit.state_dict().items()}
    return found


@pytest.mark.parametrize(
    ("processes", "pairs"),
    [
        pytest.param(2, SOME, id="2-some"),
        pytest.param(3, SOME, id="3-some", marks=pytest.mark.slow),
        pytest.param(2, ALL, id="2-all", marks=pytest.mark.slow),
        pytest.param(3, ALL, id="3-all", marks=pytest.mark.slow),
    ],
)
def test_processes_that_work_together_agree_with_one(processes, pairs):
    alone, together = train_all(pairs), run_together(processes, train_all, pairs)
    for pair, expected in alone.items():
        for name, value in expected.items():
            torch.testing.assert_close(together[0][pair][name], value, rtol=0, atol=1e-8, msg=f"{pair} {name}")
            assert all(torch.equal(found[pair][name], together[0][pair][name]) for found in together), (pair, name)


def pretrain_small(folder):
    """Barlow Twins with batch statistics, uneven shares and a last batch that is left out, as a user trains it."""
    backbone = {**small("backbone", "mlp"), "norm": "batch"}
    pretrain(small_run("barlow", "mlp", backbone=backbone, batch_size=33, epochs=3), folder)


@pytest.mark.slow
def test_processes_agree_with_one_in_float32_through_pretrain(tmp_path):
    pretrain_small(tmp_path / "one")
    run_together(2, pretrain_small, tmp_path / "two")
    for name in files(tmp_path / "one"):
        one, two = (load_file(tmp_path / run / name) for run in ("one", "two"))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, rtol=0, atol=1e-5)


# Views.

every_view = pytest.mark.parametrize("name", VIEWS)


def look(name, images, index, epoch=1):
    labels = torch.arange(len(images), device=images.device) % 3
    return VIEWS.load(name)()(images, labels, Draws(7, epoch, index))


def pictures(channels, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (10, channels, 12, 12), dtype=torch.uint8, generator=generator).to(device)


@every_view
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_view_gives_what_it_says(name, channels, device):
    view, images = VIEWS.load(name)(), pictures(channels, device)
    view.check(tuple(images.shape[1:]))
    views, labels = look(name, images, torch.arange(10, device=device))
    assert len(views) == view.views
    for seen in views:
        assert seen.shape == images.shape
        assert seen.dtype in (torch.uint8, torch.float32)
        assert seen.device == images.device
        if seen.is_floating_point() and device == "cpu":
            assert 0 <= seen.min() <= seen.max() <= 1
    assert (labels.dtype, labels.shape, labels.device) == (torch.int64, (10,), images.device)
    if device == "cpu":
        classes = view.class_names(("a", "b", "c"))
        assert 0 <= labels.min() <= labels.max() < len(classes)
        for asked, of_asked in view.variants(images, labels):
            assert asked.shape == images.shape
            assert of_asked.max() < len(classes)


@every_view
@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_of_an_image_is_the_same_whatever_others_are_with_it(name, channels):
    images, index = pictures(channels), torch.arange(10) + 5
    views, labels = look(name, images, index)
    for chosen in (torch.tensor([3]), torch.tensor([9, 0, 4]), torch.arange(9, -1, -1)):
        view = VIEWS.load(name)()
        some, told = view(images[chosen], (torch.arange(10) % 3)[chosen], Draws(7, 1, index[chosen]))
        assert torch.equal(told, labels[chosen])
        assert all(torch.equal(one, whole[chosen]) for one, whole in zip(some, views, strict=True))


@every_view
def test_a_view_draws_afresh_each_epoch_and_the_same_again(name):
    images, index = pictures(3), torch.arange(10)
    (one, again, other) = (look(name, images, index, epoch)[0] for epoch in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    draws = name != "plain"
    assert any(not torch.equal(a, b) for a, b in zip(one, other, strict=True)) == draws
    if len(one) > 1:
        assert not torch.equal(one[0], one[1])


def test_all_parts_are_there():
    """The lists above are those of the directories: a file that holds a part is covered by being there."""
    for plugins, folder in ((METHODS, "models/ffmodels/methods"), (BACKBONES, "models/ffmodels/backbones")):
        root = Path(__file__).parents[1] / folder
        assert {path.stem.replace("_", "-") for path in root.glob("[!_]*.py")} - {"base"} == {*plugins}
    assert load_data(small_run(*SOME[0])).shape == (1, 28, 28)
