"""Names of a run's checkpoints, for what is exported of each: a folder, or a revision on the hub."""

import re
from pathlib import Path

from roberta_jax.errors import UserError
from roberta_jax.interop import hub


def checkpoint_names(source: str | Path, template: str) -> dict[int, str]:
    """The checkpoints of a workdir, ascending, with the name of a folder or revision for each.

    Args:
      template: of the names: {step} stands for the number of steps in it, {tokens} and {words} for how many the model had
        seen, of a pretraining alone: the roundest number within the last batch, such as 10M.

    Raises:
      UserError: there is none, they do not say what the template asks for, or two would have the same name.
    """
    fields = set(re.findall(r"{(.*?)}", template))
    if not fields or not fields <= {"step", "tokens", "words"} or not re.fullmatch(r"[\w.-]+", re.sub(r"{\w+}", "1", template)):
        expected = "a name with {step}, {tokens} or {words} in it, such as chck_{words}"
        raise UserError(f"--names={template}: expected {expected}.")
    if not (steps := hub.steps_of(source)):
        raise UserError(f"--all: {source} is no workdir with a checkpoint.")
    found = {}
    for step in steps:
        values, noted = {"step": str(step)}, {} if fields == {"step"} else hub.noted_by(source, step)
        for name in fields - {"step"}:
            if not (seen := noted.get(name)):
                said = f"step {step} of {source} does not say how many {name} it had seen"
                raise UserError(f"--names={template}: {said}; take step_{{step}}.")
            batch = noted.get("last", {}).get(name) or -(-seen // step)  # older ones note no last batch
            values[name] = _short(_roundest(seen, batch))
        found[step] = template.format(**values)
    if len({*found.values()}) < len(found):
        same = next(name for name in found.values() if list(found.values()).count(name) > 1)
        raise UserError(f"--names={template}: two checkpoints of {source} would be {same}; add {{step}}.")
    return found


def _roundest(number: int, batch: int) -> int:
    """The number behind `number - batch` and up to `number` that ends in most zeros."""
    rounded = (number // 10**zeros * 10**zeros for zeros in range(len(str(number)), -1, -1))
    return next(each for each in rounded if each > number - batch)


def _short(number: int) -> str:
    """10,000,000 → '10M'"""
    factor, unit = next((pair for pair in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if number >= pair[0]), (1, ""))
    return f"{number / factor:.10g}{unit}"
