"""What a run tells of itself while it trains."""

import time

import numpy as np

from flax_sepconv.training import step as steps
from flax_sepconv.training.config import Config
from flax_sepconv.training.record import Recorder


class DivergedError(Exception):
    """The loss, a gradient or a weight is no longer a number."""

    together = True


class Reports:
    """Turn device metrics into recorded rows, one report late: the device never waits.

    Without a recorder, in a process that does not write, they are looked at all the same.
    """

    def __init__(
        self, config: Config, recorder: Recorder | None, per_epoch: int, start: int
    ) -> None:
        self._recorder, self._per_epoch = recorder, per_epoch
        self._rate = steps.schedule(config, per_epoch)
        self._pending: steps.Arrays | None = None
        self._done, self._clock = start, time.perf_counter()

    def put(self, metrics: steps.Arrays) -> None:
        """Start copying new metrics to the host and record those before them."""
        for value in metrics.values():
            value.copy_to_host_async()
        self.flush()
        self._pending = metrics

    def flush(self) -> None:
        """Wait for the pending metrics and record them.

        Raises:
          DivergedError: they are not finite.
        """
        if self._pending is None:
            return
        values = {name: np.asarray(value).item() for name, value in self._pending.items()}
        self._pending = None
        now, step, examples = time.perf_counter(), values.pop("step"), values.pop("examples")
        if not values.pop("finite"):
            raise DivergedError(f"not finite any more between steps {self._done} and {step}")
        values["learning_rate"] = float(self._rate(step - 1))
        values["steps_per_second"] = (step - self._done) / (now - self._clock)
        values["examples_per_second"] = examples / (now - self._clock)
        self._done, self._clock = step, now
        row = {"step": step, "epoch": step / self._per_epoch, "time": time.time()}
        if self._recorder:
            self._recorder.add(row | values)
