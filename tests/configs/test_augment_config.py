"""Steps of an augmentation are checked by name, with near matches, before anything heavy is imported."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import pytest

from rehead.configs.augment import STEPS, MosaicOptions, OwnOptions, TransformOptions, wrong_transform
from rehead.configs.heads import HEADS
from rehead.configs.load import dump, load_config
from rehead.configs.schema import Config
from rehead.configs.tasks import MULTITASK, PRESETS, TASKS, preset, treatment_of
from rehead.configs.transforms import REFUSED, arguments, transforms
from rehead.errors import ConfigError

HEAD_OF = {entry.about["task"]: entry.name for entry in HEADS}


def load(task: str = "detection", **data: Any) -> Config:
    return load_config({"task": task, "model": {"head": HEAD_OF[task]}, "data": data})


def problems(task: str = "detection", **data: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(task, **data)
    return caught.value.problems


def test_a_preset_or_a_list_survives_a_round_trip() -> None:
    assert load().data.augment == "light"
    steps = ["Transpose", {"name": "mosaic", "p": 0.2}, {"name": "OneOf", "transforms": ["Blur"]}]
    config = load(augment=steps)
    assert load_config(dump(config)) == config
    assert config.data.augment == [
        TransformOptions(name="Transpose"),
        MosaicOptions(p=0.2),
        TransformOptions(name="OneOf", transforms=[{"name": "Blur"}]),
    ]


def test_every_problem_is_named_by_its_key_with_near_matches() -> None:
    found = problems(
        augment=[
            {"name": "GaussianBlur", "blur_limt": 3},
            {"name": "mosiac"},
            {"name": "mosaic", "scal": 2},
            {"name": "mosaic", "scale": [2, 1]},
            {"name": "Normalize"},
            {"name": "OneOf", "transforms": [{"name": "Blurr"}, 3, {"name": "mosaic"}, {"name": "Blur", "x": 1}]},
            {"name": "SomeOf"},
            {"p": 0.5},
        ],
        train={"images": "a"},
    )
    for said in (
        "data.augment.0.blur_limt: GaussianBlur has no such argument; did you mean 'blur_limit'?",
        "data.augment.1.name: unknown augmentation step 'mosiac'; did you mean 'mosaic'?",
        "data.augment.2.scal: unknown key; did you mean 'scale'?",
        "data.augment.3.scale: should be two numbers above 0, the smaller first, such as [0.5, 2], not [2.0, 1.0]",
        "data.augment.4.name: Normalize has no place here: images stay in 8 bits",
        "data.augment.5.transforms.0.name: unknown augmentation step 'Blurr'; did you mean 'Blur'",
        "data.augment.5.transforms.1: should name a transform, such as {name: HorizontalFlip, p: 0.5}",
        "data.augment.5.transforms.2.name: mosaic is rehead's own",
        "data.augment.5.transforms.3.x: Blur has no such argument; it has blur_limit, p",
        "data.augment.6.transforms: SomeOf needs a list of transforms",
        "data.augment.7: should name a step, such as {name: HorizontalFlip, p: 0.5}",
        "data.format: missing",
    ):
        assert any(problem.startswith(said) for problem in found), (said, found)
    assert problems(augment="lihgt") == ["data.augment: unknown preset 'lihgt'; did you mean 'light'?"]
    assert problems(augment=3) == ["data.augment: should name a preset or list steps, found 3"]


def test_the_key_of_a_message_works_on_the_command_line() -> None:
    raw = {"task": "detection", "model": {"head": "fcos"}, "data": {"augment": ["Blur", {"name": "mosaic", "p": 2}]}}
    config = load_config(raw, {"data.augment.1.p": 0.25, "data.augment.0": "Transpose"})
    assert config.data.augment == [TransformOptions(name="Transpose"), MosaicOptions(p=0.25)]
    for key, said in {
        "data.augment.2.p": "data.augment has 2 entries, counted from 0",
        "data.augment.first": "data.augment has 2 entries, counted from 0",
        "data.augment.0.p": "data.augment.0 is 'Blur' and has nothing inside",
    }.items():
        with pytest.raises(ConfigError) as caught:
            load_config(raw, {key: 0.25})
        assert caught.value.problems == [f"{key}: {said}"]


def test_steps_that_do_not_fit_the_task_or_one_another() -> None:
    (found,) = problems("segmentation", augment=["mixup"])
    assert found.startswith("data.augment.0.name: mixup does not know what segmentation learns from")
    (found,) = problems("classification", augment=["HorizontalFlip", "mosaic"])
    assert found.startswith("data.augment.1.name: mosaic does not know what classification learns from")
    (found,) = problems(augment=["copy_paste"])
    assert found.endswith("it is for instance_segmentation")
    (found,) = problems(augment=[{"name": "multi_scale", "scale": [0.5, 1], "shorter": [640]}])
    assert found == "data.augment.0: give either scale or shorter"
    (found,) = problems(augment=["multi_scale", "resized_crop"])
    assert found == "data.augment: multi_scale and resized_crop would each decide about the size; keep one"


def test_sampling() -> None:
    assert load(sampling="class_balanced").data.sampling.name == "class_balanced"
    assert load(sampling={"name": "repeat_factor", "threshold": 0.01}).data.sampling.threshold == 0.01
    (found,) = problems(sampling={"name": "class_balanced", "threshold": 0.01})
    assert found == "data.sampling: threshold belongs to repeat_factor, not to class_balanced"
    (found,) = problems(group_by_aspect=True, resize={"height": 32, "width": 32})
    assert found.startswith("data.group_by_aspect: data.resize makes all images the same size already")


@pytest.mark.parametrize("task", [*TASKS, MULTITASK.name])
@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_lists_that_a_configuration_could_hold(name: str, task: str) -> None:
    steps = treatment_of(task).presets[name]
    for step in steps:
        assert step["name"] in STEPS or wrong_transform(step, "") == []
    if task in HEAD_OF:
        assert load(task, augment=steps).data.augment == preset(name, task)
    # Every kind of image can be changed.
    assert "ColorJitter" not in [step.name for step in preset(name, task, channels=4)]


def test_own_steps_have_defaults_and_a_probability() -> None:
    for entry in STEPS:
        options = entry.options.model_validate({"name": entry.name})
        assert isinstance(options, OwnOptions)
        assert options.name == entry.name
        assert 0 < options.p <= 1


def test_what_is_read_from_the_source_is_what_the_library_has() -> None:
    import albumentations

    roots = (albumentations.BasicTransform, albumentations.BaseCompose)
    for name in transforms():
        kind = getattr(albumentations, name)
        assert issubclass(kind, roots)
        taken = [key for key in inspect.signature(kind.__init__).parameters if key not in ("self", "args", "kwargs")]
        assert list(arguments(name)) == taken, name
    public = {name for name in dir(albumentations) if isinstance(getattr(albumentations, name), type)}
    volumes = (albumentations.Transform3D,)
    others = {name for name in public if issubclass(getattr(albumentations, name), roots)} - set(transforms())
    abstract = {"BaseCompose", "BasicTransform", "DualTransform", "ImageOnlyTransform", "Compose", "ReplayCompose"}
    assert {name for name in others if not issubclass(getattr(albumentations, name), volumes)} == abstract
    assert set(REFUSED) <= set(transforms())


def test_names_are_checked_without_importing_the_library() -> None:
    code = (
        "import sys; from rehead.configs.load import load_config\n"
        "load_config({'task': 'detection', 'model': {'head': 'fcos'}, 'data': {'augment': ['Blur', 'mosaic']}})\n"
        "assert not {'torch', 'albumentations', 'cv2'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
