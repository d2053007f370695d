"""What the arguments of a command stand for."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import socket
import sys
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ffcore import folders
from ffcore.errors import ImageError, UsageError
from ffcore.folders import find, listed
from ffcore.formats import own_formats
from ffcore.images import image_size
from ffcore.tally import Tally

BUNDLED = Path(folders.__file__).parents[1] / "ffserve" / "model" / "mnist.onnx"


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    """A working folder with images in folders, and what is none."""
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.png", "b/1.JPG", "b/deep/er/3.tif", "a.png", "b/.hidden.png", "b/.cache/4.png", "b/notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


def names(*given):
    return [item.name for item in find(given)]


def refused(*given):
    """Returns the message of the one item that has no source."""
    (item,) = find(given)
    assert isinstance(item.source, ImageError)
    assert len(str(item.source).splitlines()) == 1
    return str(item.source)


def test_files_are_taken_in_the_order_given_whatever_they_are(tree):
    given = ["b/2.png", tree / "a.png", "no such file", "b/notes.txt", "b/2.png"]
    found = list(find(given))
    assert [item.name for item in found] == list(map(str, given))
    assert [os.fspath(item.source) for item in found] == list(map(str, given))


def test_folders_are_searched_sorted_with_all_below(tree):
    assert names("b") == ["b/1.JPG", "b/2.png", "b/deep/er/3.tif"]
    assert names("b/") == ["b/1.JPG", "b/2.png", "b/deep/er/3.tif"]
    assert names(".") == ["a.png", "b/1.JPG", "b/2.png", "b/deep/er/3.tif"]
    assert names("./b") == ["./b/1.JPG", "./b/2.png", "./b/deep/er/3.tif"]
    assert names("b/.cache") == ["b/.cache/4.png"]  # named, so it is meant


def test_links_are_followed_but_not_in_a_circle(tree):
    (tree / "b" / "deep" / "up").symlink_to(tree / "b")
    (tree / "b" / "deep" / "self").symlink_to(".")
    (tree / "b" / "other").symlink_to(tree / "elsewhere")
    (tree / "elsewhere").mkdir()
    (tree / "elsewhere" / "5.png").touch()
    (tree / "b" / "gone.png").symlink_to("nowhere.png")
    assert names("b") == ["b/1.JPG", "b/2.png", "b/gone.png", "b/deep/er/3.tif", "b/other/5.png"]


def test_a_link_that_cannot_be_followed_is_one_bad_image(tree, monkeypatch):
    (tree / "b" / "self.png").symlink_to("self.png")
    (tree / "b" / "round").symlink_to("round")
    assert names("b") == ["b/1.JPG", "b/2.png", "b/self.png", "b/deep/er/3.tif"]
    assert names("**/*.png") == ["a.png", "b/2.png", "b/self.png"]


@pytest.mark.parametrize("given", [".", "**", "**/*.*", "**/**/*.*", "b/../**", "[a-z]/**/*.*"])
def test_links_have_an_end_however_many_ways_there_are(tree, given):
    """Two links back, and a ladder: 40 folders with two links each to the next, 2**40 ways."""
    (tree / "b" / "step40").mkdir()
    for name in "xy":
        (tree / "b" / name).symlink_to(".")
        for step in range(40):
            (tree / "b" / f"step{step}").mkdir(exist_ok=True)
            (tree / "b" / f"step{step}" / name).symlink_to(f"../step{step + 1}")
    found = [os.path.basename(name) for name in names(given)]
    assert sorted(set(found) - {"a.png", "notes.txt"}) == ["1.JPG", "2.png", "3.tif"]
    assert len(found) < 10


def test_folders_are_searched_however_deep_they_lie(tree, monkeypatch):
    for _ in range(1200):
        os.mkdir("d")
        os.chdir("d")
    open("6.png", "w").close()
    os.chdir(tree)
    assert names("d") == ["d/" * 1200 + "6.png"]
    assert names("**/6.png") == ["d/" * 1200 + "6.png"]
    while os.path.isdir("d"):  # what pytest clears up by recursion is not so deep
        os.rename("d", "top")
        if os.path.isdir("top/d"):
            os.rename("top/d", "d")
        for name in os.listdir("top"):
            os.unlink(f"top/{name}")
        os.rmdir("top")


def test_what_is_left_out_is_counted_and_named(tree):
    for name in ("b/7.heic", "b/deep/8.HEIC"):
        (tree / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    Image.new("L", (3, 3)).save(tree / "b" / "raw.nef", "TIFF")
    (tree / "__MACOSX").mkdir()
    left_out = Tally()
    assert len([*find([".", "a.png"], left_out)]) == 5
    assert left_out.counts == {
        "a HEIC image, which is read after pip install pillow-heif": 2,
        "hidden": 3,
        "no images": 1,
        "raw files of cameras": 1,
    }
    assert list(left_out.lines()) == [
        "a HEIC image, which is read after pip install pillow-heif: 2 ('b/7.heic', 'b/deep/8.HEIC')",
        "hidden: 3 ('__MACOSX', 'b/.cache', 'b/.hidden.png')",
        "no images: 1 ('b/notes.txt')",
        "raw files of cameras: 1 ('b/raw.nef')",
    ]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_what_is_no_file_is_left_out_without_waiting_for_it(tree):
    os.mkfifo(tree / "b" / "pipe")
    os.mkfifo(tree / "b" / "deep" / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("b/socket")
        left_out = Tally()
        found = [item.name for item in find(["b"], left_out)]
    assert found == ["b/1.JPG", "b/2.png", "b/deep/pipe.png", "b/deep/er/3.tif"]
    assert left_out.names["no images"] == ["b/notes.txt", "b/pipe", "b/socket"]
    with pytest.raises(ImageError, match=r"'b/deep/pipe\.png' is a pipe"):
        image_size("b/deep/pipe.png")


def test_a_name_that_is_no_suffix_of_an_image_is_looked_into(tree):
    Image.new("L", (3, 3)).save(tree / "b" / "9.HEIC", "JPEG")
    Image.new("L", (3, 3)).save(tree / "b" / "8", "PNG")
    assert names("b") == ["b/1.JPG", "b/2.png", "b/8", "b/9.HEIC", "b/deep/er/3.tif"]


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", []),
        (b"\n\n", []),
        (b"a", ["a"]),
        (b"a\nb c\n", ["a", "b c"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\0b\nc\0", ["a", "b\nc"]),
        (b"\xff.png\n", [os.fsdecode(b"\xff.png")]),
        (b"x" * 70_000, None),
        (b"\n".join(b"%d" % i for i in range(30_000)), [str(i) for i in range(30_000)]),
    ],
)
def test_names_in_a_file(tree, monkeypatch, content, names):
    (tree / "list").write_bytes(content)
    if names is None:
        with pytest.raises(UsageError, match="--files-from list holds a name of more than 65,536 bytes"):
            list(listed("list"))
        return
    assert list(listed("list")) == names
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    assert list(listed("-")) == names


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (codecs.BOM_UTF8 + "ä.png\nb.png\n".encode(), ["ä.png", "b.png"]),
        (codecs.BOM_UTF8, []),
        (codecs.BOM_UTF8 + b"a\0b\nc\0", ["a", "b\nc"]),
        ("\ufeffä.png\r\nsub/b 😀.png\r\n".encode("utf-16-le"), ["ä.png", "sub/b 😀.png"]),
        ("\ufeffä.png\nb.png".encode("utf-16-be"), ["ä.png", "b.png"]),
        ("\ufeffä.png\nb.png".encode("utf-32-le"), ["ä.png", "b.png"]),
        (("\ufeff" + "ä" * 70_000).encode("utf-16-le"), "holds a name of more than 65,536 bytes"),
        ("\ufeffab".encode("utf-16-le") + b"x", "is damaged UTF-16: save it as UTF-8"),
        (b"\xff\xfe\0\xd8\0\xd8", "is damaged UTF-16"),
        (codecs.BOM_UTF16_LE, []),
        (b"BMW.png\nP5 1.png\n", ["BMW.png", "P5 1.png"]),
        (b"BZh1.png\n", ["BZh1.png"]),
        (b"8BPS\n", ["8BPS"]),
        (b"a\0" + b"b\x1b\0", ["a", "b\x1b"]),
        (b"a\nb\x1b\n", r"holds the control character '\\x1b': end names"),
        (b"GIF89a\x1c\0\x1c\0\xf0\0\0", "is a GIF image, no list of names: name it as an argument"),
        (b"P2\n3 3\n255\n", "is a PNM image, no list of names"),
        (gzip.compress(b"a\n"), "is a gzip archive, no list of names: unpack it"),
        (b"<!doctype html>\n", "is an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer.*git lfs pull"),
        (b"\x08\x0a\x12\x07pytorch", "is a binary file, no list of names"),
        (BUNDLED.read_bytes(), "is a binary file, no list of names"),
        (np.random.default_rng(0).bytes(9000), "is a binary file, no list of names"),
        (b"a" + bytes(9), "is a binary file, no list of names"),
    ],
    ids=range(24),
)
def test_lists_of_names_by_what_they_begin_with(tree, monkeypatch, content, names):
    (tree / "list").write_bytes(content)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(content)))
    for given in ("list", "-"):
        if isinstance(names, list):
            assert list(listed(given)) == names
            continue
        with pytest.raises(UsageError, match=f"^--files-from {given} {names}") as error:
            list(listed(given))
        assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("format", sorted({*own_formats()} - {"TGA", "AVIF", "DIB"}))
def test_an_image_is_no_list_of_names(tree, format):
    Image.new("RGB", (28, 28), (9, 99, 199)).save(tree / "image", format)
    with pytest.raises(UsageError, match=r"^--files-from image is an? .* image, no list of names: name it as an arg"):
        list(listed("image"))


def test_names_that_cannot_be_had(monkeypatch):
    assert list(listed(None)) == []
    with pytest.raises(UsageError, match="--files-from none cannot be read: No such file"):
        list(listed("none"))
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UsageError, match="standard input is closed"):
        list(listed("-"))


def test_an_absolute_pattern(tree):
    assert names(f"{tree}/**/*.tif") == [f"{tree}/b/deep/er/3.tif"]
    assert names(f"{tree}/**") == [f"{tree}/{name}" for name in names("**")]


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("b/*.png", ["b/2.png"]),
        ("b/?.*", ["b/1.JPG", "b/2.png"]),
        ("b/[13].*", ["b/1.JPG"]),
        ("b/**/*.tif", ["b/deep/er/3.tif"]),
        ("**/*.png", ["a.png", "b/2.png"]),
        ("b/*", ["b/1.JPG", "b/2.png", "b/deep/er/3.tif", "b/notes.txt"]),
        ("b/d*", ["b/deep/er/3.tif"]),
        ("b/**", ["b/1.JPG", "b/2.png", "b/deep/er/3.tif", "b/notes.txt"]),
    ],
)
def test_patterns(pattern, found):
    assert names(pattern) == found


def test_a_file_of_a_patterns_name_is_that_file(tree):
    (tree / "b" / "[12].png").touch()
    (tree / "b" / "*.png").symlink_to("nowhere")
    assert names("b/[12].png") == ["b/[12].png"]
    assert names("b/*.png") == ["b/*.png"]


def test_what_has_no_images_is_reported_and_the_rest_is_done(tree):
    (tree / "empty" / "er").mkdir(parents=True)
    assert refused("b/*.gif") == "'b/*.gif' matches no file"
    assert refused("empty") == "'empty' has no images"
    assert names("empty", "a.png") == ["empty", "a.png"]


def test_a_folder_that_cannot_be_listed_is_reported(tree, monkeypatch):
    listed = os.scandir

    def scandir(folder):
        if os.fspath(folder) == "b/deep":
            raise PermissionError(13, "Permission denied")
        return listed(folder)

    monkeypatch.setattr(folders.os, "scandir", scandir)
    *found, denied = find(["b"])
    assert [item.name for item in found] == ["b/1.JPG", "b/2.png"]
    assert (denied.name, str(denied.source)) == ("b/deep", "'b/deep' cannot be listed: permission denied")


def test_any_name(tree):
    odd = [os.fsdecode(b"b/\xff\n [*].png"), "b/a b.png", "b/dé.png", "b/-.png"]
    for name in odd:
        (tree / name).touch()
        assert names(name) == [name]
    assert set(odd) < set(names("b"))


def test_standard_input_is_one_image(monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"content")))
    first, second = find(["-", "-"])
    assert (first.name, first.source) == ("-", b"content")
    assert second.source == b""


def test_standard_input_may_be_closed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert refused("-") == "standard input is closed"


def test_standard_input_has_a_limit(monkeypatch):
    monkeypatch.setattr(folders, "MAX_STDIN_BYTES", 10)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bytes(10))))
    assert next(find(["-"])).source == bytes(10)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(bytes(11))))
    assert refused("-") == "standard input holds more than 10 bytes: name a file"


def test_folders_are_listed_as_they_are_come_to(tree, monkeypatch):
    seen = []
    listed = os.scandir
    monkeypatch.setattr(folders.os, "scandir", lambda folder: seen.append(folder) or listed(folder))
    found = find(["b", "elsewhere"])
    assert seen == []
    list(islice(found, 2))
    assert seen == ["b"]
    next(found)
    assert seen == ["b", "b/deep", "b/deep/er"]
