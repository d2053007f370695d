"""An export on the Hugging Face Hub: what is uploaded, and what is told there of the run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

from ffcore.errors import HubError
from ffcore.files import AnyPath, claimed
from ffcore.hub import LOG_IN, asking
from ffexport.describe import public, public_settings
from ffexport.manifest import read_before
from ffexport.registry import CARD
from ffmodels.run import BACKBONE_FILE, CONFIG_FILE, HEADS_FILE, Run
from ffserve.metadata import MANIFEST, SUFFIXES

OPTION = "--push-to-hub"
# What the Hub shows of a repository.
README = "README.md"
# Of config.json, what tells how the weights are read and what they learned from; not where, by whom, on what machine.
TOLD = ("layout", "classes", "versions")
TOLD_OF_DATA = ("shape", "class_names", "images", "digest", "hub")


def check_push(name: str) -> None:
    """Holds a repository's name against the Hub's rules, and looks for what an upload needs; asks nobody.

    Raises:
        UsageError: where the name is not legal.
        HubError: where there is no token, or HF_HUB_OFFLINE keeps the Hub from being asked.
    """
    what = f"{OPTION} {name}"
    with asking(what):
        from huggingface_hub import constants, get_token, hf_hub_url

        hf_hub_url(name, README)  # which asks nobody
        token = get_token()
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{what} needs the network, and HF_HUB_OFFLINE keeps the Hub from being asked: unset it")
    if token is None:
        raise HubError(f"{what} needs a token: {LOG_IN}")


def push(run: AnyPath, out: AnyPath, name: str, *, private: bool = False, revision: str | None = None) -> str:
    """Uploads an export in one commit, and makes the repository where there is none.

    There go the files of the manifest, it and the card, as README.md; and with what `ffmodels.load_encoder` reads the
    run's weights and its settings, without what they say of this machine. No image of the run does. Files of an earlier
    export that are no more go from there.

    Args:
        run: the run folder.
        out: where it was exported to.
        name: OWNER/NAME, or NAME for a repository of one's own.
        private: whether a repository that is new is for its owner alone.
        revision: a branch, which is made where there is none; None means `main`.

    Returns:
        The URL of what was uploaded.

    Raises:
        HubError: where the Hub refuses or cannot be reached; the export is as it was.
        UsageError: where the name is not legal.
        RunError, InUse: where the run or the export is damaged, or in use.
    """
    out, what = Path(out), f"{OPTION} {name}"
    check_push(name)
    with claimed(out):
        added = dict(_uploaded(Run.load(run), out))
        version = read_before(out)["version"]
        with asking(f"{what} ({out} is whole)"):
            from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, ModelCard

            try:
                ModelCard.load(out / CARD).validate()  # before anything is made there
            except ValueError as error:
                wrong = "; ".join(each["message"] for each in json.loads(str(error))["errors"])
                raise HubError(f"{what}: the Hub refuses what {CARD} says: {wrong}") from error
            api = HfApi()
            made = api.create_repo(name, private=private or None, exist_ok=True)
            if revision is not None:
                api.create_branch(made.repo_id, branch=revision, exist_ok=True)
            there = api.list_repo_files(made.repo_id, revision=revision)
            gone = [path for path in there if path not in added and _is_exported(path)]
            api.create_commit(
                made.repo_id,
                [
                    *(CommitOperationAdd(path_in_repo=path, path_or_fileobj=source) for path, source in added.items()),
                    *(CommitOperationDelete(path_in_repo=path) for path in gone),
                ],
                commit_message=f"Export of ffstudy {version}",
                revision=revision,
            )
    return f"{made}/tree/{quote(revision, safe='')}" if revision else str(made)


def _uploaded(run: Run, out: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Yields what is uploaded: its place there, and the file or the content."""
    yield README, out / CARD
    yield MANIFEST, out / MANIFEST
    for name in read_before(out)["files"]:
        yield name, out / name
    yield BACKBONE_FILE, run.path / BACKBONE_FILE
    if (run.path / HEADS_FILE).is_file():
        yield HEADS_FILE, run.path / HEADS_FILE
    yield CONFIG_FILE, (json.dumps(public_record(run), indent=2) + "\n").encode()


def public_record(run: Run) -> dict[str, Any]:
    """Returns what config.json tells others: enough for `Run.load`."""
    return {
        **{key: run.record[key] for key in TOLD if key in run.record},
        "config": public_settings(run.config),
        "data": {
            "name": public(run.data["name"]),
            **{key: run.data[key] for key in TOLD_OF_DATA if key in run.data},
        },
    }


def _is_exported(path: str) -> bool:
    """Whether a file of a repository has the name of an export, or of a run's heads."""
    return path == HEADS_FILE or (path.startswith("model.") and PurePosixPath(path).suffix in SUFFIXES.values())
