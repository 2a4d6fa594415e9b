"""segmentation-models-pytorch's models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rehead.interop.library import HEAD, NETWORKS, Form, Known

DECODER = Form("smp", (("backbone.", "encoder."), (HEAD, "")), "segmentation_head.0.bias")

SMP: dict[str, Form] = dict.fromkeys(
    (
        "unet",
        "unetplusplus",
        "manet",
        "linknet",
        "fpn_segmentation",
        "pspnet",
        "pan",
        "deeplabv3",
        "deeplabv3plus",
        "upernet",
        "segformer",
    ),
    DECODER,
)
"""By the name of our head. SMP's DPT reads class tokens, which our features do not have."""


def smp_models() -> Iterator[tuple[str, Known]]:
    """Every model that is known, by architecture and encoder: `unet_resnet18`."""
    dilated = {"deeplabv3": 8, "deeplabv3plus": 16, "pan": 16}
    for head in SMP:
        arch = "fpn" if head == "fpn_segmentation" else head
        options: dict[str, Any] = {"name": head, **({"stride": 8} if head == "pspnet" else {})}
        for network in NETWORKS:
            body: dict[str, Any] = {"name": network}
            if head in dilated:
                body |= {"output_stride": dilated[head], "dilate_first": True}
            yield f"{arch}_{network}", Known("segmentation", DECODER, options, body)
