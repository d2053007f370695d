"""What the limits of `ffexport` lie between: how far right files are from the trained model, and wrong ones.

Runs (`fftrain pretrain`, `fftrain evaluate`) are exported to ONNX with every head that they have. Of a file in fp32:
its largest difference from the model in float64, as a multiple of how far float32 may be from it on that image, and of
how far the eager model is; also with a bias so low that an image of noise leaves the first block one barely active
unit. Of fp16 and of INT8 in both schemes: the error of features and logits as a share of their size on the run's 64
validation images, the images that get another class, the features' error on other images, and how far golden values
move where every float in the file is moved by a rounding, as on another processor. Of models that are wrong as a
faulty export would make them: the error of the features.

    python benchmarks/export_limits.py RUN...
    python benchmarks/export_limits.py studies/mine/cells/* --json

The runs are of the study's networks: blocks of one linear layer.
"""

from __future__ import annotations

import copy
import json
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
import torch
import typer

from ffcore.errors import FFStudyError
from ffexport.export import one_thread
from ffexport.formats import Images, Runner, Settings, as_run
from ffexport.graph import DeployedModel, halved
from ffexport.making import EXACT
from ffexport.onnx_format import OnnxFormat
from ffexport.parity import relative_error
from ffexport.reference import REAL, Case, Values, cases, largest, references
from ffexport.registry import OPSET, SCHEMES
from ffexport.subject import Subject, load_subject
from ffexport.validation import read_validation
from ffmodels.run import Run
from ffserve.metadata import HEADS

NOISE = 4  # images of it that a bias is lowered to
MOVES = 4  # of all floats in a file


def transposed(model: DeployedModel) -> None:
    blocks: Any = model.encoder.backbone.blocks
    for block in blocks[1:]:
        block[0].weight.data = block[0].weight.data.T.contiguous()


def lost(model: DeployedModel) -> None:
    blocks: Any = model.encoder.backbone.blocks
    blocks[max(model.blocks)][0].weight.data.zero_()


def another_block(model: DeployedModel) -> None:
    model.blocks = [max(0, model.blocks[0] - 1), *model.blocks[1:]]


def order(model: DeployedModel) -> None:
    model.blocks = model.blocks[::-1]


FAULTS = (transposed, lost, another_block, order)


def measure(subject: Subject, folder: Path) -> Iterator[tuple[str, float]]:
    """Yields the name and the value of what is measured of a run with a head."""
    validation = read_validation(subject, None)
    compared = references(subject.model, cases(subject.run.shape, validation.images))
    real = next(case for case in compared if case.name == REAL)
    writer = OnnxFormat()

    def file(writer: OnnxFormat, model: DeployedModel, scheme: str | None = None) -> Runner:
        path = folder / "model.onnx"
        writer.write(model, path, Settings(opset=OPSET, scheme=scheme, calibration=validation.calibration))
        return writer.load(path, threads=1)

    for name, known in {"trained": subject.model, **barely_active(subject.model, compared)}.items():
        right = file(writer, known)
        for case in references(known, {case.name: case.images for case in compared}):
            kind = name.split(",")[0]
            yield f"fp32, {kind}: multiple of float32's spread", multiple(case, case.spread, right)
            yield f"fp32, {kind}: multiple of the eager model's", multiple(case, case.eager, right)
    for name in ("fp16", *SCHEMES):
        quantised = name in SCHEMES
        run = file(writer, subject.model, name) if quantised else file(OnnxFormat(), halved(subject.model))
        for seed in range(MOVES):
            away_N = away(run, moved(folder / "model.onnx", seed), real.images)
            yield f"{name}: values of the golden image, moved", away_N[real.best_known]
            yield f"{name}: of any image, moved", max(away_N)
        for case in compared:
            yield f"{name}: features, {case.name}", relative_error(run(case.images)[0], case.exact[0])
        if subject.class_names is not None:
            got, want = run(real.images)[1], real.exact[1]
            yield f"{name}: logits, {REAL}", relative_error(got, want)
            yield f"{name}: other classes of {len(want)}", float((got.argmax(1) != want.argmax(1)).sum())
    for fault in FAULTS:
        wrong = copy.deepcopy(subject.model)
        fault(wrong)
        error = relative_error(as_run(wrong)(real.images)[0], real.exact[0])
        if error > 1e-3:  # of a single block none is another
            yield f"wrong, {fault.__name__}: features, {REAL}", error


