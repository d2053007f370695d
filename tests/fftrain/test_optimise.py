"""In which order units learn, and at which rate."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file

from ffcore.errors import SettingError
from ffmodels.parts import BACKBONES
from ffmodels.units import shifted
from fftrain.config import RunConfig
from fftrain.loop import train
from fftrain.optimise import rate
from fftrain.training import pretrain
from tests.ffmodels.making import K, batch, make
from tests.fftrain.training import weights
from tests.together import run_together

SMALL = {
    "dataset": "digits",
    "view": "plain",
    "method": "cross-entropy",
    "batch_size": 64,
    "lr": 3e-3,
    "limit": 300,
    "threads": 1,
    "eval_images": 20,
}


def run(backbone=(), **values):
    return RunConfig(**{**SMALL, "backbone": {"name": "mlp", "width": 16, "depth": 3, **dict(backbone)}, **values})


def curves(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_schedules():
    assert [rate("constant", at) for at in (0, 0.25, 0.99)] == [1, 1, 1]
    assert [rate("cosine", at) for at in (0, 0.5, 1)] == pytest.approx([1, 0.5, 0])
    steps = [rate("steps", at) for at in (0, 0.49, 0.5, 0.74, 0.75, 0.89, 0.94, 0.99)]
    assert steps == [1, 1, 1 / 4, 1 / 4, 1 / 16, 1 / 64, 1 / 256, 1 / 256]


def test_in_greedy_order_a_unit_learns_as_if_there_were_none_above(tmp_path):
    """Weights and batch statistics of what is below stay as they are, bit for bit."""
    norm = {"norm": "batch", "depth": 2}
    pretrain(run(norm, order="greedy", unit_epochs=(2, 1), schedule="cosine"), tmp_path / "two")
    pretrain(run({**norm, "depth": 1}, epochs=2, schedule="cosine"), tmp_path / "one")
    one, two = (load_file(tmp_path / name / "backbone.safetensors") for name in ("one", "two"))
    assert any(name.endswith("running_mean") for name in one)
    assert all(torch.equal(value, two[name]) for name, value in one.items())
    records = curves(tmp_path / "two")
    assert [[*record["loss"]] for record in records] == [["block1"], ["block1"], ["block2"]]
    assert [[*record["validation"]["loss"]] for record in records] == [["block1"], ["block1"], ["block2"]]
    above = run(norm).backbone.build((1, 28, 28), 0).state_dict()
    assert any(not torch.equal(two[name], above[name]) for name in two.keys() - one.keys())


def test_epochs_are_shared_out_where_those_of_units_are_not_said(tmp_path):
    pretrain(run(order="greedy", epochs=4), tmp_path / "run")
    assert [[*record["loss"]] for record in curves(tmp_path / "run")] == [
        ["block1"],
        ["block1"],
        ["block2"],
        ["block3"],
    ]


def test_units_have_rates_of_their_own(tmp_path):
    """One that is too small to move a weight leaves its unit as it was, whichever order they learn in."""
    was = run().backbone.build((1, 28, 28), 0).state_dict()
    for order in ("together", "greedy"):
        pretrain(run(order=order, epochs=3, unit_lr=(1e-3, 1e-30)), tmp_path / order)
        now = load_file(tmp_path / order / "backbone.safetensors")
        moved = {name for name, value in now.items() if not torch.equal(value, was[name])}
        assert moved == {name for name in now if name.startswith("blocks.0.")}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"order": "greedy", "epochs": 2}, "--epochs is 2, but 3 units learn one after another: give more"),
        ({"order": "greedy", "unit_epochs": (1, 1)}, "--unit-epochs is 1,1, but 3 units learn: give one for each"),
        ({"unit_lr": (1.0, 1.0, 1.0, 1.0)}, "--unit-lr is 1.0,1.0,1.0,1.0, but 3 units learn: give at most one"),
        ({"order": "overlap"}, "--order overlap shifts .* several blocks, and here 3 have 3: choose --cut 2$"),
        ({"order": "overlap", "cut": "never"}, "--order overlap shifts .*, and here 1 have 3: choose --cut 2$"),
        (
            {"order": "overlap", "cut": "2", "backbone": BACKBONES.load("mlp")(width=8, depth=2)},
            "--order overlap shifts .*, and here 1 have 2: give the network three blocks or more$",
        ),
        ({"order": "overlap", "cut": "2", "at": "last"}, "--order overlap cuts behind other blocks .*choose --at all"),
    ],
)
def test_what_does_not_fit_the_network_is_refused_before_a_folder_is_made(tmp_path, values, message):
    with pytest.raises(SettingError, match=message):
        pretrain(run(**values), tmp_path / "run")
    assert not (tmp_path / "run").exists() or not any((tmp_path / "run").glob("[!.]*"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"unit_epochs": (1, 2)}, "--unit-epochs is 1,2, and --order together has none: choose --order greedy"),
        (
            {"unit_epochs": (1, 2), "order": "greedy", "epochs": 4},
            "--unit-epochs is 1,2, and --epochs 4 is not their sum",
        ),
        ({"unit_epochs": (1, 0), "order": "greedy"}, "--unit-epochs.1 is 0: it must be at least 1"),
        ({"unit_epochs": (1, "x"), "order": "greedy"}, "--unit-epochs.1 is 'x': it must be a whole number"),
        ({"unit_epochs": (1.5, 1), "order": "greedy"}, "--unit-epochs.0 is 1.5: it must be a whole number"),
        ({"unit_epochs": 1, "order": "greedy"}, r"--unit-epochs is 1: it must be a list, such as \[1\]"),
        ({"unit_lr": (1e-3,), "order": "overlap", "cut": "2"}, "--unit-lr is of --order together or greedy"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(values, message):
    with pytest.raises(SettingError, match=message):
        run(**values)


@pytest.mark.parametrize(
    "values", [{"order": "greedy", "unit_epochs": (1, 2, 1)}, {"order": "overlap", "cut": "2", "epochs": 4}]
)
@pytest.mark.parametrize("stop", [1, 2])
def test_a_run_that_was_stopped_goes_on_bit_for_bit(tmp_path, monkeypatch, values, stop):
    config = run({"norm": "batch"}, schedule="cosine", **values)
    pretrain(config, tmp_path / "whole")
    saved = []

    def stopping(*given):
        keep(*given)
        saved.append(given)
        if len(saved) == stop:
            raise KeyboardInterrupt

    import fftrain.training

    keep = fftrain.training.save
    with monkeypatch.context() as patched:
        patched.setattr("fftrain.training.save", stopping)
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, tmp_path / "stopped")
    pretrain(config, tmp_path / "stopped", resume=True)
    assert weights(tmp_path / "whole") == weights(tmp_path / "stopped")


@pytest.mark.parametrize(
    "method",
    ["cross-entropy", {"name": "forward-forward", "loss": "swish", "goodness": "mean_squares", "wrong": "goodness"}],
)
def test_what_is_told_is_told_by_the_blocks_that_have_learned(tmp_path, method):
    """In the first block's epochs the curve is that block's, not that of the last as it was drawn."""
    pretrain(run({"width": 48}, method=method, order="greedy", unit_epochs=(8, 1, 1), lr=1e-2), tmp_path / "three")
    pretrain(run({"width": 48, "depth": 1}, method=method, epochs=8, lr=1e-2), tmp_path / "one")
    three, one = (
        [{split: epoch[split]["accuracy"] for split in ("train", "validation")} for epoch in curves(tmp_path / name)]
        for name in ("three", "one")
    )
    assert three[:8] == one
    assert one[-1]["train"] > 0.3


def test_nothing_is_ordered_where_nothing_is_trained(tmp_path):
    config = run(method="untrained", order="greedy", unit_epochs=(1, 2))
    assert (config.order, config.unit_epochs, config.epochs, config.label) == ("together", None, 0, "untrained")


def test_the_epochs_of_a_greedy_run_are_its_own(tmp_path):
    config = run(order="greedy", epochs=3)
    pretrain(config, tmp_path / "run")
    with pytest.raises(SettingError, match="--epochs is 6, but the run to resume has 3"):
        pretrain(config.changed(epochs=6), tmp_path / "run", resume=True)


def test_with_shifted_cuts_a_loss_reaches_the_block_below_in_every_other_step():
    """Against two steps by hand: one optimizer a block, gradients cut between other blocks in the second."""
    method, backbone, units = make("cross-entropy", cut="2", depth=4)
    assert [[*unit.heads] for unit in shifted(units, backbone)] == [["0"], ["1", "2"], ["3"]]
    by_hand, mine, theirs = make("cross-entropy", cut="2", depth=4)
    heads = {int(index): head for unit in theirs for index, head in unit.heads.items()}
    of = [torch.optim.AdamW([*mine.blocks[i].parameters(), *heads[i].parameters()], lr=1e-2) for i in range(4)]
    steps = [batch(seed=seed) for seed in (0, 1)]
    for data, cut_before in zip(steps, ({2}, {1, 3}), strict=True):
        h = mine.stem(by_hand.inputs(data, K))
        for i in range(4):
            h = mine.block(i, h.detach() if i in cut_before else h)
            loss = heads[i](h, data)
            later = i + 1 < 4 and i + 1 not in cut_before
            loss.backward(retain_graph=later)
        for optimizer in of:
            optimizer.step()
            optimizer.zero_grad()
    one = torch.optim.AdamW([p for unit in units for p in unit.parameters()], lr=1e-2)
    turns = [(each, [one] * len(each)) for each in (units, shifted(units, backbone))]
    nothing = {"begin": lambda number: None, "watch": lambda losses, data, optimizer: None}
    train(method, K, turns, [(data, 1.0) for data in steps], backward=lambda loss: loss.backward(), **nothing)
    for found, expected in zip(backbone.parameters(), mine.parameters(), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_cuts_are_shifted_in_every_other_step_of_the_run_however_long_an_epoch_is(tmp_path):
    """Of one batch a first epoch is a step between the cuts as they are, and a second one between the others."""
    other = {"cut": "2", "batch_size": 300}
    for order in ("together", "overlap"):
        for epochs in (1, 2):
            pretrain(run({"depth": 4}, order=order, epochs=epochs, **other), tmp_path / order / str(epochs))
    read = {
        order: [load_file(tmp_path / order / n / "backbone.safetensors") for n in "12"]
        for order in ("together", "overlap")
    }
    name = "blocks.0.0.weight"
    torch.testing.assert_close(read["together"][0][name], read["overlap"][0][name], rtol=0, atol=1e-6)
    assert (read["together"][1][name] - read["overlap"][1][name]).abs().max() > 1e-4


ORDERS = {
    "greedy": {"order": "greedy", "epochs": 3},
    "overlap": {"order": "overlap", "cut": "2", "epochs": 1},
    "told": {"method": {"name": "forward-forward", "wrong": "goodness"}, "epochs": 1},
}


def test_wrong_labels_are_drawn_by_what_the_network_tells_now(tmp_path):
    """Telling changes no batch statistics: they are those of the steps alone."""
    by = {wrong: {"name": "forward-forward", "wrong": wrong} for wrong in ("uniform", "goodness")}
    for name, method in by.items():
        pretrain(run({"norm": "batch"}, method=method, epochs=1, lr=1e-30), tmp_path / name)
    uniform, goodness = (load_file(tmp_path / name / "backbone.safetensors") for name in by)
    counts = {name for name in uniform if name.endswith("num_batches_tracked")}
    assert counts
    assert all(torch.equal(uniform[name], goodness[name]) for name in counts)
    statistics = {name for name in uniform if name.endswith("running_mean")}
    assert any(not torch.equal(uniform[name], goodness[name]) for name in statistics)  # of other negatives


def train_orders(folder):
    for name, values in ORDERS.items():
        pretrain(run({"norm": "batch"}, **values, batch_size=50), folder / name)


def test_processes_agree_with_one(tmp_path):
    train_orders(tmp_path / "one")
    run_together(2, train_orders, tmp_path / "two")
    for order in ORDERS:
        one, two = (load_file(tmp_path / runs / order / "backbone.safetensors") for runs in ("one", "two"))
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4, msg=f"{order} {name}")
