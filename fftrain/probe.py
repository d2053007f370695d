"""Linear probes: classifiers of frozen features, for every evaluation that asks what they tell.

All settings of a probe are trained in one pass over the features; validation chooses one; the test split is read once,
by that one. Where learning rate and weight decay are given there is one setting, and nothing is chosen.

Letters: B batch, F features, K classes, S settings, Q = S*K classes of all settings side by side.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ffcore.errors import SettingError
from ffcore.settings import setting
from ffmodels.linear import LinearHead
from fftrain.data import Facts, ImageData
from fftrain.evaluations.base import Choice, Evaluation, Subject
from fftrain.features import Features
from fftrain.progress import Reporter

# What validation chooses from where they are not given: learning rate and decoupled weight decay.
RATES, DECAYS = (1e-3, 1e-4), (0.0, 0.1, 1.0)


class Probe(Evaluation):
    """What linear probes tell; validation chooses learning rate and weight decay, unless they are given."""

    lr: float | None = setting(None, gt=0, description="Learning rate. [default: validation chooses 1e-3 or 1e-4]")
    weight_decay: float | None = setting(
        None, ge=0, description="Decoupled weight decay. [default: validation chooses 0, 0.1 or 1]"
    )
    schedule: Literal["cosine", "constant"] = setting(
        "cosine", description="Learning rate over the epochs: a cosine to 0, or as it is."
    )
    epochs: int = setting(100, ge=1, description="Passes over the features.")
    batch_size: int = setting(256, ge=1, description="Feature rows of a step.")
    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of the order of the rows.")

    @property
    def grid(self) -> list[dict[str, float]]:
        """The settings that are trained: one where both are given."""
        rates = RATES if self.lr is None else (self.lr,)
        decays = DECAYS if self.weight_decay is None else (self.weight_decay,)
        return [{"lr": lr, "weight_decay": decay} for lr, decay in itertools.product(rates, decays)]

    def products(self, facts: Facts, widths: Sequence[int]) -> float:
        """Returns those of all settings' steps."""
        return self.epochs * facts.train * sum(4.0 * facts.classes * len(self.grid) * F + 50 * F for F in widths)

    def probe(self, subject: Subject, choice: Choice, features: Features) -> tuple[LinearHead, dict[str, Any]]:
        """Returns a probe that reads a choice's features as they are, and what `fit` says of it.

        Args:
            subject: what is measured.
            choice: of its features.
            features: these as the probe is fitted on them: a standardisation is folded into its weights.
        """
        what, device = f"{subject.source} {choice.name}", subject.accelerator.device
        head, found = self.fit(features, subject.data, device, subject.reporter, what, ahead=choice.ahead)
        if features.standard is not None:
            head = LinearHead.folded(head.linear.weight, head.linear.bias, features.standard)
        return head, found

    def fit(
        self,
        features: Features,
        data: ImageData,
        device: torch.device,
        reporter: Reporter,
        what: str,
        ahead: float = 0.0,
    ) -> tuple[LinearHead, dict[str, Any]]:
        """Trains a linear classifier by AdamW for each setting of the grid at once, from zeros.

        Validation chooses one; test is read once.

        On a CPU a step gathers its rows into one small buffer that stays in the processor's cache for both products.
        On a CUDA device that has room for them all rows lie there, and a step is one graph of its kernels.

        Args:
            features: of the three splits.
            data: the labels.
            device: where the classifiers are trained.
            reporter: what a person sees.
            what: the name of this probe.
            ahead: the work that comes after this probe, in its own: for the time that is left.

        Returns:
            The chosen head, and {"validation", "test": accuracies 0 to 1, "settings", "grid": validation of each}.

        Raises:
            SettingError: where weights do not stay finite.
        """
        grid = self.grid
        F, K, S = features.train.shape[1], len(data.class_names), len(grid)
        weight_QF, bias_Q = torch.zeros(S * K, F, device=device), torch.zeros(S * K, device=device)
        weight_grad_QF, bias_grad_Q = torch.zeros_like(weight_QF), torch.zeros_like(bias_Q)
        weights, biases = torch.split(weight_QF, K), torch.split(bias_Q, K)
        grads = [*torch.split(weight_grad_QF, K), *torch.split(bias_grad_Q, K)]
        for part, grad in zip([*weights, *biases], grads, strict=True):
            part.grad = grad
        groups = [{"params": [w, b], **setting} for w, b, setting in zip(weights, biases, grid, strict=True)]
        optimizer = torch.optim.AdamW(groups, fused=True)
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=self.epochs)
        rng = np.random.default_rng(self.seed)
        rows = min(self.batch_size, len(data.train))
        buffer_BF, kept_NF = torch.empty(rows, F), features.on(device)
        labels_N = data.train.labels.to("cpu" if kept_NF is None else device)
        classes_K1 = torch.arange(K, device=device)[:, None]

        def step(index_B: Tensor) -> None:
            if kept_NF is None:
                x_BF = features.gather(index_B, buffer_BF[: len(index_B)]).to(device)
            else:
                x_BF = kept_NF[index_B]
            logits_SKB = torch.addmm(bias_Q[:, None], weight_QF, x_BF.T).view(S, K, -1)
            # The gradient of each setting's mean cross-entropy: (softmax - one-hot) / B.
            labels_KB = (classes_K1 == labels_N[index_B].to(device)).float()
            error_QB = logits_SKB.softmax(1).sub_(labels_KB).div_(len(index_B)).flatten(0, 1)
            torch.mm(error_QB, x_BF, out=weight_grad_QF)
            torch.sum(error_QB, 1, out=bias_grad_Q)
            optimizer.step()

        with torch.no_grad():
            launch = step if kept_NF is None else as_graph(step, optimizer, rows, device)
            for _ in reporter.track(range(self.epochs), self.epochs, f"probe {what}", self.epochs * ahead):
                order = torch.from_numpy(rng.permutation(len(data.train))).to(labels_N.device)
                for index_B in torch.split(order, self.batch_size):
                    launch(index_B)
                if self.schedule == "cosine":
                    cosine.step()
            if not torch.isfinite(weight_QF).all():
                raise SettingError(
                    f"probe {what}: its weights are no numbers any more: choose a lower {self.called}.lr"
                )
            validation = [
                accuracy(w, b, features.chunks("validation"), data.validation.labels, device)
                for w, b in zip(weights, biases, strict=True)
            ]
            best = int(np.argmax(validation))
            head = LinearHead(F, K)
            head.load_state_dict({"linear.weight": weights[best].cpu(), "linear.bias": biases[best].cpu()})
            test = accuracy(weights[best], biases[best], features.chunks("test"), data.test.labels, device)
        found = {
            "validation": validation[best],
            "test": test,
            "settings": grid[best],
            "grid": [{**setting, "validation": v} for setting, v in zip(grid, validation, strict=True)],
        }
        chosen = ", ".join(f"{key.replace('_', ' ')} {value:g}" for key, value in grid[best].items())
        reporter.note(f"probe {what}: validation {validation[best]:.4f} ({chosen}{', as given' if S == 1 else ''})")
        return head, found


