"""Checkpoints by Orbax: written in the background, whole or absent; the newest few and the best are preserved.

Each holds a checksum of every array's bits, as storage may give back other bits than it was given and say nothing, and
`Notes` beside the arrays, sealed by a hash.
"""

import logging
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.training.checksums import OLD_SUM, SUMS, bit_sum, by_path, checksums, shapes, take_sums, verify
from roberta_jax.training.distributed import gather_to_host, said_by_any, wait_for_all
from roberta_jax.training.logging import say
from roberta_jax.training.notes import Damaged, Notes, fingerprint, read_notes, sealed, write_notes

RETRIES = (0.0, 10.0, 60.0)  # seconds from a write that failed to the next try; one more failure ends the run
# What trying again does not mend, by what is in the error's text.
FULL = {"No space left on device": "no space left on the disk", "Disk quota exceeded": "the quota of the disk is used up"}


def _say_nothing_of_failed_writes() -> None:
    """Orbax logs an error with its traceback, some several times, before it raises it; here each becomes a sentence.

    The coroutines and callbacks that a failed write leaves to a closed event loop complain too, and so does a loop of an error
    that nobody came to ask for.
    """
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    logging.getLogger("absl").addFilter(
        lambda record: "orbax" not in record.pathname or absl_logging.get_verbosity() >= absl_logging.DEBUG
    )
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    raised, unraisable = sys.excepthook, sys.unraisablehook

    def late(error: BaseException | None) -> bool:
        return type(error) is RuntimeError and str(error) == "Event loop is closed"

    sys.excepthook = lambda kind, error, trace: None if late(error) else raised(kind, error, trace)
    sys.unraisablehook = lambda told: None if late(told.exc_value) else unraisable(told)


_say_nothing_of_failed_writes()


