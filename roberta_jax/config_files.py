"""Config files: which one `--config` names, and on which others it builds."""

import importlib.util
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from roberta_jax.errors import UserError

flags.disclaim_key_flags()  # the flag is the command's, whose --help tells of it
_HERE = Path(__file__).parent
# Those that come with the package: beside this file where it is installed, at the top of a clone.
SHIPPED = next((folder for folder in (_HERE / "configs", _HERE.parent / "configs") if folder.is_dir()), _HERE / "configs")


def define_config() -> flags.FlagHolder:
    """The flag of the job that a command is about."""
    names = ", ".join(shipped())
    explained = f"The job: a file, or by name one of {names}; --config.FIELD=VALUE changes one of its fields."
    holder = config_flags.DEFINE_config_file("config", None, explained)
    flags.FLAGS[holder.name].parser = _Parser()
    return holder


def shipped() -> list[str]:
    """The names of the configs that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob("*.py"))


def find(name: str) -> Path:
    """The file of a config that comes with the package, by its name, or the one that a path names.

    Raises:
      UserError: there is none.
    """
    is_name = "/" not in name and not name.endswith(".py")
    if is_name and name in shipped():
        return SHIPPED / f"{name}.py"
    if (path := Path(name).expanduser()).is_file():
        return path
    stem = Path(name).stem
    hint = f"--config={stem} comes with the package" if stem in shipped() else f"by name there are {', '.join(shipped())}"
    raise UserError(f"--config={name}: there is no such {'config' if is_name else 'file'}; {hint}.")


class _Parser(flags.ArgumentParser):
    """FILE or FILE:ARGUMENT, of which the second gives its argument to the file's `get_config`."""

    def parse(self, argument: str) -> ConfigDict:
        name, *rest = argument.split(":", 1)
        file = find(name)
        spec = importlib.util.spec_from_file_location("config", file.absolute())
        if spec is None:
            raise UserError(f"{file} is no config file; expected one of Python, whose name ends in .py.")
        module = importlib.util.module_from_spec(spec)
        try:
            with _building_on(file.absolute().parent, SHIPPED):
                spec.loader.exec_module(module)
                get_config = getattr(module, "get_config", None)
                config = get_config(*rest) if get_config else None
        except UserError:
            raise
        except Exception as error:
            lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == spec.origin]
            where = f"{file}, line {lines[-1]}" if lines else str(file)
            raise UserError(f"{where}: {type(error).__name__}: {error}.") from None
        if not isinstance(config, ConfigDict):
            raise UserError(
                f"{file}: get_config gives {config!r}; expected a ConfigDict."
                if get_config
                else f"{file}: has no function get_config; expected one that gives a ConfigDict."
            )
        return config.lock()


def load_config(name: str, fields: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A job as `main.run` takes it: what `--config=NAME --config.FIELD=VALUE` gives a command.

    Args:
      name: of a config that comes with the package, or a file's; `finetune:TASK` too.
      fields: by their dotted names, such as "data.source".

    Raises:
      UserError: there is no such config or field, or a value is of another type.
    """
    config = _Parser().parse(name)
    for field, value in (fields or {}).items():
        try:
            config.update_from_flattened_dict({field: value})
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            said = " ".join(str(error.args[0] if error.args else error).split())
            raise UserError(f"config.{field} cannot be {value!r}: {said}") from None
    return config.to_dict()


@contextmanager
def _building_on(*folders: Path) -> Iterator[None]:
    """Within it `from configs import base` finds base.py in these folders alone, in this order.

    By itself Python would take whatever `configs` stands in the working directory.
    """
    others = _forget_configs()
    sys.modules["configs"] = ModuleType("configs")
    sys.modules["configs"].__path__ = [str(folder) for folder in folders]
    try:
        yield
    finally:
        _forget_configs()
        sys.modules.update(others)


def _forget_configs() -> dict[str, ModuleType]:
    return {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] == "configs"}


def parse_flags(argv: list[str], config: flags.FlagHolder) -> list[str]:
    """The command's name, which is what the flags leave of the arguments.

    Args:
      config: the flag of a config file.

    Raises:
      UserError: a flag, the file or one of its fields cannot be used, or there is more.
    """
    try:
        program, *others = flags.FLAGS(argv)
        config.value.to_dict()
    except SystemExit:  # of --help, whose status by absl is 1, as if it were wrong to ask
        raise SystemExit(0) from None
    except (flags.Error, AttributeError, KeyError, TypeError, ValueError) as error:
        while error.args and isinstance(error.args[0], Exception):  # ml_collections wraps one in another
            error = error.args[0]
        message = " ".join(str(error.args[-1] if error.args else error).split())
        raise UserError(f"a flag or a config field cannot be used: {message}") from None
    if others:
        raise UserError(
            f"{others[0]!r} belongs to no flag; expected --FLAG=VALUE alone, with quotes around a value that has spaces or *. "
            "Several values of a field are parted by commas."
        )
    return [program]