def barely_active(model: DeployedModel, compared: list[Case]) -> dict[str, DeployedModel]:
    """Returns copies in which an image of noise leaves one unit of the first block, active by 1e-5."""
    noise = next(case.images for case in compared if case.name == "random")
    exact = copy.deepcopy(model).double().encoder
    first: Any = exact.backbone.blocks[0]
    pixels = exact.condition(torch.from_numpy(noise[:NOISE]).double() / 255, exact.reading)
    found = {}
    for i, active in enumerate(first[0](exact.backbone.normalise(exact.backbone.stem(pixels))).max(1).values.tolist()):
        low = copy.deepcopy(model)
        low.encoder.backbone.blocks[0][0].bias.sub_(active - 1e-5)  # type: ignore[index]
        found[f"barely active, {i}"] = low
    return found


def moved(path: Path, seed: int) -> Runner:
    """Returns a file with every float in it moved by a rounding, up or down."""
    proto, rng = onnx.load(path), np.random.default_rng(seed)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            steps = rng.integers(-1, 2, values.shape) * 2.0**-23
            tensor.CopyFrom(onnx.numpy_helper.from_array((values * (1 + steps)).astype(np.float32), tensor.name))
    onnx.save(proto, path.with_stem("moved"))
    return OnnxFormat.load(path.with_stem("moved"), threads=1)


def away(run: Runner, other: Runner, images: Images) -> list[float]:
    """Returns how far the golden values of each image are apart, absolutely or relatively."""
    pairs = [(values(other, images[i : i + 1]), values(run, images[i : i + 1])) for i in range(len(images))]
    return [float((np.abs(got - want) / (1 + np.abs(want))).max()) for got, want in pairs]


def values(run: Runner, image: Images) -> Any:
    """Returns what is golden of an image's outputs: the first features, and the probabilities where there are any."""
    outputs = run(image)
    return np.concatenate([outputs[0][0, :16], *(output[0] for output in outputs[2:])])


def multiple(case: Case, known: list[Values], run: Runner) -> float:
    """Returns how many times as far from float64 as is known a file is: the most of any image and output.

    Differences below a tenth of what --atol allows count as 0.
    """
    most = 0.0
    for got, want, known_N in zip(run(case.images), case.exact, known, strict=True):
        away_N = largest(got - want)
        counted_N = away_N > 0.1 * EXACT * (1 + largest(want))
        most = max(most, *(away_N[counted_N] / known_N[counted_N]), 0.0)
    return most


def main(
    runs: Annotated[list[Path], typer.Argument(help="Run folders with probes.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print every value as JSON.")] = False,
) -> None:
    """Measure right and wrong exports."""
    found: dict[str, list[float]] = defaultdict(list)
    with one_thread(), tempfile.TemporaryDirectory() as folder:
        for run in runs:
            for head in HEADS:
                try:
                    subject = load_subject(Run.load(run), head)
                except FFStudyError as error:  # not every run has every head
                    print(f"left out: {error}", file=sys.stderr)
                    continue
                print(f"{run}, {head}", file=sys.stderr)
                for name, value in measure(subject, Path(folder)):
                    found[name].append(value)
    if as_json:
        print(json.dumps(found))
        return
    print(f"{'':50} {'files':>5} {'least':>8} {'median':>8} {'most':>8}")
    for name, values in found.items():
        print(f"{name:50} {len(values):5} {min(values):8.2g} {np.median(values):8.2g} {max(values):8.2g}")


if __name__ == "__main__":
    typer.run(main)
