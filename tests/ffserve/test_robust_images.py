"""A folder of everything that can be wrong with an image, through the command, in 1 GiB."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from ffcore import images
from ffcore.errors import ImageError
from ffcore.formats import HUNGRY, own_formats
from ffcore.images import MAX_PIXELS, decode, read_image
from tests.ffserve.limited import GIB, limited
from tests.helpers import python

SIDE = 8000  # of the largest square that is read


def png(width, height, depth, kind, rows, *chunks):
    """Returns a PNG by hand; `rows` is one row, its filter byte first, of which it has `height`."""

    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(1)
    data = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def saved(image, format, **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def scans(count):
    """Returns a progressive JPEG that says its last scan so many times more."""
    content = saved(Image.new("RGB", (99, 70), (9, 99, 200)), "JPEG", progressive=True)
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    return content[:end] + content[start:end] * count + content[end:]


def good_images():
    """Returns contents that are read, by file name: every kind of pixel, container and name."""
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [Image.new("L", (5, 5), level) for level in (10, 200)]
    as_png = {mode: saved(colour.convert(mode), "PNG") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")}
    return {
        **{f"{mode}.png": content for mode, content in as_png.items()},
        "sixteen.png": saved(Image.new("I;16", (9, 9), 40_000), "PNG"),
        "one-by-one.png": saved(Image.new("L", (1, 1), 77), "PNG"),
        "long.png": saved(Image.new("L", (3000, 1), 77), "PNG"),
        "cmyk.jpg": saved(colour.convert("CMYK"), "JPEG"),
        "progressive.jpg": scans(90),
        "rotated.jpg": saved(colour, "JPEG", exif=turned),
        "animated.gif": saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "animated.webp": saved(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "really-a-jpeg.png": saved(colour, "JPEG"),
        "a name with spaces.png": as_png["L"],
        "two\nlines.png": as_png["L"],
        os.fsdecode(b"\xff\xfe.png"): as_png["L"],
        "日本.PNG": as_png["L"],
    }


def bad_images():
    """Returns contents that are refused, and words of the reason."""
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))
    whole = {format: saved(colour, format) for format in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP")}
    suffixes = {"PNG": "png", "JPEG": "jpg", "GIF": "gif", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp"}
    icon = png(3000, 3000, 8, 6, bytes(1 + 4 * 3000))
    return {
        **{f"half.{suffixes[format]}": (content[: len(content) // 2], "") for format, content in whole.items()},
        "empty.png": (b"", "is empty (0 bytes)"),
        "text.png": (b"this is no image\n" * 50, "is no image but a text file"),
        "page.jpg": (
            b"<!DOCTYPE html><html>" * 9,
            "an HTML page, as a download leaves that failed: download the file itself",
        ),
        "pointer.png": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        "zeros.jpg": (bytes(5000), "is no image of a known format"),
        "header.png": (whole["PNG"][:40], ""),
        "float.tif": (saved(Image.new("F", (5, 5)), "TIFF"), "has float pixels"),
        "int32.tif": (saved(Image.new("I", (5, 5)), "TIFF"), "has 32-bit pixels"),
        "bomb.png": (png(50_000, 50_000, 1, 0, b"\0"), "has 2,500,000,000 pixels: at most 64,000,000 are read"),
        "scans.jpg": (scans(5000), "has 5,010 scans: a JPEG of at most 100 is read"),
        "large.png": (png(SIDE + 1, SIDE, 8, 0, b"\0"), f"has {SIDE + 1}x{SIDE} pixels: at most 64,000,000 are read"),
        "text-bomb.png": (
            png(9, 9, 8, 0, bytes(10), (b"zTXt", b"a\0\0" + zlib.compress(bytes(200_000_000), 9))),
            "",
        ),
        "icon.ico": (struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(icon), 22) + icon, ""),
    }


def test_every_bad_image_among_good_ones_is_one_line(make_model, tmp_path):
    made, folder = make_model(), tmp_path / "images"
    folder.mkdir()
    good, bad = good_images(), bad_images()
    for name, content in {**good, **{name: content for name, (content, _) in bad.items()}}.items():
        (folder / name).write_bytes(content)
    (folder / "vanished.png").symlink_to("nowhere.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    bad |= {"vanished.png": (b"", "no such file"), "pipe.png": (b"", "is a pipe")}
    ended, peak = limited("predict", folder, "--model", made.path, "--json")
    assert ended.returncode == 1
    assert peak < GIB
    found = {os.path.basename(record["file"]): record for record in json.loads(ended.stdout)["predictions"]}
    assert set(found) == {*good, *bad}
    assert {name for name, record in found.items() if "top" in record} - set(good) <= {"icon.ico", "half.tif"}
    assert {name for name, record in found.items() if "error" in record} <= set(bad)
    for name in set(bad) - {"icon.ico"}:
        assert bad[name][1] in found[name]["error"], name
    *lines, note = ended.stderr.decode().splitlines()
    assert len(lines) == sum("error" in record for record in found.values())
    assert all(line.startswith("ffserve: error: '") for line in lines)
    blank = {name for name, record in found.items() if record.get("blank")}
    even = {"animated.gif", "animated.webp", "long.png", "one-by-one.png", "sixteen.png", "progressive.jpg"}
    assert blank - {"icon.ico"} == even
    assert note.startswith(f"ffserve: note: blank: one colour all over, of which the answer says nothing: {len(blank)}")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(saved(Image.new("L", (4, 4)), "PNG"))
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(ImageError, match="cannot be read: permission denied"):
        decode(tmp_path / "a.png")


def test_an_error_of_the_system_is_the_reason(tmp_path, monkeypatch):
    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.png").write_bytes(saved(Image.new("L", (4, 4)), "PNG"))
    monkeypatch.setattr(Image, "open", denied)
    with pytest.raises(ImageError, match=r"a\.png' cannot be read: permission denied"):
        decode(tmp_path / "a.png")


def test_content_is_read_as_a_file_is(tmp_path):
    for name, content in good_images().items():
        path = os.path.join(tmp_path, name)
        with open(path, "wb") as file:
            file.write(content)
        of_file = read_image(path, height=6, width=7, channels=3)
        np.testing.assert_array_equal(read_image(content, height=6, width=7, channels=3), of_file)
    with pytest.raises(ImageError, match="'the image' is empty"):
        decode(b"")
    with pytest.raises(ImageError, match="'mine' is no image"):
        decode(b"no image", name="mine")


@pytest.mark.skipif(sys.platform != "linux", reason="its devices")
def test_what_is_no_file_is_no_image(tmp_path):
    with pytest.raises(ImageError, match=r"'/dev/zero' is a device: name a file"):
        decode("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        with pytest.raises(ImageError, match=r"s' cannot be read: no such device or address"):
            decode(tmp_path / "s")


@pytest.mark.parametrize("size", [1, 6, 7, 100, 2**20])
def test_scans_are_counted_wherever_a_block_ends(size, monkeypatch):
    monkeypatch.setattr(images, "_READ_WHOLE", size)
    content = scans(90)
    assert decode(content).size == (99, 70)
    monkeypatch.setattr(images, "_MOST_SCANS", 99)
    with pytest.raises(ImageError, match="'the image' has 100 scans: a JPEG of at most 99 is read"):
        decode(content)


@pytest.mark.parametrize("read", [decode, lambda content: read_image(content, height=4, width=4, channels=1)])
def test_an_error_keeps_its_lines_and_no_pixels(read):
    content = saved(Image.new("RGB", (1500, 1500)), "BMP")[:5_000_000]
    with pytest.raises(ImageError) as info:
        read(content)
    cause, lines = info.value, 0
    while cause is not None:
        walked = cause.__traceback__
        while walked is not None:
            lines += 1
            assert not [value for value in walked.tb_frame.f_locals.values() if isinstance(value, Image.Image)]
            walked = walked.tb_next
        cause = cause.__cause__ or cause.__context__
    assert lines > 5


MANY_BAD = """
import sys
from ffcore.errors import ImageError
from ffcore.images import read_image
errors = []
for _ in range(25):
    try:
        read_image(sys.argv[1], height=4, width=4, channels=1)
    except ImageError as error:
        errors.append(error)
