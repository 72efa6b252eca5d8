"""Two kinds of orbax checkpoints: `last`, the whole state, and `best`, the weights to use."""

import contextlib
import gc
import logging
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import jax
import orbax.checkpoint as ocp
from flax import serialization

from flax_sepconv.training.config import UserError
from flax_sepconv.training.step import TrainState, Variables

# A run that goes on replaces its checkpoint, perhaps while it is read: so many are tried.
_TRIES = 10
# What is left of a failed read has come to its end after so many seconds.
_PAUSE = 0.2


def _manager(folder: Path) -> ocp.CheckpointManager:
    options = ocp.CheckpointManagerOptions(max_to_keep=1, create=True)
    return ocp.CheckpointManager(folder.absolute(), options=options)


class Checkpoints:
    """The newest state and the best weights of a run; orbax writes both in the background.

    The state includes the best weights, so `last` alone restores everything and `best` is brought
    in line with it at the next save, whatever a crash left there.
    """

    def __init__(self, workdir: Path) -> None:
        self._folder = workdir / "checkpoints" / "last"
        self._last = _manager(self._folder)
        self._best = _manager(workdir / "checkpoints" / "best")

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._last.close()
        self._best.close()

    def describe(self) -> str:
        """Say where the newest checkpoint is."""
        step = self._last.latest_step()
        return f"last good checkpoint: {'none' if step is None else self._folder / str(step)}"

    def save(self, state: TrainState) -> None:
        """Save a state and, if they are not there yet, its best weights."""
        step, best_step = int(state.step), int(state.best_step)
        if self._last.latest_step() != step:
            arrays = serialization.to_state_dict(state)
            self._last.save(step, args=ocp.args.StandardSave(arrays), force=True)
        if best_step >= 0 and self._best.latest_step() != best_step:
            for stale in self._best.all_steps():
                if stale > best_step:
                    self._best.delete(stale)
            self._best.save(best_step, args=ocp.args.StandardSave(state.best), force=True)

    def restore(self, state: TrainState) -> TrainState:
        """Return the newest saved state, on the devices of `state`; `state` itself if none is."""
        step = self._last.latest_step()
        if step is None:
            return state
        target = serialization.to_state_dict(jax.tree.map(ocp.utils.to_shape_dtype_struct, state))
        arrays = self._last.restore(step, args=ocp.args.StandardRestore(target))
        restored: TrainState = serialization.from_state_dict(state, arrays)
        return restored


def _check_shapes(wanted: Variables, found: Variables) -> None:
    """Compare the shapes of a network's variables with a checkpoint's, those of both.

    Raises:
      UserError: they differ; the first place is named.
    """
    network, saved = (
        {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (wanted, found)
    )
    for name in network | saved:
        here, there = network.get(name, "nothing"), saved.get(name, "nothing")
        if here != there:
            raise UserError(f"{name} is {there} in it and {here} in the network of config.json")


def _restore_weights(manager: ocp.CheckpointManager, step: int, tree: Variables) -> Variables:
    """Restore the entries of a tree, each of them whole, and nothing else of a checkpoint."""
    metadata = manager.item_metadata(step)
    if metadata is None:
        raise UserError("its metadata cannot be read")
    found = metadata.tree
    _check_shapes(tree, {name: found.get(name, {}) for name in tree})
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), tree
    )
    arguments = ocp.args.PyTreeRestore(
        target, ocp.checkpoint_utils.construct_restore_args(target), partial_restore=True
    )
    weights: Variables = manager.restore(step, args=arguments)
    return weights


@contextlib.contextmanager
def _one_complaint() -> Iterator[None]:
    """Silence the reads that orbax leaves behind where one fails: each prints a traceback."""
    logger = logging.getLogger("asyncio")
    hook, level = sys.unraisablehook, logger.level
    sys.unraisablehook = lambda _: None
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    except Exception as error:
        time.sleep(_PAUSE)
        # The traceback holds them, and they complain when they are collected.
        error.__traceback__ = error.__cause__ = error.__context__ = None
        with warnings.catch_warnings(action="ignore"):
            gc.collect()
        raise
    finally:
        sys.unraisablehook = hook
        logger.setLevel(level)


def _read_newest(folder: Path, tree: Variables) -> tuple[int | None, Variables | Exception | None]:
    """Return the step of the newest checkpoint, if there is one, and its weights or what failed."""
    step = None
    options = ocp.CheckpointManagerOptions(read_only=True)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        with (
            _one_complaint(),
            ocp.CheckpointManager(folder, options=options, item_handlers=handler) as manager,
        ):
            step = manager.latest_step()
            return step, None if step is None else _restore_weights(manager, step, tree)
    except Exception as error:  # orbax and what is below it raise anything
        return step, error


def read_weights(workdir: Path, kind: str, shapes: Variables) -> Variables:
    """Return the averaged weights of a checkpoint, and nothing else of it.

    Args:
      workdir: of a run, which may still go on.
      kind: "last" or "best".
      shapes: the params and batch_stats of the run's network, as `jax.eval_shape` gives them.

    Raises:
      UserError: there is no such checkpoint, it cannot be read, or it is of another network.
    """
    folder = workdir.absolute() / "checkpoints" / kind
    tree = shapes if kind == "best" else {"averaged": shapes}
    failed = None
    for _ in range(_TRIES):
        step, found = _read_newest(folder, tree)
        if isinstance(found, dict):
            return found if kind == "best" else found["averaged"]
        if step is not None and step == failed:
            break  # it has not been replaced while it was read
        failed = step
    if found is None:
        raise UserError(f"{workdir} holds no checkpoint {kind!r}")
    said = " ".join(str(found).split())[:200]
    place = folder if step is None else folder / str(step)
    raise UserError(f"cannot read checkpoint {place}: {said}")
