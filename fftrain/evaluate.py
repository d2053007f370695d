"""What is measured of a run: its frozen features, beside the pixels and the features of the untrained network.

RUN/evaluations/NAME-DIGEST.jsonl holds each evaluation, the digest being of settings, weights and data: what is there
is done. What is measured anew with other settings takes the place of what it was before.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list, gather_object

from ffcore.errors import FFStudyError, RunError, SettingError, is_out_of_memory
from ffcore.files import AnyPath, read_json, replacing, write_json
from ffcore.places import Place
from ffmodels.encoder import Encoder
from ffmodels.evaluated import ABOUT, FOLDER, Evaluated, Record, check, evaluations, read
from ffmodels.run import Run, weights_digest
from fftrain.config import EvaluationConfig, RunConfig, keyed
from fftrain.data import ImageData, data_folder, digest_of, file_name
from fftrain.evaluations.base import Evaluation, Subject
from fftrain.features import choices, feature_memory, name_of
from fftrain.launcher import make_accelerator
from fftrain.loading import load_together, main_first, pretext_data, view_of
from fftrain.own import to_measure
from fftrain.parts import RANDOM, RAW
from fftrain.progress import Reporter
from fftrain.run import RunFolder, describe, settings_of


def evaluate_run(
    run: AnyPath,
    *configs: EvaluationConfig,
    accelerator: Accelerator | None = None,
    data: ImageData | None = None,
    baselines: AnyPath | None = None,
    reporter: Reporter | None = None,
) -> list[Evaluated]:
    """Measures a run's frozen network, and beside it the pixels and the network before training.

    Features are computed once for all evaluations of the same images. Several processes share out the blocks: every
    process calls this, and the figures are those of one.

    Args:
        run: a run folder.
        configs: evaluations, each with the images that it is of.
        accelerator: devices and processes; None makes one.
        data: the data set of all of them, where it is loaded already. What the run was trained on counts as that under
            any name.
        baselines: a folder that keeps what was measured of pixels and untrained networks, so that runs which share
            them measure them once.
        reporter: what a person sees.

    Returns:
        Each evaluation as its file holds it, in the order of `configs`.

    Raises:
        SettingError, DataError, ImageError, RunError: as the parts that read the run and the data do.
        RunError: where features that exceed the memory do not fit on the run folder's disk either.
        InUse: where another process works in the run folder.
    """
    measured = Run.load(run)  # a claim makes folders: not where there is no run
    trained = settings_of(measured)
    accelerator = accelerator or make_accelerator(configs[0].threads if configs else None)
    rows = None if baselines is None else Path(baselines)
    found: dict[int, Evaluated] = {}
    with RunFolder(run).claimed(accelerator):
        for place in dict.fromkeys(_place(config) for config in configs):
            of_place = {i: config for i, config in enumerate(configs) if _place(config) == place}
            measuring = _Measuring(
                measured, trained, [*of_place.values()], accelerator, data, rows, reporter or Reporter()
            )
            found |= dict(zip(of_place, measuring.run(), strict=True))
    return [found[i] for i in range(len(configs))]


def _place(config: EvaluationConfig) -> str:
    """Returns what evaluations have in common that are of the same features."""
    return json.dumps({k: v for k, v in config.to_dict().items() if k != "evaluation"}, sort_keys=True)


class _Measuring:
    """Evaluations of one run on the same images, read in the same way."""

    def __init__(
        self,
        run: Run,
        trained: RunConfig,
        configs: Sequence[EvaluationConfig],
        accelerator: Accelerator,
        data: ImageData | None,
        baselines: Path | None,
        reporter: Reporter,
    ) -> None:
        self.measured, self.accelerator, self.reporter, self.baselines = run, accelerator, reporter, baselines
        self.source = trained.label
        encoder = self.measured.encoder(configs[0].reading)
        training = any(_part(config).training for config in configs)
        load = partial(load_together, accelerator=accelerator, reporter=reporter, training=training, notes=False)
        config, data = to_measure(run, trained, configs[0], data, load)
        for text in data.notes if data.name != trained.dataset else ():
            reporter.note(text)
        self.plain = data
        if config.target == "pretext":
            data = pretext_data(self.measured, data)
        self.data = data
        named = {"dataset": config.dataset, "reading": encoder.reading}
        read_as = {key: getattr(config, key) for key in ("image_size", "grayscale", "skip_bad")}
        self.configs = [config.changed(**named, **read_as) for config in configs]
        self.sources: dict[str, Encoder | None] = {RAW: None}
        if self.measured.method.trains:
            self.sources[RANDOM] = self.measured.encoder(encoder.reading, untrained=True)
        self.sources[self.source] = encoder
        asked = "" if config.target == "class" else f"-{file_name(trained.view.part_name)}"
        self.probes = run.path / "probes" / f"{place_name(data.name)}-{file_name(encoder.reading)}{asked}"
        self.weights = weights_digest(run.path)
        self.place: dict[str, str] = {"dataset": data.name, "reading": encoder.reading, "target": config.target}
        self.folder = data_folder(self.configs[0])
        for config in self.configs:
            self._check(config)
            with main_first(accelerator):
                _part(config).fetch(self.folder)

    def _check(self, config: EvaluationConfig) -> None:
        if _part(config).labels and not self.data.class_names:
            made = ", or on what the view makes (--target pretext)" if view_of(self.measured).pretext else ""
            raise SettingError(
                f"{self.data.name} has no classes to tell apart: evaluate {_part(config).called} on a labelled data "
                f"set of this shape (--dataset){made}"
            )
        encoder = self.sources[self.source]
        assert encoder is not None
        _part(config).check_facts(self.data.facts, len(encoder.dims))
        _part(config).check(self.measured, self.data, self.place["reading"])

    def run(self) -> list[Evaluated]:
        """Measures what is not there yet, and returns all of it."""
        evaluations(self.measured.path)  # a damaged file is refused before anything is measured
        begun = [self._begun(config) for config in self.configs]
        if self.accelerator.num_processes > 1:
            begun = broadcast_object_list(begun)
        found = {i: one for i, one in enumerate(begun) if one.whole}
        todo = {i: one for i, one in enumerate(begun) if not one.whole}
        memory = feature_memory(self.configs[0].feature_memory) / self.accelerator.num_processes
        records: dict[int, list[Record]] = {i: [] for i in todo}
        seconds = dict.fromkeys(todo, 0.0)
        for source, encoder in self.sources.items():
            with ExitStack() as held:
                subject = Subject(
                    run=self.measured,
                    source=source,
                    encoder=None if encoder is None else encoder.to(self.accelerator.device),
                    data=self.data,
                    target=self.place["target"],
                    accelerator=self.accelerator,
                    reporter=self.reporter,
                    memory=memory,
                    probes=self.probes,
                    about={**self.place, "backbone_sha256": self.weights, "class_names": [*self.data.class_names]},
                    held=held,
                    folder=self.folder,
                )
                for i, one in todo.items():
                    began = time.perf_counter()
                    for record in self._records(self.configs[i], subject):
                        records[i].append({**{k: one.about[k] for k in ABOUT}, "source": source, **record})
                    seconds[i] += time.perf_counter() - began
                    if subject.trained:
                        about = {**one.about, "value": seconds[i]}
                        found[i] = self._write(Evaluated(path=one.path, about=about, records=records[i]), subject)
        if lost := [one.name for one in found.values() if not one.path.exists()]:
            raise SettingError(
                f"{lost[0]} is asked for with several settings, of which the last is kept: ask for one at a time"
            )
        return [found[i] for i in range(len(self.configs))]

    def _begun(self, config: EvaluationConfig) -> Evaluated:
        """Returns an evaluation as it is there, or without records."""
        settings, depends = keyed(config), _part(config).depends(self.folder)
        about = {
            "measure": "seconds",
            "evaluation": _part(config).called,
            **self.place,
            **_part(config).place(self.place["dataset"], config.target),
            "settings": settings,
            "data": self.plain.held_out_digest,
            **({"training": self.training} if _part(config).training else {}),
            "weights": self.weights,
            **({"depends": dict(depends)} if depends else {}),
        }
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        path = self.measured.path / FOLDER / f"{_part(config).called}-{digest}.jsonl"
        if path.is_file():
            kept = read(path)
            if kept.whole:
                return kept
        return Evaluated(path=path, about=about, records=())

    def _records(self, config: EvaluationConfig, subject: Subject) -> list[Record]:
        """Returns what an evaluation tells of a subject, from all processes, in the order of the blocks."""
        part, subject.arrays, subject.files = _part(config), {}, []
        if not subject.trained and not part.baselines:
            return []
        kept, path = self._kept(config, subject.source) if not subject.trained else (None, None)
        if self.accelerator.num_processes > 1:
            [kept] = broadcast_object_list([kept])
        if kept is not None:
            return kept
        try:
            records: list[Any] = list(part.measure(subject))
        except Exception as error:
            if not (isinstance(error, FFStudyError) or is_out_of_memory(error)):
                raise
            records = [error]
        if self.accelerator.num_processes > 1:
            records = gather_object(records)
        for record in records:  # of all processes, so that all of them end alike
            if isinstance(record, Exception):
                raise record
            try:
                check(record)
            except (ValueError, KeyError, TypeError) as error:
                raise SettingError(
                    f"evaluation {part.called} gave a record that is not of a number ({error}): nothing of it is kept"
                ) from error
        order = {name_of(blocks): i for i, blocks in enumerate(choices(subject.encoder))}
        records.sort(key=lambda record: order.get(record.get("blocks", ""), -1))
        if path is not None and self.accelerator.is_main_process:
            write_json(path, {"of": self._shared(config, subject.source), "records": records})
        return records

    @cached_property
    def training(self) -> str:
        """A digest of the training images and their labels."""
        return digest_of(self.plain.train)

    def _shared(self, config: EvaluationConfig, source: str) -> dict[str, Any]:
        """Returns all that the figures of a baseline depend on."""
        key: dict[str, Any] = {
            "source": source,
            "ffstudy": version("ffstudy"),
            "data": describe(self.data),
            "training": self.training,
            "depends": dict(_part(config).depends(self.folder)),
            "settings": {name: value for name, value in keyed(config).items() if name != "reading"},
        }
        if source == RANDOM:
            reading = config.reading
            # No pixel is filled, whatever the labels.
            classes = None if reading == "pixels" else len(self.measured.classes)
            own: dict[str, Any] = {key: self.measured.config[key] for key in ("backbone", "seed")}
            own["trained_on"] = self.measured.data["digest"]  # of whose samples statistics of a batch are
            key |= {**own, "reading": reading, "classes": classes}
        return key

    def _kept(self, config: EvaluationConfig, source: str) -> tuple[list[Record] | None, Path | None]:
        """Returns what is kept of a baseline, None where nothing is or its file is damaged, and where it is kept."""
        if self.baselines is None:
            return None, None
        key = self._shared(config, source)
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        path = self.baselines / f"{source}-{_part(config).called}-{digest[:16]}.json"
        try:
            kept = read_json(path)
            for record in kept["records"]:
                check(record)
            return (kept["records"] if kept["of"] == key and kept["records"] else None), path
        except (RunError, TypeError, KeyError, ValueError):
            return None, path

    def _write(self, found: Evaluated, subject: Subject) -> Evaluated:
        """Writes an evaluation, deletes those whose place it takes, and returns it with the files that belong to it."""
        parts = [(subject.arrays, subject.files)]
        if self.accelerator.num_processes > 1:
            parts = gather_object(parts)
        arrays = {name: array for one, _ in parts for name, array in one.items()}
        files = [file for _, of in parts for file in of]
        if arrays:
            files.append(found.arrays.relative_to(self.measured.path).as_posix())
        found = replace(found, about={**found.about, **({"files": sorted(files)} if files else {})})
        if self.accelerator.is_main_process:
            RunFolder(self.measured.path).check_there()
            if arrays:
                with replacing(found.arrays) as partial, partial.open("wb") as file:
                    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
            found.write()
            said = {_what(record) for record in found.records}
            for other in evaluations(self.measured.path):
                if other.path == found.path or other.name != found.name:
                    continue
                rest = [record for record in other.records if _what(record) not in said]
                if len(rest) == len(other.records):
                    continue
                kept = other.path.with_name(f"{other.path.stem.removesuffix('-rest')}-rest.jsonl")
                if rest and "files" not in other.about:  # what was not asked now stays, by a name that no digest has
                    replace(other, path=kept, about={**other.about, "rest": True}, records=rest).write()
                if other.path != kept or not rest:
                    other.path.unlink()
                    other.arrays.unlink(missing_ok=True)
        self.accelerator.wait_for_everyone()
        return found


def _part(config: EvaluationConfig) -> Evaluation:
    assert isinstance(config.evaluation, Evaluation)
    return config.evaluation


def _what(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what a record is of: two of the same are not both right."""
    return tuple(record.get(key) for key in (*ABOUT[1:], "measure", "split", "source", "blocks"))


def place_name(dataset: str) -> str:
    """Returns a data set's name as a folder's; those of one name are told apart by a digest of where they lie."""
    digest = f"-{hashlib.sha256(dataset.encode()).hexdigest()[:6]}" if Place.of(dataset) else ""
    return file_name(dataset) + digest
