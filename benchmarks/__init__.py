"""Side-by-side measurements: the sides take turns in one run, and a table tells the median and the spread."""

import importlib.util
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from roberta_jax.errors import UserError

ASSETS = Path(os.environ.get("ROBERTA_TEST_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))  # public data


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def there(module: str) -> bool:
    """Whether Python finds it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def needs(*modules: str, paths: Iterable[Path] = ()) -> None:
    """Called before a benchmark works: what it imports, and the public data that it reads.

    Raises:
      UserError: one of these is not there.
    """
    if missing := [module for module in modules if not there(module)]:
        names = " ".join(missing).replace(".", "-")
        raise UserError(f"{', '.join(missing)}: not installed, and needed here: pip install {names}.")
    for path in paths:
        if not path.exists():
            raise UserError(f"{path} is not there; CONTRIBUTING.md says where tests and benchmarks look for public data.")


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side in every round; each second round goes the other way round.

    Args:
      sides: one that returns a float has timed itself: its seconds are that.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            own = sides[name]()
            seconds[name].append(own if isinstance(own, float) else time.perf_counter() - started)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def between(values: dict[str, float], form: str) -> str:
    """What `spread` gives, as it stands in a line."""
    return f"{values['median']:{form}} ({values['smallest']:{form}} to {values['largest']:{form}})"


def compare(seconds: dict[str, list[float]], amount: float) -> dict:
    """Rates in `amount` a second, and how many times the others' the first side's is, by rounds."""
    ours, *others = seconds
    return {
        "rates": {name: spread([amount / s for s in measured]) for name, measured in seconds.items()},
        "ratios": {name: spread([theirs / mine for mine, theirs in zip(seconds[ours], seconds[name])]) for name in others},
        "rounds": len(seconds[ours]),
        "machine": machine(),
    }


def table(head: str, rows: dict[str, dict[str, float]], form: str = ",.2f") -> list[str]:
    """A table in Markdown of what `spread` gives."""
    cells = {name: " | ".join(f"{value:{form}}" for value in row.values()) for name, row in rows.items()}
    return [
        f"| {head} | median | smallest | largest |",
        "|---|---|---|---|",
        *(f"| {name} | {row} |" for name, row in cells.items()),
    ]


def comparison_lines(comparison: dict, unit: str, what: str) -> list[str]:
    """What `compare` gives, as a table in Markdown; `what` was compared."""
    ratios = {f"times {name}": ratio for name, ratio in comparison["ratios"].items()}
    measured = f"{what}; {comparison['rounds']} rounds in turn; {comparison['machine']}"
    return [measured, "", *table(unit, comparison["rates"] | ratios)]
