"""The tables of docs/local.md: what each local method reaches, beside its twins and the figures that were published."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence

from figures import (
    BLOCKS,
    CIFAR,
    DATA,
    NONE,
    PRETEXT,
    PROBE,
    Row,
    both,
    by_block,
    called,
    chosen,
    markdown,
    own,
    pick,
    read,
    said,
    sized,
    told,
)

CLAIMED = {
    "InfoNCE at each block": {"method": "info-nce"},
    "end to end, losses on all": {"method": "info-nce cut=never"},
    "end to end, loss on the last": {"method": "info-nce cut=never at=last"},
}
# CLAPP++ and its twin at the rate that validation chose for either.
CLAPP = {
    "here": {"method": "clapp", "varied": "lr=0.001"},
    "last": {"method": "clapp cut=never at=last", "varied": "lr=0.001"},
}
# What losses-10k has side by side, on one network.
PARTS = {
    "`pred`": {"varied": "method.beta=0.0"},
    "`sim`": {"varied": "method.beta=1.0"},
    "predsim": {"varied": "method.beta=0.99"},
    "cross-entropy at each block": {"method": "local-ce"},
    "at each second block": {"method": "cross-entropy cut=2"},
    "at each second block, shifted": {"method": "cross-entropy cut=2 order=overlap"},
    "uncut": {"method": "cross-entropy cut=never"},
    "InfoNCE": {"method": "info-nce", "varied": "method.grid=1"},
    "InfoNCE, 2x2 places": {"method": "info-nce", "varied": "method.grid=2"},
    "VICReg": {"method": "vicreg", "varied": "method.grid=1"},
    "VICReg, 2x2 places": {"method": "vicreg", "varied": "method.grid=2"},
    "CLAPP++, rate 1e-3": CLAPP["here"],
    "CLAPP++ end to end, loss on the last, rate 1e-3": CLAPP["last"],
    "CLAPP++, rate 2e-4": {"method": "clapp", "varied": "lr=0.0002"},
    "CLAPP++ end to end, loss on the last, rate 2e-4": {"method": "clapp cut=never at=last", "varied": "lr=0.0002"},
}
SCFF = {"SCFF, greedy": {"method": "self-contrastive order=greedy"}}
# Numbers that a probe reads of each block and of the last three: the MLP 4x2000, convolutions 16-32-64-128.
WIDE, NARROW = (2000, 2000, 2000, 2000, 6000), (16, 32, 64, 128, 224)
WIDTHS = {"half": "[48, 192, 768]", "full": "[96, 384, 1536]"}
TOP = "end to end, cross-entropy at the top"
# The rate of FF mended that its source has, and the one that validation chose for swish.
SOURCES, CHOSEN = "0.0125", "0.00625"
# What networks of labels beside the image are called here, by the method and what varies.
BESIDE = {
    "predsim": {"method": "predsim", "varied": "method.beta=0.99"},
    "pred alone": {"method": "predsim", "varied": "method.beta=0.0"},
    TOP: {"method": "bp"},
    "end to end, cross-entropy on all blocks": {"method": "cross-entropy cut=never"},
}
REDUNDANCY = {"at each block": "", "end to end, all": " cut=never", "end to end, last": " cut=never at=last"}


def accuracies(name: str, kinds: Mapping[str, Mapping[str, str]], published: Sequence[str]) -> list[str]:
    """Returns test accuracies of networks' own classifiers, and what was published."""
    found = [told(own(read(name), **wanted), PRETEXT) for wanted in kinds.values()]
    return markdown(["method", "test", "published"], zip(kinds, found, published, strict=True))


def errors(lines: Iterable[tuple[str, Sequence[Row], str]]) -> list[str]:
    """Returns test errors of networks' own classifiers, in %, two places, and what was published."""
    cells = []
    for label, rows, published in lines:
        values = [1 - float(row["value"]) for row in pick(rows, measure=PRETEXT, split="test")]
        cells.append([label, said(values, places=2), published])
    return markdown(["method", "error", "published"], cells)


def of_scff(width: str) -> Mapping[str, str]:
    """Returns what the runs of a width of SCFF's network have."""
    [varied] = {row["varied"] for row in read("scff-cifar10") if WIDTHS[width] in row["varied"]}
    return {"varied": varied}


def search() -> list[str]:
    """Returns what validation says of each setting of the claim's search: the best blocks, local and end to end."""
    rows, lines = pick(read("claim-search"), split="validation", measure=PROBE), []
    keys = {"view.smallest": "smallest crop", "method.temperature": "temperature"}
    keys |= {"method.projector": "projector", "epochs": "epochs", "lr": "rate"}
    for varied in dict.fromkeys(row["varied"] for row in rows):
        settings = dict(part.split("=") for part in varied.split(", "))
        found = (own(rows, varied=varied, method=method) for method in ("info-nce", "info-nce cut=never"))
        best = (max(float(row["value"]) for row in of) for of in found)
        lines.append([*(settings[key] for key in keys), *(f"{100 * value:.1f}" for value in best)])
    return markdown([*keys.values(), "at each block", "end to end, losses on all"], lines)


