"""Reads MNIST's test digits as people hand them in: on paper, blackboards, canvases, anywhere on a picture.

Each kind is drawn from real digits, read as `ffserve predict` reads it, and beside that with --invert no --place no.

    python benchmarks/drawn_digits.py [--count 1000] [--data-dir DIR] [--json]
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from PIL import Image, ImageFilter

Pixels = npt.NDArray[np.uint8]
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def large(ink_HW: Pixels, times: int) -> Pixels:
    """Returns a digit enlarged."""
    height, width = ink_HW.shape
    return np.asarray(Image.fromarray(ink_HW).resize((width * times, height * times), Image.Resampling.BICUBIC))


def coloured(
    ink_HW: Pixels, ground: tuple[int, ...], colour: tuple[int, ...], noise: float = 0.0, shade: float = 0.0
) -> Image.Image:
    """Returns ink of a colour on a ground, in light that falls from a side, with grain."""
    share = ink_HW[..., None] / 255
    H, W = ink_HW.shape
    light = (1 - shade * np.linspace(0, 1, W))[None, :, None] * (1 - shade / 2 * np.linspace(0, 1, H))[:, None, None]
    values = np.array(ground) * light * (1 - share) + np.array(colour) * share
    grain = np.random.default_rng(0).normal(0, 1, values.shape) * noise if noise else 0
    return Image.fromarray(np.clip(np.rint(values + grain), 0, 255).astype(np.uint8))


def drawn(ink_HW: Pixels, pen: ImageFilter.Filter) -> Pixels:
    """Returns a digit in strokes of another pen, by passing it over five times."""
    picture = Image.fromarray(ink_HW)
    for _ in range(5):
        picture = picture.filter(pen)
    return np.asarray(picture)


def thin(ink_HW: Pixels) -> Pixels:
    """Returns a digit of eight times the size in strokes of a thin pen."""
    return drawn(large(ink_HW, 8), ImageFilter.MinFilter(3))


def thick(ink_HW: Pixels) -> Pixels:
    """Returns a digit of eight times the size, with room for them, in strokes of a thick pen."""
    return drawn(np.pad(large(ink_HW, 8), 16), ImageFilter.MaxFilter(3))


def turned(ink_HW: Pixels, degrees: int) -> Image.Image:
    """Returns a digit of eight times the size, turned about its middle, to the left."""
    return Image.fromarray(large(ink_HW, 8)).rotate(degrees, Image.Resampling.BICUBIC)


def transparent(ink_HW: Pixels, colour: tuple[int, int, int]) -> Image.Image:
    """Returns a digit that is drawn in a colour on a transparent canvas."""
    picture = Image.new("RGBA", ink_HW.shape[::-1], (*colour, 0))
    picture.putalpha(Image.fromarray(ink_HW))
    return picture


def on_table(ink_HW: Pixels) -> Pixels:
    """Returns a digit somewhere on a larger picture."""
    return np.pad(ink_HW, ((90, 150), (100, 200)))


def lying(sheet: Image.Image, size: tuple[int, int], where: tuple[int, int], ground: tuple[int, ...]) -> Image.Image:
    """Returns a picture on a larger one."""
    picture = Image.new("RGBA" if len(ground) == 4 else "RGB", size, ground)
    picture.paste(sheet.convert(picture.mode), where)
    return picture


def paper(ink_HW: Pixels) -> Image.Image:
    """Returns a digit in black on a white sheet of 224 pixels."""
    return Image.fromarray(255 - large(ink_HW, 8))


KINDS: dict[str, Callable[[Pixels], Image.Image]] = {
    "as MNIST has them": Image.fromarray,
    "black on white": lambda ink: Image.fromarray(255 - ink),
    "black on gray 200": lambda ink: coloured(ink, (200,) * 3, BLACK),
    "black on shaded paper": lambda ink: coloured(ink, (235,) * 3, BLACK, shade=0.35),
    "white on gray 128": lambda ink: coloured(ink, (128,) * 3, WHITE),
    "white on gray 60": lambda ink: coloured(ink, (60,) * 3, WHITE),
    "chalk on a green board": lambda ink: coloured(large(ink, 4), (30, 90, 50), (250, 250, 240), noise=3),
    "white on blue": lambda ink: coloured(large(ink, 4), (0, 0, 255), WHITE),
    "gray 120 on gray 14": lambda ink: coloured(ink, (14,) * 3, (120,) * 3),
    "red on white": lambda ink: coloured(large(ink, 4), WHITE, (220, 20, 30)),
    "pencil": lambda ink: coloured(large(ink, 4), (245, 245, 240), (120, 120, 125), noise=3),
    "black on transparent": lambda ink: transparent(large(ink, 4), BLACK),
    "white on transparent": lambda ink: transparent(large(ink, 4), WHITE),
    "white card on transparent": lambda ink: lying(paper(ink), (320, 320), (40, 60), (0, 0, 0, 0)),
    "white sheet on a table": lambda ink: lying(paper(ink), (480, 320), (120, 50), (70, 60, 50)),
    "scan with a black border": lambda ink: lying(paper(ink), (236, 236), (6, 6), BLACK),
    "3 pixels off": lambda ink: Image.fromarray(np.pad(ink, 3)[:28, 6:]),
    "half the size": lambda ink: Image.fromarray(np.pad(np.asarray(Image.fromarray(ink).resize((14, 14))), 7)),
    "in a corner": lambda ink: Image.fromarray(np.pad(large(ink, 2)[8:, 8:], ((0, 64), (0, 64)))),
    "on a large canvas": lambda ink: Image.fromarray(np.pad(large(ink, 4), ((350, 140), (80, 420)))),
    "top of a tall page": lambda ink: Image.fromarray(np.pad(large(ink, 6), ((0, 700), (20, 20)))),
    "thin pen": lambda ink: Image.fromarray(thin(ink)),
    "photograph of paper": lambda ink: coloured(on_table(large(ink, 5)), (200, 195, 185), (35, 35, 50), 4, 0.4),
    "thin pen, photograph": lambda ink: coloured(on_table(thin(ink)), (200, 195, 185), (35, 35, 50), 4, 0.3),
    # Held out: added when the model and its reading had been settled.
    "thick pen": lambda ink: Image.fromarray(thick(ink)),
    "thick pen, photograph": lambda ink: coloured(on_table(thick(ink)), (200, 195, 185), (35, 35, 50), 4, 0.3),
    "turned left by 20 degrees": lambda ink: turned(ink, 20),
    "turned right by 20 degrees": lambda ink: turned(ink, -20),
}


def real_digits(data_dir: str | None, count: int) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Returns the first of MNIST's test digits, uint8 [N, 28, 28], and their labels."""
    from fftrain.config import DataSettings
    from fftrain.data import load_data

    test = load_data(DataSettings(dataset="mnist", data_dir=data_dir)).test
    return test.images[:count, 0].numpy(), test.labels[:count].numpy()


