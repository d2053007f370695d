"""A data set as PNG files in class folders."""

from __future__ import annotations

import shutil
from pathlib import Path

from ffcore.errors import DataError, SettingError
from ffcore.files import AnyPath, claimed, unwritten
from ffcore.images import from_array
from fftrain.config import DataSettings
from fftrain.data import file_name, load_data
from fftrain.stored import in_parts

# Images that are read at once.
DUMPED = 256


def dump_images(config: DataSettings, split: str, out: AnyPath) -> int:
    """Writes a data set as PNG files in class folders, a tree that `imagefolder:` and ffserve read.

    Args:
        config: the data set.
        split: `train`, `validation` or `test` -> OUT/CLASS/NNNNN.png; `all` -> OUT/train/CLASS/ (with validation) and
            OUT/test/CLASS/.
        out: the folder: new or empty.

    Returns:
        How many files were written.

    Raises:
        SettingError: for an unknown split.
        DataError: where the folder holds something.
        WriteError: where it cannot be written; nothing is left then.
        InUse: where another process writes the same folder.
    """
    splits = {
        "train": ["train"],
        "validation": ["validation"],
        "test": ["test"],
        "all": ["train", "validation", "test"],
    }
    if split not in splits:
        raise SettingError(f"--split is {split!r}: choose one of {', '.join(splits)}")
    out = Path(out).absolute()
    partial, count = out.with_name(f".{out.name}.partial"), 0
    with claimed(partial, called=out):
        try:
            if out.exists() and (not out.is_dir() or any(out.iterdir())):
                raise DataError(f"{out} is in use already: name a new folder")
            data, whole = load_data(config), partial / "whole"
            folders = [file_name(name) for name in data.class_names]
            shutil.rmtree(whole, ignore_errors=True)  # of a process that was killed
            for name in splits[split]:
                top = whole / ("test" if name == "test" else "train") if split == "all" else whole
                part = data.split(name)
                images = (image for read in in_parts(part.images, DUMPED) for image in read.numpy())
                for i, (image, label) in enumerate(zip(images, part.labels.tolist(), strict=True)):
                    place = top / folders[label] if folders else top
                    path = place / f"{name}-{i:05d}.png"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    from_array(image).save(path)
                    count += 1
            if out.exists():
                out.rmdir()
            whole.rename(out)
        except OSError as error:
            raise unwritten(out, error) from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return count
