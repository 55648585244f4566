"""From flags and a config file's fields to frozen dataclasses, so that a misspelt field is an error and not a default."""

import dataclasses
import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from absl import flags

from roberta_jax.errors import UserError

T = TypeVar("T")


def parse_flags(argv: list[str], config: flags.FlagHolder) -> list[str]:
    """What is left of the arguments behind the flags.

    Args:
      config: the flag of a config file.

    Raises:
      UserError: a flag, the file or one of its fields cannot be used.
    """
    try:
        rest = flags.FLAGS(argv)
        config.value.to_dict()  # a file that cannot be read is noticed here
        return rest
    except (flags.Error, AttributeError, KeyError, OSError, TypeError, ValueError) as error:
        while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps one in another
            error = error.args[0]
        message = " ".join(str(error.args[-1] if error.args else error).split())
        raise UserError(f"a flag or a config field cannot be used: {message}") from None


def typed(cls: type[T], fields: Mapping[str, Any], prefix: str = "") -> T:
    """Builds a dataclass, and those nested in it, from nested mappings.

    Raises:
      UserError: names a field that is not known, and the nearest that is, or a value of another type.
    """
    known = {field.name: field for field in dataclasses.fields(cls)}
    values = {}
    for name, value in fields.items():
        path = f"config.{prefix}{name}"
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean config.{prefix}{near[0]}?" if near else f"there are {', '.join(known)}."
            raise UserError(f"{path} is not a field of this config; {hint}")
        kind = known[name].type
        if dataclasses.is_dataclass(kind):
            if not isinstance(value, Mapping):
                raise UserError(f"{path} is {value!r}; expected a section of fields.")
            value = typed(kind, value, f"{prefix}{name}.")
        elif kind is float and type(value) is int:
            value = float(value)
        elif type(value) is not kind:
            raise UserError(f"{path} is {value!r}; expected a value of type {kind.__name__}.")
        elif kind is float and not math.isfinite(value):
            raise UserError(f"{path} is {value}; expected a number that is finite.")
        values[name] = value
    return cls(**values)
