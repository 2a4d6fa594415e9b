"""Predicts image files: pictures, and one `predictions.json`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from rehead.backbones.tensor_files import without_numbers
from rehead.data.image_io import SUFFIXES, read_image
from rehead.datasets.file_names import image_names
from rehead.datasets.passed_over import passed_over, say_passed_over
from rehead.errors import DataError, WeightsError, listed
from rehead.files import check_output, json_text, write_text, writing
from rehead.models.model import load
from rehead.progress import Progress
from rehead.tasks import task_named
from rehead.tasks.base import Metrics
from rehead.tasks.detection import DRAWN_FROM, Detection
from rehead.terminal import say
from rehead.training.engine import choose_device
from rehead.training.memory import out_of_memory_is
from rehead.types import Prediction
from rehead.visualize.draw import LARGEST, save, sheet


def predict(
    checkpoint: str | Path,
    paths: Sequence[str | Path],
    out: str | Path,
    device: str = "auto",
    *,
    plugins: Sequence[str] = (),
    overwrite: bool = False,
) -> dict[Path, str]:
    """Writes what a checkpoint says of images.

    Args:
        checkpoint: a `.safetensors` file of rehead.
        paths: image files, and folders of which every image is taken.
        out: a folder: `predictions.json`, `pictures/`, and `masks/` for segmentation. Of several heads the
            pictures stand side by side, the records lie under each head's key, and the masks in its folder.
        device: `auto`, `cpu`, `cuda`, ...
        plugins: modules that the checkpoint may have imported; see `rehead.load`.
        overwrite: replace what an earlier prediction left in the folder.

    Returns:
        The images that could not be read and the paths that are not there, with the reason; the others are done.

    Raises:
        DataError: if no image could be read.
        OutputError: for a folder that holds something, and one that is, is inside or holds what is read.
    """
    folder = Path(out)
    check_output(folder, folder=True, inputs=map(Path, (checkpoint, *paths)), overwrite=overwrite)
    images, missing = find_images(paths)
    model = load(checkpoint, choose_device(device), plugins=plugins)
    heads = {key: model.head(key) for key in model.heads}
    several = len(heads) > 1
    _clear(folder)
    unreadable: dict[Path, str] = {}
    shown = dict.fromkeys(heads, 0)
    smaller = 0
    records: dict[str, list[Metrics]] = {key: [] for key in heads}
    stems: set[str] = set()
    ids: set[int | str] = set()
    with torch.inference_mode(), Progress("predicting", len(images)) as progress:
        for path in images:
            progress.advance(path.name)
            try:
                image = read_image(path, model.backbone.options.in_channels, scale=model.config.data.scale)
            except DataError as error:
                unreadable[path] = str(error)
                continue
            ways = "--device cpu, or smaller images; a model trained with a smaller data.resize needs less for good"
            with out_of_memory_is(f"with {path} ({image.shape[1]} x {image.shape[0]} pixels)", ways):
                found = model.predict_all(image)
            _refuse_no_numbers(found, checkpoint, path)
            # Two folders may hold an image of the same name.
            stem, count = path.stem, 1
            while stem in stems:
                count += 1
                stem = f"{path.stem}_{count}"
            stems.add(stem)
            tiles = [task_named(head.task).draw(image, found[key], head.classes) for key, head in heads.items()]
            smaller += max(image.shape[:2]) > LARGEST
            picture = sheet(tiles, columns=len(tiles), captions=list(heads)) if several else tiles[0]
            save(folder / "pictures" / f"{stem}.png", picture)
            # COCO names its files by image id.
            number = int(stem) if stem.isascii() and stem.isdigit() else stem
            image_id = stem if number in ids else number
            ids.add(image_id)
            for key, head in heads.items():
                place = folder / key if several else folder
                scores = found[key].scores
                shown[key] += 0 if scores is None else int((scores >= DRAWN_FROM).sum())
                said = task_named(head.task).records(found[key], head.classes, image_id, stem, place)
                records[key] += [{**record, "file_name": str(path)} for record in said]
    if len(unreadable) == len(images):
        reasons = (f"  - {reason}" for reason in unreadable.values())
        raise DataError(f"none of the {len(images)} images could be read:", *reasons)
    written = records if several else next(iter(records.values()))
    write_text(folder / "predictions.json", json_text(written, indent=1) + "\n")
    done = len(images) - len(unreadable)
    drawn = [_objects_said(key, shown[key], len(records[key]), several) for key in heads if _finds(heads[key].task)]
    say(f"{done} image{'s' * (done != 1)} predicted{''.join(drawn)}: {folder}/predictions.json, {folder}/pictures/")
    if smaller:
        many = f"the pictures of {smaller} images are" if smaller > 1 else "the picture of one image is"
        say(f"{many} smaller than the image, {LARGEST} pixels at most; what is predicted is not")
    for reason in (*missing.values(), *unreadable.values()):
        say(f"skipped: {reason}")
    return {**missing, **unreadable}


def _refuse_no_numbers(found: Mapping[str, Prediction], checkpoint: str | Path, image: Path) -> None:
    """Raises `WeightsError` for a prediction that is not finite: weights may overflow, or divide by nothing."""
    for key, own in found.items():
        if bad := without_numbers(own.numbers()):
            raise WeightsError(
                f"{checkpoint}: what head '{key}' says of {image} is not finite ({listed(bad)}): numbers grow too "
                "large inside this model, so nothing that it says can be used"
            )


def _clear(folder: Path) -> None:
    """Removes an earlier prediction, its records first: pictures of other images would pass for this one's."""
    records = folder / "predictions.json"
    if not records.is_file():
        return
    with writing(folder):
        records.unlink()
        for pattern in ("pictures/*.png", "masks/*.png", "*/masks/*.png"):
            for picture in folder.glob(pattern):
                picture.unlink()


def _finds(task: str) -> bool:
    """Whether a task finds objects."""
    return isinstance(task_named(task), Detection)


def _objects_said(key: str, shown: int, written: int, several: bool) -> str:
    whose = f" by {key}" if several else ""
    return f", {shown} object{'s' * (shown != 1)}{whose} of a score of {DRAWN_FROM} or more (of {written} written)"


def find_images(paths: Sequence[str | Path]) -> tuple[list[Path], dict[Path, str]]:
    """The files of a list of files and folders, in order; and the paths that are not there, with that reason.

    Raises:
        DataError: if there is no image at all.
    """
    found: list[Path] = []
    missing: dict[Path, str] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found += [path / name for name in image_names(path)]
            say_passed_over(path, passed_over(path, everything=True))
        elif path.is_file():
            found.append(path)
        else:
            missing[path] = f"{path}: no such image or folder"
    if not found and len(missing) == len(paths):
        raise DataError(*missing.values())
    if not found:
        raise DataError(f"no image in {listed(paths)} (looked for {', '.join(sorted(SUFFIXES))})")
    return found, missing
