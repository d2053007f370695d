"""The settings of each command: one dataclass is the options, the TOML keys, the checks and the record.

A `setting` carries its help text and its legal values; a dataclass made with another value raises
SettingError, which names the setting, the value and what is legal.
"""

from __future__ import annotations

import math
import os
import tomllib
import types
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Self, get_args, get_type_hints

from ffcore.errors import SettingError
from ffmodels.registry import BACKBONES, FOLDER, GOODNESS, NORMALISATIONS, SLOTS
from fftrain.registry import METHODS, TASKS, check_task, task_of

PRECISIONS = ("no", "bf16", "fp16")
# Trackers of Accelerate that write files and need no account.
TRACKERS = ("tensorboard",)
DATA_DIR_HELP = "Where data sets are kept, or the run's images lie, now. [default: where they were]"
THREADS_HELP = "CPU threads of a process. [env: OMP_NUM_THREADS; default: cores by local processes]"


def setting(
    default: Any,
    help: str,
    *,
    legal: Collection[str] = (),
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
) -> Any:
    """A dataclass field with a help text and its legal values (names, or a range of numbers)."""
    return field(
        default=default,
        metadata={"help": help, "legal": legal, "least": least, "above": above, "most": most},
    )


def option_name(name: str) -> str:
    """Returns how a setting is written on the command line."""
    return "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen, checked set of settings."""

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for f in fields(self):
            object.__setattr__(self, f.name, _checked(f.name, getattr(self, f.name), hints[f.name], f.metadata))

    @classmethod
    def from_values(cls, values: Mapping[str, Any], source: str) -> Self:
        """Makes the settings from a mapping; SettingError names unknown keys and where they came from."""
        known = {f.name for f in fields(cls)}
        for key in values:
            if key not in known:
                raise SettingError(
                    f"{source}: {key!r} (set to {values[key]!r}) is no setting: choose among {', '.join(sorted(known))}"
                )
        try:
            return cls(**values)
        except SettingError as error:
            raise SettingError(f"{source}: {error}" if source else str(error)) from error


