"""One exported file: written, measured against the trained model, and the best of what was tried kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffcore.errors import ExportError, WriteError
from ffcore.files import sha256
from ffexport.describe import describe, golden
from ffexport.formats import Format, Images, Runner, Settings
from ffexport.graph import DeployedModel, halved, with_dead_block
from ffexport.parity import BATCHES, check_exact, check_near
from ffexport.quantise import WEIGHT_BITS, describe_cpu
from ffexport.reference import REAL, Case, cases, references
from ffexport.registry import PRECISIONS, load_format
from ffexport.subject import Subject
from ffexport.validation import Validation, check_validation, read_validation
from ffserve.metadata import SUFFIXES, encode

# How much smaller the error of another scheme must be, to be taken instead of the first: a share of the images that get
# another class than from the eager model, or without classes, of the features' size.
CLEARLY = 0.005
# The tolerance of what a file of lower precision computes exactly: fp16 with its own weights, INT8's graph before it is
# quantised.
EXACT = PRECISIONS["fp32"]


@dataclass(frozen=True, kw_only=True)
class Held:
    """A model that is written, and what its files are held against.

    Args:
        model: with weights of the precision.
        compared: what it gives.
        trained: what the model gives with the weights as they were trained.
    """

    model: DeployedModel
    compared: list[Case]
    trained: list[Case]

    @classmethod
    def of(cls, trained: DeployedModel, precision: str, images: Mapping[str, Images]) -> Held:
        """Computes both for images of several kinds."""
        model = halved(trained) if precision == "fp16" else trained
        compared = references(model, images)
        unrounded = compared if model is trained else references(trained, images, copies=0)
        return cls(model=model, compared=compared, trained=unrounded)


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What all files of one export share, and what makes them."""

    subject: Subject
    precision: str
    schemes: tuple[str | None, ...]
    opset: int
    atol: float
    alive: Held
    dead: Held
    validation: Validation | None

    @classmethod
    def begin(
        cls, subject: Subject, *, precision: str, schemes: Iterable[str], images: Path | None, opset: int, atol: float
    ) -> Maker:
        """Computes what the model gives.

        Args:
            subject: what is exported.
            precision: a name in `PRECISIONS`.
            schemes: the names in `SCHEMES` to be tried, where the precision is quantised.
            images: a folder of validation images, or None for the run's samples.
            opset: of ONNX.
            atol: the tolerance.
        """
        samples, _ = subject.run.samples
        return cls(
            subject=subject,
            precision=precision,
            schemes=tuple(schemes) if precision == "int8" else (None,),
            opset=opset,
            atol=atol,
            alive=Held.of(subject.model, precision, cases(subject.run.shape, samples)),
            dead=Held.of(with_dead_block(subject.model), precision, {"dead block": samples[:1]}),  # all are alike there
            validation=None if precision == "fp32" and images is None else read_validation(subject, images),
        )

    def make(self, form: str, path: Path) -> dict[str, Any]:
        """Writes the best file within tolerance, and returns what the manifest says of it.

        Args:
            form: a name in `FORMATS`.
            path: where the file goes.

        Raises:
            ExportError: where none is within tolerance; no file is there then.
        """
        writer: Format = load_format(form)()
        suffix = SUFFIXES[form]  # torch takes no other for a pt2
        tried: dict[str | None, dict[str, Any]] = {}
        failed: dict[str | None, ExportError] = {}
        with _temporary() as folder:
            if None not in self.schemes:
                self._check_unquantised(writer, folder / f"exact{suffix}")
            for scheme in self.schemes:
                try:
                    tried[scheme] = self._try(writer, folder / f"{scheme}{suffix}", scheme)
                except ExportError as error:
                    failed[scheme] = error
            if not tried:
                raise next(iter(failed.values()))
            scheme = _best(tried)
            chosen = (folder / f"{scheme}{suffix}").read_bytes()
        path.write_bytes(chosen)
        about = {
            "format": form,
            "precision": self.precision,
            "head": self.subject.head,
            **({"opset": self.opset} if form == "onnx" else {}),
            "bytes": path.stat().st_size,
            "sha256": sha256(path),
            "atol": self.atol,
        }
        if scheme is not None:
            assert self.validation is not None
            about["int8"] = {
                "scheme": scheme,
                "calibration_images": len(self.validation.calibration) if scheme == "static" else 0,
                "weight_bits": WEIGHT_BITS,
                "cpu": describe_cpu(),
                "tried": {
                    **{str(name): found["validation"] for name, found in tried.items()},
                    **{str(name): {"error": str(error)} for name, error in failed.items()},
                },
            }
        return {**about, **tried[scheme]}

    def _try(self, writer: Format, path: Path, scheme: str | None) -> dict[str, Any]:
        """Writes one file and measures it. Raises ExportError where it is out of tolerance."""
        calibration = None if self.validation is None else self.validation.calibration
        settings = Settings(opset=self.opset, scheme=scheme, calibration=calibration)
        writer.write(self.alive.model, path, settings)
        about = describe(self.subject, self.precision, scheme)
        real = next(case for case in self.alive.compared if case.name == REAL)
        kept = golden(self._names, writer.load(path, threads=1), real, scheme)
        writer.annotate(path, encode({**about, "golden": kept}))
        run = writer.load(path, threads=1)
        parity = self._check(run, self.alive, scheme)
        measured = None
        if self.validation is not None:
            measured = self.validation.measure(run)
            check_validation(measured)
        dead = path.with_stem("dead")
        writer.write(self.dead.model, dead, settings)
        parity |= self._check(writer.load(dead, threads=1), self.dead, scheme)
        figures = [batch for case in parity.values() for batch in case.values()]
        largest = ("largest_difference", "float32_difference", "relative_error")
        return {
            **{name: max(each[name] for each in figures) for name in largest},
            "same_class": parity[REAL][str(max(BATCHES))].get("same_class"),
            "validation": measured,
            "parity": parity,
        }

    def _check(self, run: Runner, held: Held, scheme: str | None) -> dict[str, Any]:
        """Returns how far a file is from the trained model. Raises ExportError where that is out of tolerance."""
        if self.precision == "fp32":
            return check_exact(self._names, run, held.compared, self.atol)
        if scheme is None:  # it rounds the weights alone, and computes the same numbers with those
            check_exact(self._names, run, held.compared, EXACT)
        return check_near(self._names, run, held.trained, self.atol)

    def _check_unquantised(self, writer: Format, path: Path) -> None:
        """Holds the graph exactly before it is quantised: eight bits would hide small faults of it.

        Raises ExportError where it computes something else.
        """
        for held in (self.alive, self.dead):
            writer.write(held.model, path, Settings(opset=self.opset))
            check_exact(self._names, writer.load(path, threads=1), held.compared, EXACT)

    @property
    def _names(self) -> list[str]:
        return list(self.subject.model.outputs)


@contextmanager
def _temporary() -> Iterator[Path]:
    """Gives a folder that is gone after the block. Raises WriteError where it cannot be had, or is full."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
    except OSError as error:
        raise WriteError(
            f"temporary files cannot be written to {tempfile.tempdir or 'any folder'} ({error.strerror or error}): "
            "free some space there, or name another folder with TMPDIR"
        ) from error


def _best(tried: dict[str | None, dict[str, Any]]) -> str | None:
    """Returns the first scheme, or the one with the least error on validation images where that is clearly less."""

    def error(scheme: str | None) -> float:
        figures: dict[str, float] | None = tried[scheme]["validation"]
        if figures is None:
            return 0.0
        return 1 - figures["same_class"] if "same_class" in figures else figures["relative_error"]

    first, least = next(iter(tried)), min(tried, key=error)
    return least if error(least) < error(first) - CLEARLY else first
