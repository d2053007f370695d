"""The settings of each command: one class is the options, the TOML keys, the checks and the record.

Nothing here loads torch before a run's parts are made.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import SkipValidation, model_validator

from ffcore.errors import SettingError
from ffcore.places import CLASSES, FOLDER, PLACES
from ffcore.settings import Part, Settings, setting
from fftrain.parts import BASELINES, EVALUATIONS, PARTS, VIEWS, make_part, placed
from fftrain.recipes import POINT, default, label

PRECISIONS = ("no", "bf16", "fp16")
# Trackers of Accelerate that write files and need no account.
TRACKERS = ("tensorboard",)
# Where images are kept that are decoded at each use.
STREAM = "stream"
DATA_DIR_HELP = "Where data sets are kept, or the run's images lie, now. [default: where they were]"
THREADS_HELP = "CPU threads of a process. [env: OMP_NUM_THREADS; default: cores by local processes]"
READING_HELP = (
    "How features are read: how pixels are filled where no label is known (FF: neutral, zeros, pixels, label:N for one "
    "label, random), or activations before they are normalised. [default: the method's]"
)


class Options(Settings):
    """Settings that are options of a command: messages name them so."""

    as_options: ClassVar[bool] = True

    def __init__(self, **values: Any) -> None:
        super().__init__(**{name: os.fspath(v) if isinstance(v, os.PathLike) else v for name, v in values.items()})


class DataSettings(Options):
    """Which images, and as what they are read; what lies on this machine is named from the root."""

    dataset: str = setting("mnist", description=f"Data set: a name, {PLACES}.")
    data_dir: str | None = setting(
        None, description="Where data sets are kept. [env: FFSTUDY_DATA; default: ~/.cache/ffstudy]"
    )
    image_size: int | None = setting(
        None, ge=2, le=4096, description="Read images as squares of this many pixels. [default: as they are]"
    )
    grayscale: bool = setting(False, description="Read images with one channel.")
    limit: int | None = setting(None, ge=1, description="Train on this many images, drawn by class. [default: all]")
    skip_bad: bool = setting(False, description="Leave out images that cannot be read, and record them.")
    data_cache: str | None = setting(
        None,
        min_length=1,
        description="Folder that keeps decoded images, for those that exceed memory; stream: decode at each use. "
        "[default: in memory]",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_the_root(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        named = {name: values[name] for name in ("dataset", "data_cache") if isinstance(values.get(name), str)}
        if "dataset" in named:
            named["dataset"] = placed(named["dataset"])
        if named.get("data_cache", STREAM) not in ("", STREAM):
            named["data_cache"] = os.path.abspath(os.path.expanduser(named["data_cache"]))
        return {**values, **named}


class RunConfig(DataSettings):
    """Settings of `fftrain pretrain`: a point of view x method x cut x backbone, on data, and how it is optimised."""

    holdout: bool = setting(
        True,
        description="Keep the validation images out of training; --no-holdout: a final run, settings chosen before.",
    )
    view: SkipValidation[Part] = setting(description="What the method sees of an image.")
    backbone: SkipValidation[Part] = setting(description="Network that is trained.")
    method: SkipValidation[Part] = setting(description="How it is trained.")
    cut: str = setting("block", description="Where gradients stop: block, stage, never, or after so many blocks.")
    at: Literal["all", "last"] = setting("all", description="Which blocks between two cuts carry a loss.")
    order: Literal["together", "greedy", "overlap"] = setting(
        "together",
        description="How units learn: all in each step, one after another, or with cuts shifted in every other step.",
    )
    epochs: int = setting(60, ge=0, description="Passes over the training images, of all units one after another too.")
    unit_epochs: tuple[Annotated[int, setting(ge=1)], ...] | None = setting(
        None, description="Those of each unit in greedy order. [default: as many for each]"
    )
    batch_size: int = setting(128, ge=1, description="Images of a step, over all processes.")
    shuffle_block: int | None = setting(
        None,
        ge=1,
        le=2**31,
        description="Shuffle blocks of so many neighbouring images, 64 blocks together, as a disk likes it. "
        "[default: all images together]",
    )
    lr: float = setting(1e-4, gt=0, description="Learning rate of Adam.")
    unit_lr: tuple[Annotated[float, setting(gt=0)], ...] | None = setting(
        None, description="That of each unit; the last stands for those that follow. [default: --lr]"
    )
    weight_decay: float = setting(0.0, ge=0, description="Decoupled weight decay (AdamW).")
    schedule: Literal["constant", "cosine", "steps"] = setting(
        "constant", description="Learning rate over a unit's epochs; steps: a quarter from 50, 75, 89, 94 % of them on."
    )
    clip: float | None = setting(None, gt=0, description="Largest norm of a unit's gradient. [default: any]")
    seed: int = setting(0, ge=0, le=2**32 - 1, description="Seed of weights and draws.")
    mixed_precision: Literal["no", "bf16", "fp16"] | None = setting(
        None, description="Precision of the matrix products. [default: the launcher's, else no]"
    )
    threads: int | None = setting(None, ge=1, le=256, description=THREADS_HELP)
    eval_images: int = setting(
        500,
        ge=1,
        description="Images of each split in the curves, each class its share; of a loss of full batches one at least.",
    )
    track: Literal["tensorboard"] | None = setting(
        None, description="Write the curves for this tracker into the run folder too."
    )

    # What a result does not depend on, and what may differ between a run and its continuation.
    RUNTIME: ClassVar[tuple[str, ...]] = ("data_dir", "data_cache", "threads", "track")
    FREE: ClassVar[tuple[str, ...]] = ("epochs", *RUNTIME)

    @model_validator(mode="before")
    @classmethod
    def _parts(cls, values: Any) -> Any:
        """Makes the parts of their names and settings."""
        if not isinstance(values, Mapping):
            return values
        given = {kind: values.get(kind, default()[kind]) for kind in PARTS}
        parts: dict[str, Any] = {k: p if isinstance(p, Part) else make_part(k, p) for k, p in given.items()}
        if not parts["method"].trains:
            values = {**values, "epochs": 0, "unit_epochs": None, "order": POINT["order"]}
        by_unit = values.get("unit_epochs")
        if isinstance(by_unit, list | tuple) and {*map(type, by_unit)} == {int} and "epochs" not in values:
            values = {**values, "epochs": sum(by_unit)}
        return {**values, **parts}

    @model_validator(mode="after")
    def _together(self) -> Self:
        """Raises SettingError where settings do not go together."""
        if self.limit is not None and not self.holdout:
            raise SettingError(f"--limit is {self.limit}, but --no-holdout trains on all images: leave one of them out")
        by_unit = ",".join(map(str, self.unit_epochs or ()))
        if by_unit and self.order != "greedy":
            raise SettingError(f"--unit-epochs is {by_unit}, and --order {self.order} has none: choose --order greedy")
        if by_unit and sum(self.unit_epochs or ()) != self.epochs:
            raise SettingError(f"--unit-epochs is {by_unit}, and --epochs {self.epochs} is not their sum: leave it out")
        if self.unit_lr is not None and self.order == "overlap":
            raise SettingError("--unit-lr is of --order together or greedy: units of overlap share an optimizer")
        if self.label in BASELINES:
            raise SettingError(f"--method {self.label!r} is what a baseline is called: give its file another name")
        return self

    @property
    def label(self) -> str:
        """What people call the method, cut and ordered so."""
        return label(self.to_dict())

    def class_names(self, shape: tuple[int, int, int], of_data: tuple[str, ...]) -> tuple[str, ...]:
        """Returns what the labels tell apart that are trained on, of images of a shape and their classes.

        Raises:
            SettingError: where view and method do not go together on them.
        """
        view: Any = self.view
        method: Any = self.method
        view.check(shape)
        needs = method.needs()
        found: tuple[str, ...] = view.class_names(of_data)
        if needs.views != view.views:
            fitting = ", ".join(name for name in VIEWS if VIEWS.load(name).views == needs.views)
            takes = f", or method.views={view.views}" if "views" in type(method).model_fields else ""
            raise SettingError(
                f"--view {view.part_name} gives {view.views} of an image where --method {method.part_name} takes "
                f"{needs.views}: choose one of {fitting}{takes}"
            )
        if needs.labels and not found:
            classes = CLASSES.get(self.dataset.partition(":")[0], CLASSES[FOLDER])
            raise SettingError(
                f"--method {method.part_name} reads labels, and {self.dataset} has no classes: choose a --view that "
                f"makes labels, a method without, or {classes}"
            )
        return found

    def continued(self, given: RunConfig) -> RunConfig:
        """Returns the settings of a run that goes on as given now, where they may differ.

        Raises:
            SettingError: where a setting given now contradicts the run's.
        """
        was, now = self.to_dict(), given.to_dict()
        for name in now:
            free = name in self.FREE and (name != "epochs" or self.order != "greedy")
            if not free and now[name] != was[name]:
                raise SettingError(f"{_differs(name, was[name], now[name])}: leave it out, or choose another --out")
        return given


class EvaluationConfig(DataSettings):
    """Settings of `fftrain evaluate`: what is measured of a run's features, of which images, and how they are read."""

    dataset: str | None = setting(  # type: ignore[assignment]
        None,
        description=f"Images that are read: a data set's name, {PLACES}. [default: what it was trained on]",
    )
    evaluation: SkipValidation[Part] = setting(description="What is measured.")
    reading: str | None = setting(None, description=READING_HELP)
    target: Literal["class", "pretext"] = setting(
        "class", description="What is told from the features: the image's class, or its pretext label."
    )
    feature_memory: float | None = setting(
        None,
        ge=0,
        description="GiB that cached features may take; more goes to a memory-mapped file. "
        "[default: half of what is free]",
    )
    threads: int | None = setting(None, ge=1, le=256, description=THREADS_HELP)

    RUNTIME: ClassVar[tuple[str, ...]] = ("data_dir", "data_cache", "threads", "feature_memory")

    @model_validator(mode="before")
    @classmethod
    def _part(cls, values: Any) -> Any:
        """Makes the evaluation of its name and settings; one that tells no labels has no target."""
        if not isinstance(values, Mapping):
            return values
        if "evaluation" not in values:
            raise SettingError(f"no evaluation is named: choose among {', '.join(EVALUATIONS)}")
        given = values["evaluation"]
        part: Any = given if isinstance(given, Part) else make_part("evaluation", given)
        return {**values, "evaluation": part, **({} if part.labels else {"target": "class"})}


def keyed(config: RunConfig | EvaluationConfig) -> dict[str, Any]:
    """Returns the settings that a result depends on, as JSON-ready values."""
    return {name: value for name, value in config.to_dict().items() if name not in config.RUNTIME}


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by one name each: those of parts as `method.threshold`, a part itself as `method.name`."""
    parts = {f"{part}.{key}": value for part in PARTS for key, value in config[part].items()}
    return {**{key: value for key, value in config.items() if key not in PARTS}, **parts}


def _differs(name: str, was: Any, now: Any) -> str:
    """Says which setting is another than that of the run to resume."""
    if name in PARTS and was["name"] == now["name"]:
        key = next(key for key in now if now[key] != was.get(key))
        return f"{name}.{key} is {now[key]}, but the run to resume has {was.get(key)}"
    if name in PARTS:
        was, now = was["name"], now["name"]
    return f"--{name.replace('_', '-')} is {now}, but the run to resume has {was}"