def searched() -> list[str]:
    """Returns what validation says of each rate and schedule of swish: accuracy of the method's own classifiers."""
    rows, lines = pick(read("swish-search"), measure=PRETEXT, split="validation"), {}
    for row in rows:
        rate, schedule = (part.split("=")[1] for part in row["varied"].split(", "))
        lines.setdefault(rate, {})[schedule] = f"{100 * float(row['value']):.2f}"
    schedules = ("constant", "cosine")
    return markdown(["rate", *schedules], ([rate, *(of[s] for s in schedules)] for rate, of in lines.items()))


def scff() -> list[str]:
    """Returns probes of SCFF's network at both widths, each beside itself untrained."""
    rows, blocks, lines = read("scff-cifar10"), ("block1", "block2", "block3", "blocks1-3"), []
    for width, channels in WIDTHS.items():
        found = pick(rows, **of_scff(width))
        called = channels.strip("[]").replace(", ", "-")
        dims = [4 * int(count) for count in called.split("-")]
        numbers = f"{', '.join(map(str, dims))}; {sum(dims)}"
        lines.append([f"{called}, greedy ({numbers})", *(told(own(found), blocks=b) for b in blocks)])
        lines.append(["the same untrained", *(told(pick(found, source="random"), blocks=b) for b in blocks)])
    lines.append(["raw pixels", told(pick(rows, source="raw"), blocks="pixels"), "", "", ""])
    return markdown(["features of", *blocks], lines)


def redundancy() -> list[str]:
    """Returns the blocks that validation chooses of Barlow Twins and VICReg, by data set, network and cut."""
    rows, lines = read("redundancy"), []
    for dataset, named in DATA.items():
        for network in ("mlp", "convnet"):
            of = pick(rows, dataset=dataset, varied=f"backbone={network}")
            cells = [chosen(own(of, method=m + cut)) for m in ("barlow", "vicreg") for cut in REDUNDANCY.values()]
            untrained = chosen(pick(of, method="barlow", source="random"))
            raw = told(pick(of, source="raw"), blocks="pixels")
            lines.append([named, network, *cells, untrained, raw])
    heads = [f"{m}, {cut}" for m in ("Barlow", "VICReg") for cut in REDUNDANCY]
    return markdown(["data", "network", *heads, "untrained", "raw pixels"], lines)


def channelwise() -> list[str]:
    """Returns probes of goodness of groups before and after the normalisation that takes it away."""
    rows, lines = read("channelwise-cifar10"), []
    for label, contrast in (("goodness alone", "0.0"), ("with SupCon", "1.0")):
        for when, reading in (("before", "activations"), ("after", "pixels")):
            found = own(rows, varied=f"method.contrast={contrast}", reading=reading)
            lines.append([f"{label}, {when}", *(told(found, blocks=b) for b in BLOCKS)])
    for when, reading in (("before", "activations"), ("after", "pixels")):
        found = pick(rows, varied="method.contrast=0.0", reading=reading, source="random")
        lines.append([f"untrained, {when}", *(told(found, blocks=b) for b in BLOCKS)])
    lines.append(["raw pixels", told(pick(rows, source="raw"), blocks="pixels"), *[""] * 4])
    return markdown(["features of", *sized(BLOCKS, (20, 40, 80, 160, 280))], lines)


def pair(loss: str, rate: str = SOURCES) -> str:
    """Returns what runs of FF mended have that vary: a loss and a rate, wrong labels drawn uniformly."""
    return f"lr={rate}, method.loss={loss}, method.threshold=None, method.wrong=uniform"


def mended() -> list[str]:
    """Returns test errors of FF mended, by loss of a pair and how wrong labels are drawn."""
    rows, lines = read("ff-mended"), []
    published = {"swish": "1.65", "symba": "2.2", "softplus": "2.7 (Hinton's, 600 epochs)"}
    for varied in dict.fromkeys(row["varied"] for row in rows):
        of = dict(part.split("=") for part in varied.split(", "))
        loss, wrong = of["method.loss"], of["method.wrong"]
        wrong = "by goodness" if wrong == "goodness" else wrong
        label = f"`{loss}`, wrong labels {wrong}, rate {of['lr']}"
        lines.append((label, pick(rows, varied=varied), published[loss]))
    return errors(lines)


def overlapping() -> list[str]:
    """Returns test errors of FF mended by where gradients are cut: at each block, at each second one, shifted."""
    rows, second = read("ff-overlap"), "forward-forward cut=2"
    methods = {"at each block": "ff", "at each second block": second, "there, shifted": f"{second} order=overlap"}
    return errors((label, pick(rows, method=method), NONE) for label, method in methods.items())