def as_graph(
    step: Callable[[Tensor], None], optimizer: torch.optim.Optimizer, rows: int, device: torch.device
) -> Callable[[Tensor], None]:
    """Returns a step that is launched as one CUDA graph where it has so many rows; parameters are zeros as before.

    What launches its twenty kernels one by one is the host's time, ten times the device's.

    Args:
        step: of the indices int64 [B] of its rows, on the device; it makes the host wait for nothing.
        optimizer: of its parameters, which are zeros: nothing has been learned yet.
        rows: B.
        device: a CUDA device.
    """
    for group in optimizer.param_groups:  # read on the device: a schedule fills it in place
        group["lr"] = torch.tensor(group["lr"], device=device)
    index_B = torch.zeros(rows, dtype=torch.int64, device=device)
    aside, graph = torch.cuda.Stream(device), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(aside):
        for _ in range(3):  # what libraries set up on first use cannot be part of a graph
            step(index_B)
    torch.cuda.current_stream(device).wait_stream(aside)
    for group in optimizer.param_groups:
        group["capturable"] = True
    with torch.cuda.graph(graph):
        step(index_B)
    for group in optimizer.param_groups:
        group["capturable"] = False  # the step that is shorter is none of the graph
        for parameter in group["params"]:
            for learned in (parameter, *optimizer.state[parameter].values()):
                learned.zero_()

    def launch(wanted_B: Tensor) -> None:
        if len(wanted_B) == rows:
            index_B.copy_(wanted_B)
            graph.replay()
        else:
            step(wanted_B)

    return launch


def accuracy(
    weight_KF: Tensor, bias_K: Tensor, chunks_BF: Iterable[Tensor], labels_N: Tensor, device: torch.device
) -> float:
    """Returns the share of right classes, 0 to 1, of a split's features, given some rows at once."""
    predicted = [functional.linear(x.to(device), weight_KF, bias_K).argmax(-1).cpu() for x in chunks_BF]
    return (torch.cat(predicted) == labels_N).double().mean().item()