def main(
    *,
    count: Annotated[int, typer.Option(help="Digits of each kind.", min=1)] = 1000,
    data_dir: Annotated[str | None, typer.Option(help="Where MNIST is kept. [env: FFSTUDY_DATA]")] = None,
    model: Annotated[Path | None, typer.Option(help="An exported model. [default: the one that ships]")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Prints the accuracy of each kind, read and read plainly, in percent."""
    from ffserve import Classifier

    ink_NHW, labels_N = real_digits(data_dir, count)
    classifier = Classifier(model)

    def right(pictures: list[Image.Image], **how: Any) -> float:
        found = classifier.predict(pictures, top_k=1, **how)
        return 100 * float(np.mean([int(p.label) == label for p, label in zip(found, labels_N, strict=True)]))

    rows = {}
    for kind, draw in KINDS.items():
        pictures = [draw(ink) for ink in ink_NHW]
        rows[kind] = {"read": right(pictures), "plainly": right(pictures, invert="no", place="no")}
        if not as_json:
            print(f"{kind:26} {rows[kind]['read']:6.2f} {rows[kind]['plainly']:6.2f}", flush=True)
    if as_json:
        print(json.dumps({"model": str(classifier.model.path), "count": len(labels_N), "accuracy": rows}, indent=2))


if __name__ == "__main__":
    typer.run(main)
