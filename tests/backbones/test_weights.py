"""Weights end up in the right place, whatever wrapped them, or the message says why not."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from rehead.backbones import LoadReport, build_backbone
from rehead.backbones.base import Backbone
from rehead.backbones.weights import read
from rehead.configs.schema import BackboneOptions
from rehead.errors import WeightsError

State = dict[str, Tensor]


def resnet(weights: str | Path = "none", **options: Any) -> Backbone:
    return build_backbone(BackboneOptions(name="resnet18", weights=str(weights), width=8, **options))


def randomised(module: nn.Module) -> State:
    """A module's state dict with every tensor random, counters too."""
    generator = torch.Generator().manual_seed(3)
    state = {}
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point():
            state[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            state[name] = torch.full_like(tensor, 7)
    return state


def classifier() -> State:
    return {"fc.weight": torch.rand(10, 64), "fc.bias": torch.rand(10)}


def saved(state: Any, folder: Path, name: str = "weights.pth") -> Path:
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


def assert_holds(backbone: Backbone, state: State) -> None:
    found = backbone.state_dict()
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def prefixed(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


WRAPPED: dict[str, Callable[[State], Any]] = {
    "torchvision": lambda state: {**state, **classifier()},
    "data parallel": lambda state: prefixed({**state, **classifier()}, "module."),
    "compiled": lambda state: prefixed({**state, **classifier()}, "_orig_mod.module."),
    "backbone": lambda state: {**prefixed(state, "backbone."), "head.weight": torch.rand(3)},
    "parallel model with a backbone": lambda state: prefixed(state, "module.backbone."),
    "detector of torchvision": lambda state: {
        **prefixed(state, "backbone.body."),
        "backbone.fpn.inner_blocks.0.0.weight": torch.rand(3),
    },
    "rehead": lambda state: {
        **prefixed(state, "backbone."),
        "heads.main.conv1.weight": torch.rand(8, 3, 7, 7),
        "heads.main.fc.weight": torch.rand(3, 64),
    },
    "checkpoint": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "checkpoint of a model": lambda state: {
        "model": prefixed({**state, **classifier()}, "module."),
        "args": argparse.Namespace(lr=0.1),
    },
    "nested twice": lambda state: {"model": {"state_dict": state}},
    "averaged weights win": lambda state: {
        "state_dict": {name: torch.zeros_like(tensor) for name, tensor in state.items()},
        "state_dict_ema": state,
    },
}


@pytest.mark.parametrize("form", WRAPPED)
def test_every_wrapper_is_taken_off(form: str, tmp_path: Path) -> None:
    state = randomised(resnet())
    backbone = resnet(saved(WRAPPED[form](state), tmp_path))
    assert_holds(backbone, state)
    assert backbone.report is not None
    assert backbone.report.matched == [name for name in backbone.state_dict() if "num_batches" not in name]
    assert backbone.report.complete


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.bin"])
def test_file_endings(name: str, tmp_path: Path) -> None:
    state = randomised(resnet())
    assert_holds(resnet(saved(state, tmp_path, name)), state)


def test_the_classifier_is_listed_as_unexpected(tmp_path: Path) -> None:
    state = randomised(resnet())
    report = resnet(saved({**state, **classifier()}, tmp_path)).report
    assert report is not None
    assert report.unexpected == ["fc.weight", "fc.bias"]
    assert (report.missing, report.mismatched) == ([], [])
    text = str(report)
    assert "weights.pth: 100 of 100 backbone tensors loaded" in text
    assert "not part of the backbone (2): fc.weight, fc.bias" in text


def test_half_precision_becomes_single(tmp_path: Path) -> None:
    state = randomised(resnet())
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    backbone = resnet(saved(half, tmp_path))
    assert backbone.conv1.weight.dtype == torch.float32
    assert torch.equal(backbone.conv1.weight, half["conv1.weight"].float())


def test_missing_counters_are_not_worth_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = {name: tensor for name, tensor in randomised(resnet()).items() if "num_batches_tracked" not in name}
    with caplog.at_level(logging.INFO, "rehead"):
        report = resnet(saved(state, tmp_path)).report
    assert report is not None
    assert report.complete
    assert len(report.matched) == 100
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "100 of 100 backbone tensors loaded" in caplog.text


def test_a_partly_loaded_backbone_is_reported_loudly(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state = randomised(resnet())
    state = {name: tensor for name, tensor in state.items() if not name.startswith("layer4.")}
    state["layer3.0.conv1.weight"] = torch.rand(32, 16, 1, 1)
    with caplog.at_level(logging.INFO, "rehead"):
        backbone = resnet(saved(state, tmp_path))
    report = backbone.report
    assert report is not None
    assert not report.complete
    assert report.mismatched == ["layer3.0.conv1.weight"]
    assert len(report.missing) == 25
    assert all(name.startswith("layer4.") for name in report.missing)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "layer3.0.conv1.weight (32, 16, 1, 1) in the file, (32, 16, 3, 3) wanted" in caplog.text
    assert "missing in the file, left random (25): layer4.0.conv1.weight, " in caplog.text
    assert " and 15 more" in caplog.text
    assert torch.equal(backbone.layer3[0].conv2.weight, state["layer3.0.conv2.weight"])


@pytest.mark.parametrize(("freeze", "norm"), [(5, "train"), ("all", "train"), (0, "frozen")])
def test_what_the_file_does_not_fill_cannot_be_frozen(freeze: int | str, norm: str, tmp_path: Path) -> None:
    state = {name: tensor for name, tensor in randomised(resnet()).items() if not name.startswith("layer4.")}
    path = saved(state, tmp_path)
    with pytest.raises(WeightsError, match=r"does not fill what backbone 'resnet18' would freeze: layer4\.0\."):
        resnet(path, freeze=freeze, norm=norm)
    assert not resnet(path, freeze=4).layer3[1].conv2.weight.requires_grad


def test_a_report_without_problems_is_one_line() -> None:
    assert str(LoadReport(["a", "b"], [], [], [], "here")) == "here: 2 of 2 backbone tensors loaded"


def test_nothing_that_fits(tmp_path: Path) -> None:
    path = saved({"encoder.0.weight": torch.rand(3)}, tmp_path)
    with pytest.raises(WeightsError, match=r"no tensor fits .*'resnet18': it has encoder\.0\.weight; wanted conv1\.w"):
        resnet(path)


def test_nothing_of_the_right_shape(tmp_path: Path) -> None:
    counters = {name: tensor for name, tensor in randomised(resnet()).items() if "num_batches" in name}
    path = saved({"conv1.weight": torch.rand(64, 3, 7, 7), **counters}, tmp_path)
    with pytest.raises(WeightsError, match=r"all have other shapes: conv1\.weight \(64, 3, 7, 7\) in the file"):
        resnet(path)


class Malicious:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.write_text, (self.path, "code ran")


def test_a_pickle_that_needs_code_is_refused(tmp_path: Path) -> None:
    state = {**randomised(resnet()), "extra": Malicious(tmp_path / "proof")}
    path = saved(state, tmp_path)
    with pytest.raises(WeightsError, match=r"weights\.pth: refused, since opening it would run code"):
        resnet(path)
    assert not (tmp_path / "proof").exists()


@pytest.mark.parametrize("name", ["broken.pth", "broken.safetensors"])
def test_a_damaged_file(name: str, tmp_path: Path) -> None:
    path = saved(randomised(resnet()), tmp_path, name)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match=name):
        resnet(path)


@pytest.mark.parametrize("content", [b"", b"not weights at all"])
def test_a_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.pth"):
        resnet(path)


@pytest.mark.parametrize(
    ("content", "found"), [({"epoch": 3}, "found the keys epoch"), (torch.rand(3), "found a Tensor"), ({}, "nothing")]
)
def test_a_file_without_named_tensors(content: object, found: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"holds no tensors by name; .*{found}"):
        read(saved(content, tmp_path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"gone\.pth: no such weights file"):
        resnet(tmp_path / "gone.pth")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="is a folder, not a weights file"):
        resnet(f"{tmp_path}/")


NO_WEIGHTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "NaN": (lambda tensor: tensor * torch.nan, "hold NaN or infinite values"),
    "integers": (lambda tensor: tensor.to(torch.int64), "int64, wanted float32"),
    "complex": (lambda tensor: tensor.to(torch.complex64), "complex64, wanted float32"),
    "sparse": (lambda tensor: tensor.to_sparse(), "sparse"),
    "nowhere": (lambda tensor: tensor.to("meta"), "on meta"),
}


@pytest.mark.parametrize("kind", NO_WEIGHTS)
@pytest.mark.parametrize("channels", [3, 1])
def test_weights_that_are_no_weights(kind: str, channels: int, tmp_path: Path) -> None:
    change, said = NO_WEIGHTS[kind]
    state = randomised(resnet())
    state["conv1.weight"] = change(state["conv1.weight"])
    grey: dict[str, Any] = {} if channels == 3 else {"in_channels": 1, "mean": [0.5], "std": [0.5]}
    with pytest.raises(WeightsError, match=rf"weights\.pth.*conv1\.weight|{said}") as caught:
        resnet(saved(state, tmp_path), **grey)
    assert said in str(caught.value)


def test_a_dict_that_lies_inside_itself_and_a_name_without_end(tmp_path: Path) -> None:
    inside: dict[str, Any] = {"epoch": 3}
    inside["model"] = inside
    with pytest.raises(WeightsError, match="holds no tensors by name; found the keys epoch, model"):
        resnet(saved(inside, tmp_path))
    with pytest.raises(WeightsError, match="no tensor fits") as caught:
        resnet(saved({"model." * 100_000: torch.zeros(1)}, tmp_path))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("channels", [1, 5])
def test_the_first_convolution_is_adapted(channels: int, tmp_path: Path) -> None:
    state = randomised(resnet())
    path = saved(state, tmp_path)
    backbone = resnet(path, in_channels=channels, mean=[0.5] * channels, std=[0.5] * channels)
    assert backbone.report is not None
    assert backbone.report.complete
    expected = timm.models.adapt_input_conv(channels, state["conv1.weight"])
    assert torch.equal(backbone.conv1.weight, expected)
    assert torch.equal(backbone.layer4[1].conv2.weight, state["layer4.1.conv2.weight"])


@pytest.mark.numeric
def test_grey_images_give_what_their_rgb_twins_gave(tmp_path: Path) -> None:
    path = saved(randomised(resnet()), tmp_path)
    colour = resnet(path).eval().double()
    grey = resnet(path, in_channels=1, mean=[0.5], std=[0.5]).eval().double()
    image = torch.rand(1, 1, 32, 32).double()
    found, wanted = grey(image)["C1"], colour(image.expand(-1, 3, -1, -1))["C1"]
    # The weights of three channels were added up in float32.
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6 * float(wanted.detach().abs().max()))


