"""Memory for images, taken from the kernel once.

glibc gives memory of more than some 100 kB back to the kernel as soon as it is freed, and the kernel zeroes it, page by
page, when the next image asks for it: that can take a third of the time of decoding a large photograph.
https://man7.org/linux/man-pages/man3/mallopt.3.html
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST = (64 << 20, 32 << 20)
"""Bytes of what is kept for the next one. Older glibcs take no more than the second."""
KEPT = 256 << 20
"""Bytes that may lie idle at the end of the heap."""


@cache
def keep_freed_memory() -> None:
    """Makes this process keep what it frees, within limits; does nothing where the C library is another."""
    if not sys.platform.startswith("linux"):
        return
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None and any(set_option(M_MMAP_THRESHOLD, size) for size in LARGEST):
        set_option(M_TRIM_THRESHOLD, KEPT)
