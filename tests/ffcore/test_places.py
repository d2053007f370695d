"""Data sets that are named by where they lie: what is a path, what a name on the hub, and what others are told."""

from __future__ import annotations

from pathlib import Path

import pytest

from ffcore.places import Place, public_name


@pytest.mark.parametrize(
    ("given", "path", "options", "public"),
    [
        ("imagefolder:/a/my cats", "/a/my cats", "", "imagefolder:my cats"),
        ("imagefolder:/a/b,c=d", "/a/b,c=d", "", "imagefolder:b,c=d"),
        ("imagefolder:/a/b,label=", "/a/b", ",label=", "imagefolder:b,label="),
        ("imagefolder:/a/b[1]", "/a/b[1]", "", "imagefolder:b[1]"),
        ("imagefolder:photos", "HERE/photos", "", "imagefolder:photos"),
        ("hf:ylecun/mnist", None, "", "hf:ylecun/mnist"),
        ("hf:uoft-cs/cifar100,label=fine_label", None, ",label=fine_label", "hf:uoft-cs/cifar100,label=fine_label"),
        ("hf:o/n,label=,revision=refs/pr/1", None, ",label=,revision=refs/pr/1", "hf:o/n,label=,revision=refs/pr/1"),
        ("hf:/a/b,label=x", "/a/b", ",label=x", "hf:b,label=x"),
        ("hf:/a/beans/*.parquet", "/a/beans/*.parquet", "", "hf:beans"),
        ("hf:train-?.parquet", "HERE/train-?.parquet", "", "hf:HERE"),
        ("hf:beans.parquet", "HERE/beans.parquet", "", "hf:beans.parquet"),
        ("hf:./beans", "HERE/beans", "", "hf:beans"),
        ("hf:there", "HERE/there", "", "hf:there"),
        ("hf:there,label=x", "HERE/there", ",label=x", "hf:there,label=x"),
        ("hf:more,e=1", "HERE/more,e=1", "", "hf:more,e=1"),
        ("hf:more,e=1,label=x", "HERE/more,e=1", ",label=x", "hf:more,e=1,label=x"),
    ],
)
def test_a_place(tmp_path, monkeypatch, given, path, options, public):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "more,e=1").mkdir()
    place = Place.of(given)
    assert place.path == (None if path is None else Path(path.replace("HERE", str(tmp_path))))
    assert place.options == options
    assert str(place) == given
    assert place.placed.placed == place.placed
    assert Place.of(str(place.placed)) == place.placed
    assert public_name(given) == public.replace("HERE", tmp_path.name)


@pytest.mark.parametrize("name", ["mnist", "", "hf", "https://x.org/a", "./mine.py"])
def test_a_name_that_is_no_place(name):
    assert Place.of(name) is None
    assert public_name(name) == name
