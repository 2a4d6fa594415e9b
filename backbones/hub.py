"""Published weights: from the cache or, the first time, from the network, whole and unaltered."""

from __future__ import annotations

import hashlib
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rehead.backbones.pretraining import Pretraining
from rehead.backbones.weights import read
from rehead.errors import WeightsError

logger = logging.getLogger("rehead")

NAMES = ("model.safetensors", "pytorch_model.bin")
SHA256 = re.compile(r"[0-9a-f]{64}")
# As in name-1a2b3c4d.pth. Eight digits at least: `-300e.pth` counts epochs.
HASH_IN_NAME = re.compile(r"-([0-9a-f]{8,})\.")


def fetch(pretraining: Pretraining) -> tuple[dict[str, Tensor], str]:
    """Published weights, from the cache or, the first time, from the network.

    The Hugging Face hub's own cache and environment variables count: HF_HOME, HF_ENDPOINT, HF_HUB_OFFLINE.
    What was downloaded is compared with its published hash, where there is one.

    Returns:
        The tensors by name, and where they came from.

    Raises:
        WeightsError: when there are none, or they cannot be reached; it names the ways out.
    """
    from huggingface_hub.errors import HfHubHTTPError

    if pretraining.hub is None and pretraining.url is None:
        raise WeightsError(
            f"timm has no weights for {pretraining.label}: "
            "give model.backbone.weights=FILE, or model.backbone.weights=none"
        )
    source = pretraining.hub or str(pretraining.url)
    try:
        path = _from_hub(pretraining.hub) if pretraining.hub else _from_url(source)
    # The bases are OSError and the HTTP client's own error, whichever client this version of the hub has. The hub's
    # newer storage, Xet, knows only RuntimeError, or ValueError where a mirror forwards half of it.
    except (*HfHubHTTPError.__bases__, RuntimeError, ValueError) as error:  # type: ignore[misc]
        reason = " ".join(str(error).split()).rstrip(".")
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 404):
            # A repository that is private and one that is not there look the same.
            reason = f"it is not there (any more), or not public: {error.response.url} answers "
            reason += str(error.response.status_code)
        elif not isinstance(error, HfHubHTTPError.__bases__):
            reason += " (the environment variable HF_HUB_DISABLE_XET=1 makes the hub send whole files instead)"
        mirror = "a mirror (environment variable HF_ENDPOINT), " if pretraining.hub else ""
        raise WeightsError(
            f"cannot download {pretraining.label} from {source}: {reason}. Ways out: {mirror}"
            "a file (model.backbone.weights=FILE), or none (model.backbone.weights=none)"
        ) from error
    return read(path), source


def _from_hub(repository: str) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError

    for name in NAMES:
        # Published weights do not change: what is in the cache needs no question to the network.
        if isinstance(cached := try_to_load_from_cache(repository, name), str):
            return Path(cached)
    for name in NAMES:
        try:
            # The hub retries a download for most of a minute; this asks once, so a machine without network fails soon.
            published = get_hf_file_metadata(hf_hub_url(repository, name))
        except EntryNotFoundError:
            continue
        _announce(name, published.size, repository)
        path = Path(hf_hub_download(repository, name, tqdm_class=_bar_with_eta()))
        # The hub's client compares sizes only (huggingface/huggingface_hub#2364). The ETag of a large file is its
        # sha256; that of a small one is git's, which is not a hash of the content alone.
        if published.etag and SHA256.fullmatch(published.etag):
            _check(path, published.etag)
        return path
    raise FileNotFoundError(f"it has neither {' nor '.join(NAMES)}")


def _from_url(url: str) -> Path:
    """The few of timm's weights that are not on the hub; torch.hub's cache."""
    from huggingface_hub import get_hf_file_metadata
    from huggingface_hub.file_download import http_get

    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    if path.is_file():
        return path
    published = get_hf_file_metadata(url, token=False)
    _announce(path.name, published.size, url)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as folder:
        partial = Path(folder) / path.name
        with partial.open("wb") as file:
            # Unlike torch.hub's, it goes on where the line broke, and notices when the end is missing.
            http_get(url, file, displayed_filename=path.name)
        if found := HASH_IN_NAME.search(path.name):
            _check(partial, found.group(1))
        partial.replace(path)
    return path


def _announce(name: str, size: int | None, source: str) -> None:
    """A line for those without a terminal; on one, the client shows a bar below it."""
    logger.info("downloading %s%s from %s", name, f" ({size / 1e6:.1f} MB)" if size else "", source)


def _bar_with_eta() -> type[Any]:
    """The client's own bar, which hides itself where there is no terminal; with Xet it would not say how long yet."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            if "bar_format" in options:
                options["bar_format"] = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}]"
            super().__init__(*args, **options)  # type: ignore[no-untyped-call]

    return Bar


def _check(path: Path, sha256: str) -> None:
    """Compares a download with the start of its hash, and removes it if it is another, so that nobody takes it."""
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        # In the hub's cache the path is a link to the content.
        path.resolve().unlink(missing_ok=True)
        raise OSError(
            f"what arrived is not what was published (its sha256 begins with {found[:8]}, not {sha256[:8]}); "
            "it was removed, so the next try downloads it again"
        )
