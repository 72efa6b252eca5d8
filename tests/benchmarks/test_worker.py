"""Worker processes: what they answer, and how they end."""

import os
import pathlib
import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks.worker import MEMORY, Declined, Program, Worker, WorkerError

ROOT = pathlib.Path(__file__).parents[2]


def build(size):
    return {"ones": Program(lambda: np.ones(size), lambda result: {"y": result}, {"size": size})}


def fail():
    raise ValueError("as it should")


def decline():
    raise NotImplementedError("not today")


def die():
    print("famous last words", flush=True)
    os.abort()


@pytest.fixture(scope="module")
def worker():
    with Worker("test", {"FROM_PARENT": "yes"}) as started:
        yield started


def environment():
    assert os.environ["FROM_PARENT"] == "yes"
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    return {}


def test_a_worker_runs_programs(worker):
    assert worker.load("tests.benchmarks.test_worker:environment") == {}
    assert worker.load("tests.benchmarks.test_worker:build", size=3) == {"ones": {"size": 3}}
    np.testing.assert_array_equal(worker.numbers("ones")["y"], np.ones(3))
    seconds = worker.times("ones", 4)
    assert len(seconds) == 4
    assert all(0 < second < 1 for second in seconds)
    worker.drop()
    with pytest.raises(WorkerError, match="KeyError: 'ones'"):
        worker.numbers("ones")


def test_a_worker_outlives_tasks_that_fail_or_decline(worker):
    with pytest.raises(WorkerError, match=r"(?s)^test: load.*Traceback.*ValueError: as it should"):
        worker.load("tests.benchmarks.test_worker:fail")
    with pytest.raises(Declined, match=r"^not today$"):
        worker.load("tests.benchmarks.test_worker:decline")
    assert worker.load("tests.benchmarks.test_worker:build", 1) == {"ones": {"size": 1}}


def double(number):
    return 2 * number


def test_functions_are_called(worker):
    assert worker.call("tests.benchmarks.test_worker:double", 21) == 42
    with pytest.raises(WorkerError, match="ValueError: as it should"):
        worker.call("tests.benchmarks.test_worker:fail")


def build_text(size):
    return {"text": Program(lambda: b"x" * size, lambda result: {})}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can keep memory")
def test_memory_is_kept_or_comes_fresh():
    size = 100 * 2**20
    pages = size // 4096
    for memory, low, high in (("fresh", 0.9 * pages, 1.1 * pages), ("kept", 0, 0.1 * pages)):
        with Worker(memory, {MEMORY: memory}) as worker:
            worker.load("tests.benchmarks.test_worker:build_text", size)
            worker.times("text", 2)
            assert low <= worker.page_faults("text") <= high


def sleep():
    time.sleep(30)


def test_patience_ends():
    with Worker("slow") as slow:
        assert slow.call("tests.benchmarks.test_worker:double", 1, patience=60) == 2
        with pytest.raises(TimeoutError, match=r"^slow: no answer within 0\.1 s$"):
            slow.call("tests.benchmarks.test_worker:sleep", patience=0.1)


def test_a_dead_worker_is_reported():
    with Worker("mortal") as worker, pytest.raises(WorkerError) as caught:
        worker.load("tests.benchmarks.test_worker:die")
    assert "mortal: the worker died with status -6" in str(caught.value)
    assert "famous last words" in str(caught.value)


def test_workers_do_not_outlive_their_parent():
    program = (
        "import os; from benchmarks.worker import Worker; worker = Worker('orphan'); "
        "worker.drop(); print(worker._process.pid, flush=True); os._exit(0)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for _ in range(100):
        try:
            os.kill(int(finished.stdout), 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")
