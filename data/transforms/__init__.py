"""Samples to samples: resizing, augmentation."""
