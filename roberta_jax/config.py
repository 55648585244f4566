"""From a config file's fields to frozen dataclasses, so that a misspelt field is an error and not a default."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from roberta_jax.errors import UserError

T = TypeVar("T")


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
        values[name] = value
    return cls(**values)
