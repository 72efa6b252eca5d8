"""Workers that are replaced when they end, and runs that end in time."""

import doctest
import functools
import os
import time

import numpy as np
import pytest

from benchmarks import bound, worker
from benchmarks.bound import Bound
from benchmarks.lasting import Failed, Lasting
from benchmarks.worker import Declined, Program, Worker

HERE = "tests.benchmarks.test_lasting"


def build(name):
    return {name: Program(lambda: np.ones(1), lambda result: {"y": result}, {"calls": 1})}


def fail(first="as it should", rest="and much more"):
    raise ValueError(f"{first}\n{rest}")


def decline():
    raise NotImplementedError("not today")


def die():
    print("famous last words", flush=True)
    os.abort()


def leave():
    raise SystemExit(3)


def hang():
    time.sleep(60)


spoilt = False


def spoil():
    """As an illegal access on a GPU does: nothing after it works."""
    global spoilt
    spoilt = True
    fail()


def probe():
    if spoilt:
        raise RuntimeError("an illegal access was encountered")


def ask(task, *args):
    return lambda worker: worker.call(f"{HERE}:{task}", *args)


@pytest.fixture(scope="module")
def lasting():
    with Lasting(functools.partial(Worker, "test", patience=5), ask("probe")) as started:
        yield started


@pytest.mark.parametrize(
    ("task", "reason", "details"),
    [
        ("die", "the worker died with status -6", "famous last words"),
        ("leave", "the worker died with status 3", ""),
        ("hang", "no answer within 0.2 s", ""),
        ("spoil", "ValueError: as it should", "and much more"),
    ],
)
def test_a_lost_worker_is_replaced(task, reason, details, lasting):
    lasting.worker.add(f"{HERE}:build", "a")
    lasting.worker.patience = 0.2 if task == "hang" else 5
    lost = lasting.worker
    with pytest.raises(Failed) as caught:
        lasting.attempt(ask(task))
    assert caught.value.lost
    assert caught.value.facts["failed"] == reason
    assert details in caught.value.facts["details"]
    assert lasting.worker is not lost
    assert lost._process.poll() is not None
    assert lasting.attempt(lambda worker: worker.add(f"{HERE}:build", "b")) == {"b": {"calls": 1}}
    with pytest.raises(Failed, match="KeyError: 'a'"):
        lasting.attempt(lambda worker: worker.numbers("a"))


def test_a_worker_that_is_sound_after_a_failure_keeps_its_programs(lasting):
    lasting.worker.add(f"{HERE}:build", "a")
    lasting.worker.add(f"{HERE}:build", "b")
    kept = lasting.worker
    with pytest.raises(Failed, match=r"^ValueError: as it should$") as caught:
        lasting.attempt(ask("fail"))
    assert not caught.value.lost
    assert "Traceback" in caught.value.facts["details"]
    with pytest.raises(Declined, match="not today"):
        lasting.attempt(ask("decline"))
    assert lasting.worker is kept
    assert kept.numbers("a") == kept.numbers("b") == {"y": np.ones(1)}


def test_examples():
    assert doctest.testmod(worker).attempted > 0
    assert doctest.testmod(worker).failed == 0


# --- Time


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(bound.time, "monotonic", lambda: now[0])
    return now


def test_a_row_that_would_not_end_in_time_is_not_begun(clock):
    limit, done = Bound(1.0), []
    for seconds in limit.within([20.0, 10.0, 20.0, 1.0]):
        clock[0] += seconds
        done.append(seconds)
    assert done == [20.0, 10.0, 20.0]  # After 50 seconds another 20 would be too many.


def test_only_the_last_rows_tell_how_long_the_next_will_take(clock):
    rows = [50.0, *[1.0] * bound.REMEMBERED, 2.0]
    done = []
    for seconds in Bound(1.0).within(rows):
        clock[0] += seconds
        done.append(seconds)
    assert done == [50.0]
    clock[0] = 0.0
    done = []
    for seconds in Bound(2.0).within([*rows, 80.0]):
        clock[0] += seconds
        done.append(seconds)
    assert done == [*rows, 80.0]


def test_nothing_is_begun_when_the_time_is_over_and_all_is_where_there_is_no_bound(clock):
    late = Bound(1.0)
    clock[0] = 61.0
    assert list(late.within([1, 2])) == []
    assert list(Bound(None).within([1, 2])) == [1, 2]
