"""From files to batches: readers, pixels, resizing, augmentation, loading, and pictures of what was found."""