def test_weights_trained_on_as_many_channels_are_taken_as_they_are(tmp_path: Path) -> None:
    options = {"in_channels": 5, "mean": [0.5] * 5, "std": [0.5] * 5}
    state = randomised(resnet(**options))
    assert_holds(resnet(saved(state, tmp_path), **options), state)


def test_group_norms_from_batch_norms_are_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = saved(randomised(resnet()), tmp_path)
    with caplog.at_level(logging.WARNING, "rehead"):
        resnet(path, norm="group")
    assert "was trained with batch normalisation, which backbone 'resnet18' has not" in caplog.text


def test_a_norm_of_the_classifier_alone_is_not_worth_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = {**randomised(resnet()), "head.running_mean": torch.zeros(8)}
    with caplog.at_level(logging.WARNING, "rehead"):
        resnet(saved(state, tmp_path))
    assert caplog.text == ""


def test_projections_that_the_network_has_not_are_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(randomised(resnet()), tmp_path)
    with caplog.at_level(logging.WARNING, "rehead"):
        resnet(path, shortcut="A")
    assert "was trained with projections, which backbone 'resnet18' (shortcut: A) has not" in caplog.text


def test_real_weights(shared: Path) -> None:
    path = shared / "weights" / "resnet18_photos.pth"
    options = BackboneOptions(name="resnet18", weights=str(path), freeze=2)
    backbone = build_backbone(options)
    assert backbone.report is not None
    assert backbone.report.complete
    assert backbone.report.unexpected == ["fc.weight", "fc.bias"]
    assert torch.equal(backbone.layer1[0].conv1.weight, read(path)["layer1.0.conv1.weight"].float())


