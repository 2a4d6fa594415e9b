"""From samples to batches: reading images, resizing, augmentation, loading."""
