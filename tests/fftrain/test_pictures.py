"""Annotated pictures are held against what the files were made of."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from ffcore.errors import DataError, SettingError
from fftrain import evaluate_run
from fftrain.evaluations.detection import Detection
from fftrain.pictures import PUBLISHED, Pictures
from fftrain.report.frame import collect, with_choices
from fftrain.report.tables import measured_table, results_table
from fftrain.scenes import UNTOLD
from tests.fftrain.annotated import NAMES, SHAPE, made, outlined, write_voc
from tests.fftrain.test_features import noise
from tests.fftrain.training import evaluation

SIDE = 32
SPLITS = {"train": 6, "validation": 2, "test": 2}
VOC = [0, 1 + NAMES.index("cat"), 1 + NAMES.index("dog")]


def scenes_of(folder, name, split, boxes=False, count=None, channels=3, seed=0):
    found = Pictures(name, boxes, folder)
    return found.scenes(split, count or SPLITS[split], size=SIDE, channels=channels, seed=seed)


def nearest(mask):
    """The value at the middle of each pixel of a scene."""
    rows, columns = (((np.arange(SIDE) + 0.5) * length / SIDE).astype(int) for length in SHAPE)
    return mask[rows][:, columns]


def like(scenes, expected):
    """The picture that each scene is of: the one of which this was expected. All are of several."""
    found = [[i for i, one in enumerate(expected) if np.allclose(one, scene)] for scene in scenes]
    assert all(len(of) == 1 for of in found)
    return [i for [i] in found]


@pytest.mark.parametrize(("name", "classes"), [("voc", VOC), ("pet", [0, 1, 1])])
def test_a_mask_is_of_the_nearest_pixels_and_its_outline_is_untold(pictures, name, classes):
    expected = [nearest(outlined(mask, 255)) for _, mask, _ in map(made, range(11))]
    expected = [np.array([*classes, *[UNTOLD] * 253])[mask] for mask in expected]
    of = {split: like(scenes_of(pictures, name, split).classes.numpy(), expected) for split in SPLITS}
    assert sorted(of["train"] + of["validation"]) == [*range(8)]
    assert {*of["test"]} < {8, 9, 10}
    assert scenes_of(pictures, name, "train").labels.shape == (6, 0)


def test_boxes_are_scaled_with_their_pictures(pictures):
    expected = np.zeros((11, 2, 4))
    for i, (_, _, objects) in enumerate(map(made, range(11))):
        for place, (_, _, edges) in enumerate(objects):
            expected[i, place] = np.array(edges) * SIDE / np.tile(SHAPE[::-1], 2)
    for split in SPLITS:
        scenes = scenes_of(pictures, "voc", split, boxes=True)
        assert scenes.classes.shape == (SPLITS[split], 0, 0)
        for scene, i in enumerate(like(scenes.boxes.numpy(), expected)):
            objects = made(i)[2]
            there = scenes.labels[scene] > 0
            assert [NAMES[k - 1] for k in scenes.labels[scene][there].tolist()] == [name for name, _, _ in objects]
            assert scenes.difficult[scene].tolist()[: len(objects)] == [hard for _, hard, _ in objects]


def test_a_scene_shows_its_picture_in_colour_or_as_gray_as_images_are(pictures):
    colour, gray = (scenes_of(pictures, "voc", "train", boxes=True, channels=c) for c in (3, 1))
    assert (colour.images.shape, gray.images.shape) == ((6, 3, SIDE, SIDE), (6, 1, SIDE, SIDE))
    luma = (colour.images.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1)
    assert (gray.images[:, 0] - luma).abs().max() < 2
    for image, boxes, labels in zip(colour.images, colour.boxes, colour.labels, strict=True):
        for (left, top, right, bottom), label in zip(boxes.tolist(), labels.tolist(), strict=True):
            if label:
                middle = image[:, int(top + bottom) // 2, int(left + right) // 2].int()
                wanted = torch.tensor([220, 60, 60] if NAMES[label - 1] == "cat" else [60, 60, 220])
                assert (middle - wanted).abs().max() < 40


def test_scenes_are_drawn_by_the_seed_and_fewer_are_the_first(pictures):
    whole, again = (scenes_of(pictures, "pet", "train") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(vars(whole).values(), vars(again).values(), strict=True))
    assert torch.equal(scenes_of(pictures, "pet", "train", count=3).images, whole.images[:3])
    assert not torch.equal(scenes_of(pictures, "pet", "train", seed=1).images, whole.images)


@pytest.mark.parametrize(
    ("name", "where", "what"),
    [("voc", "voc", "VOCdevkit/VOC2012"), ("pet", "oxford_iiit_pet", "oxford-iiit-pet")],
)
def test_pictures_that_are_missing_are_named_with_where_they_are_had(
    run_copy, tmp_path, monkeypatch, name, where, what
):
    def refuse(*arguments, **settings):
        print("Downloading")
        raise URLError("no network")

    monkeypatch.setattr(f"torchvision.datasets.{where}.download_and_extract_archive", refuse)
    with pytest.raises(DataError) as error:
        evaluate_run(run_copy, evaluation("segmentation", data=name, data_dir=str(tmp_path)))
    said = rf"{what} is not in {tmp_path}, or damaged there, and could not be downloaded .*no network"
    assert error.match(rf"{said}.*--data-dir .* get it from http")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "boxes", "file"),
    [
        ("voc", False, "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"),
        ("voc", True, "VOCdevkit/VOC2012/ImageSets/Main/train.txt"),
        ("pet", False, "oxford-iiit-pet/annotations/trainval.txt"),
    ],
)
def test_a_folder_that_is_incomplete_is_named_with_what_is_missing(pictures, tmp_path, name, boxes, file):
    folder = shutil.copytree(pictures, tmp_path / "half")
    (folder / file).unlink()
    said = rf"{PUBLISHED[name].place} is incomplete \({folder / file} is missing\): complete it, or delete that folder"
    with pytest.raises(DataError, match=said) as error:
        Pictures(name, boxes, folder).open()
    assert "\n" not in str(error.value)


def test_more_scenes_than_there_are_pictures_are_refused(run_copy, pictures):
    for name in ("segmentation", "detection"):
        with pytest.raises(SettingError, match=f"{name}.scenes is 7, .*voc has 8 pictures .* 3 for test: ask for 6"):
            evaluate_run(run_copy, evaluation(name, data="voc", scenes=7, data_dir=str(pictures)))


def edge(name, value):
    """Sets an edge of all boxes of an annotation."""
    return lambda path: path.write_text(re.sub(rf"(<{name}>)\d+", rf"\g<1>{value}", path.read_text()))


def test_a_box_may_be_the_whole_picture_and_between_pixels(tmp_path):
    write_voc(tmp_path, train=1, val=1)
    path = tmp_path / "VOCdevkit" / "VOC2012" / "Annotations" / "2012_000000.xml"
    for name, value in (("xmin", 1), ("ymin", 1.5), ("xmax", 48), ("ymax", 36)):
        edge(name, value)(path)
    scenes = scenes_of(tmp_path, "voc", "train", boxes=True, count=1)
    assert np.allclose(scenes.boxes, [[[0, 0.5 * SIDE / 36, SIDE, SIDE]]])


@pytest.mark.parametrize(
    ("boxes", "file", "spoil", "said"),
    [
        (False, "JPEGImages/{}.jpg", lambda path: path.write_bytes(path.read_bytes()[:300]), "OSError"),
        (False, "SegmentationClass/{}.png", lambda path: path.unlink(), "No such file"),
        (False, "SegmentationClass/{}.png", lambda path: Image.new("RGB", (48, 36)).save(path), "its mask is RGB"),
        (False, "SegmentationClass/{}.png", lambda path: Image.new("L", (48, 36), 21).save(path), "has the value 21"),
        (True, "Annotations/{}.xml", lambda path: path.write_text("<annotation>"), "ParseError"),
        (True, "Annotations/{}.xml", lambda path: path.write_text(path.read_text().replace("cat", "cow2")), "cow2"),
        (True, "Annotations/{}.xml", lambda path: path.write_text(path.read_text().replace("xmin", "x")), "xmin"),
        (True, "Annotations/{}.xml", edge("xmin", 0), "the box 0 .* is not within the picture"),
        (True, "Annotations/{}.xml", edge("xmin", "nan"), "the box nan .* is not within"),
        (True, "Annotations/{}.xml", edge("xmin", 48), "the box 48 .* is not within"),
        (True, "Annotations/{}.xml", edge("xmax", 49), "is not within"),
        (True, "Annotations/{}.xml", edge("ymin", -900), "is not within"),
        (True, "Annotations/{}.xml", edge("ymax", 37), "is not within"),
    ],
)
def test_a_file_that_is_damaged_is_named(tmp_path, boxes, file, spoil, said):
    write_voc(tmp_path, train=2, val=1)
    spoil(tmp_path / "VOCdevkit" / "VOC2012" / file.format("2012_000001"))
    with pytest.raises(DataError, match=rf"2012_000001 in .*VOC2012 cannot be read \(.*{said}.*\): restore") as error:
        scenes_of(tmp_path, "voc", "train", boxes=boxes, count=2)
    assert "\n" not in str(error.value)


def test_a_setting_of_made_scenes_is_refused_with_pictures():
    with pytest.raises(SettingError, match=r"clutter is 2, of scenes that are made, and data is voc: leave it out"):
        Detection(data="voc", clutter=2)


def test_figures_of_pictures_stand_beside_those_of_images(cli, run_copy, pictures, tmp_path):
    """Measured once, and anew where the lists of the pictures change; a run of images without classes has them too."""
    folder = shutil.copytree(pictures, tmp_path / "pictures")

    def measured(*words):
        few = ["segmentation.scenes=3", "segmentation.epochs=1", "segmentation.stride=28"]
        ended = cli("fftrain", "evaluate", run_copy, *words, *few, "--data-dir", folder, "--threads", 1, "--json")
        assert ended.code == 0, ended.err
        return ended.json["evaluations"]

    options = ["detection.data=voc", "detection.scenes=3", "detection.epochs=1", "detection.stride=28"]
    voc, boxes = measured("segmentation", "segmentation.data=voc", "detection", *options)
    [pet], [digits] = measured("segmentation.data=pet"), measured("segmentation")
    for found, name in ((voc, "voc"), (boxes, "voc"), (pet, "pet"), (digits, "digits")):
        assert {(one["dataset"], one["target"]) for one in (found, *found["records"])} == {(name, "class")}
    assert all((run_copy / found["file"]).is_file() for found in (voc, boxes, pet, digits))
    assert {record["source"] for record in voc["records"]} == {"raw", "random", "ff"}
    assert measured("segmentation.data=voc") == [voc]
    found = collect(run_copy)
    frame = with_choices(found)
    for table, places in (
        (results_table(found, frame), {"digits"}),
        (measured_table(found, frame, "mIoU"), {"digits", "pet", "voc"}),
        (measured_table(found, frame, "AP50"), {"voc"}),
    ):
        assert {row[table.columns.index("reading") - 1] for row in table.rows} == places
    listed = folder / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation" / "train.txt"
    listed.write_text("\n".join(reversed(listed.read_text().split())))
    [again] = measured("segmentation.data=voc")
    assert again["file"] != voc["file"]
    unlabelled = replace(noise((9, 9, 9), 28), class_names=())
    config = evaluation("segmentation", data="voc", scenes=3, epochs=1, stride=28, data_dir=str(folder))
    [of_others] = evaluate_run(run_copy, config, data=unlabelled)
    assert of_others.about["dataset"] == "voc"
