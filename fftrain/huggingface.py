"""Data sets of Hugging Face's library `datasets`: `hf:PATH_OR_NAME`, the columns found by what they hold.

Images are decoded as those of folders are.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ffcore.errors import DataError, ImageError, SettingError
from ffcore.folders import Item
from ffcore.layout import SPLITS, TEST, TRAIN, VALIDATION, some
from ffcore.places import Place
from fftrain.config import DataSettings
from fftrain.encoded import Encoded, state
from fftrain.hf_tables import loaded, options_of
from fftrain.sources import Labels
from fftrain.stored import Index

_NUMBERS_AND_WORDS = re.compile(r"u?int\d+|bool|(large_)?string")


class HuggingFace(Encoded):
    """A data set of the library, of which the images that are wanted are read.

    Splits go by the names that people give them; the image column is the one of images, the label column the one of
    classes. `,image=COLUMN`, `,label=COLUMN` (none: `,label=`), `,train=SPLIT`, `,validation=SPLIT`, `,test=SPLIT`,
    `,config=NAME` and `,revision=NAME` behind the name choose others.

    Raises:
        SettingError: where it has no such column or split, or there is no such option.
        DataError: where it is not there, cannot be read or had, or it cannot be told what it holds.
    """

    def __init__(self, place: Place, config: DataSettings) -> None:
        super().__init__(place.called, str(place), config)
        self.options = options_of(place)
        self.folder = place.path or Path()  # that paths in its tables go by
        while not self.folder.is_dir():
            self.folder = self.folder.parent
        tables = loaded(place, self.options)
        self.splits = self._split_names([name for name, table in tables.items() if len(table)])
        columns = tables[self.splits[TRAIN]].features
        self.image, label = self._image_column(columns), self._label_column(columns)
        self.tables = {split: self._images(tables[name], self.image) for split, name in self.splits.items()}
        self.rows = {split: np.arange(len(table)) for split, table in self.tables.items()}
        self.class_names = ()
        self.labels: dict[str, Labels] = {split: np.zeros(len(rows), np.int64) for split, rows in self.rows.items()}
        if label is not None:
            self._label({split: tables[name] for split, name in self.splits.items()}, label)
        about = f"{len(self.class_names)} classes of {label}: {some(self.class_names)}"
        about = f"images of {self.image}, {about if self.class_names else 'no classes'}"
        drawn = " and ".join(split for split in (VALIDATION, TEST) if split not in self.labels)
        found = ", ".join(f"{self.splits[split]} is {split}" for split in self.labels)
        found += f"; {drawn} is drawn from {self.splits[TRAIN]}" if drawn else ""
        self.notes.insert(0, f"{self.called}: {found}; {about}")
        if rest := [name for name in tables if name not in self.splits.values()]:
            self.notes.append(f"left out, splits: {some(rest)}")

    def items(self, split: str, index: Index) -> list[Item]:
        """Returns some rows' images: the content of a file, or where one lies."""
        rows = self.rows[split][index].tolist()
        cells = self.tables[split][rows][self.image]
        names = [f"{self.splits[split]} row {row}" for row in rows]
        return [_item(name, cell, self.folder) for name, cell in zip(names, cells, strict=True)]

    def named(self, name: str) -> str:
        """Returns an image's row, without where it lies."""
        return name.rpartition("(")[2].removesuffix(")")

    def contents(self) -> Iterator[str]:
        """Yields each split's fingerprint, as the library has it of where rows come from, its rows, and its files."""
        from pyarrow import compute

        for split, table in self.tables.items():
            yield f"{split}/{table._fingerprint}/{hashlib.sha256(self.rows[split].tobytes()).hexdigest()}"
            for cells in table.with_format("arrow")[:][self.image].chunks:
                outside = compute.is_null(compute.struct_field(cells, "bytes"))
                files = compute.struct_field(cells, "path").filter(outside).drop_null()
                places = (os.path.realpath(self.folder / file) for file in files.to_pylist())
                yield from (f"{place}/{state(place)}" for place in places)

    def _split_names(self, names: Sequence[str]) -> dict[str, str]:
        """Returns which of its splits is for training, which for validation and for testing."""
        found = {split: self.options[split] for split in (TRAIN, VALIDATION, TEST) if split in self.options}
        for split, name in found.items():
            if name not in names and (name or split == TRAIN):
                raise SettingError(f"{self.place} has no split {name!r}: choose {split} among {some(names)}")
        if twice := [name for name in found.values() if name and [*found.values()].count(name) > 1]:
            raise SettingError(f"{self.place}: {twice[0]} is named for two splits: name another for one of them")
        for name in names:
            if name.casefold() in SPLITS and name not in found.values():
                found.setdefault(SPLITS[name.casefold()], name)
        found = {split: found[split] for split in (TRAIN, VALIDATION, TEST) if found.get(split)}
        if TRAIN not in found and len(names) == 1:
            return {TRAIN: names[0]}
        if TRAIN not in found:
            has = f"the splits {some(names)}: choose one to train on with ,train=NAME" if names else "no rows"
            raise DataError(f"{self.place} has {has}")
        return found

    def _column(self, kind: str, found: Sequence[str], columns: Sequence[str]) -> str | None:
        """Returns the column that was named, "" where none is wanted, or the one that was found, None without one.

        Raises:
            SettingError: where it has none of that name.
            DataError: where several were found.
        """
        if (named := self.options.get(kind)) is not None:
            if named and named not in columns:
                raise SettingError(f"{self.place} has no column {named!r}: choose {kind} among {some(columns)}")
            return named
        if len(found) > 1:
            raise DataError(f"{self.place} has the {kind} columns {some(found)}: choose one with ,{kind}={found[0]}")
        return found[0] if found else None

    def _image_column(self, columns: Mapping[str, Any]) -> str:
        found = [name for name, feature in columns.items() if _holds_images(feature)]
        column = self._column("image", found, [*columns])
        if not column:
            raise DataError(
                f"{self.place} has no column of images (it has {some(columns)}): name one that holds image files, or "
                "where they lie, with ,image=COLUMN"
            )
        return column

    def _label_column(self, columns: Mapping[str, Any]) -> str | None:
        from datasets import ClassLabel

        found = [name for name, feature in columns.items() if isinstance(feature, ClassLabel)]
        column = self._column("label", found, [*columns])
        if column is None and (others := [name for name, feature in columns.items() if _tells_classes(feature)]):
            self.notes.append(f"no column of class labels: choose one with ,label= if it is among {some(others)}")
        if column and not _tells_classes(columns[column]):
            raise DataError(f"{self.place}: column {column} holds {_kind(columns[column])}, no classes: name another")
        return column or None

    def _images(self, table: Any, column: str) -> Any:
        """Returns a table of the images alone, as files."""
        from datasets import Image

        if column not in table.column_names:
            raise DataError(f"{self.place}: split {table.split} has no column {column}: choose other splits")
        try:
            return table.select_columns([column]).cast_column(column, Image(decode=False))
        except (TypeError, ValueError, NotImplementedError) as error:  # pyarrow's own are among them
            kind = _kind(table.features[column])
            raise DataError(f"{self.place}: column {column} holds {kind}, no images: name another") from error

    def _label(self, tables: Mapping[str, Any], column: str) -> None:
        """Takes labels from a column; rows that have none are left out, and said."""
        names, codes = self._codes(tables, column)
        classes = np.unique(codes[TRAIN][codes[TRAIN] >= 0])
        if not len(classes):
            raise DataError(
                f"{self.place}: no row of {self.splits[TRAIN]} has a label in {column}: train without with ,label="
            )
        if len(classes) < len(names):
            lacking = [name for k, name in enumerate(names) if k not in classes]
            self.notes.append(f"left out, classes without images in {self.splits[TRAIN]}: {some(lacking)}")
        self.class_names = tuple(names[k] for k in classes) if len(classes) > 1 else ()
        for split, of_rows in codes.items():
            rows = np.flatnonzero(of_rows >= 0)
            if unknown := sorted({*of_rows[rows].tolist()} - {*classes.tolist()}):
                raise DataError(f"{self.place}: {split} has the class {names[unknown[0]]!r}, which {TRAIN} lacks")
            if len(rows) < len(of_rows):
                count = f"{len(of_rows) - len(rows):,} of {len(of_rows):,}"
                self.notes.append(f"left out, rows of {self.splits[split]} without a label: {count}")
            if len(rows):
                self.rows[split], self.labels[split] = rows, np.searchsorted(classes, of_rows[rows])
            else:
                del self.labels[split]

    def _codes(self, tables: Mapping[str, Any], column: str) -> tuple[list[str], dict[str, Labels]]:
        """Returns the names of classes, and which one each row is of: -1 of none."""
        import pyarrow
        from pyarrow import compute

        feature = tables[TRAIN].features[column]
        values = {}
        for split, table in tables.items():
            if column not in table.column_names or table.features[column] != feature:
                raise DataError(
                    f"{self.place}: {split} has no column {column} as {TRAIN} has: leave it out with ,{split}="
                )
            values[split] = table.select_columns([column]).with_format("arrow")[:][column].combine_chunks()
        if (names := getattr(feature, "names", None)) is not None:
            codes = {split: found.fill_null(-1).to_numpy(zero_copy_only=False) for split, found in values.items()}
            return list(names), codes
        every = {value for found in values.values() for value in compute.unique(found).to_pylist()} - {None, -1}
        order = sorted(every)
        known = pyarrow.array(order, type=values[TRAIN].type)
        indices = {split: compute.index_in(found, value_set=known).fill_null(-1) for split, found in values.items()}
        codes = {split: found.to_numpy(zero_copy_only=False).astype(np.int64) for split, found in indices.items()}
        return [str(value) for value in order], codes


def _item(name: str, cell: Mapping[str, Any] | None, folder: Path) -> Item:
    """Returns a cell of an image column as what is read: the content of a file, or one by its path from a folder."""
    if cell is not None and cell["bytes"] is not None:
        return Item(name, cell["bytes"])
    if cell is None or cell["path"] is None:
        return Item(name, ImageError(f"{name!r} holds no image"))
    path = str(folder / cell["path"])
    return Item(f"{path} ({name})", path)


def _holds_images(feature: Any) -> bool:
    """Whether a column is one of images, or what such a column is without the library's own metadata."""
    from datasets import Image

    plain = isinstance(feature, dict) and {"bytes"} <= feature.keys() <= {"bytes", "path"}
    return isinstance(feature, Image) or (plain and _kind(feature["bytes"]) in ("binary", "large_binary"))


def _tells_classes(feature: Any) -> bool:
    from datasets import ClassLabel

    return isinstance(feature, ClassLabel) or _NUMBERS_AND_WORDS.fullmatch(_kind(feature)) is not None


def _kind(feature: Any) -> str:
    """Returns what a column holds, in a word."""
    return str(getattr(feature, "dtype", None) or type(feature).__name__)
