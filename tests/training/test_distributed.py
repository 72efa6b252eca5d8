"""What processes tell one another, and which of them this one is."""

import json
import textwrap

import pytest

from flax_sepconv.training.config import UserError
from flax_sepconv.training.distributed import Group, group_of
from tests.processes import Processes

NONE = Group()
FLAGS = Group("10.0.0.1:4567", 4, 2)
VARIABLES = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:4567",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
}
SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
FOUND = {
    "nothing": (NONE, {}, None),
    "flags": (FLAGS, {}, FLAGS),
    "variables": (NONE, VARIABLES, FLAGS),
    "flags first": (Group(None, None, 3), VARIABLES, FLAGS._replace(process=3)),
    "SLURM": (NONE, {**SLURM, "SLURM_NTASKS": "2"}, NONE),
    "SLURM, where to meet": (Group("a:1"), {**SLURM, "SLURM_NTASKS": "2"}, Group("a:1")),
    "SLURM, one task": (NONE, {**SLURM, "SLURM_NTASKS": "1"}, None),
    "alone": (Group(None, 1, None), {**SLURM, "SLURM_NTASKS": "2"}, None),
    "a shell of SLURM": (NONE, {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, None),
    "Open MPI": (NONE, {"OMPI_COMM_WORLD_SIZE": "2"}, NONE),
    "Open MPI, one": (NONE, {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    "Kubernetes": (NONE, {"KUBERNETES_SERVICE_HOST": "x", "JOB_COMPLETION_INDEX": "1"}, NONE),
    "a pod alone": (NONE, {"KUBERNETES_SERVICE_HOST": "x"}, None),
    "TPUs": (NONE, {"TPU_WORKER_HOSTNAMES": "a,b"}, NONE),
    "one host of TPUs": (NONE, {"TPU_WORKER_HOSTNAMES": "localhost"}, None),
}
WRONG = {
    "a part": (Group("a:1"), {}, r"several processes need --processes \(JAX_NUM_PROCESSES\) and -"),
    "no port": (FLAGS._replace(coordinator="host"), {}, "must be HOST:PORT, got 'host'"),
    "too large": (FLAGS._replace(process=4), {}, r"must be in \[0, --processes\), got 4 of 4"),
    "none": (FLAGS._replace(processes=0), {}, "--processes must be > 0, got 0"),
    "a word": (NONE, {**VARIABLES, "JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID must be an integer"),
}


@pytest.mark.parametrize("case", FOUND)
def test_the_command_line_goes_before_the_environment(case):
    given, environment, expected = FOUND[case]
    assert group_of(given, environment) == expected


@pytest.mark.parametrize("case", WRONG)
def test_what_tells_a_part_is_refused(case):
    given, environment, words = WRONG[case]
    with pytest.raises(UserError, match=words):
        group_of(given, environment)


PROGRAM = """
    import pathlib
    import sys

    import jax
    import numpy as np
    from jax.sharding import PartitionSpec as P

    from flax_sepconv.training import distributed, learning_rate, loop, mesh
    from flax_sepconv.training.config import UserError, from_config_dict

    coordinator, count, index = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])

    def raised(act):
        try:
            act()
        except UserError as error:
            return f"{type(error).__name__}: {error}"

    def fail_in_the_second():
        with distributed.agreement():
            if index == 1:
                raise UserError("it is full")

    with distributed.meeting(distributed.Group(coordinator, count, index)):
        assert distributed.is_first() == (index == 0)
        assert distributed.gather("x" * index) == ["", "x"]
        odd = np.array([-0.0, np.nan, 1e-45, index], np.float32)
        odd.view(np.uint32)[1] += 5
        shared = distributed.share({"a": odd, "b": np.int32(7 - index)})
        expected = odd.copy()
        expected[3] = 0
        assert shared["a"].tobytes() == expected.tobytes() and shared["b"] == 7, shared
        assert raised(fail_in_the_second) == "TogetherError: process 1: it is full"
        words = raised(lambda: distributed.check_same({"seed": 3, "--resume": index == 1}))
        assert words.endswith("--resume is False in process 0 and True in process 1"), words
        distributed.check_same({"seed": 3})

        # Two devices each: the batch, or the steps of the series, are divided over the processes.
        whole = np.arange(48, dtype=np.float32).reshape(4, 12, 1)
        for sizes in ({}, {"data": 1, "sequence": 4}, {"sequence": 2}, {"model": 2}):
            config = from_config_dict({"mesh": sizes, "model": {"width": 6}})
            place = mesh.place(config, 4, 12)
            rows = place.rows(4)
            mine = {"inputs": whole[rows], "labels": np.arange(4)[rows]}
            batch = place.batch(mine, 4)
            assert batch["inputs"].sharding.spec == P("data", "sequence")
            for shard in batch["inputs"].addressable_shards:
                np.testing.assert_array_equal(shard.data, whole[shard.index])
            for name, values in place.fetch(batch).items():
                np.testing.assert_array_equal(values, {"inputs": whole}.get(name, np.arange(4)))
            state = {"pointwise_kernel": whole.reshape(1, 8, 6), "bias": odd[:3]}
            back = place.fetch(place.put(state))
            assert all(back[name].tobytes() == state[name].tobytes() for name in state)
        assert len(mesh.place(from_config_dict({}), 4, 12).rows(4)) == 2
        agree = place.largest()
        assert [int(agree(15 * index)), int(agree(2 * (1 - index)))] == [15, 2]

        # The first alone looks at the folder, and its error is that of both.
        folder = pathlib.Path(sys.argv[0]).parent
        config = from_config_dict({"data": {"name": "BasicMotions"}})
        words = f"TogetherError: workdir {folder} is not empty: or name another --workdir"
        assert raised(lambda: loop.run(config, folder)) == words

        # A search for a learning rate is asked the same, and all know where it finds none.
        other = from_config_dict({"data": {"name": "BasicMotions"}, "train": {"seed": index}})
        words = raised(lambda: learning_rate.search(other, folder / "rates", print))
        assert words.endswith("config.train.seed is 0 in process 0 and 1 in process 1"), words
        learning_rate.measure = lambda *_: (np.geomspace(1e-6, 10, 351), np.full(351, 0.7))
        words = raised(lambda: learning_rate.search(config, folder / "rates", print))
        assert words.startswith("TogetherError: the loss falls at no learning rate"), words

        # A run stops early in all of them: no loss is low enough behind the first one's patience.
        settings = {
            "data": {"name": "ItalyPowerDemand", "validation_fraction": 0.3},
            "model": {"width": 4, "blocks": 1, "kernel_size": 3, "stem_multiplier": 1},
            "train": {"batch_size": 16, "early_stopping": 2, "early_stopping_delta": 10.0},
        }
        found = loop.run(from_config_dict(settings), folder / "early")
        print(found["stopped_at_epoch"], found["validation_loss"])
"""


def test_two_processes_tell_one_another(tmp_path):
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(PROGRAM))
    fast = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}  # to compile
    with Processes(2, lambda group: [str(file), *map(str, group)], 2, **fast) as processes:
        assert processes.wait() == [0, 0], processes.said()
    first, second = processes.said()
    assert first.startswith("351 steps, from learning rate 1e-06 to 10\n")
    assert second == ""
    assert (tmp_path / "rates" / "learning_rates.png").exists()
    first, second = processes.printed()
    assert first == second
    assert first.startswith("3.0 ")
    rows = (tmp_path / "early" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [1, 2, 3]