# One small model for each way in which timm wraps a network.
TIMM_FORMS = ["test_convnext", "test_vit", "test_efficientnet", "test_mambaout", "timm/test_resnet"]


def timm_file(name: str, folder: Path, **options: Any) -> tuple[Path, nn.Module]:
    """A classifier of timm with random weights, and its file."""
    model = timm.create_model(name.removeprefix("timm/"), **options)
    model.load_state_dict(randomised(model))
    return saved(model.state_dict(), folder, "model.safetensors"), model


@pytest.mark.parametrize("name", TIMM_FORMS)
@pytest.mark.parametrize("channels", [3, 1])
def test_a_file_of_timm_fills_the_wrapped_model(name: str, channels: int, tmp_path: Path) -> None:
    path, _ = timm_file(name, tmp_path)
    given = {} if channels == 3 else {"in_channels": 1, "mean": [0.5], "std": [0.5]}
    backbone = build_backbone(BackboneOptions(name=name, weights=str(path), **given)).eval()
    assert backbone.report is not None
    assert backbone.report.complete
    assert "converted" not in backbone.report.source
    reference = timm.create_model(
        name.removeprefix("timm/"),
        features_only=True,
        in_chans=channels,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 1000},
    )
    theirs = reference.state_dict()
    assert theirs
    found = {key.removeprefix("net."): tensor for key, tensor in backbone.state_dict().items()}
    assert found.keys() == theirs.keys()
    assert all(torch.equal(found[key], theirs[key]) for key in theirs)


