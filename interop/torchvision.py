"""torchvision's models: detectors, dense segmenters, classifiers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rehead.interop.library import HEAD, NETWORKS, Form, Known, Pairs

DETECTOR: Pairs = ((f"{HEAD}neck.fpn.", "backbone.fpn."), ("backbone.", "backbone.body."), (HEAD, ""))
SEGMENTER: Pairs = (("backbone.", "backbone."), (HEAD, ""))
CLASSIFIER: Pairs = ((f"{HEAD}fc.", "fc."), ("backbone.", ""))

RCNN = Form("torchvision", DETECTOR, "roi_heads.box_predictor.cls_score.bias", background=1)
ONE_STAGE = Form("torchvision", DETECTOR, "head.classification_head.cls_logits.bias")
DENSE = Form("torchvision", SEGMENTER, "classifier.4.bias")

TORCHVISION: dict[str, Form] = {
    "faster_rcnn": RCNN,
    "mask_rcnn": RCNN,
    "keypoint_rcnn": RCNN,
    "retinanet": ONE_STAGE,
    "fcos": ONE_STAGE,
    "torchvision_fcn": DENSE,
    "torchvision_deeplabv3": DENSE,
    "linear": Form("torchvision", CLASSIFIER, "fc.bias"),
}
"""By the name of our head."""

SECOND = {"rpn_convs": 2, "box_convs": 4, "norm": "batch"}
"""Options of a head that make it the one of torchvision's version 2."""


def torchvision_models() -> Iterator[tuple[str, Known]]:
    """Every model that is known, by name."""
    body = {"name": "resnet50"}
    detectors: list[tuple[str, str, dict[str, Any], float | None]] = [
        ("fasterrcnn_resnet50_fpn", "detection", {"name": "faster_rcnn"}, 0.0),
        ("fasterrcnn_resnet50_fpn_v2", "detection", {"name": "faster_rcnn", **SECOND}, None),
        ("maskrcnn_resnet50_fpn", "instance_segmentation", {"name": "mask_rcnn"}, 0.0),
        ("maskrcnn_resnet50_fpn_v2", "instance_segmentation", {"name": "mask_rcnn", **SECOND}, None),
        ("keypointrcnn_resnet50_fpn", "keypoint_detection", {"name": "keypoint_rcnn"}, 0.0),
        ("retinanet_resnet50_fpn", "detection", {"name": "retinanet"}, 0.0),
        (
            "retinanet_resnet50_fpn_v2",
            "detection",
            {"name": "retinanet", "norm": "group", "box_loss": "giou", "p6_input": "C5"},
            None,
        ),
        ("fcos_resnet50_fpn", "detection", {"name": "fcos"}, None),
    ]
    for name, task, head, eps in detectors:
        yield (
            name,
            Known(
                task, TORCHVISION[head["name"]], head, body, {"shorter": 800, "longer": 1333}, _categories(name), eps
            ),
        )
    for kind in ("fcn", "deeplabv3"):
        for network in ("resnet50", "resnet101"):
            name = f"{kind}_{network}"
            dilated = {"name": network, "output_stride": 8}
            head = {"name": f"torchvision_{kind}"}
            yield name, Known("segmentation", DENSE, head, dilated, {"shorter": 520}, _categories(name))
    for network in NETWORKS:
        head = {"name": "linear"}
        size = {"shorter": 256, "crop": 224}
        yield (
            network,
            Known("classification", TORCHVISION["linear"], head, {"name": network}, size, _categories(network)),
        )


def _categories(name: str) -> Callable[[], Sequence[str]]:
    def read_categories() -> Sequence[str]:
        from torchvision.models._api import get_model_weights

        # Every set of published weights of one model has the same classes.
        categories: Sequence[str] = next(iter(get_model_weights(name))).meta["categories"]
        return categories

    return read_categories
