"""`train.global_batch_size`: a step has as many images whatever the number of processes, and however little fits."""

from __future__ import annotations

import pytest

from rehead.configs.schema import TrainOptions
from rehead.errors import ConfigError


@pytest.mark.parametrize(
    ("stated", "batch_size", "processes", "in_a_pass", "passes"),
    [
        (16, 16, 1, 16, 1),
        (16, 16, 8, 2, 1),
        (16, 16, 16, 1, 1),
        (16, 4, 1, 4, 4),
        (16, 4, 2, 4, 2),
        (16, 2, 8, 2, 1),
        # A share that batch_size does not divide goes in smaller passes, all of one size.
        (16, 6, 1, 4, 4),
        (12, 5, 2, 3, 2),
        (7, 4, 1, 1, 7),
        (64, 16, 8, 8, 1),
    ],
)
def test_the_share_of_a_process_goes_in_the_fewest_equal_passes(
    stated: int, batch_size: int, processes: int, in_a_pass: int, passes: int
) -> None:
    divided = TrainOptions(global_batch_size=stated, batch_size=batch_size).divided(processes)
    assert (divided.images_per_pass, divided.accumulate) == (in_a_pass, passes)
    assert in_a_pass * passes * processes == stated


@pytest.mark.parametrize("processes", [1, 8])
def test_without_it_nothing_changes(processes: int) -> None:
    options = TrainOptions(batch_size=6, accumulate=3)
    assert options.divided(processes) == options


@pytest.mark.parametrize(("processes", "instead"), [(6, 18), (3, 15), (32, 32)])
def test_processes_that_cannot_share_it_equally_are_told_what_can(processes: int, instead: int) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainOptions(global_batch_size=16).divided(processes)
    assert f"16 images cannot be shared equally by {processes} processes; start 1, 2, 4, 8, 16 processes" in str(
        caught.value
    )
    assert f"train.global_batch_size={instead}" in str(caught.value)


def test_the_number_of_passes_cannot_be_given_as_well() -> None:
    with pytest.raises(ValueError, match="follows from global_batch_size"):
        TrainOptions(global_batch_size=16, accumulate=2)
