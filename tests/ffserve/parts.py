"""Images in every place that parts are read from, and what is read of their answers."""

from __future__ import annotations

import io
from importlib.metadata import version

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet

from ffcore.files import sha256
from ffcore.images import from_array
from ffserve.parts.job import Job


def png(image):
    """An image uint8 [C, H, W] as a PNG file's bytes."""
    stream = io.BytesIO()
    from_array(image).save(stream, "PNG")
    return stream.getvalue()


def write_images(folder, contents):
    """Writes contents of files as FOLDER/CLASS/NUMBER.png, dealt out to three classes."""
    for number, content in enumerate(contents):
        inside = folder / ("zero", "one", "two")[number % 3]
        inside.mkdir(parents=True, exist_ok=True)
        (inside / f"{number:03d}.png").write_bytes(content)


def write_table(path, contents, nested=False, group=4):
    """Writes a Parquet file with a column `image` of contents, in row groups of a few rows."""
    values = [{"bytes": content, "path": None} for content in contents] if nested else contents
    table = pa.table({"number": [*range(len(contents))], "image": values})
    pa.parquet.write_table(table, path, row_group_size=group)


def answers(folder):
    """The answers in a folder as one table, as any reader of Parquet sees it."""
    return pyarrow.dataset.dataset(folder, format="parquet").to_table()


def big(path, side=1500):
    """Writes an image that takes a while to read."""
    path.write_bytes(noise(side, 0))


def noise(side, seed):
    """A gray image of noise as a PNG file's bytes, about as many as it has pixels."""
    return png(np.random.default_rng(seed).integers(0, 256, (1, side, side), dtype=np.uint8))


def job_of(tmp_path, model, **other):
    """A job of features into tmp_path/out, in parts of 8."""
    how = {"batch_size": 4, "threads": 1, "invert": "auto", "place": "auto", "max_pixels": 10**6, "top_k": 2}
    about = {"model": sha256(model.path), "device": "cpu", "provider_options": {}, "image_column": None}
    given = {"out": str(tmp_path / "out"), "command": "features", "part_images": 8, "working": str(tmp_path)}
    return Job(**{"version": version("ffstudy"), "called": "m.onnx", **how, **about, **given, **other})
