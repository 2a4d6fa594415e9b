"""A running mean of the weights, which often predicts better than the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """The exponential moving average of a model's state (Polyak and Juditsky, 1992; Tarvainen and Valpola, 1703.01780).

    Running statistics of batch normalisation are averaged like weights, so that they belong to them; what
    counts in whole numbers is copied. The decay rises with the number of updates, `(1 + n) / (10 + n)` up to the
    given one: the random weights of a new head are soon forgotten.

    Args:
        model: on its device.
        decay: the share of the old average that an update keeps, in the long run.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay, self.updates = model, decay, 0
        self.tensors = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    @torch.no_grad()
    def update(self) -> None:
        """Takes the model's state of now into the average."""
        self.updates += 1
        weight = 1 - min(self.decay, (1 + self.updates) / (10 + self.updates))
        averages, values = [], []
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point():
                averages.append(self.tensors[name])
                values.append(tensor)
            else:
                self.tensors[name].copy_(tensor)
        torch._foreach_lerp_(averages, values, weight)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged state; after it, its own again, bit for bit."""
        state = self.model.state_dict()
        own = {name: tensor.detach().clone() for name, tensor in state.items()}
        self._fill(state, self.tensors)
        try:
            yield
        finally:
            self._fill(state, own)

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor], updates: int) -> None:
        """Goes on from a saved average."""
        self.updates = updates
        self._fill(self.tensors, tensors)

    @staticmethod
    @torch.no_grad()
    def _fill(into: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
        for name, tensor in into.items():
            tensor.copy_(tensors[name])
