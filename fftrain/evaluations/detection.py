"""Detection: a linear head tells of each place of a scene whether an object's middle is there, and how large it is.

Boxes are found as CenterNet finds them (Zhou et al. 2019, arXiv 1904.07850): a map for each class that is 1 at the
middle of an object and falls off as a Gaussian, peaks of which are detections; its penalised focal loss; offset and
size at the middle by L1. Letters: B scenes of a batch, K classes, M objects, G places a side, Q detections.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from ffcore.settings import setting
from fftrain.dense import Dense
from fftrain.scenes import Scenes

# Pixels of a place's side, about; an object's Gaussian deviates by this share of its size.
PLACE, WIDTH = 4, 1 / 8
# The weight of offset and size; detections of a scene, as many as there may be objects, or as many as COCO has.
WEIGHT = 0.3
FOUND = {"made": 20, "voc": 100}


class Detection(Dense):
    """AP of boxes that a linear head on the features of each place finds; validation chooses its learning rate."""

    boxes = True

    data: Literal["made", "voc"] = setting(
        "made", description="Scenes: made of images, or pictures of PASCAL VOC 2012, with boxes."
    )

    def outputs(self, classes: int) -> int:
        """Returns a logit for each class, then two offsets and two logarithms of sizes."""
        return classes + 4

    def places(self, scenes: Scenes) -> tuple[int, int]:
        """Returns G twice."""
        G = -(-scenes.images.shape[-1] // PLACE)
        return G, G

    def loss(self, told_BKhw: Tensor, scenes: Scenes) -> Tensor:
        """Returns the focal loss of all places and the distance of offsets and sizes at the middles, by object."""
        logits_BKGG, boxes_B4GG = told_BKhw[:, :-4], told_BKhw[:, -4:]
        wanted_BKGG, at_BM, wanted_BM4 = targets(scenes, *logits_BKGG.shape[1:3])
        there_BM = scenes.labels > 0
        near = -((1 - wanted_BKGG) ** 4) * logits_BKGG.sigmoid().square() * functional.logsigmoid(-logits_BKGG)
        middle = -logits_BKGG.sigmoid().sub(1).square() * functional.logsigmoid(logits_BKGG)
        focal = torch.where(wanted_BKGG == 1, middle, near).sum()
        told_B4M = boxes_B4GG.flatten(2).gather(2, at_BM[:, None].expand(-1, 4, -1))
        away = ((told_B4M.mT - wanted_BM4).abs().sum(-1) * there_BM).sum()
        return (focal + WEIGHT * away) / there_BM.sum().clamp(min=1)

    def scores(self, told: Iterable[Tensor], scenes: Scenes, classes: int) -> dict[str, float]:
        """Returns AP at an overlap of one half, and COCO's mean of it over overlaps from 0.5 to 0.95."""
        most = FOUND[self.data]
        found = [one for part in told for one in detections(part.cpu(), scenes.images.shape[-1], most)]
        return precision(scenes, found, most)


