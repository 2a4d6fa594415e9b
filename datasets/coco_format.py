"""Any detection data as a COCO ground truth, so that detections can be judged by it."""

from __future__ import annotations

from typing import Any

import numpy as np

from rehead.data.image_io import image_size
from rehead.data.instance_masks import pixels_of
from rehead.data.reader import Reader
from rehead.errors import DataError


def ground_truth(reader: Reader, *, masks: bool = False) -> dict[str, Any]:
    """The annotations of a reader as COCO's instances format.

    Sizes, boxes and ids are those of the user's files. Coordinates are rounded to a thousandth of a pixel,
    which brings decimals back as they were written before they became float32. An area that the file does not say is
    the mask's with `masks`, else the box's.

    Args:
        reader: of any format that gives boxes.
        masks: with each object's `segmentation`, for formats that have them.

    Returns:
        `images`, `annotations` (numbered from 1, with bbox xywh, area and iscrowd, and keypoints where the data have
        them) and `categories`.

    Raises:
        DataError: when the data have no boxes.
    """
    ids = np.array(reader.classes.ids)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(len(reader)):
        sample = reader[index]
        if sample.boxes is None or sample.labels is None:
            raise DataError(f"{sample.path}: has no boxes; boxes are judged on detection data only")
        image: dict[str, Any] = {"id": sample.image_id, "file_name": sample.path.name}
        # Masks are judged in the image's size, which some files do not say.
        size = image_size(sample.path) if masks and sample.size is None else sample.size
        if size is not None:
            image |= {"height": size[0], "width": size[1]}
        images.append(image)
        boxes = sample.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        boxes = boxes.round(3)
        areas = boxes[:, 2] * boxes[:, 3] if sample.areas is None else sample.areas
        crowds = np.zeros(len(boxes), bool) if sample.iscrowd is None else sample.iscrowd
        columns = ids[sample.labels], boxes, areas, crowds.astype(int)
        rows: list[dict[str, Any]] = [
            {
                "id": len(annotations) + row,
                "image_id": sample.image_id,
                "category_id": category,
                "bbox": box,
                "area": area,
                "iscrowd": crowd,
            }
            for row, (category, box, area, crowd) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True), start=1
            )
        ]
        if masks:
            assert size is not None
            for annotation, code in zip(rows, reader.segmentations(index, size), strict=True):
                annotation["segmentation"] = code
            for row in np.flatnonzero(reader.unmeasured(index)).tolist():
                rows[row]["area"] = pixels_of(rows[row]["segmentation"])
        if sample.keypoints is not None:
            for annotation, points in zip(rows, sample.keypoints.astype(np.float64).round(3), strict=True):
                annotation["keypoints"] = points.ravel().tolist()
                annotation["num_keypoints"] = int((points[:, 2] > 0).sum())
        annotations += rows
    points_of_all = {"keypoints": list(reader.classes.keypoints)} if reader.classes.keypoints else {}
    categories = [
        {"id": i, "name": name, **points_of_all}
        for i, name in zip(reader.classes.ids, reader.classes.names, strict=True)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}
