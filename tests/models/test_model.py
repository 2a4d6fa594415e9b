"""One backbone, any head: building, normalising, swapping, saving and loading."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import TINY, assert_equal_numbers, batch_of_noise, randomise_norms, targets_for
from safetensors import safe_open
from safetensors.torch import save_file

import rehead
from rehead.configs.detection_heads import FasterRCNNOptions
from rehead.configs.load import dump, load_config
from rehead.errors import BuildError, ConfigError, DataError, WeightsError
from rehead.models.model import Model, build_model, from_config
from rehead.types import Classes, Frame, ImageBatch

NAMES = ["a", "b", "c"]


def small_detector() -> Model:
    torch.manual_seed(0)
    model = rehead.build_model(TINY, FasterRCNNOptions(channels=16, representation=32), NAMES)
    randomise_norms(model)
    return model


def same_tensors(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_tensors_are_named_after_backbone_and_head_keys() -> None:
    names = set(small_detector().state_dict())
    assert {name.split(".")[0] for name in names} == {"backbone", "heads"}
    assert {name.split(".")[1] for name in names if name.startswith("heads.")} == {"main"}
    assert "backbone.layer1.0.conv1.weight" in names


def test_stages_that_no_head_reads_do_not_learn_and_stay_as_they_are() -> None:
    torch.manual_seed(0)
    pspnet = {"name": "pspnet", "stride": 8, "channels": 8}
    model = rehead.build_model(TINY, pspnet, NAMES).train()
    before = {name: value.clone() for name, value in model.backbone.state_dict().items()}
    batch = batch_of_noise()
    torch.stack(list(model(batch, targets_for(batch, 3)).values())).sum().backward()
    learning = [name for name, one in model.named_parameters() if one.requires_grad]
    assert [name for name, one in model.named_parameters() if one.grad is not None] == learning
    # Stride 8 is the second of the four stages, ...
    assert {name.split(".")[1] for name in learning if ".layer" in name} == {"layer1", "layer2"}
    changed = {name for name, value in model.backbone.state_dict().items() if not torch.equal(value, before[name])}
    assert {name.split(".")[0] for name in changed if "layer" in name} == {"layer1", "layer2"}
    # ... and whatever reads the others teaches them again.
    assert all(one.requires_grad for one in model.swap_head("linear", NAMES).parameters())


class TestNormalisation:
    def test_pixels_are_scaled_by_mean_and_std_and_zero_outside_the_frame(self) -> None:
        model = small_detector()
        batch = batch_of_noise(padding=(16, 10))
        pixels = model.normalise(batch)
        mean, std = model.backbone.mean.view(3, 1, 1), model.backbone.std.view(3, 1, 1)
        torch.testing.assert_close(pixels[0], (batch.pixels[0] / 255 - mean) / std, rtol=1e-5, atol=1e-5)
        assert (pixels[1, :, 48:] == 0).all()
        assert (pixels[1, :, :, 86:] == 0).all()
        assert (pixels[1, :, :48, :86] != 0).any()

    def test_the_batch_itself_stays_as_it_was(self) -> None:
        batch = batch_of_noise()
        floats = ImageBatch(batch.pixels.float(), [Frame((32, 32), (32, 32), (32, 64))] * 2)
        before = floats.pixels.clone()
        small_detector().normalise(floats)
        assert torch.equal(floats.pixels, before)

    @pytest.mark.numeric
    def test_what_lies_in_the_padding_changes_nothing(self) -> None:
        """An image padded inside a batch gives what it gives alone in a batch of that size."""
        model = rehead.build_model(TINY, "unet", NAMES).eval().double()
        batch = batch_of_noise(padding=(32, 32))
        dirty = ImageBatch(batch.pixels.clone(), batch.frames)
        dirty.pixels[1, :, 32:] = 77
        dirty.pixels[1, :, :, 64:] = 200
        alone = ImageBatch(batch.pixels[1:], batch.frames[1:])
        with torch.no_grad():
            first = model(batch)["main"][1].semantic
            assert torch.equal(first, model(dirty)["main"][1].semantic)
            assert torch.equal(first, model(alone)["main"][0].semantic)

    @pytest.mark.numeric
    def test_an_image_alone_gives_nearly_what_it_gives_padded(self) -> None:
        """Zeros after normalising are what convolutions pad with: only biases of deeper layers reach in."""
        model = rehead.build_model(TINY, "unet", NAMES).eval().double()
        batch = batch_of_noise(size=(128, 128), images=1)
        pixels = torch.zeros(1, 3, 160, 192, dtype=torch.uint8)
        pixels[:, :, :128, :128] = batch.pixels
        padded = ImageBatch(pixels, [Frame((128, 128), (128, 128), (32, 64))])
        with torch.no_grad():
            stem_alone = model.backbone(model.normalise(batch))["C1"]
            stem_padded = model.backbone(model.normalise(padded))["C1"]
            alone, inside = model(batch)["main"][0].semantic, model(padded)["main"][0].semantic
        assert_equal_numbers(stem_alone, stem_padded[:, :, :64, :64])
        assert (alone == inside).float().mean() > 0.9


class TestSwap:
    def test_the_backbone_stays_bit_for_bit_through_three_heads(self) -> None:
        detector = small_detector()
        segmenter = detector.swap_head("unet", ["x", "y"])
        again = segmenter.swap_head({"name": "faster_rcnn", "channels": 8, "representation": 8}, NAMES)
        assert same_tensors(detector.backbone, segmenter.backbone)
        assert same_tensors(detector.backbone, again.backbone)
        assert segmenter.config.task == "segmentation"
        assert segmenter.classes["main"].names == ("x", "y")
        assert segmenter.head("main").task == "segmentation"

    def test_training_the_new_model_leaves_the_old_one_alone(self) -> None:
        detector = small_detector()
        before = {name: value.clone() for name, value in detector.state_dict().items()}
        segmenter = detector.swap_head("unet", NAMES).train()
        batch = batch_of_noise()
        loss = sum(segmenter(batch, targets_for(batch, 3)).values())
        loss.backward()
        torch.optim.SGD(segmenter.parameters(), lr=1.0).step()
        assert all(torch.equal(before[name], value) for name, value in detector.state_dict().items())
        assert not same_tensors(detector.backbone, segmenter.backbone)

    def test_an_unknown_head_or_option_is_named(self) -> None:
        with pytest.raises(ConfigError, match="did you mean 'unet'"):
            small_detector().swap_head("unett", NAMES)
        with pytest.raises(ConfigError, match=r"model\.heads.main\.chanels: unknown key; did you mean 'channels'"):
            small_detector().swap_head({"name": "faster_rcnn", "chanels": 3}, NAMES)


class TestCheckpoint:
    @pytest.mark.numeric
    def test_a_loaded_model_predicts_what_the_saved_one_did(self, tmp_path: Path) -> None:
        model = small_detector().to(memory_format=torch.channels_last).eval()
        model.save(tmp_path / "model.safetensors")
        loaded = rehead.load(tmp_path / "model.safetensors")
        assert same_tensors(model, loaded)
        assert loaded.config == model.config
        assert loaded.classes == model.classes
        model.double()
        loaded.double()
        batch = batch_of_noise()
        with torch.no_grad():
            for one, other in zip(model(batch)["main"], loaded(batch)["main"], strict=True):
                assert_equal_numbers(one.boxes, other.boxes)

    def test_the_metadata_rebuild_the_model_without_its_weights_source(self, tmp_path: Path) -> None:
        """A model fine-tuned from hub weights loads offline, with the mean and std it was trained with."""
        model = small_detector()
        body = model.backbone.options.model_copy(update={"weights": "imagenet"})
        config = model.config.model_copy(update={"model": model.config.model.model_copy(update={"backbone": body})})
        Model(model.backbone, {"main": model.head("main")}, config).save(tmp_path / "model.safetensors")
        loaded = rehead.load(tmp_path / "model.safetensors")
        assert same_tensors(model, loaded)
        assert torch.equal(loaded.backbone.mean, model.backbone.mean)

    def test_class_ids_of_the_users_files_are_kept(self, tmp_path: Path) -> None:
        model = rehead.build_model(TINY, "unet", Classes(("road", "sky"), (7, 21)))
        model.save(tmp_path / "model.safetensors")
        assert rehead.load(tmp_path / "model.safetensors").classes["main"] == Classes(("road", "sky"), (7, 21))

    @pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"\x00" * 100])
    def test_a_broken_file_is_named(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "bad.safetensors").write_bytes(content)
        with pytest.raises(WeightsError, match=r"bad\.safetensors: not a readable safetensors file"):
            rehead.load(tmp_path / "bad.safetensors")

    def test_plain_weights_are_told_from_a_checkpoint(self, tmp_path: Path) -> None:
        save_file({"conv1.weight": torch.zeros(1)}, tmp_path / "plain.safetensors")
        with pytest.raises(WeightsError, match=r"no checkpoint of rehead.*model\.backbone\.weights="):
            rehead.load(tmp_path / "plain.safetensors")

    def test_a_tensor_too_few_is_an_error(self, tmp_path: Path) -> None:
        model = small_detector()
        model.save(tmp_path / "whole.safetensors")
        with safe_open(tmp_path / "whole.safetensors", "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys() if "conv1" not in name}  # noqa: SIM118
        save_file(tensors, tmp_path / "less.safetensors", metadata=metadata)
        with pytest.raises(WeightsError, match="do not fit"):
            rehead.load(tmp_path / "less.safetensors")

    def test_the_metadata_are_readable_json(self, tmp_path: Path) -> None:
        small_detector().save(tmp_path / "model.safetensors")
        with safe_open(tmp_path / "model.safetensors", "pt") as file:
            metadata = {name: value for name, value in file.metadata().items() if name != "format"}
        config = json.loads(metadata["config"])
        assert config["model"]["heads"]["main"]["name"] == "faster_rcnn"
        assert config["model"]["backbone"]["mean"] is not None
        assert json.loads(metadata["classes"]) == {"main": {"names": NAMES, "ids": [0, 1, 2]}}


class TestInit:
    """`model.init` takes the backbone always, and heads that fit."""

    def start(self, path: Path, head: dict[str, object], names: list[str], task: str = "detection") -> Model:
        config = load_config({"task": task, "model": {"backbone": TINY.model_dump(), "head": head, "init": str(path)}})
        return from_config(config, {"main": Classes(tuple(names))})

    def test_the_same_head_with_the_same_classes_is_taken(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        model = small_detector()
        model.save(tmp_path / "model.safetensors")
        head = {"name": "faster_rcnn", "channels": 16, "representation": 32, "score_threshold": 0.3}
        assert same_tensors(self.start(tmp_path / "model.safetensors", head, NAMES), model)
        assert "head 'main' (faster_rcnn) taken" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("head", "names", "task", "said"),
        [
            ({"name": "unet"}, NAMES, "segmentation", "the checkpoint's is faster_rcnn"),
            (
                {"name": "faster_rcnn", "channels": 16, "representation": 32},
                ["p", "q"],
                "detection",
                "classes are a, b, c",
            ),
            ({"name": "faster_rcnn", "channels": 8, "representation": 32}, NAMES, "detection", "other options"),
        ],
    )
    def test_another_head_starts_afresh_on_the_same_backbone(
        self,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
        head: dict[str, object],
        names: list[str],
        task: str,
        said: str,
    ) -> None:
        model = small_detector()
        model.save(tmp_path / "model.safetensors")
        started = self.start(tmp_path / "model.safetensors", head, names, task)
        assert same_tensors(started.backbone, model.backbone)
        assert said in capsys.readouterr().err

    def test_options_that_weights_were_trained_for_must_be_the_same(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        small_detector().save(tmp_path / "model.safetensors")
        head = {"name": "faster_rcnn", "channels": 16, "representation": 32, "aspect_ratios": [1, 2, 3]}
        self.start(tmp_path / "model.safetensors", head, NAMES)
        assert "starts afresh: other options: aspect_ratios" in capsys.readouterr().err

    def test_the_normalisation_that_the_body_was_trained_with_comes_along(self, tmp_path: Path) -> None:
        own = TINY.model_copy(update={"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.1, 0.3]})
        rehead.build_model(own, "unet", NAMES).save(tmp_path / "model.safetensors")
        started = self.start(tmp_path / "model.safetensors", {"name": "unet"}, NAMES, "segmentation")
        torch.testing.assert_close(started.backbone.mean, torch.tensor([0.5, 0.4, 0.3]))
        assert started.config.model.backbone.std == [0.2, 0.1, 0.3]

    def test_a_body_that_adds_back_something_else_is_refused(self, tmp_path: Path) -> None:
        plain, zeros = (TINY.model_copy(update=update) for update in ({"residual": False}, {"shortcut": "A"}))
        for saved, wanted in ((plain, zeros), (zeros, plain)):
            rehead.build_model(saved, "unet", NAMES).save(tmp_path / "model.safetensors")
            model = {
                "backbone": wanted.model_dump(),
                "head": {"name": "unet"},
                "init": str(tmp_path / "model.safetensors"),
            }
            with pytest.raises(WeightsError, match="its blocks add back something else"):
                from_config(load_config({"task": "segmentation", "model": model}), {"main": Classes(tuple(NAMES))})

    def test_another_backbone_is_an_error_that_names_what_differs(self, tmp_path: Path) -> None:
        other = TINY.model_copy(update={"width": 16})
        rehead.build_model(other, "unet", NAMES).save(tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match=r"model\.backbone\.width is 16 there and 8 here"):
            self.start(tmp_path / "other.safetensors", {"name": "unet"}, NAMES, "segmentation")


class TestPredict:
    def test_an_array_is_predicted_in_its_own_pixels(self) -> None:
        model = rehead.build_model(TINY, "unet", NAMES)
        model.config = load_config({**dump(model.config), "data": {"resize": {"height": 64, "width": 64}}})
        image = np.random.default_rng(0).integers(0, 256, (50, 80, 3), dtype=np.uint8)
        prediction = model.train().predict(image)
        assert prediction.semantic.shape == (50, 80)
        assert model.training

    def test_a_model_in_training_mode_asks_for_targets(self) -> None:
        with pytest.raises(BuildError, match="needs targets"):
            small_detector().train()(batch_of_noise())

    @pytest.mark.parametrize("shape", [(8, 8), (8, 8, 4), (0, 8, 3)])
    def test_an_array_of_another_shape_is_refused(self, shape: tuple[int, ...]) -> None:
        with pytest.raises(DataError, match=r"should be \(height, width, 3\)"):
            small_detector().predict(np.zeros(shape, np.uint8))

    def test_a_head_that_is_not_there_is_named(self) -> None:
        with pytest.raises(BuildError, match="no head 'boxes'; this model has main"):
            small_detector().predict(np.zeros((8, 8, 3), np.uint8), "boxes")


def test_a_swapped_head_is_on_the_device_of_its_backbone() -> None:
    model = build_model(TINY, "linear", ["a", "b"]).to("meta").swap_head("unet", ["sky", "road"])
    assert {one.device.type for one in model.parameters()} == {"meta"}
    assert {one.device.type for one in model.buffers()} == {"meta"}
