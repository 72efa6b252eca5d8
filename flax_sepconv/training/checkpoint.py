"""Two kinds of orbax checkpoints: `last`, the whole state, and `best`, the weights to use."""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization

from flax_sepconv.training.complaints import let_go, no_stragglers, one_complaint, reason
from flax_sepconv.training.config import UserError
from flax_sepconv.training.console import say
from flax_sepconv.training.step import TrainState
from flax_sepconv.training.workdir import damaged_folder

# Of the whole state, so that there is one to fall back to. A second one is written before the
# first goes, whatever is kept.
_KEPT = 2


def _digest(tree: Any) -> str:
    """Return a digest of all arrays of a tree and of their places in it."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        value = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)} {value.dtype} {value.shape}\n".encode())
        sha.update(value.tobytes())
    return sha.hexdigest()


def _whole(state: TrainState) -> Any:
    """Return a state as a tree to be saved: as it was before there was early stopping, without."""
    tree = serialization.to_state_dict(state)
    if not tree["stopping"]:
        del tree["stopping"]
    return tree


def _manager(folder: Path, keep: int = 1) -> ocp.CheckpointManager:
    folder.mkdir(parents=True, exist_ok=True)
    # Of several processes one reads and writes: it has the whole state.
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=folder.name,
    )
    options = ocp.CheckpointManagerOptions(
        max_to_keep=keep, create=False, multiprocessing_options=alone
    )
    # Named, for an empty folder among the checkpoints would have orbax expect several items.
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(folder.absolute(), options=options, item_handlers=handler)


def _save(manager: ocp.CheckpointManager, step: int, tree: Any) -> None:
    digest = {"sha256": _digest(tree)}
    manager.save(step, args=ocp.args.StandardSave(tree), force=True, custom_metadata=digest)


def _load(manager: ocp.CheckpointManager, step: int, tree: Any) -> Any:
    """Return what was saved at a step, as arrays like those of a tree.

    Raises:
      Exception: of any kind; it cannot be read, or is not what was written.
    """
    with one_complaint():
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, tree)
        found = manager.restore(step, args=ocp.args.StandardRestore(target))
        # A version that did not note a digest yet may have written it.
        noted = (manager.metadata(step).custom_metadata or {}).get("sha256")
        if noted is not None and noted != _digest(found):
            raise ValueError("its numbers are not those that were written")
    return found


class Checkpoints:
    """The newest states and the best weights of a run; orbax writes both in the background.

    The state includes the best weights, so `last` alone restores everything and `best` is brought
    in line with it when it is restored or saved, whatever a crash left there.
    """

    def __init__(self, workdir: Path) -> None:
        """Open the checkpoints of a run, or make folders for them.

        Raises:
          UserError: they are lost, or their folders are none.
        """
        self._workdir = workdir
        self._last_folder, self._best_folder = folders = [
            workdir / "checkpoints" / kind for kind in ("last", "best")
        ]
        for folder in (workdir / "checkpoints", *folders):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is not a folder: move it away")
        if not self._last_folder.exists() and (workdir / "metrics.jsonl").exists():
            raise UserError(f"{workdir} has lost its checkpoints: there is no {self._last_folder}")
        with contextlib.ExitStack() as stack:
            stack.enter_context(no_stragglers())
            with self._writing():
                self._clear()
                self._last = _manager(self._last_folder, _KEPT)
                self._best = _manager(self._best_folder)
            self._stack = stack.pop_all()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            for manager in (self._last, self._best):
                try:
                    with self._writing():
                        manager.close()
                except UserError:
                    if not isinstance(error, UserError):  # else it was said already
                        raise
            if error is not None:  # Writes that went on beside the one that failed have ended now.
                self._clear()

    def _clear(self) -> None:
        """Delete what writes that did not end have left."""
        for folder in (self._last_folder, self._best_folder):
            for path in folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn whatever orbax raises where it cannot write into a `UserError`."""
        try:
            yield
        except Exception as error:
            self._clear()  # the disk may be full
            place = self._workdir / "checkpoints"
            said = f"cannot write {place}: {reason(error)}; {self._describe()}"
            let_go(error)
            raise UserError(said) from error

    def _describe(self) -> str:
        found = self._last_folder.glob("*")
        steps = [int(path.name) for path in found if path.name.isdecimal() and path.is_dir()]
        place = self._last_folder / str(max(steps)) if steps else "none"
        return f"last good checkpoint: {place}"

    def describe(self) -> str:
        """Say where the newest checkpoint is, once all that was saved is written.

        Raises:
          UserError: it cannot be written.
        """
        with self._writing():
            for manager in (self._last, self._best):
                manager.wait_until_finished()
        return self._describe()

    def save(self, state: TrainState) -> None:
        """Save a state and, if they are not there yet, its best weights.

        Raises:
          UserError: it cannot be written, or the one before it could not.
        """
        with self._writing():
            step = int(state.step)
            if self._last.latest_step() != step:
                _save(self._last, step, _whole(state))
            if not self._best.all_steps():
                # Alone it would look as if the first state had been lost.
                self._last.wait_until_finished()
            self._save_best(state)

    def _save_best(self, state: TrainState) -> None:
        best_step = int(state.best_step)
        if best_step >= 0 and self._best.latest_step() != best_step:
            for stale in self._best.all_steps():
                if stale > best_step:
                    self._best.delete(stale)
            _save(self._best, best_step, state.best)

    def restore(self, state: TrainState) -> TrainState:
        """Return the newest saved state, on the devices of `state`; `state` itself if none is.

        One that is damaged is moved away, and the one before it is taken; `best` is written anew
        if it is not that of the state. Both are said.

        Raises:
          UserError: there are checkpoints, and none can be read; or they are lost.
        """
        damaged: dict[int, str] = {}
        for step in sorted(self._last.all_steps(), reverse=True):
            try:
                arrays = _load(self._last, step, _whole(state))
                if int(arrays["step"]) != step:
                    raise ValueError(f"it is that of step {int(arrays['step'])}")
                break
            except Exception as error:  # orbax and what is below it raise anything
                damaged[step] = reason(error)
        else:
            if damaged:
                why = "; ".join(f"{self._last_folder / str(s)}: {w}" for s, w in damaged.items())
                raise UserError(f"no checkpoint can be read: {why}")
            if self._best.all_steps() or (self._workdir / "results.json").exists():
                raise UserError(
                    f"{self._workdir} has lost its checkpoints: {self._last_folder} is empty"
                )
            return state
        if damaged:
            self._move_away(damaged)
            say(f"going on from step {step}")
        restored: TrainState = serialization.from_state_dict(state, {"stopping": {}} | arrays)
        self._renew_best(restored)
        return restored

    def _move_away(self, damaged: dict[int, str]) -> None:
        try:
            kept = damaged_folder(self._workdir)
            for step, why in damaged.items():
                path = self._last_folder / str(step)
                path.rename(kept / f"last-{step}")
                say(f"checkpoint {path} is damaged ({why}) and now in {kept}")
        except OSError as error:
            raise UserError(f"cannot write {self._workdir}: {reason(error)}") from error
        self._last.reload()

    def _renew_best(self, state: TrainState) -> None:
        best_step = int(state.best_step)
        if best_step < 0:
            return
        try:
            if self._best.latest_step() == best_step:
                if _digest(_load(self._best, best_step, state.best)) == _digest(state.best):
                    return
                why = "has other weights"
            else:
                why = "is not there"
        except Exception as error:  # orbax and what is below it raise anything
            why = f"is damaged ({reason(error)})"
        say(f"checkpoint best of step {best_step} {why}: written anew")
        with self._writing():
            for step in self._best.all_steps():
                shutil.rmtree(self._best_folder / str(step))
            self._best.reload()
            self._save_best(state)
