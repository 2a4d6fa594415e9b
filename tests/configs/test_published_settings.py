"""The recipes that aim at published figures have the published settings, in the words of their sources."""

from __future__ import annotations

from typing import Any

import pytest
from torchvision.models import detection

from rehead.configs.detection_heads import RCNNOptions, RetinaNetOptions
from rehead.configs.load import load_config, recipes
from rehead.configs.schema import Config
from rehead.configs.segmentation_heads import DeepLabV3PlusOptions, UPerNetOptions

# --- torchvision: references/detection/README.md and the defaults of its train.py, engine.py and coco_utils.py,
# https://github.com/pytorch/vision/tree/main/references/detection
TORCHVISION_DEFAULTS: dict[str, Any] = {
    "--epochs": 26,
    "--lr-steps": [16, 22],
    "--lr-gamma": 0.1,
    "--lr": 0.02,
    "--momentum": 0.9,
    "--weight-decay": 1e-4,
    "GPUs x --batch-size": 8 * 2,
    "--aspect-ratio-group-factor": True,
    "--data-augmentation hflip": [{"name": "HorizontalFlip", "p": 0.5}],
    "warmup_iters": 1000,
    "warmup_factor": 0.001,
    "min_size, max_size": (800, 1333),
    "trainable_backbone_layers of 5": 3,
    "FrozenBatchNorm2d": True,
    "images without annotations": "removed",
    "min_keypoints_per_image": None,
    "evaluation": "fp32",
}
TORCHVISION: dict[str, dict[str, Any]] = {
    "faster_rcnn": {},
    "mask_rcnn": {},
    "keypoint_rcnn": {"--epochs": 46, "--lr-steps": [36, 43], "min_keypoints_per_image": 10},
    "retinanet": {"--lr": 0.01},
    "fcos": {"--lr": 0.01},
}
TORCHVISION_WEIGHTS = {
    "faster_rcnn": detection.FasterRCNN_ResNet50_FPN_Weights,
    "mask_rcnn": detection.MaskRCNN_ResNet50_FPN_Weights,
    "keypoint_rcnn": detection.KeypointRCNN_ResNet50_FPN_Weights,
    "retinanet": detection.RetinaNet_ResNet50_FPN_Weights,
    "fcos": detection.FCOS_ResNet50_FPN_Weights,
}

# --- Detectron2: detectron2/config/defaults.py, configs/Base-RCNN-FPN.yaml, configs/Base-RetinaNet.yaml and the
# file of each, figures of MODEL_ZOO.md, https://github.com/facebookresearch/detectron2
DETECTRON2_DEFAULTS: dict[str, Any] = {
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.BASE_LR": 0.02,
    "SOLVER.STEPS": [60000, 80000],
    "SOLVER.GAMMA": 0.1,
    "SOLVER.MAX_ITER": 90000,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WARMUP_ITERS": 1000,
    "SOLVER.WARMUP_FACTOR": 0.001,
    "SOLVER.WARMUP_METHOD": "linear",
    "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.RANDOM_FLIP": "horizontal",
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "evaluation": "fp32",
}
DETECTRON2_RCNN: dict[str, Any] = {
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.NMS_THRESH": 0.7,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.SMOOTH_L1_BETA": 0.0,
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.0,
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2",
    "MODEL.ROI_BOX_HEAD.FC_DIM": 1024,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 512,
    "MODEL.ROI_HEADS.POSITIVE_FRACTION": 0.25,
    "MODEL.ROI_HEADS.IOU_THRESHOLDS": [0.5],
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.05,
    "MODEL.ROI_HEADS.NMS_THRESH_TEST": 0.5,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}
DETECTRON2: dict[str, dict[str, Any]] = {
    "faster_rcnn": DETECTRON2_RCNN,
    "mask_rcnn": DETECTRON2_RCNN,
    "keypoint_rcnn": {
        **DETECTRON2_RCNN,
        "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1500,
        "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": 0.5,
        "MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE": 1,
    },
    "retinanet": {
        "SOLVER.BASE_LR": 0.01,
        "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
        "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
        "MODEL.RETINANET.TOPK_CANDIDATES_TEST": 1000,
        "MODEL.RETINANET.SCORE_THRESH_TEST": 0.05,
        "MODEL.RETINANET.NMS_THRESH_TEST": 0.5,
        "MODEL.RETINANET.NUM_CONVS": 4,
        "P6 from": "res5",
        "TEST.DETECTIONS_PER_IMAGE": 100,
    },
    "fcos": {"SOLVER.BASE_LR": 0.01},
}
DETECTRON2_FIGURES = {
    "faster_rcnn": ["box AP 37.9"],
    "mask_rcnn": ["box AP 38.6", "mask AP 35.2"],
    "keypoint_rcnn": ["box AP 53.6", "keypoint AP 64.0"],
    "retinanet": ["box AP 37.4"],
    # configs/FCOS-Detection/README.md of https://github.com/aim-uofa/AdelaiDet: Detectron2 publishes none.
    "fcos": ["box AP 38.7"],
}