def six() -> list[str]:
    """Returns the telling cells of the matrix at the study's own width: block4 and the chosen blocks."""
    rows, lines = read("matrix-2000"), []
    kinds = {
        "FF on rotations": "forward-forward",
        "cross-entropy on rotations": "cross-entropy",
        "InfoNCE on two views": "info-nce",
    }
    for label, method in kinds.items():
        for cut, how in (("", "cut"), (" cut=never", "uncut, losses on all")):
            found = (both(own(rows, dataset=of, method=called(method, cut))) for of in DATA)
            lines.append([f"{label}, {how}", *found])
    lines.append(["untrained", *(both(pick(rows, dataset=of, method="local-ce", source="random")) for of in DATA)])
    lines.append(["raw pixels", *(told(pick(rows, dataset=of, source="raw"), blocks="pixels") for of in DATA)])
    return markdown(["features of", *DATA.values()], lines)


def mean(rows: Sequence[Row], measure: str = PROBE, blocks: str = "") -> float:
    """Returns the mean over seeds of a figure of the test split, in %."""
    return 100 * statistics.mean(float(r["value"]) for r in pick(rows, measure=measure, split="test", blocks=blocks))


def asked() -> list[str]:
    """Returns what was asked of each method before it was run, what it reaches, and what stands beside it."""
    mnist, cifar, narrow = read("predsim-mnist"), read("predsim-cifar10"), pick(read("scff-cifar10"), **of_scff("half"))
    of_mnist = {label: own(mnist, **BESIDE[label]) for label in ("predsim", TOP)}
    of_cifar = {"predsim": own(cifar, method="predsim"), TOP: own(cifar, method="bp")}
    two, greedy = read("info-nce-cifar10"), read("scff-mnist")
    of_two = {label: own(two, **wanted) for label, wanted in CLAIMED.items()}
    as_told, swish = (pick(read("ff-mended"), varied=pair("swish", rate)) for rate in (SOURCES, CHOSEN))
    error = {label: 100 - mean(rows, PRETEXT) for label, rows in of_mnist.items()}
    apart = {label: gap(contrast) for label, contrast in (("alone", "0.0"), ("with SupCon", "1.0"))}
    beside = [*margins()]
    ahead = [best - max(untrained, raw) for best, untrained, raw, _ in beside]
    under = max(twin - best for best, *_, twin in beside)
    gained = mean(own(narrow), blocks="blocks1-3") - mean(pick(narrow, source="random"), blocks="blocks1-3")
    last = {"blocks": "blocks2-4"}
    lines = [
        (
            "predsim, MNIST, 3x1024, 20 epochs: error",
            "at most 1.2, not above its twin",
            f"{error['predsim']:.2f}",
            f"twin {error[TOP]:.2f}",
            error["predsim"] <= min(1.2, error[TOP]),
            NONE,
        ),
        (
            "predsim, CIFAR-10, 3x3000, 60 epochs",
            "above its twin",
            told(of_cifar["predsim"], PRETEXT),
            f"twin {told(of_cifar[TOP], PRETEXT)}",
            mean(of_cifar["predsim"], PRETEXT) > mean(of_cifar[TOP], PRETEXT),
            "without dropout, which changed neither by a point; not the authors' 400 epochs",
        ),
        (
            "SCFF, MNIST, 2x2000",
            "at least 98.3",
            f"{mean(own(greedy), blocks='blocks1-2'):.2f}",
            f"untrained {mean(pick(greedy, source='random'), blocks='blocks1-2'):.2f}",
            mean(own(greedy), blocks="blocks1-2") >= 98.3,
            "where goodness is read",
        ),
        (
            "SCFF, CIFAR-10, half width",
            "at least 72 (70 on a CPU), 3 above untrained",
            told(own(narrow), blocks="blocks1-3"),
            f"untrained {told(pick(narrow, source='random'), blocks='blocks1-3')}",
            gained >= 3 and mean(own(narrow), blocks="blocks1-3") >= 72,
            "two faults mended; full width, which gains more; no setting was searched",
        ),
        (
            "Barlow Twins or VICReg, two networks, three data sets",
            "1 above untrained and raw, at most 2 under the twin",
            f"{sum(gain >= 1 for gain in ahead)} of {len(ahead)}",
            f"least gain {min(ahead):.1f}, at most {under:.1f} under the twin",
            min(ahead) >= 1 and under <= 2,
            "both methods; heads that keep 2x2 places; no other views",
        ),
        (
            "InfoNCE, CIFAR-10, conv 16-32-64-128",
            "its twin less 1; the twin above untrained",
            told(of_two["InfoNCE at each block"], **last),
            f"twin {told(of_two['end to end, loss on the last'], **last)}, "
            f"untrained {told(pick(two, method='info-nce', source='random'), **last)}",
            mean(of_two["InfoNCE at each block"], **last) >= mean(of_two["end to end, loss on the last"], **last) - 1
            and mean(of_two["end to end, loss on the last"], **last) > mean(pick(two, source="random"), **last),
            NONE,
        ),
        (
            "channelwise, CIFAR-10: block4 before less after normalisation",
            "at least 4, with SupCon within 1",
            f"{apart['alone']:.1f}, with SupCon {abs(apart['with SupCon']):.1f}",
            "",
            apart["alone"] >= 4 and abs(apart["with SupCon"]) <= 1,
            NONE,
        ),
        (
            "FF mended (swish), MNIST, 2x500: error",
            "at most 1.8",
            f"{100 - mean(swish, PRETEXT):.2f}",
            f"at the source's rate {100 - mean(as_told, PRETEXT):.2f}, published 1.65",
            100 - mean(swish, PRETEXT) <= 1.8,
            "eight rates and schedules, of which validation chose this; wrong labels by goodness; shifted blocks",
        ),
    ]
    cells = [[*line, "yes" if met else "**no**", tried] for *line, met, tried in lines]
    return markdown(["method", "asked", "reached", "beside", "met", "tried, or searched"], cells)


