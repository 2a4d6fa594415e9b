"""One file per task, and the runners that train, evaluate and predict."""

from __future__ import annotations

import importlib
from functools import cache

from rehead.configs.tasks import TASKS
from rehead.tasks.base import Task


@cache
def task_named(name: str) -> Task:
    """What a task does, by its name in `rehead.configs.tasks.TASKS`."""
    module, _, attribute = TASKS[name].target.partition(":")
    task: Task = getattr(importlib.import_module(module), attribute)()
    return task
