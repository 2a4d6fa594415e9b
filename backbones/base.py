"""What a backbone is: images in, a pyramid of features out."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as AnyBatchNorm

from rehead.configs.schema import BackboneOptions
from rehead.errors import BuildError
from rehead.types import FeatureSpec

if TYPE_CHECKING:
    from rehead.backbones.load_report import LoadReport
    from rehead.backbones.pretraining import Pretraining

NormPolicy = Literal["train", "frozen", "sync", "group"]


class Backbone(nn.Module, ABC):
    """Images in, features out. Subclasses write `forward` and `feature_modules`.

    Attributes:
        feature_specs: channels and stride of every feature map, in the order of `forward`'s dict.
            Heads choose by order and stride; names are for people.
        mean: (C,) float32, for pixels in 0..1. Not in the state dict: it belongs to the weights' source.
        std: (C,) float32.
        interpolation: `bilinear` or `bicubic`, as the weights were trained with.
        pretraining: what is published for this architecture, None if nothing is.
        normalisation: mean and std as plain numbers.
        parallel: whether a map has parameters of its own that the last map does not depend on.
        options: how it was built, with mean and std filled in, so that it can be built again from this alone.
        report: what was loaded, None without weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        feature_specs: Mapping[str, FeatureSpec],
        mean: Sequence[float],
        std: Sequence[float],
        interpolation: str = "bilinear",
        pretraining: Pretraining | None = None,
    ) -> None:
        super().__init__()
        self.feature_specs = dict(feature_specs)
        self.interpolation = interpolation
        self.pretraining = pretraining
        self.normalisation = {"mean": list(mean), "std": list(std)}
        self.parallel = False
        self.options: BackboneOptions
        self.report: LoadReport | None = None
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self._frozen_entries: int | Literal["all"] = 0
        self._frozen_norms = False
        self._read: int | None = None
        self._held_parameters: list[nn.Parameter] = []
        self._held_modules: list[nn.Module] = []

    @abstractmethod
    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Computes the features.

        Args:
            pixels: (B, C, H, W) float32, already normalised with `mean` and `std`.

        Returns:
            One (B, channels, H / stride, W / stride) map per entry of `feature_specs`, in that order.
        """

    @abstractmethod
    def feature_modules(self) -> list[str]:
        """For every entry of `feature_specs`, the name of the module that completes it."""

    def checkpoint_keys(self, key: str) -> list[str]:
        """The names that a tensor of `state_dict()` may have in a weights file, the likeliest first."""
        return [key]

    def input_convs(self) -> list[str]:
        """State-dict keys of the weights that see the image, to be adapted to its number of channels."""
        return []

    def converted(self, tensors: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """The tensors of a file in an older or foreign layout, renamed for this backbone; None if unknown."""
        return None

    def stages(self) -> list[list[nn.Module]]:
        """The modules of each entry of `feature_specs`, and last those of none.

        An entry has everything registered after the entry before it, up to and including the module
        that completes it: the rule that fits every network whose modules stand in the order of use.
        """
        names = [name for name, _ in self.named_modules()]
        modules = [module for _, module in self.named_modules()]
        parts = []
        start = 0
        for end in self.feature_modules():
            inside = [i for i, name in enumerate(names) if name == end or name.startswith(f"{end}.")]
            stop = max(start, inside[-1] + 1)
            parts.append(modules[start:stop])
            start = stop
        return [*parts, modules[start:]]

    def freeze(self, entries: int | Literal["all"]) -> None:
        """Stops the first entries of `feature_specs` from learning; the others learn.

        Their parameters get no gradient, and their norms, dropout and stochastic depth stay in eval
        through `train()`. Without a parameter that learns, autograd builds no graph for them.

        Args:
            entries: how many, counted from the stem, or `all`.

        Raises:
            BuildError: for more entries than there are.
        """
        self.check_freeze(entries)
        self._frozen_entries = entries
        self._hold()

    def freeze_norms(self) -> None:
        """Keeps every BatchNorm in eval and its parameters as they are, also in the entries that learn.

        Class and keys stay, so a checkpoint fits whatever the policy was.
        """
        self._frozen_norms = True
        self._hold()

    def freeze_unused(self, entries: int) -> None:
        """Keeps what lies behind the first entries of `feature_specs` as it is: nobody reads it, so nothing teaches it.

        Its parameters would never get a gradient, which processes that train together wait for, and its norms would
        drift away from its weights.

        Args:
            entries: up to the last one that is read. All of them undoes an earlier call.
        """
        # Where maps have branches of their own, an entry's modules do not follow those of the entry before.
        self._read = None if self.parallel or entries >= len(self.feature_specs) else entries
        self._hold()

    def check_freeze(self, entries: int | Literal["all"]) -> None:
        """Raises BuildError if `freeze(entries)` would."""
        if entries != "all" and entries > len(self.feature_specs):
            raise BuildError(
                f"freeze: {entries} asks for more than {self.title()} has: {len(self.feature_specs)} entries "
                f"({', '.join(self.feature_specs)}); use 0..{len(self.feature_specs)} or all"
            )
        if entries not in (0, "all"):
            self.feature_modules()

    def set_norm(self, policy: NormPolicy) -> None:
        """Checks that the norms can follow a policy, and turns BatchNorm into SyncBatchNorm for `sync`.

        Raises:
            BuildError: for `group`, unless the backbone was built with it, and for `frozen` and `sync`
                without any BatchNorm.
        """
        if policy == "group" and not any(isinstance(module, nn.GroupNorm) for module in self.modules()):
            raise BuildError(f"norm: group is only for rehead's own ResNets, not for {self.title()}; use norm=train")
        if policy in ("frozen", "sync") and not any(isinstance(module, AnyBatchNorm) for module in self.modules()):
            raise BuildError(
                f"norm: {policy} is about batch normalisation, but {self.title()} has none; use norm=train"
            )
        if policy == "sync":
            self._convert_to_sync()

    def set_norm_eps(self, eps: float) -> None:
        """Gives every BatchNorm another eps, as some published weights were trained with.

        Raises:
            BuildError: without any BatchNorm.
        """
        norms = [module for module in self.modules() if isinstance(module, AnyBatchNorm)]
        if not norms:
            raise BuildError(f"norm_eps is about batch normalisation, but {self.title()} has none; leave it out")
        for norm in norms:
            norm.eps = eps

    def title(self) -> str:
        """The name for messages."""
        if not hasattr(self, "options"):
            return type(self).__name__
        title = f"backbone '{self.options.name}'"
        if not self.options.residual:
            return f"{title} (residual: false)"
        return title if self.options.shortcut == "B" else f"{title} (shortcut: {self.options.shortcut})"

    def train(self, mode: bool = True) -> Backbone:
        """As in torch, but what is frozen stays in eval."""
        super().train(mode)
        for module in self._held_modules:
            module.training = False
        return self

    def _convert_to_sync(self) -> None:
        nn.SyncBatchNorm.convert_sync_batchnorm(self)  # type: ignore[no-untyped-call]

    def _hold(self) -> None:
        """Applies the frozen and the unread entries and the frozen norms, releasing what an earlier call held."""
        for parameter in self._held_parameters:
            parameter.requires_grad_(True)
        if self._frozen_entries == "all":
            frozen = set(self.modules()) - {self}
        elif self._frozen_entries == 0:
            frozen = set()
        else:
            frozen = {module for part in self.stages()[: self._frozen_entries] for module in part} - {self}
        if self._read is not None:
            frozen |= {module for part in self.stages()[self._read :] for module in part} - {self}
        if self._frozen_norms:
            # With what is inside: timm's BatchNormAct2d holds its activation.
            norms = [module for module in self.modules() if isinstance(module, AnyBatchNorm)]
            frozen |= {module for norm in norms for module in norm.modules()}
        # A parameter that the network itself never trains is not ours to release later.
        self._held_parameters = [
            parameter for module in frozen for parameter in module.parameters(recurse=False) if parameter.requires_grad
        ]
        for parameter in self._held_parameters:
            parameter.requires_grad_(False)
        # A container of frozen and learning modules goes on following train().
        self._held_modules = [module for module in frozen if frozen.issuperset(module.modules())]
        self.train(self.training)


def name_features(strides: Iterable[int]) -> list[str]:
    """C1, C2, ... by order: `Cn` has stride 2^n where strides are the usual ones, and names never repeat.

    Strides 4, 8, 16, 32 give C2..C5; those of a dilated network, 2, 4, 8, 8, 8, give C1..C5; a vision
    transformer's 16, 16, 16 give C4, C5, C6.
    """
    names: list[str] = []
    last = -1
    for stride in strides:
        last = max(last + 1, int(math.log2(stride)))
        names.append(f"C{last}")
    return names
