"""Recipes of the residual paper: each differs from its partner in what it is there to show, and in nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from rehead.configs.load import dump, load_config, recipes

PLAIN = {"model.backbone.residual": False, "model.backbone.shortcut": "B", "model.backbone.zero_init_residual": True}
PAIRS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet56": ("resnet20", {"model.backbone.name": "resnet56"}),
    "resnet110_no_warmup": ("resnet20", {"model.backbone.name": "resnet110"}),
    "resnet110": (
        "resnet110_no_warmup",
        {
            "train.schedule.warmup": "constant",
            "train.schedule.warmup_steps": 400,
            "train.schedule.warmup_factor": 0.1,
        },
    ),
    # A plain network has no shortcuts to choose, and nothing of it starts at zero whatever the option says.
    "plain20": ("resnet20", PLAIN),
    "plain56": ("resnet56", PLAIN),
    "plain110": ("resnet110", PLAIN),
    "resnet20_shortcut_b": ("resnet20", {"model.backbone.shortcut": "B"}),
    "resnet20_shortcut_c": ("resnet20", {"model.backbone.shortcut": "C"}),
    "resnet20_zero_init": ("resnet20", {"model.backbone.zero_init_residual": True}),
    "resnet56_zero_init": ("resnet56", {"model.backbone.zero_init_residual": True}),
    "resnet110_zero_init": ("resnet110_no_warmup", {"model.backbone.zero_init_residual": True}),
}


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        found.update(flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return found


@pytest.mark.parametrize("name", PAIRS)
def test_a_recipe_differs_from_its_partner_in_one_thing(name: str) -> None:
    partner, changed = PAIRS[name]
    theirs, ours = (flat(dump(load_config(f"paper/{each}"))) for each in (partner, name))
    assert ours.pop("out") == f"runs/paper/{name}"
    theirs.pop("out")
    assert {key: value for key, value in ours.items() if theirs[key] != value} == changed


def test_every_recipe_has_a_partner() -> None:
    assert {name.removeprefix("paper/") for name in recipes() if name.startswith("paper/")} == {"resnet20", *PAIRS}


def test_the_rate_is_that_of_the_paper() -> None:
    config = load_config("paper/resnet110")
    assert (config.train.optimizer.lr, config.train.optimizer.momentum, config.train.optimizer.weight_decay) == (
        0.1,
        0.9,
        1e-4,
    )
    # A tenth after a half and after three quarters: 32,000 and 48,000 of 64,000 steps.
    assert [milestone / config.train.epochs for milestone in config.train.schedule.milestones] == [0.5, 0.75]
    assert config.train.batch_size == 128
