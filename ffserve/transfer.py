"""What the features of an exported backbone are worth: a linear classifier on them beside one on raw pixels, no torch.

Letters: N images, F features, K classes.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from ffcore.errors import DataError
from ffcore.images import UInt8Array
from ffcore.layout import class_folders
from ffcore.machine import cores
from ffcore.tally import Tally
from ffserve.account import Account
from ffserve.confusion import Confusion
from ffserve.evaluate import Int64Array, Labelled, Track, labelled, labels_of
from ffserve.features import Float32Array
from ffserve.session import Model
from ffserve.stream import stream

Say = Callable[[str], None]
# What validation chooses from: scikit-learn's C, the inverse of the weight decay, on standardised features.
GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
ITERATIONS = 200
VALIDATION_SHARE, VALIDATION_IMAGES = 0.1, 5000
ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A linear classifier: what it saw, what validation chose, and what it takes for what on the test tree."""

    source: str
    """`features` or `raw`."""
    width: int
    C: float
    validation: float
    """Accuracy of the chosen C, 0 to 1."""
    grid: tuple[tuple[float, float], ...]
    """Each C with its accuracy on validation."""
    converged: bool
    """Whether the chosen one reached its optimum within the iterations allowed."""
    test: Confusion


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """Both classifiers, features first, and how many images each part had."""

    rows: tuple[Fitted, Fitted]
    class_names: tuple[str, ...]
    train: int
    validation: int


@dataclass
class _Part:
    """Images that were read: features float32 [N, F], pixels uint8 [N, C*H*W], labels int64 [N]."""

    features: Float32Array
    pixels: UInt8Array
    labels: Int64Array


def transfer(
    model: Model,
    train: Path,
    test: Path,
    account: Account | None = None,
    *,
    seed: int = 0,
    threads: int | None = None,
    track: Track = iter,
    say: Say = lambda _: None,
    **reading: Any,
) -> Transfer:
    """Fits logistic regression on the features of one tree of class folders and tests it on another, and so on pixels.

    A tenth of the training tree, at most 5000 images and the same share of every class, is held out and chooses C from
    `GRID` (of equals the smallest); what was fitted with it on the rest is tested, once. Features and pixels are
    standardised by the mean and deviation of what is fitted. Everything is the same for the same trees, model and
    seed, whatever the threads: each fit runs on one, several at a time.

    Memory: both trees' features, 4 bytes each, and pixels, 5 bytes each (scikit-learn before 1.8 takes 8 bytes more of
    what is fitted); 60,000 training and 10,000 test images with 2000 features take about 0.9 GB.

    Args:
        model: any exported model: its features are used, never its classes.
        train: DIR, with DIR/CLASS/...: at least two classes of at least two images each.
        test: alike, with no class that `train` lacks.
        account: of what becomes of the images.
        seed: draws the images held out.
        threads: how many fits run at once; None means as many as there are cores.
        track: given the batches, and gives them on: counts them.
        say: told of each classifier when it is fitted.
        reading: of `ffserve.stream.stream`: `batch_size`, `invert`, `place`, `max_pixels`, `workers`, `processes`.

    Raises:
        DataError: where a tree is not as above, or no image of it can be read.
        ModuleNotFoundError: where scikit-learn is not installed.
    """
    from sklearn.model_selection import train_test_split

    account = account or Account()
    folders = class_folders(train, account.left_out)
    names = tuple(folders)
    same_tree = os.path.realpath(train) == os.path.realpath(test)
    left_out_of_test = Tally() if same_tree else account.left_out  # what is left out counts once
    test_folders = class_folders(test, left_out_of_test)
    if unknown := [name for name in test_folders if name not in folders]:
        raise DataError(f"{test} has the class {unknown[0]!r}, which {train} lacks")
    items = [*labelled(((path, k) for k, name in enumerate(names) for path in folders[name]), account.left_out)]
    labels = labels_of(items)
    counts = np.bincount(labels, minlength=len(names))
    if len(names) < 2:
        raise DataError(f"{train} holds one class folder, {names[0]!r}: at least 2 are needed")
    if counts.min() < 2:
        raise DataError(f"{train / names[counts.argmin()]} holds fewer than 2 images: one is held out for validation")
    held_out = max(len(names), min(int(len(items) * VALIDATION_SHARE), VALIDATION_IMAGES))
    fit_index, validation_index = train_test_split(
        np.arange(len(items)), test_size=held_out, stratify=labels, random_state=seed
    )

    def read(part: Sequence[Labelled], what: Path) -> _Part:
        return _read(model, part, account, track, **reading) or _none(what)

    known = {name: k for k, name in enumerate(names)}
    parts = [
        read([items[i] for i in np.sort(fit_index)], train),
        read([items[i] for i in np.sort(validation_index)], train),
        read([*labelled(((path, known[n]) for n in test_folders for path in test_folders[n]), left_out_of_test)], test),
    ]
    if len(np.unique(parts[0].labels)) < 2:
        raise DataError(f"{train} has images of one class alone that can be read: at least 2 classes are needed")
    labels_of_parts = [part.labels for part in parts]
    on_features = _fit("features", [part.features for part in parts], labels_of_parts, names, threads, say)
    for part in parts:
        part.features = part.features[:0].copy()  # lets the memory go
    on_pixels = _fit("raw", [part.pixels.astype(np.float32) for part in parts], labels_of_parts, names, threads, say)
    return Transfer(
        rows=(on_features, on_pixels),
        class_names=names,
        train=len(parts[0].labels),
        validation=len(parts[1].labels),
    )


