"""U-Net (Ronneberger et al., 1505.04597): segmentation-models-pytorch's decoder on our features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base import SegmentationHead
from segmentation_models_pytorch.base.initialization import initialize_decoder, initialize_head
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import Tensor

from rehead.configs.heads import UNetOptions
from rehead.errors import BuildError
from rehead.heads.base import Features, Head, described, one_per_stride
from rehead.types import IGNORE, Classes, FeatureSpec, Frame, Prediction, Target


class UNet(Head):
    """Upsamples to the input's size; parameter names inside `decoder` and `segmentation_head` are SMP's."""

    def __init__(self, options: UNetOptions, classes: Classes, specs: Mapping[str, FeatureSpec]) -> None:
        super().__init__(options, classes, specs)
        levels = one_per_stride(specs, finest=2)
        if not levels:
            raise BuildError(f"unet needs a feature map of stride 2 or more; the backbone gives {described(specs)}")
        self.inputs = list(levels)
        first = levels[self.inputs[0]].stride
        # SMP reads its features by position: image, stride 2, stride 4, ... Where the backbone has
        # nothing so fine (ConvNeXt starts at 4), a map without channels keeps the place.
        self.missing = [stride for stride in (2**power for power in range(1, 10)) if stride < first]
        channels = [0] * (1 + len(self.missing)) + [spec.channels for spec in levels.values()]
        blocks = len(channels) - 1
        if blocks > len(options.decoder_channels):
            raise BuildError(
                f"unet: decoder_channels has {len(options.decoder_channels)} values but this backbone needs {blocks}, "
                f"one per doubling from stride {specs[self.inputs[-1]].stride} to 1"
            )
        decoder_channels = options.decoder_channels[-blocks:]
        self.decoder = UnetDecoder(
            channels,
            decoder_channels,
            n_blocks=blocks,
            use_norm=options.decoder_norm,
            attention_type=options.attention,
        )
        self.segmentation_head = SegmentationHead(decoder_channels[-1], len(classes), kernel_size=3)
        initialize_decoder(self.decoder)
        initialize_head(self.segmentation_head)

    def logits(self, features: Features, frames: Sequence[Frame]) -> Tensor:
        """(B, K, H, W) class scores of the padded batch size."""
        maps = [features[name] for name in self.inputs]
        height, width = frames[0].padded
        empty = [maps[0].new_empty(len(frames), 0, -(-height // s), -(-width // s)) for s in (1, *self.missing)]
        scores: Tensor = self.segmentation_head(self.decoder([*empty, *maps]))
        return scores

    def loss(self, features: Features, frames: Sequence[Frame], targets: Sequence[Target]) -> dict[str, Tensor]:
        """Cross-entropy, averaged over the pixels that count."""
        logits = self.logits(features, frames)
        return {"loss_segmentation": pixel_cross_entropy(logits, semantic_batch(targets, frames))}

    def predict(self, features: Features, frames: Sequence[Frame]) -> list[Prediction]:
        """A class per original pixel: logits are resized before the argmax, so edges stay smooth."""
        return [
            Prediction(semantic=original_size(one, frame).argmax(0).to(torch.uint8))
            for one, frame in zip(self.logits(features, frames), frames, strict=True)
        ]


def semantic_batch(targets: Sequence[Target], frames: Sequence[Frame]) -> Tensor:
    """(B, H, W) uint8 class maps.

    Raises:
        BuildError: for an image without one, named.
    """
    maps = []
    for target, frame in zip(targets, frames, strict=True):
        if target.semantic is None:
            raise BuildError(f"image {frame.image_id!r} has no class map; segmentation needs data with masks")
        maps.append(target.semantic)
    return torch.stack(maps)


def pixel_cross_entropy(logits: Tensor, semantic: Tensor) -> Tensor:
    """() float32 mean over the pixels that are not `IGNORE`; 0, not NaN, where there is none."""
    counted = (semantic != IGNORE).sum().clamp(min=1)
    return F.cross_entropy(logits.float(), semantic.long(), ignore_index=IGNORE, reduction="sum") / counted


def original_size(logits: Tensor, frame: Frame) -> Tensor:
    """(K, h, w) scores in the batch -> (K, H, W) in the original image, padding left out."""
    height, width = frame.size
    inside = logits[None, :, :height, :width].float()
    return F.interpolate(inside, size=frame.original, mode="bilinear", align_corners=False)[0]