def test_a_rehead_checkpoint_of_a_timm_model(tmp_path: Path) -> None:
    backbone = build_backbone(BackboneOptions(name="test_convnext", weights="none"))
    state = randomised(backbone)
    path = saved(prefixed(state, "backbone."), tmp_path, "best.safetensors")
    assert_holds(build_backbone(BackboneOptions(name="test_convnext", weights=str(path))), state)


def original_convnext(state: State) -> State:
    """ConvNeXt's own names, which timm's differ from."""
    renamed = {}
    for name, tensor in state.items():
        name = name.replace("stem.", "downsample_layers.0.").replace(".blocks.", ".")
        if ".downsample." in name:
            name = name.replace("stages.", "downsample_layers.").replace(".downsample.", ".")
        name = name.replace("conv_dw", "dwconv").replace("mlp.fc", "pwconv")
        renamed[name.replace("head.norm", "norm").replace("head.fc", "head")] = tensor
    return renamed


def test_an_original_layout_is_converted_by_timm(tmp_path: Path) -> None:
    _, model = timm_file("test_convnext", tmp_path)
    state = model.state_dict()
    path = saved(original_convnext(state), tmp_path, "original.pth")
    backbone = build_backbone(BackboneOptions(name="test_convnext", weights=str(path)))
    assert backbone.report is not None
    assert backbone.report.complete
    assert backbone.report.source.endswith("(converted by timm)")
    weight = backbone.state_dict()["net.stages_1.blocks.0.conv_dw.weight"]
    assert torch.equal(weight, state["stages.1.blocks.0.conv_dw.weight"])


def test_what_timm_leaves_random_is_not_called_loaded(tmp_path: Path) -> None:
    # timm loads this family without strictness: every tensor of a strange file is dropped in silence.
    path = saved({"encoder.weight": torch.rand(3)}, tmp_path)
    with pytest.raises(WeightsError, match=r"no tensor fits backbone 'dla46x_c': it has encoder\.weight"):
        build_backbone(BackboneOptions(name="dla46x_c", weights=str(path)))
