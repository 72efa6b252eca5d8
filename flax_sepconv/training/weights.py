"""The weights of a checkpoint alone, read while the run may still go on."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from flax_sepconv.training.complaints import one_complaint, reason
from flax_sepconv.training.config import UserError
from flax_sepconv.training.step import Variables

# A run that goes on replaces its checkpoint, perhaps while it is read: so many are tried.
_TRIES = 10


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


def _read_newest(folder: Path, tree: Variables) -> tuple[int | None, Variables | Exception | None]:
    """Return the step of the newest checkpoint, if there is one, and its weights or what failed."""
    step = None
    options = ocp.CheckpointManagerOptions(read_only=True)
    handler = ocp.PyTreeCheckpointHandler()
    try:
        with (
            one_complaint(),
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
    if not isinstance(found, Exception):
        raise UserError(f"{workdir} holds no checkpoint {kind!r}")
    place = folder if step is None else folder / str(step)
    raise UserError(f"cannot read checkpoint {place}: {reason(found)}")
