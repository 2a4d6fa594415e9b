"""The loop, optimizers and schedules, checkpoints and resume. Knows a module that returns losses, and no task."""
