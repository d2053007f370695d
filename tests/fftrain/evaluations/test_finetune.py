from __future__ import annotations

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from ffcore.errors import SettingError, TrainingError
from ffmodels.backbones.convnet import ConvNet
from ffmodels.backbones.mlp import MLP
from ffmodels.conditions import Condition
from ffmodels.draws import order
from ffmodels.encoder import Encoder
from fftrain.evaluations.finetune import FineTune
from tests.fftrain.evaluations.subjects import striped, subject_of
from tests.together import run_together

SMALL = {"epochs": 2, "per_class": 2, "lr": [0.01, 0.001]}


@pytest.fixture
def data():
    return striped()


def encoder(backbone=None, seed=0):
    made = backbone or MLP(width=16, depth=2)
    return Encoder(Condition(), made.build((1, 6, 6), seed).requires_grad_(False)).eval()


def subject(data, network, source="ff"):
    found = subject_of(None, data, source)
    found.encoder = network
    return found


def reference(data, network, settings, lr):
    """Accuracies on validation after each epoch and on test, by torch's own Adam in float64, written out."""
    network = copy.deepcopy(network).double().requires_grad_(True)
    head = nn.Linear(network.dims[-1], 3).double()
    for parameter in head.parameters():
        nn.init.zeros_(parameter)

    def told(images):
        return head(network(images.double() / 255)[-1])

    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], lr=lr)
    found = []
    for epoch in range(1, settings.epochs + 1):
        for index in torch.split(
            order(len(data.train), settings.seed, epoch, torch.device("cpu")), settings.batch_size
        ):
            optimizer.param_groups[0]["lr"] = lr * (1 + np.cos(np.pi * (epoch - 1) / settings.epochs)) / 2
            optimizer.zero_grad()
            functional.cross_entropy(told(data.train.images[index]), data.train.labels[index]).backward()
            optimizer.step()
        with torch.no_grad():
            splits = (data.validation, data.test)
            found.append([(told(s.images).argmax(-1) == s.labels).double().mean().item() for s in splits])
    return found


def test_it_is_adam_on_all_blocks_and_validation_chooses_rate_and_epoch(data):
    network = encoder()
    settings = FineTune(epochs=4, lr=[3e-3, 1e-4], batch_size=50)
    validation, test = settings.measure(subject(data, network))
    tried = {lr: reference(data, network, settings, lr) for lr in settings.lr}
    reached = tried[validation["lr"]][validation["epoch"] - 1]
    assert validation["value"] == pytest.approx(reached[0], abs=2.1 / 90)  # float32 may see a near tie otherwise
    assert test["value"] == pytest.approx(reached[1], abs=2.1 / 80)
    assert validation["value"] >= max(v for epochs in tried.values() for v, _ in epochs) - 2.1 / 90
    assert (test["lr"], test["epoch"], test["blocks"]) == (validation["lr"], validation["epoch"], "block2")
    assert {validation["measure"], test["measure"]} == {"fine-tuned accuracy"}
    assert test["value"] > 0.9


def test_all_blocks_learn_and_the_networks_own_weights_stay_as_they_are(data):
    network = encoder(ConvNet(channels=(4, 8), norm="batch"))
    before = copy.deepcopy(network.state_dict())
    settings, given = FineTune(epochs=1, lr=[1e-2]), subject(data, network)
    tuned = settings._tuned(given, data.train, 1e-2).network
    weights = dict(tuned.encoder.named_parameters())
    assert weights
    assert all(not torch.equal(value, before[name]) for name, value in weights.items())
    assert not torch.equal(tuned.encoder.state_dict()[next(n for n in before if "running_mean" in n)], torch.zeros(4))
    [*settings.measure(given)]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())


def test_of_pixels_it_is_logistic_regression(data):
    from sklearn.linear_model import LogisticRegression

    _, test = FineTune(epochs=60, lr=[0.03]).measure(subject_of(None, data))
    x, y = (part.images.flatten(1).numpy() / 255 for part in (data.train, data.test))
    expected = LogisticRegression(C=100, max_iter=1000).fit(x, data.train.labels).score(y, data.test.labels)
    assert test["blocks"] == "pixels"
    assert test["value"] == pytest.approx(expected, abs=0.05)


def test_few_labels_are_drawn_by_class_and_named(data):
    settings = FineTune(per_class=4, epochs=1, lr=[1e-3])
    part = settings._labelled(data)
    assert torch.bincount(part.labels).tolist() == [4, 4, 4]
    assert torch.equal(part.images, settings._labelled(data).images)
    assert not torch.equal(part.images, FineTune(per_class=4, seed=1)._labelled(data).images)
    measures = {record["measure"] for record in settings.measure(subject(data, encoder()))}
    assert measures == {"fine-tuned accuracy with 4 labels a class"}
    with pytest.raises(SettingError, match=r"finetune.per_class is 900, and a class has \d+ training images"):
        FineTune(per_class=900).check(None, data, "pixels")


def test_rates_whose_loss_is_not_finite_are_passed_over_and_said_where_none_is_left(data):
    given = subject(data, encoder())
    alone, with_other = ([*FineTune(epochs=2, lr=lr).measure(given)] for lr in ([1e-2], [1e38, 1e-2]))
    assert alone == with_other
    with pytest.raises(TrainingError, match=r"finetune.lr is \[1e\+38\], and no loss of ff is finite: try smaller"):
        [*FineTune(epochs=1, lr=[1e38]).measure(given)]


def shared(data, lr):
    """What a process of several tells, of a network whose statistics are of the batch."""
    return [*FineTune(epochs=2, lr=lr).measure(subject(data, encoder(ConvNet(channels=(4,), norm="batch"))))]


def test_settings_are_checked():
    for wrong, said in (({"lr": []}, "lr is (): it must have at least 1 item"), ({"per_class": 0}, "per_class is 0")):
        with pytest.raises(SettingError, match=re.escape(said)):
            FineTune(**wrong)


@pytest.mark.slow
def test_processes_share_out_the_rates_and_no_statistics(data):
    lr = [1e-2, 1e-3, 1e-4]
    found = run_together(2, shared, data, lr)
    alone = shared(data, lr)
    assert sorted(map(len, found)) == [0, 2]
    assert found[0] + found[1] == alone
