"""Whether memory that is kept really comes back without the system, and is not lost."""

import ctypes
import platform
import subprocess
import sys
import textwrap

import pytest

from flax_sepconv import memory

needs_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library's own")

ALLOCATE = """
    import ctypes, pathlib, random, resource, sys, threading
    from flax_sepconv import memory

    MIB = 2**20
    library = ctypes.CDLL(None)
    library.malloc.restype = ctypes.c_void_p
    library.malloc.argtypes, library.free.argtypes = [ctypes.c_size_t], [ctypes.c_void_p]

    def resident():
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * 4096 / MIB

    def filled(mebibytes):
        block = library.malloc(mebibytes * MIB)
        ctypes.memset(block, 1, mebibytes * MIB)
        return block

    def faults(mebibytes):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        library.free(filled(mebibytes))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    def in_thread(function, *arguments):
        found = []
        thread = threading.Thread(target=lambda: found.append(function(*arguments)))
        thread.start(), thread.join()
        return found[0]
"""


def run(program):
    """Run a program in a process of its own, for the setting is the process'."""
    text = textwrap.dedent(ALLOCATE) + textwrap.dedent(program)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@needs_glibc
def test_large_blocks_come_back_without_page_faults_in_every_thread():
    fresh, kept, elsewhere, again = run("""
        faults(96)
        print(faults(96))
        assert memory.keep_memory() is True
        faults(96)
        print(faults(96), in_thread(faults, 90), in_thread(faults, 96))
    """)
    assert int(fresh) > 96 * 2**20 // 4096 * 0.9
    assert max(int(kept), int(elsewhere), int(again)) < 200


@needs_glibc
def test_memory_is_used_again_and_not_lost():
    """Blocks of all sizes come and go between small ones that stay: 200 MiB live at most."""
    early, late, trimmed = run("""
        assert memory.keep_memory()
        before, rng, live, small = resident(), random.Random(0), [], []
        for step in range(2000):
            live.append((filled(size := rng.randrange(1, 50)), size))
            small.append(library.malloc(rng.randrange(16, 4096)))
            while sum(size for _, size in live) > 150:
                library.free(live.pop(rng.randrange(len(live)))[0])
            if step == 200:
                print(resident() - before)
        print(resident() - before)
        for block, _ in live:
            library.free(block)
        library.malloc_trim(0)
        print(resident() - before)
    """)
    assert float(early) < 3 * 200
    assert float(late) < 3 * 200
    assert float(trimmed) < 100


@pytest.mark.parametrize("missing", ["libc.so.6", "gnu_get_libc_version"])
def test_other_libraries_are_left_alone(missing, monkeypatch):
    class Library:
        def __getattr__(self, name):
            if name == missing:
                raise AttributeError(name)
            return ctypes.CDLL(None).malloc

        def mallopt(self, *_):
            pytest.fail("nothing may be set")

    def load(name):
        if name == missing:
            raise OSError(f"{name}: no such file")
        return Library()

    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    assert memory.keep_memory() is False


def test_another_allocator_is_left_alone(monkeypatch):
    process, library = ctypes.CDLL(None), ctypes.CDLL("libc.so.6")

    class Preloaded:
        malloc = process.calloc

    monkeypatch.setattr(
        memory.ctypes, "CDLL", lambda name: library if name == "libc.so.6" else Preloaded()
    )
    assert memory.keep_memory() is False


def test_a_refusal_is_told(monkeypatch):
    class Refusing:
        def mallopt(self, *_):
            return 0

    monkeypatch.setattr(memory, "_glibc", Refusing)
    assert memory.keep_memory() is False
