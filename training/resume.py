"""`resume.pt`: everything that a run goes on from, in one file, whose rename commits the step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Self

import torch
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import Tensor, nn

from rehead.backbones.tensor_files import (
    check_file,
    differing,
    is_plain,
    read_pickled,
    reason,
    refuse_unfit,
    without_numbers,
)
from rehead.errors import TrainingError, WeightsError, listed
from rehead.training import sharding
from rehead.training.averaging import WeightAverage
from rehead.training.checkpoints import write_pickled
from rehead.training.distributed import world

STATE_OF = {torch.optim.SGD: {"momentum_buffer"}, torch.optim.AdamW: {"step", "exp_avg", "exp_avg_sq"}}
"""What each optimizer keeps of a parameter."""


class _Part(BaseModel):
    """Takes what has the right type already: nothing is converted or left out."""

    model_config = ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False)


def _single(tensor: Tensor) -> Tensor:
    if tensor.numel() != 1:
        raise ValueError(f"should be one number, found {tuple(tensor.shape)}")
    return tensor


Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Average(_Part):
    tensors: dict[str, Tensor]
    updates: Count


class _Optimizer(_Part):
    state: dict[int | str, dict[str, Any]]
    param_groups: Annotated[list[dict[str, Any]], Field(min_length=1)]


class _Unlogged(_Part):
    sums: dict[str, Annotated[Tensor, AfterValidator(_single)]]
    summed: dict[str, Annotated[int, Field(ge=1)]]

    @model_validator(mode="after")
    def _of_the_same(self) -> Self:
        if self.sums.keys() != self.summed.keys():
            raise ValueError("sums and summed should have the same names")
        return self


class _State(_Part):
    step: Count
    best: float | None
    best_step: int
    not_better: Count
    due: bool


class _Resume(_Part):
    """What `save_resume` is given."""

    model: dict[str, Tensor]
    average: _Average | None
    optimizer: _Optimizer
    scaler: dict[str, float | int] | None
    state: _State
    unlogged: list[_Unlogged]
    rows: Count
    conditions: dict[str, int]
    metadata: str


def save_resume(path: Path, state: Mapping[str, Any]) -> None:
    """Writes everything a run needs to go on, in one file, whose rename commits the step."""
    write_pickled(path, state)


def read_resume(path: Path) -> dict[str, Any]:
    """Reads `resume.pt`; never runs code from it.

    Returns:
        What `save_resume` was given: every key is there, and of its type.

    Raises:
        TrainingError: if there is none, it cannot be read, or it holds something else.
    """
    if not path.exists():
        raise TrainingError(f"{path}: no such file, so there is no run to go on with; start one without --resume")
    try:
        check_file(path, "file of a run")
        state = read_pickled(path, summed=True)
    except WeightsError as error:
        raise TrainingError(f"{error}. {start_anew(path.parent)}") from error
    try:
        _Resume.model_validate(state)
    except ValidationError as error:
        wrong = [
            f"{'.'.join(str(part) for part in detail['loc']) or 'the whole'}: {detail['msg']}"
            for detail in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        raise TrainingError(
            f"{path}: not what a run saves ({listed(wrong, '; ')}). {start_anew(path.parent)}"
        ) from None
    return dict(state)


def start_anew(folder: Path) -> str:
    """What there is to do where a run cannot go on."""
    return f"Start a new run from its weights by model.init={folder}/last.safetensors, or the same anew by --overwrite"


def restore(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
    resumed: Mapping[str, Any],
    path: Path,
) -> None:
    """Fills a model, sharded or not, its optimizer and its average with what `read_resume` found.

    Raises:
        TrainingError: for another model's, or another optimizer's; how it steps, the configuration says.
    """
    if (average is None) != (resumed["average"] is None) or len(resumed["unlogged"]) != world():
        raise TrainingError(f"{path}: is of a run with other options. {start_anew(path.parent)}")
    _check_tensors(resumed["model"], model.state_dict(), "model", path)
    if sharding.is_sharded(model):
        sharding.load_tensors(model, resumed["model"])
        _load_optimizer(optimizer, resumed["optimizer"], path, partial(sharding.load_optimizer, model, optimizer))
    else:
        model.load_state_dict(resumed["model"])
        _load_optimizer(optimizer, resumed["optimizer"], path, lambda state: optimizer.load_state_dict(dict(state)))
    if average is not None:
        _check_tensors(resumed["average"]["tensors"], average.tensors, "average", path)
        average.load(**resumed["average"])


def _check_tensors(tensors: Mapping[str, Tensor], places: Mapping[str, Tensor], what: str, path: Path) -> None:
    """Checks that tensors are those of a model: by name, shape and type of number, and finite.

    Raises:
        TrainingError: naming those that are not.
    """
    if other := differing(places, tensors):
        raise TrainingError(
            f"{path}: {len(other):,} tensors of its {what} differ from this model's in name or shape: {listed(other)}. "
            f"{start_anew(path.parent)}"
        )
    try:
        refuse_unfit(tensors, places, f"{path}, {what}")
    except WeightsError as error:
        raise TrainingError(str(error)) from error


def _load_optimizer(
    optimizer: torch.optim.Optimizer, state: Mapping[str, Any], path: Path, load: Callable[[Mapping[str, Any]], None]
) -> None:
    """Fills an optimizer with what it kept of every parameter, and with nothing else.

    Args:
        optimizer: of the run's configuration.
        state: of `resume.pt`.
        path: for messages.
        load: fills it.

    Raises:
        TrainingError: for a state of other parameters, or of another optimizer.
    """
    wanted = STATE_OF[type(optimizer)]
    wrong = [
        f"{name}.{key}"
        for name, kept in state["state"].items()
        for key in sorted({*wanted, *kept})
        if key not in wanted or not _is_finite(kept.get(key))
    ]
    own = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    if not wrong:
        try:
            load(state)
        except torch.OutOfMemoryError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise TrainingError(
                f"{path}: its optimizer does not fit this model ({reason(error)}). {start_anew(path.parent)}"
            ) from error
        for group, options in zip(optimizer.param_groups, own, strict=True):
            group.update(options)
        for parameter, kept in optimizer.state.items():
            if not isinstance(parameter, Tensor):
                wrong.append(f"parameter {parameter!r}, which is not there")
                continue
            wrong += [
                f"{key} of shape {tuple(value.shape)} for a parameter of {tuple(parameter.shape)}"
                for key, value in kept.items()
                if value.shape != (parameter.shape if key != "step" else ())
            ]
    if wrong:
        raise TrainingError(
            f"{path}: what its optimizer keeps of its parameters is not what {type(optimizer).__name__} keeps of this "
            f"model's, or not finite: {listed(wrong)}. {start_anew(path.parent)}"
        )


def _is_finite(value: object) -> bool:
    if not isinstance(value, Tensor) or not is_plain(value) or not value.is_floating_point():
        return False
    return not without_numbers({"": value})
