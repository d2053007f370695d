"""What a session on a cluster does for a part: what the plain command does, into the part's file. It knows no Ray."""

from __future__ import annotations

import json
import socket
from importlib.metadata import version
from typing import Any

import pyarrow as pa
from pyarrow.parquet import read_metadata

from ffcore.errors import FFStudyError, ModelError, RunError
from ffserve.account import Account
from ffserve.parquet import writing
from ffserve.parts.answers import ANSWERS
from ffserve.parts.job import MODEL, Job, part_name, refs_of
from ffserve.parts.reading import items
from ffserve.parts.storage import Folder, said
from ffserve.session import Model
from ffserve.stream import stream

KEY = "ffstudy"  # of what a part's file says of itself


class Session:
    """A model that answers parts of a job, loaded for the first that is not there yet."""

    def __init__(self, job: Job) -> None:
        self.job, self.folder = job, Folder(job.out)
        self._model: Model | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Answers the part of a number, which is the row's `item`, unless it is there.

        Returns:
            {"said": JSON}: what became of the part as `answered` returns it, or {"failed", "exit_code"}.
        """
        try:
            return {"said": json.dumps(self.answered(row["item"]))}
        except FFStudyError as error:
            return {"said": json.dumps({"failed": str(error), "exit_code": error.exit_code})}
        except OSError as error:
            return {"said": json.dumps({"failed": f"{self.job.out}: {said(error)}", "exit_code": 1})}

    def answered(self, number: int) -> dict[str, Any]:
        """Answers a part unless it is there.

        Returns:
            {"images": how many it has, "kept": whether it was there, "account", "sums": as JSON}.

        Raises:
            RunError: where this node does not see the folder, or has another version.
        """
        if (there := self._there(part_name(number))) is not None:
            return {**there, "kept": True}
        model = self._loaded()
        answers, account = ANSWERS[self.job.command](model, self.job), Account()
        refs = refs_of(self.folder, number)
        batches = stream(
            model,
            items(refs, self.job.image_column, self.job.working),
            batch_size=self.job.batch_size,
            invert=self.job.invert,
            place=self.job.place,
            max_pixels=self.job.max_pixels,
            workers=self.job.threads,
        )

        def told() -> dict[str, Any]:
            return {"images": len(refs), "account": account.state(), "sums": answers.sums()}

        with (
            self.folder.writing(part_name(number)) as path,
            writing(path, answers.schema, repeated=answers.repeated, about=lambda: {KEY: json.dumps(told())}) as write,
        ):
            for batch in batches:
                write(answers.rows(batch, account))
        return {**told(), "kept": False}

    def _there(self, name: str) -> dict[str, Any] | None:
        """Returns what became of a part that was answered before; None where it was not, or its file is damaged."""
        if not self.folder.has(name):
            return None
        try:
            with self.folder.system.open(self.folder.at(name), "rb") as file:
                told: dict[str, Any] = json.loads(read_metadata(file).metadata[KEY.encode()])
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None
        return told

    def _loaded(self) -> Model:
        if self._model is None:
            here, node = version("ffstudy"), socket.gethostname()
            if here != self.job.version:
                raise RunError(f"node {node} has ffstudy {here}, and this machine {self.job.version}: install the same")
            try:
                content = self.folder.system.cat_file(self.folder.at(MODEL))
            except OSError as error:
                raise RunError(
                    f"node {node} does not see {self.job.out} ({said(error)}): name an --out on storage that all share"
                ) from error
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