class Checkpoints:
    """The checkpoints of a run, in `<workdir>/checkpoints/<step>/`.

    Args:
      newest: how many of the newest to keep. Beside them are kept the best by `metric` (lower is better), if one is named, and
        each whose memory says `keep`. All these are planned ones; another is kept while it is the newest of all, and in no
        other's place.
      report: called with a sentence when a write has failed and is tried again.
    """

    def __init__(self, folder: Path, newest: int, metric: str, report: Callable[[str], None] = say):
        if jax.process_count() == 1:  # Orbax has every device write a share of a replicated array: a compile for each share
            by_one = ocp.type_handlers.ArrayHandler(use_replica_parallel=False)
            ocp.type_handlers.register_type_handler(jax.Array, by_one, override=True)
        self.folder, self._newest, self._metric, self._report = folder, newest, metric, report
        self._notes: dict[int, Notes] = {}  # by step, as far as they were asked for
        self._writing: int | None = None  # a step whose write is not known to have ended
        self._not_begun: Exception | None = None  # why that write did not even begin
        self._failures, self._next_try = 0, 0.0
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            preservation_policy=self,
            cleanup_tmp_directories=True,
            best_fn=lambda _: 0.0,  # without one Orbax writes no metrics; which are the best, `should_preserve` says
            lightweight_initialize=True,  # else notes that cannot be read would end every start
            # Else threads wait minutes for a folder that could not be made, and the process for them to end.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
        )
        self._handler = ocp.StandardCheckpointHandler()
        return ocp.CheckpointManager(_absolute(self.folder), options=options, item_handlers=self._handler)

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, planned or not."""
        return self._manager.latest_step()

    def notes(self, step: int) -> Notes:
        """Of one that is there. What cannot be read says nothing here; it is damage once it is restored."""
        if step not in self._notes:
            try:
                self._notes[step] = read_notes(self.folder, step)
            except Damaged:
                self._notes[step] = Notes()
        return self._notes[step]

    def newest_planned(self) -> int | None:
        """The step of the newest checkpoint that is planned."""
        return max((step for step in self._manager.all_steps() if self.notes(step).planned), default=None)

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Which to preserve once the last of these is written; Orbax asks."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        preserved = self._preserved(steps)
        return [step in preserved for step in steps]

    def _preserved(self, steps: Sequence[int]) -> set[int | None]:
        planned = [step for step in sorted(steps) if self.notes(step).planned]
        losses = {step: (self.notes(step).metrics or {}).get(self._metric, np.nan) for step in planned}
        measured = [step for step in planned if np.isfinite(losses[step])]
        best = min(measured, key=lambda step: (losses[step], -step), default=None)
        kept = [step for step in planned if (self.notes(step).memory or {}).get("keep")]
        return {max(steps), best, *planned[-self._newest :], *kept}

    def save(
        self,
        step: int,
        state: Any,
        metrics: dict[str, float] | None = None,
        planned: bool = True,
        memory: dict | None = None,
        wait: bool = False,
    ) -> None:
        """Copies the state and returns; it is written in the background, and `failed` tells whether that went well.

        Args:
          wait: return when it is written, which is tried again where it fails.

        Raises:
          UserError: it cannot be written, or the last one could not.
        """
        self._finished()
        if step in self._manager.all_steps():
            return
        sums, arrays = checksums(state), fingerprint(sorted(shapes(state).items()))
        while True:
            self._notes[step], self._writing = Notes(metrics, planned, memory or {}, arrays), step
            try:
                args = ocp.args.StandardSave(state | {SUMS: sums})
                self._manager.save(step, args=args, metrics=sealed(self._notes[step]))
            except Exception as error:  # of a class of its own for each cause
                self._not_begun = error
            if not wait or self._finished():
                return
            time.sleep(max(0.0, self._next_try - time.monotonic()))

    def add_metrics(self, step: int, metrics: dict[str, float]) -> None:
        """Adds the metrics of an evaluation that was made up for to a checkpoint that is there."""
        self._notes[step] = replace(self.notes(step), metrics=metrics)
        if jax.process_index() == 0:
            write_notes(self.folder, step, self._notes[step])
        preserved = self._preserved(self._manager.all_steps())
        self._delete(lambda step: step not in preserved)

    def failed(self) -> bool:
        """Whether the write in the background has failed since this was asked last.

        Raises:
          UserError: it is not tried again: the disk is full, it failed too often, or other hosts know nothing of it.
        """
        return not (self._not_begun is None and self._manager.is_saving_in_progress()) and not self._finished()

    def ready(self) -> bool:
        """Whether, after a failure, enough time has gone by to try again."""
        return time.monotonic() >= self._next_try

    def _finished(self) -> bool:
        """Waits for what is being written; False where it failed."""
        step, error = self._writing, self._not_begun
        self._writing = self._not_begun = None
        if step is not None and error is None:
            try:
                self._manager.wait_until_finished()
            except Exception as raised:
                error = raised
        if error is None:
            self._failures = 0 if step is not None else self._failures
            return True
        reason, self._failures = _reason(error), self._failures + 1
        if self._failures > len(RETRIES) or reason in FULL.values() or jax.process_count() > 1:
            raise self._not_written(reason)
        with suppress(Exception):  # the same one again
            self._manager.close()
        try:
            self._manager = self._open()  # deletes what was half written
        except Exception as error:
            raise self._not_written(_reason(error)) from None
        if step in self._manager.all_steps():
            self._report(f"checkpoint {step:,} is written, but an older one could not be deleted ({reason})")
            self._failures = 0
            return True
        del self._notes[step]
        pause = RETRIES[self._failures - 1]
        self._next_try = time.monotonic() + pause
        when = f"in {pause:.0f} s" if pause else "at once"
        self._report(f"checkpoint {step:,} could not be written ({reason}); tried again {when}")
        return False

    def _not_written(self, reason: str) -> UserError:
        last = max(saved_steps(self.folder), default=None)
        instead = "there is none yet" if last is None else f"step {last:,} is whole, and the same command goes on from it"
        return UserError(f"{self.folder}: a checkpoint could not be written ({reason}); {instead}.")

    def restore(self, step: int, abstract: Any) -> Any:
        """The state of a step, laid out as `abstract` says.

        Raises:
          UserError: the checkpoint is of another model.
          Damaged: it is not whole; on every host, whichever met the damage.
        """
        found, damage = None, ""
        try:
            found = self._read_part(step, abstract)
        except UserError:
            raise
        except Exception as error:  # of a class of its own for each cause
            damage = _reason(error)
        if damage := said_by_any(damage):  # else the others would wait for this host in the checksums
            raise Damaged(damage)
        notes, state, sums = found
        verify(sorted(shapes(state)), gather_to_host(checksums(state)), gather_to_host(sums))
        self._notes[step] = notes
        return state

    def _read_part(self, step: int, abstract: Any) -> tuple[Notes, Any, jax.Array]:
        """(notes, state, the checksums that were saved) of a step, of the arrays what this host has; it waits for no other."""
        sharding = jax.tree.leaves(abstract)[0].sharding
        if isinstance(sharding, jax.sharding.NamedSharding):
            sharding = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
        notes = read_notes(self.folder, step)
        saved, expected = shapes(self._manager.item_metadata(step).tree), shapes(abstract)
        sums, shape = take_sums(saved, notes)
        if sums == SUMS and notes.memory is None:
            raise Damaged("its metrics are gone")
        for path in sorted(saved.keys() | expected.keys()):
            if saved.get(path) != expected.get(path):
                raise UserError(
                    f"{self.folder / str(step)} is a checkpoint of another model: its {path} is "
                    f"{saved.get(path, 'not there')}, this config's {expected.get(path, 'not there')}; "
                    "take another workdir or that run's config."
                )
        args = ocp.args.StandardRestore(abstract | {sums: jax.ShapeDtypeStruct(shape, jnp.uint32, sharding=sharding)})
        # The manager's own `restore` ends with a barrier, to which a host that meets damage does not come.
        state = self._handler.restore(_absolute(self.folder) / str(step) / "default", args=args)
        return notes, state, state.pop(sums)

    def restore_newest(
        self, abstract: Any, report: Callable[[int, str], None], last: int | None = None, planned: bool = False
    ) -> tuple[int, Any]:
        """(step, state) of the newest whole checkpoint; (0, None) where there is none.

        A damaged one is put aside as `<step>.damaged`, and `report` is told its step and a sentence.

        Args:
          last: none past this step is taken.
          planned: nor one that is not planned.
        """
        self._finished()
        for name in sorted(storage.names(self.folder)):  # what is no folder Orbax neither sees nor writes over
            if name.isdigit() and (self.folder / name).is_file():
                self._put_aside(int(name), "it is no folder", report)
        for step in sorted(self._manager.all_steps(), reverse=True):
            if last is not None and step > last:
                continue
            if planned and said_by_any("" if self.notes(step).planned else "not planned"):  # notes may fail one host alone
                continue
            try:
                return step, self.restore(step, abstract)
            except Damaged as error:
                self._put_aside(step, str(error), report)
        return 0, None

    def _put_aside(self, step: int, reason: str, report: Callable[[int, str], None]) -> None:
        taken = storage.names(self.folder)
        names = (f"{step}.damaged" + (f".{number}" if number else "") for number in range(len(taken) + 1))
        aside = next(name for name in names if name not in taken)
        wait_for_all(f"all have seen which name {step} is given")
        report(step, f"{self.folder / str(step)} is damaged ({reason}) and passed over; it is {aside} now")
        if jax.process_index() == 0:
            (self.folder / str(step)).rename(self.folder / aside)
        wait_for_all(f"{step} is put aside")
        self._notes.pop(step, None)
        self._manager.reload()

    def delete_past(self, step: int) -> None:
        """Deletes the checkpoints of later steps."""
        self._delete(lambda later: later > step)

    def _delete(self, chosen: Callable[[int], bool]) -> None:
        for step in filter(chosen, list(self._manager.all_steps())):
            self._manager.delete(step)
            self._notes.pop(step, None)

    def close(self) -> None:
        """Waits for what is being written.

        Raises:
          UserError: it could not be.
        """
        if not self._finished():
            raise self._not_written("see above")
        self._manager.close()


def _absolute(folder: Path) -> Path:
    return folder if storage.is_url(folder) else folder.absolute()


def saved_steps(folder: Path) -> list[int]:
    """The steps whose checkpoints are whole, ascending; another process may be writing more."""
    return sorted(ocp.utils.checkpoint_steps(_absolute(folder))) if folder.is_dir() else []


def read_params(folder: Path, step: int) -> dict:
    """The parameters of a checkpoint without the rest of its state, as arrays of NumPy, on any number of devices.

    Where the state keeps the best parameters and they have been measured, these, of several trials the best one's; otherwise
    the step's own.

    Raises:
      UserError: the checkpoint is damaged.
    """
    restored = _read_or_sentence(folder, step, ("params", "best"))
    best = restored.get("best", {"value": -np.inf})
    params = best["params"] if np.max(best["value"]) > -np.inf else restored["params"]
    return jax.tree.map(lambda x: x[np.argmax(best["value"])], params) if np.ndim(best["value"]) else params


def read_arrays(folder: Path, step: int) -> dict[str, np.ndarray]:
    """All arrays of a checkpoint by their paths, as NumPy's.

    Raises:
      UserError: the checkpoint is damaged.
    """
    return by_path(_read_or_sentence(folder, step))


def _read_or_sentence(folder: Path, step: int, names: tuple[str, ...] | None = None) -> dict:
    try:
        return _read(folder, step, names)
    except Damaged as error:
        others = "no other step is whole"
        for other in sorted(set(saved_steps(folder)) - {step}, reverse=True):
            with suppress(Damaged):
                _read(folder, other, names)
                others = f"step {other} is whole, take checkpoint={other} or start the run again, which puts {step} aside"
                break
        raise UserError(f"{folder / str(step)} is not a whole checkpoint of a training run ({error}); {others}.") from None


def _read(folder: Path, step: int, names: tuple[str, ...] | None = None) -> dict:
    """What is under these names at the top of a checkpoint's tree, as far as they are there; by default all of it.

    Raises:
      Damaged: it is not what was saved.
    """
    path, handler = _absolute(folder) / str(step) / "default", ocp.PyTreeCheckpointHandler()
    notes = Notes()
    with suppress(Damaged):  # the arrays are whole without them
        notes = read_notes(folder, step)
    try:
        tree = handler.metadata(path).tree
        saved = shapes(tree)
        sums, _ = take_sums(saved, notes)
        item = tree if names is None or sums == OLD_SUM else {name: tree[name] for name in (*names, sums) if name in tree}
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
        state = handler.restore(path, args=ocp.args.PyTreeRestore(item=item, restore_args=as_numpy, partial_restore=True))
        saved_sums, arrays = state.pop(sums), by_path(state)
        paths = sorted(arrays)
        if np.ndim(saved_sums):
            places = {path: place for place, path in enumerate(sorted(saved))}
            saved_sums = saved_sums[[places[path] for path in paths]]
        verify(paths, np.array([bit_sum(arrays[path]) for path in paths], np.uint32), saved_sums)
        if names and "params" not in state:
            raise Damaged("it has no parameters")
        return {name: state[name] for name in names or state if name in state}
    except Damaged:
        raise
    except Exception as error:  # of a class of its own for each cause
        raise Damaged(_reason(error)) from None
    finally:
        handler.close()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return next((reason for part, reason in FULL.items() if part in text), text[:200] or type(error).__name__)