def gap(contrast: str) -> float:
    """Returns how many points of block4 goodness of groups loses where it is normalised away."""
    rows = own(read("channelwise-cifar10"), varied=f"method.contrast={contrast}")
    before, after = (mean(pick(rows, reading=reading), blocks="block4") for reading in ("activations", "pixels"))
    return before - after


def best(rows: Sequence[Row]) -> float:
    """Returns the test figure of the run and the blocks that are best on validation, in %, the mean over seeds."""
    found = []
    for seed in {row["seed"] for row in rows}:
        of_seed = pick(rows, measure=PROBE, seed=seed)
        first = max(pick(of_seed, split="validation"), key=lambda row: float(row["value"]))
        [there] = pick(of_seed, split="test", **{key: first[key] for key in ("method", "varied", "blocks")})
        found.append(100 * float(there["value"]))
    return statistics.mean(found)


def margins() -> Iterator[tuple[float, float, float, float]]:
    """Yields of each data set and network what validation says is best: local, untrained, pixels, twins."""
    rows = read("redundancy")
    for dataset in DATA:
        for network in ("mlp", "convnet"):
            of = pick(rows, dataset=dataset, varied=f"backbone={network}")
            local, *ends = (
                [*own(of, method="barlow" + cut), *own(of, method="vicreg" + cut)] for cut in REDUNDANCY.values()
            )
            untrained = best(pick(of, method="barlow", source="random"))
            raw, twin = mean(pick(of, source="raw"), blocks="pixels"), best([row for end in ends for row in end])
            yield best(local), untrained, raw, twin


def tables() -> dict[str, list[str]]:
    """Returns every table, by its name."""
    beside = read("predsim-mnist")
    on_cifar = {label: BESIDE[label] for label in BESIDE if label != "pred alone"} | {"predsim": {"method": "predsim"}}
    published = ("0.62", "0.68", "0.75", "-")
    by_temperature = {
        f"{label}, temperature {of}": {**wanted, "varied": f"method.temperature={of}"}
        for of in ("0.2", "0.1")
        for label, wanted in CLAIMED.items()
    }
    of_beside = [
        (label, own(beside, **wanted), quoted)
        for (label, wanted), quoted in zip(BESIDE.items(), published, strict=True)
    ]
    return {
        "gates": asked(),
        "claim: mnist": by_block("claim-mnist", CLAIMED, WIDE),
        "claim: fashion-mnist": by_block("claim-mnist", CLAIMED, WIDE, dataset="fashion-mnist"),
        "claim: cifar10": by_block("claim-cifar10", by_temperature, WIDE, dataset=CIFAR),
        "claim: search": search(),
        "gate: predsim, mnist": errors(of_beside),
        "gate: predsim, cifar10": accuracies("predsim-cifar10", on_cifar, ("69.07", "66.44", "-")),
        "scff: mnist": by_block("scff-mnist", SCFF, (2000, 2000, 4000), ("block1", "block2", "blocks1-2")),
        "gate: scff, cifar10": scff(),
        "gate: redundancy": redundancy(),
        "gate: info-nce": by_block("info-nce-cifar10", CLAIMED, NARROW, dataset=CIFAR),
        "gate: channelwise": channelwise(),
        "losses": by_block("losses-10k", PARTS, NARROW, dataset=CIFAR),
        "gate: ff mended": mended(),
        "ff mended: search": searched(),
        "ff mended: overlap": overlapping(),
        "matrix: 4x2000": six(),
    }
