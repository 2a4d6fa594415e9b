"""Memory: what is recomputed, what fits, and what is said when it does not."""

from __future__ import annotations

import copy

import pytest
import torch
from helpers import TINY, assert_equal_numbers, batch_of_noise, targets_for, total

from rehead.backbones import build_backbone
from rehead.configs.schema import BackboneOptions
from rehead.errors import ConfigError, TrainingError
from rehead.models.model import build_model
from rehead.training.memory import (
    checkpoint_activations,
    explain_oom,
    explain_oom_in_evaluation,
    is_out_of_memory,
    largest_batch,
)

RESNETS = [
    TINY,
    BackboneOptions(name="resnet20", weights="none"),
    BackboneOptions(name="timm/test_resnet", weights="none"),
    BackboneOptions(name="timm/test_vit", weights="none"),
]


@pytest.mark.numeric
@pytest.mark.parametrize("options", RESNETS, ids=lambda options: options.name)
def test_recomputed_activations_give_the_same_gradients_and_statistics(options: BackboneOptions) -> None:
    torch.manual_seed(0)
    plain = build_backbone(options).double()
    saving = copy.deepcopy(plain)
    calls: list[int] = []
    names = list(saving.state_dict())
    blocks = checkpoint_activations(saving)
    for block in (one for one in saving.modules() if "forward" in vars(one)):
        block.register_forward_hook(lambda *_: calls.append(1))
    pixels = torch.randn(2, 3, 160, 160).double()
    for backbone in (plain, saving):
        torch.manual_seed(1)  # dropout and stochastic depth draw the same in both
        torch.stack([value.square().mean() for value in backbone(pixels).values()]).sum().backward()
    assert blocks == len(calls) > 2
    assert list(saving.state_dict()) == names
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        assert_equal_numbers(other.grad, one.grad)
    # Running statistics moved once, not a second time with the recomputation.
    for (name, one), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(one, other), name


def test_only_the_inputs_of_blocks_are_kept_for_the_backward_pass() -> None:
    kept = []
    for saving in (False, True):
        model = build_model(TINY, "linear", ["cat", "dog"])
        if saving:
            checkpoint_activations(model.backbone)
        batch = batch_of_noise()
        size = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal size
            size += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            total(model(batch, targets_for(batch, 2)))
        kept.append(size)
    assert kept[1] < kept[0] / 2


def test_a_network_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="activation_checkpointing"):
        checkpoint_activations(torch.nn.Conv2d(3, 3, 1))


@pytest.mark.parametrize("fits", [1, 2, 3, 11, 16, 100, 1024, 5000])
def test_the_largest_batch_is_found_in_few_attempts_and_a_tenth_is_left(fits: int) -> None:
    tried: list[int] = []

    def step(size: int) -> None:
        tried.append(size)
        if size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    found = largest_batch(step)
    assert found == (1024 if fits >= 1024 else max(1, int(fits * 0.9)))
    assert max(tried) <= 1024
    assert len(tried) == len(set(tried)) <= 20


def test_nothing_fits_is_an_error_and_other_errors_are_not_taken_for_it() -> None:
    def full(size: int) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried")

    with pytest.raises(TrainingError, match=r"not even one image fits.*DefaultCPUAllocator"):
        largest_batch(full)

    def broken(size: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        largest_batch(broken)


def test_out_of_memory_says_what_to_lower() -> None:
    with pytest.raises(TrainingError) as caught, explain_oom(8, 5, lambda: "The last good checkpoint is here."):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")
    said = str(caught.value)
    for words in (
        "at step 5 with 8 images in a pass",
        "train.batch_size=4 train.accumulate=2",
        "train.precision=bf16",
        "train.activation_checkpointing=true",
        "data.resize",
        "The last good checkpoint is here.",
        "Tried to allocate 2.00 GiB",
    ):
        assert words in said
    assert "More lines" not in said
    # The passes of a stated number of images follow from the size of one.
    with pytest.raises(TrainingError, match=r"train\.batch_size=4 \(twice"), explain_oom(8, 5, str, stated=True):
        raise MemoryError
    assert is_out_of_memory(MemoryError())


# As torch passes them on; DOUBTFUL ones are said of other things too.
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    MemoryError(),
    MemoryError("std::bad_alloc"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA driver error: out of memory"),
    RuntimeError("MPS backend out of memory (MPS allocated: 5.05 GB)"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"),
    RuntimeError("could not create a memory object"),
    RuntimeError("could not create a primitive"),
    RuntimeError("could not execute a primitive"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: not enough memory: you tried to allocate"),
]
DOUBTFUL = [
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"),
    RuntimeError("GET was unable to find an engine to execute this computation"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_every_library_s_words_for_a_full_memory_are_known(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize("error", DOUBTFUL, ids=str)
@pytest.mark.parametrize(("free", "full"), [(1 << 30, True), (14 << 30, False), (None, False)])
def test_where_the_words_leave_it_open_the_gpu_s_memory_decides(
    error: Exception, free: int | None, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A T4 says the same of bfloat16, for which it has no convolutions, with all of its memory free."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: free is not None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free, 15 << 30))
    assert is_out_of_memory(error) is full


@pytest.mark.parametrize(
    "said", ["CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`", "CUDA error: device-side assert"]
)
def test_other_errors_of_a_gpu_are_not_taken_for_a_full_memory(said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (1 << 20, 15 << 30))
    assert not is_out_of_memory(RuntimeError(said))


def test_out_of_memory_in_an_evaluation_says_what_helps_there() -> None:
    keys = ["model.heads.main.detections"]
    with pytest.raises(TrainingError) as caught, explain_oom_in_evaluation(8, keys, "What was trained is here."):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    said = str(caught.value)
    for words in (
        "in an evaluation of 8 images at a time",
        "train.batch_size=4",
        "fewer model.heads.main.detections",
        "data.resize",
        "What was trained is here.",
    ):
        assert words in said
    # What helps a training step alone.
    assert not any(words in said for words in ("accumulate", "activation_checkpointing", "freeze"))