def _checked(name: str, value: Any, hint: Any, rule: Mapping[str, Any]) -> Any:
    """Returns the value as the type it should have, or raises SettingError."""
    kinds = get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if value is None and type(None) in kinds:
        return None
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if float in kinds and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not any(type(value) is kind for kind in kinds):
        wanted = " or ".join(
            {"str": "text", "int": "a whole number", "float": "a number"}.get(k.__name__, "true or false")
            for k in kinds
            if k is not type(None)
        )
        raise SettingError(f"{option_name(name)} is {value!r}: it must be {wanted}")
    if rule["legal"] and value not in rule["legal"]:
        raise SettingError(f"{option_name(name)} is {value!r}: choose one of {', '.join(rule['legal'])}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        bounds = [
            (rule["least"] is None or value >= rule["least"], f"at least {rule['least']}"),
            (rule["above"] is None or value > rule["above"], f"above {rule['above']}"),
            (rule["most"] is None or value <= rule["most"], f"at most {rule['most']}"),
            (math.isfinite(value), "finite"),
        ]
        for holds, words in bounds:
            if not holds:
                raise SettingError(f"{option_name(name)} is {value}: it must be {words}")
    return value


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """Which images, and as what they are read. A folder of images is named from the root, so that it is found anywhere.

    Raises:
        SettingError: for a value that is not legal.
    """

    dataset: str = setting("mnist", "Data set: a name, or imagefolder:PATH with class folders.")
    data_dir: str | None = setting(None, "Where data sets are kept. [env: FFSTUDY_DATA; default: ~/.cache/ffstudy]")
    image_size: int | None = setting(
        None, "Read images as squares of this many pixels. [default: as they are]", least=2, most=4096
    )
    grayscale: bool = setting(False, "Read images with one channel.")
    limit: int | None = setting(None, "Train on this many images, drawn by class. [default: all]", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dataset is not None:
            object.__setattr__(self, "dataset", placed(self.dataset))


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(DataConfig):
    """Settings of `fftrain pretrain`; the defaults are the study's, where it states them.

    Raises:
        SettingError: for a value that is not legal.
    """

    task: str = setting(None, "Pretext task. [default: rotation; ff-unsupervised: hybrid]", legal=TASKS)
    method: str = setting("ff", "How the backbone is trained.", legal=METHODS)
    holdout: bool = setting(
        True, "Keep the validation images out of training; --no-holdout: a final run, its settings chosen before."
    )
    goodness: str = setting("sum_squares", "Goodness of a layer (all but bp).", legal=GOODNESS)
    threshold: float | None = setting(
        None,
        "Threshold theta of the goodness. [default: width for sum_squares, sqrt(width) for norm, 1 for mean_squares]",
    )
    backbone: str = setting("mlp", "Network that is trained.", legal=BACKBONES)
    width: int = setting(2000, "Units of a layer.", least=1, most=1_000_000)
    depth: int = setting(4, "Number of layers.", least=1, most=10_000)
    normalisation: str = setting("rms", "How a layer normalises its input.", legal=NORMALISATIONS)
    epochs: int = setting(60, "Passes over the training images.", least=1)
    batch_size: int = setting(128, "Images of a step, over all processes.", least=1)
    lr: float = setting(1e-4, "Learning rate of Adam, constant.", above=0)
    weight_decay: float = setting(0.0, "Decoupled weight decay (AdamW).", least=0)
    seed: int = setting(0, "Seed of weights and draws.", least=0, most=2**32 - 1)
    mixed_precision: str | None = setting(
        None, "Precision of the matrix products. [default: the launcher's, else no]", legal=PRECISIONS
    )
    threads: int | None = setting(None, THREADS_HELP, least=1, most=256)
    eval_images: int = setting(500, "Images of each split in the curves, each class its share.", least=1)

    track: str | None = setting(None, "Write the curves for this tracker into the run folder too.", legal=TRACKERS)

    # What may differ between a run and its continuation.
    FREE = ("epochs", "threads", "data_dir", "track")

    def __post_init__(self) -> None:
        if self.task is None:
            known = isinstance(self.method, str) and self.method in METHODS
            object.__setattr__(self, "task", task_of(self.method if known else "ff"))
        super().__post_init__()
        check_task(self.method, self.task)
        if self.limit is not None and not self.holdout:
            raise SettingError(f"--limit is {self.limit}, but --no-holdout trains on all images: leave one of them out")


@dataclass(frozen=True, kw_only=True)
class ProbeConfig(DataConfig):
    """Settings of `fftrain probe`.

    Raises:
        SettingError: for a value that is not legal.
    """

    dataset: str | None = setting(  # type: ignore[assignment]
        None, "Data set to probe on: a name, or imagefolder:PATH. [default: the one it was pretrained on]"
    )
    slot: str | None = setting(
        None, "What the label pixels hold. [default: neutral where the backbone saw labels, else pixels]", legal=SLOTS
    )
    target: str = setting(
        "class", "What is told from the features: the image's class, or its pretext label.", legal=("class", "pretext")
    )
    standardise: bool = setting(True, "Standardise each feature by the training split before the probe.")
    epochs: int = setting(100, "Passes over the cached features.", least=1)
    batch_size: int = setting(256, "Feature rows of a step.", least=1)
    seed: int = setting(0, "Seed of the order of the rows.", least=0, most=2**32 - 1)
    feature_memory: float | None = setting(
        None,
        "GiB that cached features may take; more goes to a memory-mapped file. [default: half of what is free]",
        least=0,
    )
    threads: int | None = setting(None, THREADS_HELP, least=1, most=256)


@dataclass(frozen=True, kw_only=True)
class AnalysisConfig(Settings):
    """Settings of `fftrain analyse`.

    Raises:
        SettingError: for a value that is not legal.
    """

    slot: str | None = setting(
        None, "What the label pixels hold. [default: neutral where the backbone saw labels, else pixels]", legal=SLOTS
    )
    images: int = setting(10_000, "Training images that a decoder is fitted on.", least=10)
    points: int = setting(1000, "Validation images of the t-SNE embedding; 0 leaves it out.", least=0, most=20_000)
    perplexity: float = setting(30.0, "Perplexity of t-SNE.", above=0)
    seed: int = setting(0, "Seed of t-SNE.", least=0, most=2**32 - 1)
    data_dir: str | None = setting(None, DATA_DIR_HELP)
    threads: int | None = setting(None, THREADS_HELP, least=1, most=256)


def placed(dataset: str) -> str:
    """Returns a data set's name, of an image folder from the root."""
    path = dataset.removeprefix(FOLDER)
    return dataset if path in (dataset, "") else FOLDER + os.path.abspath(os.path.expanduser(path))


def read_toml(path: Path, option: str = "--config") -> dict[str, Any]:
    """Reads settings from a TOML file.

    Raises:
        SettingError: where the file is missing or is not TOML; it names the option that gave the path.
    """
    try:
        return underscored(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise SettingError(f"{option} {path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise SettingError(f"{option} {path} is not TOML: {error}") from error


def underscored(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings under their own names: keys may be written as options are, with - or _."""
    return {key.replace("-", "_"): value for key, value in values.items()}


def continued(config: PretrainConfig, given: Mapping[str, Any]) -> PretrainConfig:
    """Returns the settings of a run that goes on, with those given now where they may differ.

    Raises:
        SettingError: where a setting given now contradicts the run's.
    """
    for key, value in given.items():
        was = getattr(config, key)
        if key not in PretrainConfig.FREE and value != was:
            raise SettingError(
                f"{option_name(key)} is {value}, but the run to resume has {was}: leave it out, or choose another --out"
            )
    return replace(config, **{key: value for key, value in given.items() if key in PretrainConfig.FREE})
