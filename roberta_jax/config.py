"""From a config file's fields to frozen dataclasses, so that a misspelt field is an error and not a default."""

import dataclasses
import difflib
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from roberta_jax.errors import UserError, check_choice

T = TypeVar("T")
_COMMA = re.compile(r"(?<!\\),")  # parts a list in one value; a comma within a name is written \,


def option(default: Any, help: str, choices: Collection[str] = ()) -> Any:
    """A field of a config, declared once: its default, what it is, and the values that it may have, if they are few.

    Config files begin with the defaults, `prepare` has its flags from here, and docs/fields.md its table.
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": choices})


def parts(text: str) -> tuple[str, ...]:
    """What stands between the commas of one value."""
    return tuple(part.strip().replace("\\,", ",") for part in _COMMA.split(text) if part.strip())


def number_or_name(text: str) -> int | str:
    """The value of a field of type int | str, as a flag gives it."""
    return int(text) if text.isdigit() else text


def with_changes(config: T, changes: Mapping[str, str]) -> T:
    """A config with other values in dotted fields, such as data.masking, given as text.

    Raises:
      UserError: names a field that is not known, or a value that it can't have.
    """
    values = plain(config)
    for path, text in changes.items():
        *sections, name = path.split(".")
        section = values
        for each in sections:
            section = section.get(each) if isinstance(section.get(each), dict) else {}
        kind = type(section.get(name, text))
        if kind is dict or not section:
            raise UserError(f"config.{path} is not a field of this config.")
        try:
            section[name] = text == "True" if kind is bool and text in ("True", "False") else kind(text)
        except ValueError:
            raise UserError(f"config.{path} is {text!r}; expected a value of type {kind.__name__}.") from None
    return typed(type(config), values)


def check_choices(config: Any, prefix: str = "") -> None:
    """Raises a UserError where a field is none of its choices."""
    for each in dataclasses.fields(config):
        if choices := each.metadata.get("choices"):
            check_choice(f"{prefix}{each.name}", getattr(config, each.name), choices)


def defaults(cls: type, leave_out: Collection[str] = ()) -> dict[str, Any]:
    """The fields of a config's dataclass with their defaults, as a config file has them.

    Args:
      leave_out: fields that no config sets, as "model.pad_id".
    """
    found = {}
    for each in dataclasses.fields(cls):
        inner = [name.partition(".")[2] for name in leave_out if name.startswith(f"{each.name}.")]
        if each.name in leave_out:
            continue
        if dataclasses.is_dataclass(each.type):
            found[each.name] = defaults(each.type, inner) | _overrides(each)
        else:
            found[each.name] = _plain(each, each.default)
    return found


def _overrides(each: dataclasses.Field) -> dict[str, Any]:
    """What a section begins with instead of its own class' defaults."""
    if each.default_factory is each.type:
        return {}
    value = each.default_factory()
    known = {one.name: one.default for one in dataclasses.fields(value)}
    return {name: getattr(value, name) for name in known if getattr(value, name) != known[name]}


def plain(config: Any) -> dict[str, Any]:
    """A config's fields as they stand in a config file and in config.json; `typed` is the way back."""
    return {each.name: _plain(each, getattr(config, each.name)) for each in dataclasses.fields(config)}


def _plain(each: dataclasses.Field, value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return plain(value)
    if each.type == tuple[str, ...]:
        return ",".join(part.replace(",", "\\,") for part in value)
    return str(value) if each.type == int | str else value


_TYPE_NAMES = {tuple[str, ...]: "str", int | str: "str"}


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
        elif kind == tuple[str, ...] and type(value) is str:
            value = parts(value)
        elif kind == int | str and type(value) in (int, str):
            value = number_or_name(str(value))
        elif type(value) is not kind:
            raise UserError(f"{path} is {value!r}; expected a value of type {_TYPE_NAMES.get(kind) or kind.__name__}.")
        elif kind is float and not math.isfinite(value):
            raise UserError(f"{path} is {value}; expected a number that is finite.")
        values[name] = value
    return cls(**values)
