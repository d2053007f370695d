from __future__ import annotations

from fftrain.memory import BYTES, ROWS, rows_of


def test_images_are_worked_on_by_bytes():
    assert rows_of((1, 28, 28)) == ROWS
    assert rows_of((3, 224, 224)) == BYTES // (4 * 3 * 224 * 224) == 55
    assert rows_of((3, 224, 224), (64, 224, 224), (128,)) == 2
    assert rows_of((3, 10_000, 10_000)) == 1
