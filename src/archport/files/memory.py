"""Memory given back to the system: that of mapped files, and what was freed but kept for later."""

import ctypes
import mmap
import sys

from torch import Tensor


def span(tensor: Tensor) -> int:
    """Bytes from its first element to its last, whatever lies between them."""
    if not tensor.numel():
        return 0
    steps = sum((length - 1) * stride for length, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (1 + steps) * tensor.itemsize


def drop(tensor: Tensor) -> None:
    """Take the pages of a mapped tensor, which has not been written to, out of this process's memory."""
    if sys.platform == "linux":
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = tensor.data_ptr() + span(tensor) - start
        if size >= mmap.PAGESIZE:
            size = size // mmap.PAGESIZE * mmap.PAGESIZE
            ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_DONTNEED)


def trim() -> None:
    """Give freed memory back, where the C library can."""
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "malloc_trim"):
        library.malloc_trim(0)
