"""Processes of this machine that do a part of the work each, and outlive nobody."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import resource_tracker

from roberta_jax.errors import UserError


class Workers(ProcessPoolExecutor):
    """A pool that ends with this process, whatever kills it, and where Ctrl-C interrupts it at once.

    What a worker was writing then is but a partial file.
    """

    def __init__(self, number: int):
        # Spawned, not forked: this process may hold threads of JAX or TensorFlow.
        super().__init__(number, multiprocessing.get_context("spawn"), initializer=_end_with_parent)

    def submit(self, function: Callable, /, *args, **kwargs) -> Future:
        """As ever. It may start a worker, which never hears of the Ctrl-C that a terminal sends to all."""
        resource_tracker.ensure_running()  # whose start would let signals through again
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            return super().submit(function, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, kind, error, trace) -> None:
        if kind is not KeyboardInterrupt:
            return super().__exit__(kind, error, trace)
        for worker in multiprocessing.active_children():
            worker.kill()
        self.shutdown(wait=False, cancel_futures=True)


def require_main_guard() -> None:
    """Raises a UserError in a process that begins as a worker: it reads the script that wanted workers, and would want its own.

    It would wait for its parent, as that one waits for it.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):  # as multiprocessing itself asks
        raise UserError(
            'this script prepares text outside of `if __name__ == "__main__":`, and each process that is to prepare a part '
            "reads the script too; put the call under that line."
        )


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for ever; it ends instead."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
