"""Side-by-side measurements: the sides take turns in one run, and a table tells the median and the spread."""

import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

ASSETS = Path(os.environ.get("ROBERTA_TEST_ASSETS", Path(__file__).parents[2] / "shared" / "assets"))  # public data


def machine() -> str:
    return f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"


def in_turn(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side in every round; each second round goes the other way round."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides)[:: 1 if number % 2 == 0 else -1]:
            started = time.perf_counter()
            sides[name]()
            seconds[name].append(time.perf_counter() - started)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "smallest": min(values), "largest": max(values)}


def compare(seconds: dict[str, list[float]], amount: float) -> dict:
    """Rates in `amount` a second, and how many times the others' the first side's is, by rounds."""
    ours, *others = seconds
    return {
        "rates": {name: spread([amount / s for s in measured]) for name, measured in seconds.items()},
        "ratios": {name: spread([theirs / mine for mine, theirs in zip(seconds[ours], seconds[name])]) for name in others},
        "rounds": len(seconds[ours]),
        "machine": machine(),
    }


def table(comparison: dict, unit: str) -> str:
    lines = [f"{unit:44} {'median':>12} {'smallest':>12} {'largest':>12}"]
    for name, rate in comparison["rates"].items():
        lines.append(f"{name:44} {rate['median']:12,.2f} {rate['smallest']:12,.2f} {rate['largest']:12,.2f}")
    for name, ratio in comparison["ratios"].items():
        values = f"{ratio['median']:12.2f} {ratio['smallest']:12.2f} {ratio['largest']:12.2f}"
        lines.append(f"{'times ' + name:44} {values}")
    return "\n".join([*lines, f"{comparison['rounds']} rounds in turn, {comparison['machine']}"])