print(len(errors), *(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_damaged_images_take_the_memory_of_one(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4000, 3000, 8, 2, bytes(1 + 3 * 4000))[:-1000])
    count, peak = map(int, python("-c", MANY_BAD, tmp_path / "a.png").stdout.split())
    assert count == 25
    assert peak * 1024 < 200e6  # each is decoded to 48 MB


IN_THREADS = """
import sys, threading
from ffcore.images import read_image
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS"))
read = lambda: read_image(sys.argv[1], height=4, width=4, channels=3)
read()
before, ended, threads = resident(), threading.Event(), []
for _ in range(4):
    done = threading.Event()
    thread = threading.Thread(target=lambda done=done: (read(), done.set(), ended.wait()))
    thread.start()
    threads.append(thread)
    done.wait()
print(resident() - before)
ended.set()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_goes_back_whichever_thread_read(tmp_path):
    (tmp_path / "a.png").write_bytes(png(4000, 4000, 8, 2, bytes(1 + 3 * 4000)))
    assert int(python("-c", IN_THREADS, tmp_path / "a.png").stdout) * 1024 < 30e6  # one is decoded to 64 MB


@pytest.mark.parametrize("format", sorted({*HUNGRY} & {*own_formats()}))
def test_formats_that_take_much_memory_are_read_to_half_the_size(format):
    content = saved(Image.new("L", (100, 60), 9), format)
    assert decode(content, max_pixels=12_000).size == (100, 60)
    with pytest.raises(ImageError, match=f"100x60 pixels: at most 5,999 are read of {format}"):
        decode(content, max_pixels=11_999)


@pytest.mark.parametrize("mode", ["LA", "P", "RGBA", "CMYK", "1"])
def test_large_images_are_flattened_in_strips_as_small_ones_are(mode, monkeypatch):
    colour = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 4), dtype=np.uint8), "RGBA")
    image = colour.convert("RGB").convert(mode) if mode in ("P", "CMYK", "1") else colour.convert(mode)
    options = {"transparency": bytes(range(200))} if mode == "P" else {}
    content = saved(image, "TIFF" if mode == "CMYK" else "PNG", **options)
    whole = np.asarray(decode(content))
    monkeypatch.setattr("ffcore.flat._STRIP", 3 * 40 + 5)
    np.testing.assert_array_equal(np.asarray(decode(content)), whole)


def test_sixteen_bits_in_strips(monkeypatch):
    content = saved(Image.fromarray(np.arange(6000, dtype=np.uint16).reshape(60, 100) * 10), "PNG")
    whole = np.asarray(decode(content))
    monkeypatch.setattr("ffcore.flat._STRIP", 700)
    np.testing.assert_array_equal(np.asarray(decode(content)), whole)


def test_the_largest_image_takes_less_than_a_gib(make_model, tmp_path):
    made = make_model()
    (tmp_path / "a.png").write_bytes(png(SIDE, SIDE, 8, 0, bytes([0, *range(250)]) + bytes(SIDE - 250)))
    ended, peak = limited("predict", tmp_path / "a.png", "--model", made.path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert peak < GIB


@pytest.mark.slow
def test_every_kind_of_largest_image_takes_less_than_a_gib_several_at_once(make_model, tmp_path):
    made, folder = make_model(), tmp_path / "large"
    folder.mkdir()
    gray = Image.fromarray(np.broadcast_to(np.linspace(0, 255, SIDE).astype(np.uint8), (SIDE, SIDE)).copy())
    colour, turned = Image.merge("RGB", [gray] * 3), Image.Exif()
    turned[0x0112] = 6
    colour.save(folder / "colour.png", compress_level=1, exif=turned)
    Image.merge("RGBA", [gray] * 4).save(folder / "alpha.png", compress_level=1, exif=turned)
    Image.merge("LA", [gray] * 2).save(folder / "gray-alpha.png", compress_level=1)
    Image.merge("CMYK", [gray] * 4).save(folder / "progressive.jpg", progressive=True, subsampling=0, exif=turned)
    colour.quantize(16).save(folder / "palette.png", transparency=bytes(range(16)))
    Image.fromarray(np.asarray(gray).astype(np.uint16) * 257).save(folder / "sixteen.png", compress_level=1)
    half = Image.merge("RGBA", [gray] * 4).crop((0, 0, SIDE, SIDE // 2))
    half.save(folder / "half.webp", quality=10, method=0)
    half.save(folder / "half.jp2", irreversible=True, quality_mode="rates", quality_layers=[200])
    for number in range(2):
        os.link(folder / "progressive.jpg", folder / f"progressive-{number}.jpg")
    assert SIDE**2 == MAX_PIXELS
    # What is freed may still count as data, so that resident memory is looked at.
    ended, peak = limited("predict", folder, "--model", made.path, "--jsonl", limit=4 * GIB)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert len(ended.stdout.splitlines()) == 10
    assert peak < GIB
