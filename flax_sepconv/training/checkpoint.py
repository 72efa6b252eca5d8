"""Two kinds of orbax checkpoints: `last`, the whole state, and `best`, the weights to use."""

from pathlib import Path
from types import TracebackType

import jax
import orbax.checkpoint as ocp
from flax import serialization

from flax_sepconv.training.config import UserError
from flax_sepconv.training.step import TrainState, Variables


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


def read_weights(workdir: Path, kind: str, shapes: Variables) -> Variables:
    """Return the averaged weights of a checkpoint, and nothing else of it.

    Args:
      workdir: of a run, which may still go on.
      kind: "last" or "best".
      shapes: the params and batch_stats of the run's network, as `jax.eval_shape` gives them.

    Raises:
      UserError: there is no such checkpoint, or it cannot be read.
    """
    folder = workdir.absolute() / "checkpoints" / kind
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes
    )
    tree = wanted if kind == "best" else {"averaged": wanted}
    arguments = ocp.args.PyTreeRestore(
        tree, ocp.checkpoint_utils.construct_restore_args(tree), partial_restore=True
    )
    options = ocp.CheckpointManagerOptions(read_only=True)
    with ocp.CheckpointManager(folder, options=options) as manager:
        step = manager.latest_step()
        if step is None:
            raise UserError(f"{workdir} holds no checkpoint {kind!r}")
        try:
            found: Variables = manager.restore(step, args=arguments)
        except Exception as error:  # orbax and what is below it raise anything
            said = " ".join(str(error).split())[:200]
            raise UserError(f"cannot read checkpoint {folder / str(step)}: {said}") from error
    return found if kind == "best" else found["averaged"]