def _read(model: Model, items: Sequence[Labelled], account: Account, track: Track, **reading: Any) -> _Part | None:
    """Returns what can be read of some images, None where nothing can."""
    found: _Part | None = None
    count = 0
    for batch in track(stream(model, items, **reading)):
        good = account.take(batch)
        if good:
            features_BF, pixels_BD = batch.outputs["features"], batch.images_BCHW.reshape(len(good), -1)
            if found is None:  # whole at once: growing it would take twice the memory
                found = _Part(
                    np.empty((len(items), features_BF.shape[1]), dtype=np.float32),
                    np.empty((len(items), pixels_BD.shape[1]), dtype=np.uint8),
                    np.empty(len(items), dtype=np.int64),
                )
            rows = slice(count, count + len(good))
            found.features[rows], found.pixels[rows], found.labels[rows] = features_BF, pixels_BD, labels_of(good)
            count += len(good)
    return found and _Part(found.features[:count], found.pixels[:count], found.labels[:count])


def _none(folder: Path) -> NoReturn:
    raise DataError(f"no image below {folder} could be read")


def _fit(
    source: str,
    values: Sequence[Float32Array],
    labels: Sequence[Int64Array],
    names: tuple[str, ...],
    threads: int | None,
    say: Say,
) -> Fitted:
    """Fits a classifier for each C on the first of three parts, chooses on the second, tests on the third.

    The values, float32 [N, F] of each part, are standardised in place.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    scaler = StandardScaler(copy=False)
    for start in range(0, len(values[0]), ROWS):  # as it makes temporary copies
        scaler.partial_fit(values[0][start : start + ROWS])
    fit_NF, validation_NF, test_NF = (scaler.transform(part) for part in values)

    def fit(C: float) -> tuple[Any, float]:
        classifier = LogisticRegression(C=C, max_iter=ITERATIONS)
        classifier.fit(fit_NF, labels[0])
        validation = float(classifier.score(validation_NF, labels[1]))
        say(f"classifier on {source}, C {C:g}: validation {validation:.4f}")
        return classifier, validation

    # On several threads a fit waits for the slowest at each of thousands of small products: on a busy machine for long.
    with (
        threadpool_limits(1, user_api="blas"),
        ThreadPoolExecutor(threads or cores()) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")  # told by `converged`
        found = [*pool.map(fit, GRID)]
        accuracies = [accuracy for _, accuracy in found]
        best = int(np.argmax(accuracies))
        classifier, validation = found[best]
        confusion = Confusion.empty(names)
        confusion.add(labels[2], classifier.predict(test_NF))
    return Fitted(
        source=source,
        width=fit_NF.shape[1],
        C=GRID[best],
        validation=validation,
        grid=tuple(zip(GRID, accuracies, strict=True)),
        converged=bool(classifier.n_iter_.max() < ITERATIONS),
        test=confusion,
    )
