"""One file per task, `Model`, and the runners that train, evaluate and predict."""

from __future__ import annotations

from rehead.tasks.base import Task
from rehead.tasks.classification import Classification
from rehead.tasks.detection import Detection
from rehead.tasks.instance_segmentation import InstanceSegmentation
from rehead.tasks.keypoint_detection import KeypointDetection
from rehead.tasks.multi_label import MultiLabelClassification
from rehead.tasks.segmentation import Segmentation

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Classification(),
        MultiLabelClassification(),
        Detection(),
        InstanceSegmentation(),
        KeypointDetection(),
        Segmentation(),
    )
}
"""Every task by its name, as `rehead.configs.heads.task_of` gives it."""
