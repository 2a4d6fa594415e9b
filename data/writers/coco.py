"""Writes COCO JSON: a file per split in `annotations/`, and the images in a folder per split."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from rehead.data.writers.content import NO_UTF8, Content, Notes, Picture, Thing, decimals, refuse_names


def write_coco(content: Content, folder: Path, notes: Notes) -> dict[str, Any]:
    """Ids of images, objects and categories are the user's; objects without a number are numbered from 1."""
    refuse_names(content, "COCO JSON", NO_UTF8)
    classes = content.classes
    points = {"keypoints": list(classes.keypoints)} if classes.keypoints else {}
    categories = [{"id": i, "name": name, **points} for i, name in zip(classes.ids, classes.names, strict=True)]
    if classes.flip_pairs and all(name.isdecimal() for name in classes.keypoints):
        notes["which of the keypoints change places in a mirror: COCO's names say it, and these have none"] += 1
    (folder / "annotations").mkdir()
    options: dict[str, Any] = {}
    for split in content.splits:
        images: list[bytes] = []
        annotations: list[bytes] = []
        for picture in content.pictures(split):
            content.put(picture, folder / "images" / split)
            height, width = picture.size
            image = {"id": picture.image_id, "file_name": picture.name, "height": height, "width": width}
            images.append(msgspec.json.encode(image))
            for thing in picture.things:
                row = _annotation(picture, thing, len(annotations) + 1, classes.ids[thing.label])
                annotations.append(msgspec.json.encode(row))
        name = f"annotations/instances_{split}.json"
        with (folder / name).open("wb") as file:
            file.write(b'{"images": [\n' + b",\n".join(images) + b'\n],\n"annotations": [\n')
            file.write(b",\n".join(annotations))
            file.write(b'\n],\n"categories": ' + msgspec.json.encode(categories) + b"}\n")
        options[split] = {"images": f"images/{split}", "annotations": name}
    return options


def _annotation(picture: Picture, thing: Thing, number: int, category: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (Decimal(repr(side)) for side in thing.box)
    row: dict[str, Any] = {
        "id": number if thing.number is None else thing.number,
        "image_id": picture.image_id,
        "category_id": category,
        # In decimals, so that 73.35 + 300.58 gives 373.93 again.
        "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
        **({} if thing.area is None else {"area": thing.area}),
        "iscrowd": int(thing.crowd),
    }
    if thing.segmentation:
        row["segmentation"] = msgspec.Raw(thing.segmentation)
    if thing.keypoints is not None:
        row["keypoints"] = decimals(thing.keypoints)
        row["num_keypoints"] = int((thing.keypoints[:, 2] > 0).sum())
    return row