# --- mmsegmentation: configs/_base_ (schedules/schedule_80k.py and _160k, datasets/cityscapes.py and ade20k.py, models/
# deeplabv3plus_r50-d8.py and upernet_r50.py), figures of the README.md and metafile of each,
# https://github.com/open-mmlab/mmsegmentation
MMSEGMENTATION_DEFAULTS: dict[str, Any] = {
    "lr": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "PolyLR.power": 0.9,
    "PolyLR.eta_min": 1e-4,
    "ratio_range": (0.5, 2.0),
    "RandomFlip": 0.5,
    "norm": "SyncBN",
    "head channels": 512,
}
MMSEGMENTATION_DATA: dict[str, dict[str, Any]] = {
    "cityscapes": {
        "crop_size": (512, 1024),
        "scale": (2048, 1024),
        "max_iters": 80000,
        "GPUs x batch_size": 4 * 2,
        "classes": 19,
    },
    "ade20k": {
        "crop_size": (512, 512),
        "scale": (2048, 512),
        "max_iters": 160000,
        "GPUs x batch_size": 4 * 4,
        "classes": 150,
    },
}
MMSEGMENTATION_HEADS: dict[str, dict[str, Any]] = {
    "deeplabv3plus": {"output stride": 8, "dropout_ratio": 0.1, "dilations": (12, 24, 36)},
    "upernet": {"output stride": 32},
}
MMSEGMENTATION_FIGURES = {
    ("cityscapes", "deeplabv3plus"): "mIoU 80.28",
    ("cityscapes", "upernet"): "mIoU 78.19",
    ("ade20k", "deeplabv3plus"): "mIoU 43.95",
    ("ade20k", "upernet"): "mIoU 42.05",
}


def in_torchvisions_words(config: Config) -> dict[str, Any]:
    """What torchvision's command line, and the code behind it, would say of a recipe."""
    data, train, backbone = config.data, config.train, config.model.backbone
    assert train.schedule.name == "multistep"
    assert train.schedule.milestones_in == "epochs"
    assert train.max_steps is None
    assert data.resize is not None
    assert isinstance(backbone.freeze, int)
    keypoints = config.task == "keypoint_detection"
    return {
        "--epochs": train.epochs,
        "--lr-steps": train.schedule.milestones,
        "--lr-gamma": train.schedule.gamma,
        "--lr": train.optimizer.lr,
        "--momentum": train.optimizer.momentum,
        "--weight-decay": train.optimizer.weight_decay,
        "GPUs x --batch-size": train.global_batch_size,
        "--aspect-ratio-group-factor": data.group_by_aspect,
        "--data-augmentation hflip": steps(config),
        "warmup_iters": train.schedule.warmup_steps,
        "warmup_factor": train.schedule.warmup_factor,
        "min_size, max_size": (data.resize.shorter, data.resize.longer),
        "trainable_backbone_layers of 5": 5 - backbone.freeze,
        "FrozenBatchNorm2d": backbone.norm == "frozen",
        "images without annotations": "removed" if data.sampling.skip_empty else "kept",
        "min_keypoints_per_image": data.sampling.min_keypoints if keypoints else None,
        "evaluation": train.evaluate_precision,
    }


