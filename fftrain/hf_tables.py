"""Tables of Hugging Face's library `datasets`: of files and folders, or of the hub.

No code of a data set is run: from version 4 on the library runs none.
"""

from __future__ import annotations

import contextlib
import glob
import logging
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ffcore.errors import DataError, SettingError
from ffcore.files import says_full, unwritten
from ffcore.layout import SPLITS, TEST, TRAIN, VALIDATION
from ffcore.places import Place, is_there
from fftrain.datasets.base import REASON

# What may stand behind a name, as `,label=fine_label`.
KEYS = ("image", "label", "config", "revision", TRAIN, VALIDATION, TEST)
# How a name on the hub looks: OWNER/NAME, or NAME alone.
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".tar": "webdataset"}


def options_of(place: Place) -> dict[str, str]:
    """Returns what stands behind a name. Raises SettingError for what is no option, or there is no use for."""
    given = [part.split("=", 1) for part in place.options.split(",")[1:]]
    keys, found = [key for key, _ in given], dict(given)
    if unknown := [key for key in keys if key not in KEYS]:
        raise SettingError(f"{place}: {unknown[0]} is no option: choose among {', '.join(KEYS)}")
    if twice := [key for key in found if keys.count(key) > 1]:
        raise SettingError(f"{place}: {twice[0]} is given twice: leave one out")
    path = place.path
    if path is not None and "revision" in found:
        raise SettingError(f"{place}: revision is of a name on the hub, and this is a path: leave it out")
    if path is not None and "config" in found and (not path.is_dir() or _is_saved(path)):
        raise SettingError(f"{place}: config is of a copy of a repository, or a name on the hub: leave it out")
    return found


def loaded(place: Place, options: Mapping[str, str]) -> dict[str, Any]:
    """Returns the tables of a data set by the names of its splits."""
    path = place.path
    if path is not None and not is_there(path):
        raise DataError(f"{place} is not there: name a file, a pattern or a folder that is, or a data set on the hub")
    if path is None and not _NAME.fullmatch(place.name):
        raise SettingError(f"{place} is neither a path that is there nor a name on the hub (OWNER/NAME): write one")
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"{place} needs the library datasets: pip install 'ffstudy[hf]'") from error
    try:
        with _quiet():
            if path is None:
                found = datasets.load_dataset(place.name, options.get("config"), revision=options.get("revision"))
            else:
                found = _of_path(path, options.get("config"))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # the library and those below it raise nearly anything
        while isinstance(error, datasets.exceptions.DatasetGenerationError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # it says that there is one
        if says_full(error):
            home = Path(datasets.config.HF_DATASETS_CACHE)
            raise DataError(f"{place}: {unwritten(home, error)} with HF_HOME") from error
        said = textwrap.shorten(str(error) or type(error).__name__, REASON, placeholder=" ...", break_on_hyphens=False)
        if path is not None:
            raise DataError(f"{place} cannot be read ({said}): mend it, or name another") from error
        raise DataError(
            f"{place} is not here, and could not be had from the Hugging Face Hub ({said}): check the name and the "
            "network (HF_HUB_OFFLINE, HF_TOKEN), or name the folder that holds it"
        ) from error
    return {**found} if isinstance(found, dict) else {TRAIN: found}


def _of_path(path: Path, config: str | None) -> Any:
    """Returns what a folder, a file or the files of a pattern hold."""
    import datasets

    if path.is_dir():
        if _is_saved(path):
            return datasets.load_from_disk(str(path))
        return datasets.load_dataset(str(path), config)
    files = [str(path)] if path.exists() else sorted(glob.glob(str(path)))
    suffixes = {Path(file).suffix for file in files}
    if len(suffixes) > 1 or not suffixes <= _BUILDERS.keys():
        raise DataError(f"{path} is no {', '.join(_BUILDERS)} file: name some of one kind, or a folder")
    by_split: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", Path(file).stem.casefold())
        by_split.setdefault(next((word for word in words if word in SPLITS), TRAIN), []).append(file)
    return datasets.load_dataset(_BUILDERS[suffixes.pop()], data_files=by_split)


def _is_saved(path: Path) -> bool:
    """Whether a folder is one of `save_to_disk`."""
    return any((path / name).exists() for name in ("dataset_dict.json", "state.json"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library to itself in the block: no word of its own, bars for a person alone, no telemetry."""
    import datasets
    import huggingface_hub.constants

    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    bars = not datasets.are_progress_bars_disabled()
    loggers = {logging.getLogger(name): logging.getLogger(name).level for name in ("datasets", "huggingface_hub")}
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # what it raises says the same
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        for logger, level in loggers.items():
            logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()
