"""The zip archives of TorchScript and torch.export, without a trace of the machine that wrote them."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from ffcore.errors import RunError

# The folder in which everything of an archive lies, and the file with what is said of it.
ROOT, METADATA = "model", "ffstudy.json"

# Source positions (paths of the exporting machine), and the digest over all of them.
TRACES = (".debug_pkl", ".data/serialization_id")


def rewrite(source: Path | BinaryIO, target: Path, extra: Mapping[str, str] | None = None) -> None:
    """Writes an archive again: without traces and dates, in a folder of one name, with extra files in place of others.

    Args:
        source: an archive as torch saves it: a file, or its bytes.
        target: the file to write, which may be the same one.
        extra: names -> texts, which torch gives back as extra files.
    """
    with zipfile.ZipFile(source) as opened:
        content = {entry.filename.partition("/")[2]: opened.read(entry) for entry in opened.infolist()}
    content |= {f"extra/{name}": text.encode() for name, text in (extra or {}).items()}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as written:
        for name, data in content.items():
            if not name.endswith(TRACES):
                written.writestr(zipfile.ZipInfo(f"{ROOT}/{name}"), data)


class Annotated:
    """A format whose metadata lie in the archive's extra file `ffstudy.json`."""

    @staticmethod
    def annotate(path: Path, metadata: Mapping[str, str]) -> None:
        """Writes the extra file."""
        rewrite(path, path, {METADATA: json.dumps(dict(metadata), ensure_ascii=False)})

    @staticmethod
    def metadata(path: Path) -> dict[str, str]:
        """Reads the extra file. Raises RunError where there is none."""
        try:
            with zipfile.ZipFile(path) as opened:
                name = next(name for name in opened.namelist() if name.endswith(f"/extra/{METADATA}"))
                found: dict[str, str] = json.loads(opened.read(name))
                return found
        except (OSError, ValueError, StopIteration, zipfile.BadZipFile) as error:
            raise RunError(f"{path} is damaged, or of another program: export it again with `ffexport`") from error
