"""Published weights arrive whole, once, and in sight; where they do not, the message says why and what to do.

The hub is a stand-in on the loopback interface. The user is a process of its own: where the hub and its cache are is
read when its client is imported.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_standin import HubStandin
from hub_user import State, User, environment
from safetensors.torch import save

from rehead.backbones import build_backbone
from rehead.configs.schema import BackboneOptions


@pytest.fixture(scope="module")
def hub() -> Iterator[HubStandin]:
    standin = HubStandin()
    yield standin
    standin.close()


@pytest.fixture(scope="module")
def user(hub: HubStandin, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    someone = User(hub, tmp_path_factory.mktemp("home"), HF_TOKEN="hf_ofthisuser")
    yield someone
    someone.leave()


def weights(megabytes: float = 0.1) -> tuple[State, bytes]:
    """Random weights, and their file."""
    state = {"conv1.weight": torch.rand(round(megabytes * 250_000))}
    return state, save(state)


def spoilt(content: bytes) -> bytes:
    """One bit is another; the size is the same."""
    return content[:-1] + bytes([content[-1] ^ 1])


def same(found: State, wanted: State) -> bool:
    return found.keys() == wanted.keys() and all(torch.equal(found[name], wanted[name]) for name in wanted)


def left_behind(user: User, repository: str) -> list[Path]:
    """Files of a repository's folder in the cache that could be taken for weights."""
    folder = user.home / "hub/hub" / f"models--{repository.replace('/', '--')}"
    return [path for path in folder.rglob("*") if path.is_file() and {"blobs", "snapshots"} & set(path.parts)]


WAYS_OUT = ("HF_ENDPOINT", "model.backbone.weights=FILE", "model.backbone.weights=none")


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["lfs", "xet"])
def test_the_first_download_shows_a_bar_on_a_terminal(storage: str, hub: HubStandin, user: User) -> None:
    state, content = weights(24)
    hub.publish(f"timm/large_{storage}/model.safetensors", content, storage=storage, seconds=1.0)
    got = user.asks(hub=f"timm/large_{storage}", terminal=True)
    assert got.error == ""
    assert same(got.tensors, state)
    assert f"downloading model.safetensors (24.0 MB) from timm/large_{storage}" in got.screen
    # On the way: how much of how much, and how long it will yet take.
    assert re.search(r"model\.safetensors.* [1-9]\d?%.*\dM/24\.0M \[\d\d:\d\d<\d\d:\d\d, .*B/s", got.screen)


@pytest.mark.parametrize("storage", [*(pytest.param(one, marks=pytest.mark.slow) for one in ("git", "lfs")), "xet"])
def test_without_a_terminal_the_first_download_is_one_line(storage: str, hub: HubStandin, user: User) -> None:
    state, content = weights()
    hub.publish(f"timm/plain_{storage}/model.safetensors", content, storage=storage)
    got = user.asks(hub=f"timm/plain_{storage}")
    assert same(got.tensors, state)
    assert got.screen == f"downloading model.safetensors (0.1 MB) from timm/plain_{storage}\n"


