"""What a person, not a program, is meant to read: one sentence for whatever ends a command, and its exit status."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator

from roberta_jax.output import show

STREAMS = ("standard output", "standard error")
# What the system's words do not say of a path; the rest is said in its own.
REASONS = {
    errno.ENOSPC: "the disk is full; make room",
    errno.EDQUOT: "the quota of this disk is used up; make room",
    errno.EROFS: "the file system is read-only; name another place",
    errno.EACCES: "user {uid} may not; change its permissions or name another place",
    errno.EPERM: "user {uid} may not; change its permissions or name another place",
    errno.ENOTDIR: "a file stands where a folder is expected; name another place",
    errno.EISDIR: "is a folder; expected a file",
    errno.EEXIST: "a file stands where a folder is expected; name another place",
}
NO_HOME = (
    "user {uid} has no home folder, for which ~ in a path stands, and by default the cache lies there: set HOME or "
    "XDG_CACHE_HOME, or name config.data.cache and all other folders in full."
)


class UserError(Exception):
    """Says in one sentence what was found, what was expected and what to do."""


def check(right: bool, field: str, found: object, expected: str) -> None:
    """Raises a UserError that names a field of the config, unless its value is right."""
    if not right:
        raise UserError(f"config.{field} is {found!r}; expected {expected}.")


def check_choice(field: str, found: str, allowed: object) -> None:
    """Raises a UserError that names a field of the config, unless its value is one of those allowed."""
    if found not in allowed:
        raise UserError(f"config.{field} is {found!r}; it can be {' or '.join(map(repr, allowed))}.")


def first_line(error: BaseException) -> str:
    """Of what another library's error says; its kind where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def outcome(error: BaseException) -> tuple[str, int] | None:
    """(a line for standard error, exit status) of what ended a command; None of what only a programmer can mend."""
    if isinstance(error, UserError):
        return f"error: {error}", 2
    if isinstance(error, KeyboardInterrupt):
        return f"interrupted{f': {error}' if error.args else ''}", 128 + 2
    if isinstance(error, BrokenPipeError) and error.filename in STREAMS:
        return "", 128 + 13  # as a program of the shell ends whose reader, such as head, has seen enough
    if isinstance(error, OSError):
        return f"error: {_reason(error)}", 2
    if isinstance(error, RuntimeError) and str(error) == "Could not determine home directory.":  # pathlib's own words
        return f"error: {NO_HOME.format(uid=os.getuid())}", 2
    return None


def _reason(error: OSError) -> str:
    path, said = error.filename, " ".join((error.strerror or str(error) or type(error).__name__).split())
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if isinstance(path, str) and os.path.islink(path) and not os.path.exists(path):
        return f"{path}: is a link to {os.readlink(path)}, which is not there; expected a folder or a file."
    reason = REASONS.get(error.errno, "").format(uid=os.getuid())
    reason = f"{reason} ({said})" if reason else said
    return f"{path}: {reason}." if path is not None else f"{reason}."


class _Stream(io.FileIO):
    """Standard output or error: what goes wrong bears its name, or is passed over where the work outlives its reader."""

    def __init__(self, number: int, outlived: bool):
        super().__init__(number, "w", closefd=False)
        self._outlived, self._lost = outlived, False

    def write(self, data) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if not self._outlived:
                error.filename = STREAMS[self.fileno() - 1]
                raise
            if not self._lost and self.fileno() == 1:
                with contextlib.suppress(OSError):
                    os.write(2, f"standard output is lost ({error.strerror}); the run goes on without it\n".encode())
            self._lost = True
            return len(data)


@contextlib.contextmanager
def _streams(outlived: bool) -> Iterator[None]:
    before = sys.stdout, sys.stderr
    for name, stream, original in (("stdout", sys.stdout, sys.__stdout__), ("stderr", sys.stderr, sys.__stderr__)):
        if stream is not None and stream is original:  # else somebody listens already, such as a test
            raw = io.BufferedWriter(_Stream(stream.fileno(), outlived))
            how = {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            setattr(sys, name, io.TextIOWrapper(raw, stream.encoding, stream.errors, **how))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def exit_with_sentence(main: Callable[[], None], outlives_output: bool = False) -> None:
    """Runs a command; what a person can mend becomes one sentence on standard error and an exit status.

    Args:
      outlives_output: whether the command goes on where nobody reads any more what it says.
    """
    with _streams(outlives_output):
        try:
            code = 0
            try:
                main()
            except SystemExit as end:
                code = end.code
            if sys.stdout is not None:
                sys.stdout.flush()  # not at Python's own end, where an error is but a remark
        except BaseException as error:
            found = outcome(error)
            if found is None:
                raise
            line, code = found
            with contextlib.suppress(OSError):
                if line:
                    show(line, sys.stderr)
            _discard_output()
            if isinstance(error, KeyboardInterrupt):
                os._exit(code)  # no thread, be it in a library's midst of compiling or waiting, is waited for
    sys.exit(code)


def _discard_output() -> None:
    """What is still to be written is written, or, where that cannot be, goes nowhere."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), number)
            stream.flush()
