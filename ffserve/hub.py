"""Models on the Hugging Face Hub: hf://OWNER/NAME[@REVISION][/FILE], in `huggingface_hub`'s own cache (HF_HOME)."""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ffcore.errors import HubError, HubUnreachable, ModelNotFound, UsageError
from ffcore.hub import HUB, asking
from ffserve import notes
from ffserve.metadata import MANIFEST

_NAMED = re.compile(rf"{HUB}(?P<name>[^/@]+/[^/@]+)(?:@(?P<revision>[^/@]+))?(?:/(?P<file>.+))?")
# What is taken where no file is named, if it is there: as in a folder, and not the others too.
_FIRST = ("export/model.onnx", "model.onnx")
_SUFFIX = ".onnx"
# A repository's card.
CARD = "README.md"


def located(named: str, *, every: bool = False) -> Path:
    """Returns where the file or folder lies on this machine that a person named; what is on the Hub is fetched.

    Where the Hub does not answer, what the cache has of it is taken, and said; what it refuses is refused.

    Args:
        named: a path, or hf://OWNER/NAME[@REVISION][/FILE].
        every: of a repository, whether all its models are wanted, and not only the one that is taken of several.

    Raises:
        HubError: where it cannot be had from the Hub and is not in the cache.
        ModelNotFound: where a repository has no such .onnx file.
        UsageError: where what follows hf:// names none.
    """
    if not named.startswith(HUB):
        return Path(os.path.expanduser(named))  # which leaves ~unknown as it is
    found = _NAMED.fullmatch(named)
    if found is None:
        raise UsageError(f"{named} names no model on the Hub: write {HUB}OWNER/NAME[@REVISION][/FILE]")
    file = found["file"]
    if file is not None and (not file.endswith(_SUFFIX) or ".." in PurePosixPath(file).parts):
        raise UsageError(f"{named} names no {_SUFFIX} file: of the Hub no others are taken, they may hold code")
    try:
        with asking(named):
            from huggingface_hub import HfApi

            HfApi().model_info(found["name"], revision=_revision(found))
    except HubUnreachable as error:
        why = str(error).removeprefix(f"{named}: ")
        try:
            folder, path = _taken(found, every, cached=True)
        except (HubError, ModelNotFound):
            raise HubUnreachable(f"{named}: it is not in the cache, and {why}") from error
        notes.note(f"{named}: commit {folder.name[:12]} is taken from the cache, since {why}")
        return path
    return _taken(found, every)[1]


def _taken(found: re.Match[str], every: bool, *, cached: bool = False) -> tuple[Path, Path]:
    """Returns the folder of a repository in the cache, and what is taken of it, as `located` does."""
    named, file = found.string, found["file"]
    if file is not None:
        folder = _fetched(found, [file, (PurePosixPath(file).parent / MANIFEST).as_posix()], cached)
        if not (folder / file).is_file():
            raise ModelNotFound(f"{named} does not exist: the repository has no such file")
        return folder, folder / file
    if not every:
        folder = _fetched(found, [*_FIRST, f"*{MANIFEST}"], cached)
        if any((folder / name).is_file() for name in _FIRST):
            return folder, folder
    folder = _fetched(found, [f"*{_SUFFIX}", f"*{MANIFEST}"], cached)
    if not any(folder.rglob(f"*{_SUFFIX}")):
        raise ModelNotFound(f"{named} has no {_SUFFIX} file: `ffexport RUN --push-to-hub OWNER/NAME` uploads one")
    return folder, folder


def _revision(found: re.Match[str]) -> str | None:
    return None if found["revision"] is None else unquote(found["revision"])


def _fetched(found: re.Match[str], patterns: list[str], cached: bool) -> Path:
    """Returns the folder of a repository in the cache, with its card and the files that match, of those that it has."""
    with asking(found.string):
        from huggingface_hub import snapshot_download

        return Path(
            snapshot_download(
                found["name"],
                revision=_revision(found),
                allow_patterns=[*patterns, CARD],
                local_files_only=cached,
            )
        )


def in_cache(path: Path) -> Path | None:
    """Returns the repository's folder in the cache of the Hub that a file lies in; None of others."""
    for folder in path.parents:  # models--OWNER--NAME/snapshots/COMMIT/FILE, where FILE is a link
        if folder.name == "snapshots" and folder.parent.name.startswith("models--"):
            return folder.parent
    return None


def called(path: Path) -> Path:
    """Returns a model's path as it is called after: of what lies in the cache of the Hub, OWNER/NAME/FILE."""
    folder = in_cache(path)
    return path.resolve() if folder is None else Path(*folder.name.split("--")[1:], path.name)
