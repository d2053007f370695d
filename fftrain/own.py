"""The data that a run was trained on: found where they lie now, and told from others by a digest, not by a name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from ffcore.errors import DataError, RunError
from ffcore.places import Place, is_there
from ffmodels.run import Run
from fftrain.config import DataSettings, EvaluationConfig, RunConfig
from fftrain.data import ImageData, load_data
from fftrain.parts import DATASETS, check_dataset
from fftrain.run import settings_of

Config = TypeVar("Config", bound=DataSettings)


def data_of(
    run: Run,
    data: ImageData | None = None,
    *,
    dataset: str | None = None,
    data_dir: str | None = None,
    load: Callable[[DataSettings], ImageData] = load_data,
) -> ImageData:
    """Returns what a run was trained on, under the name that the run knows it by.

    Args:
        run: the run.
        data: the data set, where it is there already.
        dataset: its name or place now, as in `found_at`.
        data_dir: likewise.
        load: what loads it.

    Raises:
        RunError, DataError, ImageError, SettingError: as `found_at`, `load_data` and `recognised` do.
    """
    if data is None:
        data = load(found_at(run.path, settings_of(run), dataset, data_dir))
    return recognised(run, data)


def to_measure(
    run: Run,
    trained: RunConfig,
    config: EvaluationConfig,
    data: ImageData | None,
    load: Callable[[DataSettings], ImageData],
) -> tuple[EvaluationConfig, ImageData]:
    """Returns the settings with the data set's name, and what a run is measured on: its own data or others.

    Its own are read as they were for training, where the settings do not say otherwise, and go by the run's name for
    them, from wherever they came.

    Args:
        run: the run.
        trained: its settings.
        config: those of what is measured; without a data set, the run's own is meant.
        data: the data set, where it is there already.
        load: what loads it.

    Raises:
        RunError, DataError, ImageError, SettingError: as `found_at`, `load_data` and `recognised` do.
    """
    config = config.changed(dataset=config.dataset or (trained.dataset if data is None else data.name))
    own = config.dataset == trained.dataset
    moved = None not in (Place.of(config.dataset or ""), Place.of(trained.dataset))
    if own or moved:
        config = config.changed(
            image_size=config.image_size or trained.image_size,
            grayscale=config.grayscale or trained.grayscale,
            skip_bad=config.skip_bad or trained.skip_bad,
            data_cache=config.data_cache or trained.data_cache,
        )
    if data is None:
        data = load(found_at(run.path, config, data_dir=config.data_dir) if own else config)
    data = recognised(run, data, other=not own)
    same = data.name == run.data["name"]
    return config.changed(dataset=trained.dataset if same else config.dataset), data


def found_at(run: Path, config: Config, dataset: str | None = None, data_dir: str | None = None) -> Config:
    """Returns settings by which a run's data set is read from where it lies now.

    Args:
        run: a run folder, for messages.
        config: settings with the data set's name or place then.
        dataset: its name or place now; None means that of then.
        data_dir: where data sets are kept now; of one named by its path, the folder itself or the one above it.

    Raises:
        RunError: where nothing leads to it: its arrays were handed over in Python.
        DataError: where it lay on this machine and is not there any more.
        SettingError: for an unknown name.
    """
    name = dataset or config.dataset
    if dataset is not None:
        check_dataset(name)
    elif (place := Place.of(name)) is None and not DATASETS.knows(name):
        raise RunError(
            f"{run} was trained on {name!r}, arrays that were handed over in Python: hand them over again there, "
            "as in evaluate_run(run, data=...)"
        )
    elif place is not None and (path := place.path) is not None:
        if data_dir is not None:
            above = Path(data_dir).expanduser()
            path = above / path.name if is_there(above / path.name) else above
        if not is_there(path):
            raise DataError(
                f"{path}, the images that {run} was trained on, is not there: say where they are now with "
                f"--dataset {place.prefix}:PATH or --data-dir"
            )
        name = str(place.at(path))
    return config.changed(dataset=name, data_dir=data_dir or config.data_dir)


def recognised(run: Run, data: ImageData, *, other: bool = False) -> ImageData:
    """Returns data under the name that a run knows them by, where they are what it was trained on.

    Args:
        run: the run.
        data: what is held against it.
        other: whether they may be another data set, of the same shape.

    Raises:
        RunError: where images have another shape than those that the run was trained on; where they have changed
            since; where they are another data set, and may not be.
    """
    trained = run.data
    if list(data.shape) != list(trained["shape"]):
        c, h, w = trained["shape"]
        raise RunError(
            f"{run.path} was trained on {c}x{h}x{w} images, but {data.name} has {'x'.join(map(str, data.shape))}: "
            f"read it as such with --image-size {h}{' --grayscale' if c == 1 else ''}"
        )
    alike = trained.get("digest") == data.held_out_digest and list(data.class_names) == trained["class_names"]
    if alike and (told := trained.get("train_digest")) and len(data.train) == trained["images"]["train"]:
        alike = told == data.train_digest  # an earlier version recorded none; others may be read for an evaluation
    if alike:
        return data if data.name == trained["name"] else replace(data, name=trained["name"])
    if data.name == trained["name"]:
        raise RunError(
            f"{data.name} has changed since {run.path} was trained on it, or the run had arrays of that name: "
            "restore it, hand them over again in Python, or train a new run"
        )
    if not other:
        raise RunError(
            f"{run.path} was trained on {trained['name']}, and {data.name} is not that: its images or classes "
            "are others; name what it was trained on, or hand that over in Python, as in evaluate_run(run, data=...)"
        )
    return data