@pytest.mark.slow
def test_what_was_downloaded_once_is_there_for_good(hub: HubStandin, user: User) -> None:
    state = build_backbone(BackboneOptions(name="resnet18", weights="none")).state_dict()
    hub.publish("timm/resnet18.tv_in1k/model.safetensors", save({**state, "fc.weight": torch.rand(1000, 512)}))
    assert same(user.asks(backbone="resnet18").tensors, state)

    asked = list(hub.requests)
    again = User(hub, user.home)
    second = again.asks(backbone="resnet18")
    again.leave()
    assert same(second.tensors, state)
    assert "downloading" not in second.screen
    assert hub.requests == asked

    offline = User(hub, user.home, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    third = offline.asks(backbone="resnet18")
    offline.leave()
    assert same(third.tensors, state)


@pytest.mark.slow
def test_offline_without_cache_the_command_says_what_to_do(hub: HubStandin, tmp_path: Path, synthetic: Path) -> None:
    asked = list(hub.requests)
    data = [f"data.root={synthetic}/shapes", "data.workers=0", f"out={tmp_path}/run"]
    command = [sys.executable, "-m", "rehead", "train", "imagenette_resnet18", *data]
    run = subprocess.run(
        command, env=environment(hub, tmp_path, HF_HUB_OFFLINE="1"), capture_output=True, text=True, check=False
    )
    assert run.returncode == 2
    said = " ".join(run.stderr.split())
    assert said.startswith("error: cannot download resnet18.tv_in1k from timm/resnet18.tv_in1k: ")
    assert "offline mode is enabled" in said
    assert "HF_HUB_OFFLINE" in said
    assert all(way in said for way in WAYS_OUT)
    assert "Traceback" not in said
    assert hub.requests == asked


def test_a_download_goes_on_where_the_line_broke(hub: HubStandin, user: User) -> None:
    state, content = weights(24)
    hub.publish("timm/broken/model.safetensors", content, breaks_at=12_000_000, breaks=1)
    got = user.asks(hub="timm/broken")
    assert same(got.tensors, state)
    assert "Trying to resume download" in got.screen
    storage = "GET /storage/timm/broken/model.safetensors"
    first, second = hub.asked(storage)
    assert first == storage
    assert re.fullmatch(rf"{storage} bytes=\d{{7,8}}-", second)


@pytest.mark.slow
def test_a_line_that_always_breaks_is_given_up_soon_and_leaves_nothing(hub: HubStandin, user: User) -> None:
    state, content = weights()
    file = hub.publish("timm/hopeless/model.safetensors", content, breaks_at=50_000, breaks=1000)
    got = user.asks(hub="timm/hopeless")
    assert "cannot download these weights from timm/hopeless: " in got.error
    assert "closed connection" in got.error
    assert all(way in got.error for way in WAYS_OUT)
    assert got.seconds < 20
    assert left_behind(user, "timm/hopeless") == []
    file.breaks = 0
    assert same(user.asks(hub="timm/hopeless").tensors, state)


@pytest.mark.parametrize("storage", ["lfs", "xet"])
def test_altered_weights_are_refused_and_not_kept(storage: str, hub: HubStandin, user: User) -> None:
    repository = f"timm/altered_{storage}"
    state, content = weights()
    file = hub.publish(f"{repository}/model.safetensors", content, storage=storage, sent=spoilt(content))
    got = user.asks(hub=repository)
    assert "what arrived is not what was published" in got.error
    assert f"not {file.sha256[:8]}" in got.error
    assert "the next try downloads it again" in got.error
    assert all(way in got.error for way in WAYS_OUT)
    assert left_behind(user, repository) == []
    file.sent = None
    assert same(user.asks(hub=repository).tensors, state)


def test_a_tag_that_nobody_knows_is_refused_before_any_request(
    rehead_command: Callable[..., Any], synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("asked the network")

    monkeypatch.setattr("huggingface_hub.utils._http.get_session", refuse)
    data = [f"data.root={synthetic}/shapes", "data.workers=0", f"out={tmp_path}/run"]
    outcome = rehead_command("train", "imagenette_resnet18", *data, "model.backbone.weights=a1_in2k")
    assert outcome.code == 2
    said = " ".join(outcome.err.split())
    assert "resnet18 has no weights 'a1_in2k'; did you mean 'a1_in1k'" in said
    assert "its tags: " in said


@pytest.mark.parametrize("status", [404, 401])
def test_a_repository_that_is_gone(status: int, hub: HubStandin, user: User) -> None:
    repository = f"timm/gone_{status}"
    if status == 401:  # how the hub answers those without an account
        hub.publish(f"{repository}/model.safetensors", b"", status=status)
    got = user.asks(hub=repository)
    assert f"from {repository}: it is not there (any more), or not public: {hub.url}/{repository}/" in got.error
    assert f"answers {status}" in got.error
    assert all(way in got.error for way in WAYS_OUT)
    assert len(hub.asked(repository)) == 1


def test_a_hub_in_trouble_is_not_waited_for(hub: HubStandin, user: User) -> None:
    hub.publish("timm/trouble/model.safetensors", b"", status=503)
    got = user.asks(hub="timm/trouble")
    assert "503" in got.error
    assert all(way in got.error for way in WAYS_OUT)
    assert len(hub.asked("timm/trouble")) == 1


def test_xet_storage_that_fails_can_be_gone_round(hub: HubStandin, user: User) -> None:
    _, content = weights()
    hub.publish("timm/lost/model.safetensors", content, storage="xet", lost=True)
    got = user.asks(hub="timm/lost")
    assert "cannot download these weights from timm/lost: " in got.error
    assert "HF_HUB_DISABLE_XET=1" in got.error
    assert left_behind(user, "timm/lost") == []


def test_a_repository_without_safetensors(hub: HubStandin, user: User, tmp_path: Path) -> None:
    state, _ = weights()
    torch.save(state, tmp_path / "weights")
    hub.publish("timm/old/pytorch_model.bin", (tmp_path / "weights").read_bytes())
    assert same(user.asks(hub="timm/old").tensors, state)
    asked = list(hub.requests)
    assert same(user.asks(hub="timm/old").tensors, state)
    assert hub.requests == asked


class Code:
    """What a pickle may have run."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('it ran')",)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_repository_whose_weights_would_run_code(name: str, hub: HubStandin, user: User, tmp_path: Path) -> None:
    torch.save({"conv1.weight": Code()}, tmp_path / "weights")
    repository = f"timm/code-{name.partition('.')[0]}"
    hub.publish(f"{repository}/{name}", (tmp_path / "weights").read_bytes())
    got = user.asks(hub=repository)
    assert ("would run code" if name.endswith("bin") else "not a readable safetensors file") in got.error


def test_a_repository_without_weights(hub: HubStandin, user: User) -> None:
    hub.publish("timm/empty/README.md", b"nothing yet", storage="git")
    got = user.asks(hub="timm/empty")
    assert "timm/empty: it has neither model.safetensors nor pytorch_model.bin. Ways out: " in got.error


def checkpoints(user: User) -> Path:
    return user.home / "torch/hub/checkpoints"


def pth(hub: HubStandin, folder: Path, name: str, **how: object) -> tuple[State, str]:
    """Weights outside the hub, under a name that may hold the start of their hash; and their address."""
    state, _ = weights(0.1)
    torch.save(state, folder / "weights")
    content = (folder / "weights").read_bytes()
    name = name.format(hash=hashlib.sha256(content).hexdigest()[:8])
    hub.publish(name, content, **how)
    return state, f"{hub.url}/{name}"


# The last is one of timm's: 300e is no hash.
@pytest.mark.parametrize("name", ["net-{hash}.pth", "other.pth", "IN1K-vit.h.14-300e.pth.tar"])
def test_weights_outside_the_hub_are_downloaded_once(name: str, hub: HubStandin, user: User, tmp_path: Path) -> None:
    state, url = pth(hub, tmp_path, name)
    got = user.asks(url=url)
    assert got.error == ""
    assert same(got.tensors, state)
    assert got.screen == f"downloading {Path(url).name} from {url}\n"
    asked = list(hub.requests)
    assert same(user.asks(url=url).tensors, state)
    assert hub.requests == asked


def test_weights_outside_the_hub_show_a_bar_on_a_terminal(hub: HubStandin, user: User, tmp_path: Path) -> None:
    _, url = pth(hub, tmp_path, "bar-{hash}.pth")
    screen = user.asks(url=url, terminal=True).screen
    assert re.search(rf"{Path(url).name}: 100%.*102k/102k \[00:0", screen), screen


def test_a_broken_line_outside_the_hub(hub: HubStandin, user: User, tmp_path: Path) -> None:
    state, url = pth(hub, tmp_path, "broken.pth", breaks_at=50_000, breaks=1)
    assert same(user.asks(url=url).tensors, state)


def test_a_download_that_fails_outside_the_hub_leaves_nothing(hub: HubStandin, user: User, tmp_path: Path) -> None:
    state, url = pth(hub, tmp_path, "lost.pth", lost=True)
    before = sorted(checkpoints(user).glob("*"))
    got = user.asks(url=url)
    assert f"cannot download these weights from {url}: it is not there (any more)" in got.error
    assert "HF_ENDPOINT" not in got.error
    assert "model.backbone.weights=FILE" in got.error
    assert sorted(checkpoints(user).glob("*")) == before
    hub.files["lost.pth"].lost = False
    assert same(user.asks(url=url).tensors, state)


def test_nobody_but_the_hub_is_told_the_users_token(hub: HubStandin, user: User, tmp_path: Path) -> None:
    hub.publish("timm/token/model.safetensors", weights()[1])
    _, url = pth(hub, tmp_path, "token.pth")
    assert user.asks(hub="timm/token").error == user.asks(url=url).error == ""
    assert any("/timm/token/resolve/" in request for request in hub.with_token)
    assert not any("/storage/" in request or "token.pth" in request for request in hub.with_token)


def test_altered_weights_outside_the_hub(hub: HubStandin, user: User, tmp_path: Path) -> None:
    state, url = pth(hub, tmp_path, "spoilt-{hash}.pth")
    file = hub.files[Path(url).name]
    file.sent = spoilt(file.content)
    got = user.asks(url=url)
    assert "what arrived is not what was published" in got.error
    assert not (checkpoints(user) / Path(url).name).exists()
    file.sent = None
    assert same(user.asks(url=url).tensors, state)
