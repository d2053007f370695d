"""What each method reaches here, beside its twins and what was published: the tables of docs/methods/*.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from figures import CIFAR, DATA, NONE, PRETEXT, STUDIED, Row, called, chosen, markdown, own, pick, read, told
from gates import CLAPP, of_scff, pair

Wanted = Mapping[str, str]
HEADS = ("data, network", "spec", "read by", "cut at each block", "uncut, losses on all", "uncut, loss on the last")
# How a figure is read off the rows of a cell: by the blocks that validation chose, by itself, or as the study does it.
PROBED, OWN, AS_STUDIED = "probe", "its own classifiers", "the study's probe, last three"
READ: dict[str, Callable[[Sequence[Row]], str]] = {
    PROBED: chosen,
    OWN: partial(told, measure=PRETEXT, places=2),
    AS_STUDIED: partial(told, measure=STUDIED, blocks="blocks2-4"),
}
MNIST, FASHION = "mnist", "fashion-mnist"
CONVNET = "conv 16-32-64-128"
PREDSIM = {"all": {"method": "cross-entropy cut=never"}, "last": {"method": "bp"}}
FORMULA = "study-formula"


class Line(NamedTuple):
    """A line of a table: cells of one study that differ in where gradients are cut."""

    network: str
    study: str
    dataset: str
    here: Wanted
    all: Wanted | None = None
    last: Wanted | None = None
    published: str = NONE
    by: str = PROBED

    def told(self) -> list[str]:
        """Returns its cells as they stand in the table."""
        rows, figure = pick(read(self.study), dataset=self.dataset), READ[self.by]
        cells = [figure(own(rows, **wanted)) if wanted else NONE for wanted in (self.here, self.all, self.last)]
        untrained = figure(pick(rows, **self.here, source="random"))
        where = f"{DATA[self.dataset]}, {self.network}"
        return [where, f"`{self.study}`", self.by, *cells, untrained, self.published]


def twins(method: str, network: str, study: str, dataset: str, **more: str) -> Line:
    """Returns the line of a method beside itself uncut."""
    cuts = ({"method": called(method, cut), **more} for cut in ("", " cut=never", " cut=never at=last"))
    return Line(network, study, dataset, *cuts)


def redundancy(method: str) -> list[Line]:
    """Returns the lines of Barlow Twins or VICReg: two networks, three data sets."""
    networks = {"4x2000": "mlp", CONVNET: "convnet"}
    return [
        twins(method, network, "redundancy", dataset, varied=f"backbone={name}")
        for dataset in DATA
        for network, name in networks.items()
    ]


def of_classes(method: str) -> list[Line]:
    """Returns the lines of a method on classes: the matrix, and Check 1."""
    of = [twins(method, "4x500, classes", "matrix", dataset, view="plain") for dataset in (MNIST, CIFAR)]
    return [*of, *(twins(method, "conv 20-40-80-160, classes", "depth-10k", dataset, view="plain") for dataset in DATA)]


def mended(loss: str, published: str, varied: str) -> Line:
    """Returns the line of a loss of a pair of FF mended."""
    return Line(f"2x500, `{loss}`", "ff-mended", MNIST, {"varied": varied}, published=published, by=OWN)


LINES: dict[str, list[Line]] = {
    "barlow": redundancy("barlow"),
    "vicreg": redundancy("vicreg"),
    "info-nce": [
        twins("info-nce", "4x2000", "claim-mnist", MNIST),
        twins("info-nce", "4x2000", "claim-mnist", FASHION),
        twins("info-nce", "4x2000, temperature 0.2", "claim-cifar10", CIFAR, varied="method.temperature=0.2"),
        twins("info-nce", "4x2000, temperature 0.1", "claim-cifar10", CIFAR, varied="method.temperature=0.1"),
        twins("info-nce", CONVNET, "info-nce-cifar10", CIFAR)._replace(published="72.8; end to end 71.4"),
        *(
            twins("info-nce", "4x500, SupCon", "matrix", dataset, varied="method.supervised=True")
            for dataset in (MNIST, CIFAR)
        ),
    ],
    "predsim": [
        Line(
            "3x1024",
            "predsim-mnist",
            MNIST,
            {"varied": "method.beta=0.99"},
            published="99.38; end to end 99.25",
            by=OWN,
            **PREDSIM,
        ),
        Line(
            "3x1024, `pred`",
            "predsim-mnist",
            MNIST,
            {"varied": "method.beta=0.0"},
            published="99.32; end to end 99.25",
            by=OWN,
            **PREDSIM,
        ),
        Line(
            "3x3000",
            "predsim-cifar10",
            CIFAR,
            {"method": "predsim"},
            published="69.07; end to end 66.44",
            by=OWN,
            **PREDSIM,
        ),
        *(
            Line(f"{CONVNET}, {part}", "losses-10k", CIFAR, {"varied": f"method.beta={beta}"}, PREDSIM["all"])
            for part, beta in (("predsim", "0.99"), ("`pred`", "0.0"), ("`sim`", "1.0"))
        ),
    ],
    "cross-entropy": of_classes("cross-entropy"),
    "channelwise": [
        *of_classes("channelwise"),
        *(
            Line(
                f"conv 20-40-80-160, {with_}, {when}",
                "channelwise-cifar10",
                CIFAR,
                {"varied": f"method.contrast={contrast}", "reading": reading},
                published=published,
            )
            for with_, contrast, reads in (
                ("alone", "0.0", ("84.5", "76.9")),
                ("with SupCon", "1.0", ("91.9", "91.9")),
            )
            for when, reading, published in zip(
                ("before normalisation", "after it"), ("activations", "pixels"), reads, strict=True
            )
        ),
    ],
    "self-contrastive": [
        Line("2x2000, greedy", "scff-mnist", MNIST, {"method": "self-contrastive order=greedy"}, published="98.70"),
        Line("conv 48-192-768, greedy", "scff-cifar10", CIFAR, of_scff("half")),
        Line("conv 96-384-1536, greedy", "scff-cifar10", CIFAR, of_scff("full"), published="80.75"),
        *(twins("self-contrastive", "4x500, two views", "matrix", dataset) for dataset in (MNIST, CIFAR)),
    ],
    "clapp": [Line(CONVNET, "losses-10k", CIFAR, **CLAPP, published="80.51; end to end 80.49")],
    "forward-forward": [
        mended("swish", "98.35", pair("swish")),
        mended("symba", "97.8", pair("symba")),
        mended("softplus", "97.3", "lr=0.0036, method.loss=softplus, method.threshold=2.0, method.wrong=uniform"),
        *(
            Line(
                f"4x500, rotations, theta {name}",
                FORMULA,
                MNIST,
                {"view": "rotation", "method": "ff", "varied": f"method.threshold={theta}"},
                *({"method": f"bp-goodness-{at}"} if name != "10" else None for at in ("all", "last")),
                published="76.3" if name == "10" else "76.3; uncut 85.7, 97.7",
                by=AS_STUDIED,
            )
            for name, theta in (("10", "10.0"), ("sqrt(D)", "22.360679774997898"))
        ),
        *of_classes("forward-forward"),
    ],
    "hybrid-forward-forward": [
        Line(
            f"4x500, theta {name}",
            FORMULA,
            MNIST,
            {"method": "ff-unsupervised", "varied": f"method.threshold={theta}"},
            published="97.9",
            by=AS_STUDIED,
        )
        for name, theta in (("10", "10.0"), ("sqrt(D)", "22.360679774997898"))
    ],
}


def tables() -> dict[str, list[str]]:
    """Returns the table of every method that is trained, by its name."""
    heads = [*HEADS, "untrained", "published"]
    return {f"reached: {name}": markdown(heads, (line.told() for line in of)) for name, of in LINES.items()}
