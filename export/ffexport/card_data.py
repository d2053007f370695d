"""The metadata of a model card, as the Hugging Face Hub reads them: YAML before its text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ffcore.errors import SettingError
from ffexport.describe import public
from ffmodels.run import Run

LIBRARY = "ffstudy"
TASKS = {True: "image-classification", False: "image-feature-extraction"}  # with classes, without
ACCURACY = "accuracy"
OTHER = "other"  # what the Hub calls a license that is not on its list
_LICENSE = re.compile(rf"(?!{OTHER}$)({OTHER}:)?[a-z0-9][a-z0-9._+-]*")


def license_of(said: str) -> str:
    """Returns a license as the Hub writes its ids, in lower case. Which ones are on its list, the Hub knows.

    Raises:
        SettingError: where it cannot be one.
    """
    found = said.lower()
    if not _LICENSE.fullmatch(found):
        raise SettingError(
            f"--license {said} is no id as the Hugging Face Hub has them: write one of its list, such as mit or "
            f"cc-by-4.0, or {OTHER}:NAME for a license that is not on it"
        )
    return found


def card_data(run: Run, manifest: Mapping[str, Any]) -> str:
    """Returns the metadata as YAML.

    The accuracies are those of the heads as they were trained; of a license is told what a person said, and of data
    sets what the Hub knows.

    Args:
        run: the run.
        manifest: what manifest.json holds.
    """
    from huggingface_hub import EvalResult, ModelCardData

    config, files = run.config, manifest["files"]
    method = public(config["method"]["name"])
    local = ["local-learning"] if config["cut"] != "never" else []
    hub = run.data.get("hub")  # runs before it was recorded have none
    results = []
    for name, about in _heads(files).items():
        data = about.get("dataset", public(run.data["name"]))
        own = data == public(run.data["name"])
        told = "class" if about.get("target", "class") == "class" else f"{public(config['view']['name'])} label"
        results += [
            EvalResult(
                task_type=TASKS[True],
                dataset_type=hub if own and hub else data,
                dataset_name=data if told == "class" else f"{data}, {told}s",
                dataset_split=split,
                metric_type=ACCURACY,
                metric_value=round(value, 4),
                metric_name=f"{ACCURACY} of {name} ({about['probe'] or about['head']})",
            )
            for split, value in about["accuracy"].items()
        ]
    license, _, license_name = (manifest.get("license") or "").partition(":")
    data = ModelCardData(
        license=license or None,
        license_name=license_name or None,
        library_name=LIBRARY,
        pipeline_tag=TASKS[any(about["class_names"] for about in files.values())],
        tags=[method, *local, public(config["backbone"]["name"]), *dict.fromkeys(f["format"] for f in files.values())],
        datasets=[hub] if hub else None,
        metrics=[ACCURACY] if results else None,
        model_name=f"{method} on {public(run.data['name'])}" if results else None,
        eval_results=results or None,
    )
    return str(data.to_yaml())


def _heads(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """Returns the first file of each head whose accuracy is known, by name: those of a head share it."""
    first: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for name, about in files.items():
        if about["accuracy"]:
            first.setdefault(about["head"], (name, about))
    return dict(first.values())
