"""The folders of classes that training writes are those that ffserve looks for."""

from __future__ import annotations

import pytest

from ffserve.evaluate import as_folder
from fftrain.data import file_name


@pytest.mark.parametrize("name", ["T-shirt/top", "0", "a.b", "..", "", "é ü", "a:b*c", ".hidden", "x" * 300])
def test_both_name_a_class_alike(name):
    assert as_folder(name) == file_name(name)
