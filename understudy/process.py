"""What a process of Understudy's own asks of the libraries that it will load: less memory, and no threads that spin."""

from __future__ import annotations

import contextlib
import ctypes
import os

#: Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
#: Longer than a block that is coded, shorter than a pack: blocks take the room of those before them, packs give it
#: back.
_KEPT_BYTES_MAX = 32 << 20


def settle() -> None:
    """Set what must be set before threads begin and numpy is loaded. What somebody has set in the environment stays.

    Blocks of some megabytes pass through many threads. Where each thread has its own arena, and each block's pages go
    back to the kernel, a push holds more memory and spends more of its time on empty pages. OpenBLAS starts threads as
    soon as numpy is loaded, which spin for a while; what is multiplied here is small.
    """
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if any(name.startswith("MALLOC_") for name in os.environ):
        return
    with contextlib.suppress(AttributeError, OSError):  # another C library
        change = ctypes.CDLL(None).mallopt
        change(_M_ARENA_MAX, 1)
        change(_M_MMAP_THRESHOLD, _KEPT_BYTES_MAX)
        change(_M_TRIM_THRESHOLD, 2 * _KEPT_BYTES_MAX)