def in_detectron2s_words(config: Config) -> dict[str, Any]:
    """What Detectron2's configuration would say of a recipe."""
    data, train = config.data, config.train
    assert train.schedule.name == "multistep"
    assert train.schedule.milestones_in == "steps"
    assert data.resize is not None
    scaled, *flip = steps(config)
    assert scaled.keys() == {"name", "shorter"}
    found = {
        "SOLVER.IMS_PER_BATCH": train.global_batch_size,
        "SOLVER.BASE_LR": train.optimizer.lr,
        "SOLVER.STEPS": train.schedule.milestones,
        "SOLVER.GAMMA": train.schedule.gamma,
        "SOLVER.MAX_ITER": train.max_steps,
        "SOLVER.MOMENTUM": train.optimizer.momentum,
        "SOLVER.WEIGHT_DECAY": train.optimizer.weight_decay,
        "SOLVER.WARMUP_ITERS": train.schedule.warmup_steps,
        "SOLVER.WARMUP_FACTOR": train.schedule.warmup_factor,
        "SOLVER.WARMUP_METHOD": train.schedule.warmup,
        "INPUT.MIN_SIZE_TRAIN": scaled["shorter"],
        "INPUT.MAX_SIZE_TRAIN": data.resize.longer,
        "INPUT.MIN_SIZE_TEST": data.resize.shorter,
        "INPUT.RANDOM_FLIP": "horizontal" if flip == [{"name": "HorizontalFlip", "p": 0.5}] else flip,
        "DATALOADER.ASPECT_RATIO_GROUPING": data.group_by_aspect,
        "DATALOADER.FILTER_EMPTY_ANNOTATIONS": data.sampling.skip_empty,
        "MODEL.BACKBONE.FREEZE_AT": config.model.backbone.freeze,
        "MODEL.RESNETS.NORM": "FrozenBN" if config.model.backbone.norm == "frozen" else config.model.backbone.norm,
        "evaluation": train.evaluate_precision,
    }
    head = config.model.heads["main"]
    if isinstance(head, RCNNOptions):
        found |= {
            "MODEL.RPN.PRE_NMS_TOPK_TRAIN": head.rpn_pre_nms_train,
            "MODEL.RPN.PRE_NMS_TOPK_TEST": head.rpn_pre_nms_test,
            "MODEL.RPN.POST_NMS_TOPK_TRAIN": head.rpn_post_nms_train,
            "MODEL.RPN.POST_NMS_TOPK_TEST": head.rpn_post_nms_test,
            "MODEL.RPN.NMS_THRESH": head.rpn_nms,
            "MODEL.RPN.IOU_THRESHOLDS": [head.rpn_negative_iou, head.rpn_positive_iou],
            "MODEL.RPN.BATCH_SIZE_PER_IMAGE": head.rpn_sampled,
            "MODEL.RPN.POSITIVE_FRACTION": head.rpn_positive_fraction,
            "MODEL.RPN.SMOOTH_L1_BETA": head.beta(head.rpn_box_loss or head.box_loss),
            "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA": head.beta(head.box_loss),
            "MODEL.ROI_BOX_HEAD.POOLER_TYPE": "ROIAlignV2" if head.roi_aligned else "ROIAlign",
            "MODEL.ROI_BOX_HEAD.FC_DIM": head.representation,
            "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": head.box_sampled,
            "MODEL.ROI_HEADS.POSITIVE_FRACTION": head.box_positive_fraction,
            "MODEL.ROI_HEADS.IOU_THRESHOLDS": [head.box_positive_iou],
            "MODEL.ROI_HEADS.SCORE_THRESH_TEST": head.score_threshold,
            "MODEL.ROI_HEADS.NMS_THRESH_TEST": head.nms,
            "TEST.DETECTIONS_PER_IMAGE": head.detections,
        }
    if isinstance(head, RetinaNetOptions):
        found |= {
            "MODEL.RETINANET.IOU_THRESHOLDS": [head.negative_iou, head.positive_iou],
            "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0 if head.box_loss == "l1" else head.box_loss,
            "MODEL.RETINANET.TOPK_CANDIDATES_TEST": head.candidates,
            "MODEL.RETINANET.SCORE_THRESH_TEST": head.score_threshold,
            "MODEL.RETINANET.NMS_THRESH_TEST": head.nms,
            "MODEL.RETINANET.NUM_CONVS": head.convs,
            "P6 from": {"C5": "res5", "P5": "p5"}[head.p6_input],
            "TEST.DETECTIONS_PER_IMAGE": head.detections,
        }
    if config.task == "keypoint_detection":
        found["MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE"] = data.sampling.min_keypoints
    return found


def in_mmsegmentations_words(config: Config) -> dict[str, Any]:
    """What mmsegmentation's configuration would say of a recipe."""
    data, train = config.data, config.train
    assert train.schedule.name == "poly"
    assert train.schedule.warmup_steps == 0
    assert data.resize is not None
    jitter, flip, colours = steps(config)
    assert colours["name"] == "ColorJitter"
    assert flip["name"] == "HorizontalFlip"
    head = config.model.heads["main"]
    assert isinstance(head, DeepLabV3PlusOptions | UPerNetOptions)
    found = {
        "lr": train.optimizer.lr,
        "momentum": train.optimizer.momentum,
        "weight_decay": train.optimizer.weight_decay,
        "PolyLR.power": train.schedule.power,
        "PolyLR.eta_min": pytest.approx(train.schedule.end_factor * train.optimizer.lr),
        "ratio_range": jitter["scale"],
        "RandomFlip": flip["p"],
        "norm": "SyncBN" if config.model.backbone.norm == "sync" else config.model.backbone.norm,
        "head channels": head.channels,
        "crop_size": jitter["canvas"],
        "scale": (data.resize.longer, data.resize.shorter),
        "max_iters": train.max_steps,
        "GPUs x batch_size": train.global_batch_size,
        "classes": len(data.values or {}),
        "output stride": config.model.backbone.output_stride,
    }
    if isinstance(head, DeepLabV3PlusOptions):
        found |= {"dropout_ratio": head.dropout, "dilations": head.atrous_rates}
    return found


