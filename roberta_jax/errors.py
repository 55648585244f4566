"""The one exception that a person, not a program, is meant to read."""

import sys
from collections.abc import Callable


class UserError(Exception):
    """Says in one sentence what was found, what was expected and what to do."""


def exit_with_sentence(main: Callable[[], None]) -> None:
    """Runs a command; a UserError becomes its sentence on standard error and exit code 2."""
    try:
        main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
