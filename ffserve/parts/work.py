"""What a session on a cluster does for a part: what the plain command does, into the part's file. It knows no Ray."""

from __future__ import annotations

import hashlib
import json
import socket
from contextlib import suppress
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from pyarrow.parquet import read_metadata

from ffcore.errors import DataError, FFStudyError, ImageError, ModelError, RunError
from ffserve.account import Account
from ffserve.parquet import writing
from ffserve.parts.answers import ANSWERS
from ffserve.parts.finding import Ref
from ffserve.parts.job import INPUTS, MODEL, Job, key_of, part_name, refs_of
from ffserve.parts.reading import items
from ffserve.parts.seal import UNSEALED, is_whole, seal
from ffserve.parts.storage import Folder, said
from ffserve.session import Model
from ffserve.stream import Batch, stream

KEY = "ffstudy"  # of what a part's file says of itself


class Session:
    """A model that answers parts of a job, loaded for the first that is not there yet.

    Args:
        job: what is done.
        run: of which command, see `Folder`.
    """

    def __init__(self, job: Job, run: str = "") -> None:
        self.job, self.folder = job, Folder(job.out, run)
        self._model: Model | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answers the part of a number and a key, which are the row's, unless it is there.

        Returns:
            {"said": JSON}: what became of the part as `answered` returns it, or {"failed", "exit_code"}.
        """
        try:
            return {"said": json.dumps(self.answered(row["number"], row["key"]))}
        except FFStudyError as error:
            return {"said": json.dumps({"failed": str(error), "exit_code": error.exit_code})}
        except OSError as error:
            return {"said": json.dumps({"failed": f"{self.job.out}: {said(error)}", "exit_code": 1})}

    def answered(self, number: int, key: str) -> dict[str, Any]:
        """Answers a part unless it is there.

        Args:
            number: of the part.
            key: of its answers, see `key_of`.

        Returns:
            {"images": how many it has, "kept": whether it was there, "account", "sums": as JSON, "key",
            "again": whether an image could not be read for a reason that may pass}.

        Raises:
            RunError: where this node does not see the folder, or has another version; where the folder was changed.
            FFStudyError: where a storage does not answer.
        """
        if (there := self._there(part_name(number), key)) is not None:
            return {**there, "kept": True}
        model = self._loaded()
        answers, account = ANSWERS[self.job.command](model, self.job), Account()
        refs = self._inputs(number, key)
        did = {"images": len(refs), "key": key, "again": False}

        def told() -> dict[str, str]:
            did.update(account=account.state(), sums=answers.sums())
            return {KEY: json.dumps(did), **UNSEALED}

        batches = stream(
            model,
            items(refs, self.job.image_column, self.job.working),
            batch_size=self.job.batch_size,
            invert=self.job.invert,
            place=self.job.place,
            max_pixels=self.job.max_pixels,
            workers=self.job.threads,
        )

        with self.folder.writing(part_name(number)) as path:
            with writing(path, answers.schema, repeated=answers.repeated, about=told) as write:
                for batch in batches:
                    did["again"] = did["again"] or _may_pass(batch)
                    write(answers.rows(batch, account))
            seal(path)
        return {**did, "kept": False}

    def _there(self, name: str, key: str) -> dict[str, Any] | None:
        """Returns what became of a part that was answered before.

        None where it was not, where its images have changed since, where some could not be read for a reason that may
        pass, or where its file is damaged.
        """
        try:
            with self.folder.system.open(self.folder.at(name), "rb") as file:
                told: dict[str, Any] = json.loads(read_metadata(file).metadata[KEY.encode()])
                if told["key"] != key or told["again"] or not is_whole(file):
                    return None
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        return told

    def _inputs(self, number: int, key: str) -> list[Ref]:
        """Returns the images of a part. Raises RunError where they are not those of its key."""
        with suppress(DataError):
            refs = refs_of(self.folder, number)
            if key_of(self.job, refs) == key:
                return refs
        raise self._changed(f"{INPUTS}/{part_name(number)}")

    def _changed(self, name: str) -> RunError:
        return RunError(f"{self.folder.name}/{name} was changed meanwhile: the same command writes it anew")

    def _loaded(self) -> Model:
        if self._model is None:
            here, node = version("ffstudy"), socket.gethostname()
            if here != self.job.version:
                raise RunError(f"node {node} has ffstudy {here}, and this machine {self.job.version}: install the same")
            content = self.folder.read(MODEL)
            if content is None:
                raise RunError(f"node {node} does not see {self.job.out}: name an --out on storage that all share")
            if hashlib.sha256(content).hexdigest() != self.job.model:
                raise self._changed(MODEL)
            try:
                self._model = Model(
                    content,
                    threads=self.job.threads,
                    device=self.job.device,
                    provider_options=self.job.provider_options or None,
                    spinning=False,
                )
            except ModelError as error:
                raise type(error)(f"node {node}: {error}") from error
        return self._model


def _may_pass(batch: Batch) -> bool:
    """Returns whether an image could not be read because of what it is on, or of memory, and not of what it holds."""
    reasons = [(error.__cause__, item) for item, error in zip(batch.items, batch.errors, strict=True) if error]
    return any(
        isinstance(item.source, ImageError) or isinstance(cause, MemoryError) or getattr(cause, "errno", None)
        for cause, item in reasons
        if cause is not None
    )
