"""Memory on CPUs: whether the C library keeps what was freed, or hands it back to the system."""

import ctypes

# Parameters of glibc's `mallopt` (malloc.h), with what each is set to.
_SETTINGS = {
    -4: 0,  # M_MMAP_MAX: no block, however large, is mapped for itself, to be unmapped when freed.
    -1: -1,  # M_TRIM_THRESHOLD: what is free at the end of the heap stays.
    -8: 1,  # M_ARENA_MAX: all threads share the one heap that can hold large blocks.
}


def keep_memory() -> bool:
    """Have this process keep the memory that it frees, for what it allocates next.

    On Linux the C library maps each array of more than 32 MB anew, and unmaps it when it is freed:
    the system has to clear every page of every result. Where results have hundreds of megabytes
    this can take longer than computing them. After this call freed memory is used again, by all
    threads and all libraries of the process.

    Call it first thing in a program, before threads are started: threads that already have a heap
    of their own stay with it. What it costs: freed memory is not given back to the system before
    the process ends, or calls glibc's `malloc_trim`. It stays at its peak, or at a few times that:
    large blocks do not always fit into the gaps that others left. And all threads wait for one lock
    to allocate more than small blocks.

    Returns:
        Whether it is so from now on. False, and nothing changes, where the C library is not glibc
        (macOS, Windows, musl) or another allocator stands in its place; False also where glibc
        refuses one of the settings.

    Example:
        >>> from flax_sepconv import memory
        >>> memory.keep_memory() in (True, False)
        True
    """
    library = _glibc()
    return library is not None and all(
        library.mallopt(parameter, value) == 1 for parameter, value in _SETTINGS.items()
    )


def _glibc() -> ctypes.CDLL | None:
    """Return glibc where it is what `malloc` of this process belongs to."""
    try:
        process, library = ctypes.CDLL(None), ctypes.CDLL("libc.so.6")
        library.gnu_get_libc_version  # noqa: B018 - AttributeError where there is none.
        places = (ctypes.cast(each.malloc, ctypes.c_void_p).value for each in (process, library))
        first, second = places
    except (OSError, AttributeError, TypeError):
        return None
    return library if first == second else None
