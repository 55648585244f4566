"""A trace of some steps, for the profiler of TensorBoard and XProf."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax

from roberta_jax import storage
from roberta_jax.training.logging import say
from roberta_jax.training.step import StepMetrics
from roberta_jax.training.workdir import TENSORBOARD

SETTLED = 3  # steps of a start that are not traced: they compile, and fill what the host prepares


class Profile:
    """Traces the steps that follow a start's first few, and writes the trace beside TensorBoard's events.

    Args:
      steps: to trace; 0: none.
      first_step: that is done already.
    """

    def __init__(self, workdir: Path, steps: int, first_step: int):
        self._workdir, self._steps, self._done = workdir, steps, first_step
        self._begin = first_step + SETTLED
        self._folder: tempfile.TemporaryDirectory | None = None  # while it traces
        self._last: StepMetrics | None = None

    def of(self, launch: Callable[[dict, dict], tuple[dict, StepMetrics]]) -> Callable[[dict, dict], tuple[dict, StepMetrics]]:
        """`launch` itself, or where steps are traced, one that traces them."""
        if not self._steps:
            return launch

        def traced(state: dict, batch: dict) -> tuple[dict, StepMetrics]:
            if self._done == self._begin + self._steps:
                self.close()
            if self._done == self._begin:
                self._folder = tempfile.TemporaryDirectory(prefix="roberta_jax_profile")
                jax.profiler.start_trace(self._folder.name)
            self._done += 1
            with jax.profiler.StepTraceAnnotation("train", step_num=self._done):
                state, self._last = launch(state, batch)
            return state, self._last

        return traced

    def close(self) -> None:
        """Writes the trace, where one has begun; says where a run was too short for any."""
        if self._folder is None:
            if self._steps and self._done <= self._begin:
                say(f"! no step was traced: the first {SETTLED} of a start are not, and the run ended before another one")
                self._steps = 0
            return
        self._last.to_host()  # which waits for it
        jax.profiler.stop_trace()
        found = [path for path in Path(self._folder.name).rglob("*") if path.is_file()]
        for path in found:
            to = storage.join(self._workdir, TENSORBOARD, *path.relative_to(self._folder.name).parts)
            with storage.written(to) as partial:
                partial.write_bytes(path.read_bytes())
        self._folder.cleanup()
        self._folder = None
        folder, first = storage.join(self._workdir, TENSORBOARD), self._begin + 1
        say(f"steps {first:,} to {min(self._done, self._begin + self._steps):,} are traced: tensorboard --logdir={folder}")
