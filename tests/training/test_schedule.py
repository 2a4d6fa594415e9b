"""Learning rates by step."""

from __future__ import annotations

import pytest
from torch import nn

from rehead.configs.schema import OptimizerOptions, ScheduleOptions
from rehead.training.schedule import build_optimizer, rate


class TestSchedule:
    def test_warm_up_rises_linearly_from_its_factor(self) -> None:
        options = ScheduleOptions(name="constant", warmup_steps=10, warmup_factor=0.1)
        assert rate(options, 0, 100, 10) == pytest.approx(0.1)
        assert rate(options, 5, 100, 10) == pytest.approx(0.55)
        assert rate(options, 10, 100, 10) == 1

    def test_a_constant_warm_up_ends_at_once(self) -> None:
        options = ScheduleOptions(name="constant", warmup="constant", warmup_steps=10, warmup_factor=0.1)
        assert [rate(options, step, 100, 10) for step in (0, 9, 10)] == pytest.approx([0.1, 0.1, 1])

    def test_cosine_ends_near_zero(self) -> None:
        options = ScheduleOptions(name="cosine")
        assert rate(options, 0, 100, 10) == 1
        assert rate(options, 50, 100, 10) == pytest.approx(0.5)
        assert rate(options, 99, 100, 10) == pytest.approx(0, abs=1e-3)

    def test_multistep_drops_at_epochs(self) -> None:
        options = ScheduleOptions(name="multistep", milestones=[2, 3], gamma=0.1)
        assert [rate(options, step, 40, 10) for step in (0, 19, 20, 29, 30, 39)] == pytest.approx(
            [1, 1, 0.1, 0.1, 0.01, 0.01]
        )

    def test_multistep_drops_at_steps_where_these_are_counted(self) -> None:
        options = ScheduleOptions(name="multistep", milestones=[15, 25], milestones_in="steps", gamma=0.1)
        assert [rate(options, step, 40, 10) for step in (0, 14, 15, 24, 25, 39)] == pytest.approx(
            [1, 1, 0.1, 0.1, 0.01, 0.01]
        )

    def test_poly_falls_to_its_end(self) -> None:
        """mmsegmentation's PolyLR: (lr - eta_min) (1 - t / T)^power + eta_min, here of lr 0.01 and eta_min 1e-4."""
        options = ScheduleOptions(name="poly", power=0.9, end_factor=0.01)
        for step in (0, 30, 99):
            expected = (0.01 - 1e-4) * (1 - step / 100) ** 0.9 + 1e-4
            assert 0.01 * rate(options, step, 100, 10) == pytest.approx(expected)
        assert rate(options, 100, 100, 10) == pytest.approx(0.01)

    @pytest.mark.parametrize("name", ["sgd", "adamw"])
    def test_frozen_parameters_are_left_out_of_the_optimizer(self, name: str) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[0].requires_grad_(False)
        optimizer = build_optimizer(model, OptimizerOptions(name=name))
        assert sum(len(group["params"]) for group in optimizer.param_groups) == 2
