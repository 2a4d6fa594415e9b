"""Any timm model is a backbone, and what it cannot do is said when it is built."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm
import torch

from rehead.backbones import build_backbone
from rehead.backbones.base import Backbone, name_features
from rehead.backbones.resnet import BasicBlock, ResNet
from rehead.backbones.timm_adapter import TimmBackbone
from rehead.configs.backbones import BACKBONES, register_backbone
from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError, ConfigError, WeightsError


def build(name: str, **options: Any) -> Backbone:
    return build_backbone(BackboneOptions(name=name, **{"weights": "none", **options}))


def sketch(name: str, **options: Any) -> Backbone:
    """On the meta device, where a large model takes no time."""
    with torch.device("meta"):
        return build(name, **options)


def structure(options: BackboneOptions) -> Backbone:
    with torch.device("meta"):
        return build_backbone(options, load_weights=False)


@pytest.mark.parametrize(
    ("strides", "names"),
    [
        ([2, 4, 8, 16, 32], ["C1", "C2", "C3", "C4", "C5"]),
        ([4, 8, 16, 32], ["C2", "C3", "C4", "C5"]),
        ([16, 16, 16], ["C4", "C5", "C6"]),
        ([2, 4, 8, 8, 8], ["C1", "C2", "C3", "C4", "C5"]),
        ([4, 16, 32], ["C2", "C4", "C5"]),
        ([14, 14], ["C3", "C4"]),
        ([1, 2], ["C0", "C1"]),
    ],
)
def test_names_count_up_and_follow_the_usual_strides(strides: list[int], names: list[str]) -> None:
    assert name_features(strides) == names


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("timm/test_resnet", [2, 4, 8, 16, 32]),
        ("test_convnext", [4, 8, 16, 32]),
        ("test_efficientnet", [2, 4, 8, 16, 32]),
        ("test_vit", [16, 16, 16]),
        ("test_mambaout", [4, 8, 16, 32]),
        ("swin_s3_tiny_224", [4, 8, 16, 32]),
        ("vgg11", [1, 2, 4, 8, 16, 32]),
        ("hrnet_w18_small", [2, 4, 8, 16, 32]),
    ],
)
def test_features_are_what_the_specs_say(name: str, strides: list[int]) -> None:
    with torch.device("meta"):
        backbone = build(name).eval()
        features = backbone(torch.zeros(1, 3, 96, 128))
    assert [spec.stride for spec in backbone.feature_specs.values()] == strides
    assert list(features) == list(backbone.feature_specs) == name_features(strides)
    for key, spec in backbone.feature_specs.items():
        assert features[key].shape == (1, spec.channels, 96 // spec.stride, 128 // spec.stride)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit", "test_efficientnet"])
def test_features_equal_timms_own(name: str) -> None:
    backbone = build(name).eval()
    reference = timm.create_model(name, features_only=True).eval()
    reference.load_state_dict(backbone.net.state_dict())
    size = reference.pretrained_cfg["input_size"][1:]
    pixels = torch.randn(1, 3, *size)
    with torch.no_grad():
        for found, wanted in zip(backbone(pixels).values(), reference(pixels), strict=True):
            assert torch.equal(found, wanted)


def test_channels_last_models_are_turned_round() -> None:
    backbone = build("test_mambaout").eval()
    reference = timm.create_model("test_mambaout", features_only=True).eval()
    reference.load_state_dict(backbone.net.state_dict())
    pixels = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        for found, wanted in zip(backbone(pixels).values(), reference(pixels), strict=True):
            assert found.shape != wanted.shape
            assert torch.equal(found, wanted.permute(0, 3, 1, 2))


def test_a_name_of_ours_is_ours_unless_timm_is_asked_for() -> None:
    assert isinstance(sketch("resnet18"), ResNet)
    theirs = sketch("timm/resnet18")
    assert isinstance(theirs, TimmBackbone)
    assert theirs.feature_specs == sketch("resnet18").feature_specs
    assert isinstance(sketch("resnet18d"), TimmBackbone)


@pytest.mark.parametrize("name", ["resnet34", "timm/resnet34"])
def test_a_tag_chooses_the_normalisation(name: str) -> None:
    usual = sketch(name)
    tagged = sketch(f"{name}.ra4_e3600_r224_in1k")
    assert usual.options.mean == [0.485, 0.456, 0.406]
    assert tagged.options.mean == tagged.options.std == [0.5, 0.5, 0.5]
    with torch.device("meta"):
        options = BackboneOptions(name=name, weights="ra4_e3600_r224_in1k")
        as_weights = build_backbone(options, load_weights=False)
    assert as_weights.options.mean == [0.5, 0.5, 0.5]
    assert as_weights.interpolation == "bicubic"


def test_mean_and_std_can_be_given() -> None:
    backbone = build("test_convnext", mean=[0.1, 0.2, 0.3], std=[0.4, 0.5, 0.6])
    torch.testing.assert_close(backbone.mean, torch.tensor([0.1, 0.2, 0.3]))
    torch.testing.assert_close(backbone.std, torch.tensor([0.4, 0.5, 0.6]))
    assert "mean" not in backbone.state_dict()


@pytest.mark.parametrize("name", ["resnet18.a1_in1k", "test_vit"])
def test_its_options_are_enough_to_build_it_again(name: str) -> None:
    first = structure(BackboneOptions(name=name, freeze=1))
    again = structure(BackboneOptions.model_validate(json.loads(json.dumps(first.options.model_dump()))))
    assert again.options == first.options
    assert again.options.mean is not None
    assert (again.feature_specs, again.interpolation) == (first.feature_specs, first.interpolation)
    assert list(again.state_dict()) == list(first.state_dict())
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in first.parameters()]


def test_other_numbers_of_channels() -> None:
    backbone = build("test_convnext", in_channels=5, mean=[0.1] * 5, std=[0.2] * 5)
    assert backbone(torch.zeros(1, 5, 64, 64))["C5"].shape[-1] == 2


def test_dilation_where_timm_can() -> None:
    backbone = build("test_convnext", output_stride=16)
    assert [spec.stride for spec in backbone.feature_specs.values()] == [4, 8, 16, 16]
    assert backbone(torch.zeros(1, 3, 64, 64))["C5"].shape[-1] == 4


@pytest.mark.parametrize("name", ["swin_s3_tiny_224", "vgg11"])
def test_dilation_where_timm_cannot(name: str) -> None:
    with pytest.raises(BuildError, match=rf"timm cannot build {name} with output_stride=8: .*leave out output_stride"):
        sketch(name, output_stride=8)


@pytest.mark.parametrize("option", [{"width": 32}, {"norm": "group"}, {"zero_init_residual": False}])
def test_options_of_our_resnets_only(option: dict[str, object]) -> None:
    with pytest.raises(BuildError, match=r"is only for rehead's own ResNets, not for timm's test_convnext"):
        build("test_convnext", **option)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnt50", "did you mean 'resnet50'"),
        ("timm/convnext_tinny", "did you mean 'convnext_tiny'"),
        ("zzzz", "rehead backbones"),
        ("hf-hub:somebody/model", "lists what there is"),
    ],
)
def test_an_unknown_name(name: str, hint: str) -> None:
    with pytest.raises(BuildError, match=f"unknown backbone '{name}'.*{hint}"):
        build(name)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_an_unknown_tag_names_the_known_ones(name: str) -> None:
    with pytest.raises(WeightsError, match=rf"{name} has no weights 'in1'.*its tags: .*in1k"):
        sketch(name, weights="in1")


def test_two_tags() -> None:
    with pytest.raises(WeightsError, match=r"'resnet50.a1_in1k' asks for the weights a1_in1k, but .* a2_in1k"):
        sketch("resnet50.a1_in1k", weights="a2_in1k")


def test_a_network_of_one_size_says_which() -> None:
    backbone = sketch("mixer_s32_224")
    with pytest.raises(BuildError, match=r"mixer_s32_224 takes images of 224x224 only, found 64x96; set data\.resize"):
        backbone(torch.zeros(1, 3, 64, 96))


def test_a_size_that_a_network_refuses() -> None:
    backbone = sketch("vit_tiny_patch16_224")
    with pytest.raises(BuildError, match=r"does not take images of 65x64.*divisible"):
        backbone(torch.zeros(1, 3, 65, 64, device="meta"))


def test_a_registered_backbone_is_built_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BACKBONES, "_entries", dict(BACKBONES._entries))

    @register_backbone("mine.v2", paper="nobody's")
    class Mine(ResNet):
        def __init__(self, options: BackboneOptions) -> None:
            super().__init__(BasicBlock, (1, 1, 1, 1), width=8, in_channels=options.in_channels)

    backbone = build("mine.v2", norm="frozen", freeze=1)
    assert isinstance(backbone, Mine)
    assert backbone.options.std == [0.229, 0.224, 0.225]
    with pytest.raises(ConfigError, match="registered twice"):
        register_backbone("resnet50")(Mine)


def test_a_checkpoint_of_ours_fits_timms_model_too() -> None:
    ours = sketch("resnet18")
    theirs = sketch("timm/resnet18")
    assert [f"net.{key}" for key in ours.state_dict()] == list(theirs.state_dict())
