"""Somebody who asks for published weights: a Python process of its own, with a terminal or without."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
import threading
from dataclasses import dataclass
from pathlib import Path

from hub_standin import HubStandin
from safetensors.torch import load_file
from torch import Tensor

State = dict[str, Tensor]

USER = """
import json, logging, os, sys, time, traceback
from safetensors.torch import save_file
from rehead.backbones import build_backbone
from rehead.backbones.hub import fetch
from rehead.backbones.pretraining import Pretraining
from rehead.errors import WeightsError

log = logging.getLogger("rehead")
log.setLevel(logging.INFO)
log.addHandler(logging.StreamHandler(sys.stderr))

def show_on(path):
    screen = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(screen, 2)
    os.close(screen)

for line in sys.stdin:
    wish = json.loads(line)
    show_on(wish["screen"])
    answer, start = {"error": "", "crash": ""}, time.monotonic()
    try:
        if "backbone" in wish:
            tensors = build_backbone(wish["backbone"]).state_dict()
        else:
            tensors, _ = fetch(Pretraining("these weights", wish.get("hub"), wish.get("url"), (), (), "bilinear"))
        save_file(tensors, wish["out"])
    except WeightsError as error:
        answer["error"] = str(error)
    except Exception:
        answer["crash"] = traceback.format_exc()
    answer["seconds"] = time.monotonic() - start
    show_on(os.devnull)
    print(json.dumps(answer), flush=True)
"""


def environment(hub: HubStandin, home: Path, **more: str) -> dict[str, str]:
    """A user's, who has set nothing about the hub but where it is."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGINGFACE_"))}
    kept.pop("TRANSFORMERS_OFFLINE", None)
    own = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home / "hub"), "TORCH_HOME": str(home / "torch"), "NO_PROXY": "*"}
    return {**kept, **own, "OMP_NUM_THREADS": "1", **more}


@dataclass
class Got:
    """What the user has in the end, and what was to be seen meanwhile."""

    tensors: State
    error: str
    seconds: float
    screen: str


class User:
    """A Python process in which somebody asks for weights."""

    def __init__(self, hub: HubStandin, home: Path, **more: str) -> None:
        self.home = home
        self._process = subprocess.Popen(
            [sys.executable, "-c", USER],
            env=environment(hub, home, **more),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def asks(self, *, terminal: bool = False, **wish: str) -> Got:
        """`hub=`, a repository; `url=`; or `backbone=`, a name."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        out, screen = self.home / "out.safetensors", Terminal() if terminal else File(self.home / "screen.txt")
        out.unlink(missing_ok=True)
        self._process.stdin.write(json.dumps({**wish, "out": str(out), "screen": screen.name}) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert not answer["crash"], answer["crash"]
        tensors = load_file(out) if out.exists() else {}
        return Got(tensors, answer["error"], answer["seconds"], screen.read())

    def leave(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)


class File:
    """Where standard error goes without a terminal."""

    def __init__(self, path: Path) -> None:
        path.write_text("")
        self.name = str(path)

    def read(self) -> str:
        return Path(self.name).read_text(encoding="utf-8")


class Terminal:
    """A terminal of 120 columns, and all that was ever written on it."""

    def __init__(self) -> None:
        self._master, self._slave = pty.openpty()
        termios.tcsetwinsize(self._slave, (40, 120))
        self.name = os.ttyname(self._slave)
        self._written = b""
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()

    def _follow(self) -> None:
        try:
            while part := os.read(self._master, 65536):
                self._written += part
        except OSError:  # how Linux says that nobody has the terminal open any more
            pass

    def read(self) -> str:
        os.close(self._slave)
        self._reader.join(timeout=10)
        os.close(self._master)
        return self._written.decode()
