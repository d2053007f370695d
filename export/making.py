"""One exported file: written, measured against the eager model, and the best of what was tried kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ffcore.errors import ExportError, WriteError
from ffcore.files import sha256
from ffexport.describe import describe, encode, golden
from ffexport.formats import Format, Images, Settings
from ffexport.graph import DeployedModel, with_dead_layer
from ffexport.parity import REAL, Case, cases, check_parity, eager
from ffexport.precision import Precision
from ffexport.quantise import WEIGHT_BITS, describe_cpu
from ffexport.registry import FORMATS, PRECISIONS
from ffexport.subject import Subject
from ffexport.validation import Validation, check_validation, read_validation
from ffmodels.checkpoint import read_samples

# How much smaller the error of another scheme must be, to be taken instead of the first: a share of the images that get
# another class than from the eager model, or without classes, of the features' size.
CLEARLY = 0.005


@dataclass(frozen=True, kw_only=True)
class Maker:
    """What all files of one export share, and what makes them."""

    subject: Subject
    precision: str
    schemes: tuple[str | None, ...]
    opset: int
    atol: float
    samples: Images
    compared: list[Case]
    dead: DeployedModel
    compared_dead: list[Case]
    validation: Validation | None

    @classmethod
    def begin(
        cls, subject: Subject, *, precision: str, schemes: Iterable[str], images: Path | None, opset: int, atol: float
    ) -> Maker:
        """Computes what the eager model gives.

        Args:
            subject: what is exported.
            precision: a name in `PRECISIONS`.
            schemes: the names in `SCHEMES` to be tried, where the precision is quantised.
            images: a folder of validation images, or None for the run's samples.
            opset: of ONNX.
            atol: the tolerance.
        """
        samples, _ = read_samples(subject.run)
        chosen: Precision = PRECISIONS.load(precision)
        dead = with_dead_layer(subject.model)
        return cls(
            subject=subject,
            precision=precision,
            schemes=tuple(schemes) if chosen.schemes else (None,),
            opset=opset,
            atol=atol,
            samples=samples,
            compared=eager(subject.model, cases(subject.model.backbone.config.shape, samples)),
            dead=dead,
            compared_dead=eager(dead, {"dead layer": samples}),
            validation=None if chosen.exact and images is None else read_validation(subject, images),
        )

    def make(self, form: str, path: Path) -> dict[str, Any]:
        """Writes the best file within tolerance, and returns what the manifest says of it.

        Args:
            form: a name in `FORMATS`.
            path: where the file goes.

        Raises:
            ExportError: where none is within tolerance; no file is there then.
        """
        writer: Format = FORMATS.load(form)()
        suffix = FORMATS[form].facts["suffix"]  # torch takes no other for a pt2
        tried: dict[str | None, dict[str, Any]] = {}
        failed: dict[str | None, ExportError] = {}
        with _temporary() as folder:
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
        model, precision = self.subject.model, PRECISIONS.load(self.precision)
        calibration = None if self.validation is None else self.validation.calibration
        settings = Settings(opset=self.opset, scheme=scheme, calibration=calibration)
        names = list(model.outputs)
        writer.write(precision.prepare(model), path, settings)
        about = describe(self.subject, self.precision, scheme, self.samples)
        writer.annotate(path, encode({**about, "golden": golden(names, writer.load(path, threads=1), self.samples)}))
        run = writer.load(path, threads=1)
        parity = check_parity(names, run, self.compared, self.atol, exact=precision.exact)
        measured = None
        if self.validation is not None:
            measured = self.validation.measure(run)
            check_validation(measured)
        dead = path.with_stem("dead")
        writer.write(precision.prepare(self.dead), dead, settings)
        parity |= check_parity(
            names, writer.load(dead, threads=1), self.compared_dead, self.atol, exact=precision.exact
        )
        figures = [batch for case in parity.values() for batch in case.values()]
        return {
            "largest_difference": max(each["largest_difference"] for each in figures),
            "relative_error": max(each["relative_error"] for each in figures),
            "same_class": parity[REAL]["256"].get("same_class"),
            "validation": measured,
            "parity": parity,
        }


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