def targets(scenes: Scenes, classes: int, places: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns what a head shall tell.

    Args:
        scenes: with boxes and labels.
        classes: K.
        places: G.

    Returns:
        The map of each class [B, K, G, G]; where the middle of each object lies, int64 [B, M] of G * G places; and
        offset across and down and the logarithm of width and height there, in places, [B, M, 4].
    """
    boxes_BM4 = scenes.boxes * (places / scenes.images.shape[-1])
    middle_BM2 = (boxes_BM4[..., :2] + boxes_BM4[..., 2:]) / 2
    size_BM2 = (boxes_BM4[..., 2:] - boxes_BM4[..., :2]).clamp(min=1e-3)
    place_BM2 = middle_BM2.floor().clamp(max=places - 1)
    line_G = torch.arange(places, device=boxes_BM4.device)
    x_BMG, y_BMG = ((line_G - place_BM2[..., i, None]).square() for i in (0, 1))
    spread_BM = 2 * WIDTH**2 * size_BM2.prod(-1)
    bump_BMGG = torch.exp(-(y_BMG[..., :, None] + x_BMG[..., None, :]) / spread_BM[..., None, None])
    bump_BMP = (bump_BMGG * (scenes.labels > 0)[..., None, None]).flatten(2)
    of_BMP = (scenes.labels - 1).clamp(min=0)[..., None].expand_as(bump_BMP)
    map_BKP = bump_BMP.new_zeros(len(bump_BMP), classes, places**2).scatter_reduce(1, of_BMP, bump_BMP, "amax")
    x_BM, y_BM = place_BM2.long().unbind(-1)
    wanted_BM4 = torch.cat([middle_BM2 - place_BM2 - 0.5, size_BM2.log()], -1)
    return map_BKP.view(-1, classes, places, places), y_BM * places + x_BM, wanted_BM4


def detections(told_BKGG: Tensor, side: int, most: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yields scores [Q], labels int64 [Q] from 1, and boxes [Q, 4] in pixels of each scene: its highest peaks."""
    logits_BKGG, boxes_B4GG = told_BKGG[:, :-4], told_BKGG[:, -4:]
    G = logits_BKGG.shape[-1]
    scores_BKGG = logits_BKGG.sigmoid()
    peaks_BKGG = scores_BKGG * (scores_BKGG == functional.max_pool2d(scores_BKGG, 3, 1, 1))
    for peaks_KGG, boxes_4GG in zip(peaks_BKGG, boxes_B4GG, strict=True):
        scores_Q, at_Q = peaks_KGG.flatten().topk(min(most, int(peaks_KGG.count_nonzero())))
        place_Q = at_Q % G**2
        box_4Q = boxes_4GG.flatten(1)[:, place_Q]
        middle_2Q = torch.stack([place_Q % G, place_Q // G]) + 0.5 + box_4Q[:2]
        half_2Q = box_4Q[2:].clamp(max=10).exp() / 2
        boxes_Q4 = torch.cat([middle_2Q - half_2Q, middle_2Q + half_2Q]).T * (side / G)
        yield scores_Q, at_Q // G**2 + 1, boxes_Q4


def precision(scenes: Scenes, found: Iterable[tuple[Tensor, Tensor, Tensor]], most: int) -> dict[str, float]:
    """Returns AP50 and AP of detections, scores, labels and boxes of each scene, as pycocotools counts them.

    The mean is over the classes of which the scenes show an object that is not difficult; 0 where there is none. What
    is found of a difficult one counts neither way, as VOC has it: it is COCO's crowd, within which detections lie.

    Args:
        scenes: the truth.
        found: of each.
        most: detections of a scene and class.
    """
    from pycocotools.cocoeval import COCOeval

    true = zip(scenes.labels > 0, scenes.difficult.int(), scenes.labels, scenes.boxes, strict=True)
    truth = _coco("iscrowd", ((hard[at], labels[at], boxes[at]) for at, hard, labels, boxes in true), len(scenes))
    with contextlib.redirect_stdout(io.StringIO()):
        counted = COCOeval(truth, _coco("score", found, len(scenes)), "bbox")
        counted.params.catIds = sorted({*scenes.labels[(scenes.labels > 0) & ~scenes.difficult].tolist()})
        counted.params.areaRng, counted.params.areaRngLbl, counted.params.maxDets = [[0, 1e10]], ["all"], [most]
        counted.evaluate()
        counted.accumulate()
    of_overlaps = counted.eval["precision"]
    if not of_overlaps.size:
        return {"AP50": 0.0, "AP": 0.0}
    return {"AP50": float(of_overlaps[0].mean()), "AP": float(of_overlaps.mean())}


def _coco(key: str, scenes: Iterable[tuple[Tensor, Tensor, Tensor]], count: int) -> Any:
    """Returns what stands under a key, labels and boxes of each scene as pycocotools has them."""
    from pycocotools.coco import COCO

    made: list[dict[str, Any]] = []
    for scene, (values, labels, boxes) in enumerate(scenes):
        for value, label, (x, y, right, bottom) in zip(values.tolist(), labels.tolist(), boxes.tolist(), strict=True):
            box = [x, y, right - x, bottom - y]
            about = {"id": len(made) + 1, "image_id": scene, "category_id": label, "iscrowd": 0}
            made.append({**about, "bbox": box, "area": box[2] * box[3], key: value})
    found = COCO()
    found.dataset = {"images": [{"id": i} for i in range(count)], "annotations": made}
    found.dataset["categories"] = [{"id": label} for label in sorted({one["category_id"] for one in made})]
    with contextlib.redirect_stdout(io.StringIO()):
        found.createIndex()
    return found