def steps(config: Config) -> list[dict[str, Any]]:
    """The augmentation as a recipe has it."""
    assert not isinstance(config.data.augment, str)
    return [step.model_dump(exclude_unset=True) for step in config.data.augment]


def aim(recipe: str) -> str:
    """The line of a recipe that says what it aims at."""
    first = recipes()[recipe].read_text().splitlines()[0]
    assert "aiming at its" in first
    return first.partition("aiming at its")[2].removeprefix(" ")


def enough_epochs(config: Config, images: int) -> bool:
    """Whether `max_steps` ends a run, and not `epochs`, which count what images there are."""
    assert config.train.global_batch_size is not None
    return (images // config.train.global_batch_size) * config.train.epochs >= (config.train.max_steps or 0)


@pytest.mark.parametrize("head", TORCHVISION)
def test_torchvision(head: str) -> None:
    recipe = f"coco_{head}_r50_fpn"
    assert in_torchvisions_words(load_config(recipe)) == TORCHVISION_DEFAULTS | TORCHVISION[head]
    named = {"box_map": "box AP", "mask_map": "mask AP", "kp_map": "keypoint AP"}
    published = TORCHVISION_WEIGHTS[head].COCO_V1.meta["_metrics"]["COCO-val2017"]
    assert published
    assert aim(recipe) == " and ".join(f"{named[name]} {value}" for name, value in published.items()) + " on val2017."


@pytest.mark.parametrize("head", TORCHVISION)
def test_the_heads_of_torchvisions_recipes_are_torchvisions(head: str) -> None:
    """No option is set: the defaults are its own, and equal to it by other tests."""
    assert load_config(f"coco_{head}_r50_fpn").model.heads["main"].model_fields_set == {"name"}


@pytest.mark.parametrize("head", DETECTRON2)
def test_detectron2(head: str) -> None:
    recipe = f"detectron2/coco_{head}_r50_fpn_1x"
    config = load_config(recipe)
    assert in_detectron2s_words(config) == DETECTRON2_DEFAULTS | DETECTRON2[head]
    assert all(figure in aim(recipe) for figure in DETECTRON2_FIGURES[head])
    # Of COCO's 118,287: those with an object that is no crowd, and those with a labelled keypoint.
    assert enough_epochs(config, 56_599 if head == "keypoint_rcnn" else 117_266)


@pytest.mark.parametrize(("data", "head"), MMSEGMENTATION_FIGURES)
def test_mmsegmentation(data: str, head: str) -> None:
    recipe = f"{data}_{head}_r50"
    config = load_config(recipe)
    expected = MMSEGMENTATION_DEFAULTS | MMSEGMENTATION_DATA[data] | MMSEGMENTATION_HEADS[head]
    assert in_mmsegmentations_words(config) == expected
    assert MMSEGMENTATION_FIGURES[data, head] in aim(recipe)
    assert enough_epochs(config, {"cityscapes": 2975, "ade20k": 20_210}[data])


def test_every_value_of_cityscapes_labels_is_a_class_or_ignored() -> None:
    """labelIds are 0 to 33; cityscapesscripts' trainIds say which of them count."""
    for recipe in ("cityscapes_deeplabv3plus_r50", "cityscapes_upernet_r50"):
        data = load_config(recipe).data
        assert sorted([*(data.values or {}).values(), *data.ignore_index]) == list(range(34))


def test_every_recipe_that_names_a_published_figure_is_in_a_table() -> None:
    compared = [f"coco_{head}_r50_fpn" for head in TORCHVISION]
    compared += [f"detectron2/coco_{head}_r50_fpn_1x" for head in DETECTRON2]
    compared += [f"{data}_{head}_r50" for data, head in MMSEGMENTATION_FIGURES]
    assert {name for name, path in recipes().items() if "aiming at" in path.read_text()} == set(compared)
