"""Curves and differences of a study, drawn with matplotlib."""

import io
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from roberta_jax import storage
from roberta_jax.ablations.page import COLORS, FAINT, INK
from roberta_jax.ablations.results import BETTER_WHEN_SMALLER, Run, Study, title, unit
from roberta_jax.ablations.statistics import Difference

MARKERS = "sD^vPX"
STYLE = {
    "font.size": 10,
    "svg.fonttype": "none",  # text stays text, in the page's own font
    "svg.hashsalt": "roberta_jax",  # the same picture has the same ids
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}


def _looks(study: Study) -> dict[str, dict]:
    """variant → colour, marker and line: the control in ink, the others each in its own; the second round is dashed."""
    looks = {study.control: {"color": INK, "marker": "o", "linestyle": "-"}}
    others = [variant.name for variant in study.variants if variant.name != study.control]
    for i, name in enumerate(others):
        color, marker = list(COLORS)[i % len(COLORS)], MARKERS[i % len(MARKERS)]
        looks[name] = {"color": color, "marker": marker, "linestyle": "-" if i < len(COLORS) else "--"}
    return looks


@dataclass(frozen=True)
class Curve:
    """Of a variant: the losses of the seeds that stayed finite, at the same tokens; and the others, as far as they came.

    Attributes:
      tokens: [points].
      losses: [seeds, points].
      diverged: (tokens, losses) of each, [points].
    """

    tokens: np.ndarray
    losses: np.ndarray
    diverged: list[tuple[np.ndarray, np.ndarray]]


def curve(runs: Sequence[Run], by_byte: bool = False) -> Curve:
    """The curve of one variant, its loss in nats a masked token or in bits a byte."""
    sound, diverged = [], []
    for run in (each for each in runs if each.curve):
        points = np.array(run.curve, float)
        points[:, 1] /= math.log(2) * run.details["bytes_per_token"] if by_byte else 1
        finite = np.isfinite(points[:, 1])
        sound.append(points) if finite.all() else diverged.append(tuple(points[finite].T))
    if not sound:
        return Curve(np.empty(0), np.empty((0, 0)), diverged)
    tokens = np.unique(np.concatenate([points[:, 0] for points in sound]))
    tokens = tokens[(tokens >= max(each[0, 0] for each in sound)) & (tokens <= min(each[-1, 0] for each in sound))]
    return Curve(tokens, np.array([np.interp(tokens, *points.T) for points in sound]), diverged)


def curves(study: Study, runs: Sequence[Run], png: Path) -> str:
    """Valid loss over the tokens seen: a line a variant, the mean of its seeds in a band from the least to the most.

    Runs that are not finite somewhere have dotted lines of their own that end in a cross. The loss of encodings is in bits a
    byte, where the runs' details have `bytes_per_token`.

    Returns:
      the picture as SVG; as PNG it is written to a file.
    """
    by_byte = study.is_of_encodings and all("bytes_per_token" in run.details for run in runs)
    drawn = {name: curve([run for run in runs if run.variant == name], by_byte) for name in _looks(study)}
    sound = {name: each for name, each in drawn.items() if each.tokens.size}
    longest = max(tokens for run in runs for tokens, _ in run.curve)
    units = (1e9, "billions"), (1e6, "millions"), (1e3, "thousands"), (1, "")
    scale, word = next(each for each in units if longest >= each[0])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 4.2), dpi=120, layout="constrained")
        axes = figure.subplots()
        top = _zoom(axes, drawn.values(), scale) if sound else math.inf
        ends = []
        for name, look in _looks(study).items():
            for tokens, losses in drawn[name].diverged:
                axes.plot(tokens / scale, losses, color=look["color"], linestyle=":", linewidth=1.4)
                axes.plot(tokens[-1:] / scale, np.minimum(losses[-1:], top), color=look["color"], marker="x", clip_on=False)
            if name not in sound:
                continue
            tokens, losses = sound[name].tokens / scale, sound[name].losses
            often = max(1, len(tokens) // 8)
            line = axes.plot(tokens, losses.mean(0), **look, linewidth=1.6, markersize=5, markevery=often, markeredgewidth=0)
            axes.fill_between(tokens, losses.min(0), losses.max(0), color=look["color"], alpha=0.13, linewidth=0)
            ends.append((losses.mean(0)[-1], name, line[0]))
        ends.sort(key=lambda end: -end[0])  # as the lines lie, from above
        beside = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
        axes.legend([end[2] for end in ends], [end[1] for end in ends], **beside, fontsize=9, frameon=False)
        axes.set_xlabel("tokens seen" + f", {word}" * bool(word))
        axes.set_ylabel("valid loss, " + ("bits a byte" if by_byte else "nats a masked token"))
        _write_png(figure, png)
        return _svg(figure)


def _zoom(axes: Axes, drawn: Collection[Curve], scale: float) -> float:
    """Shows second halves, and returns the top: the fall before leaves no room for what tells variants apart."""
    sound = [each for each in drawn if each.tokens.size]
    late = [each.losses[:, each.tokens >= each.tokens[-1] / 2] for each in sound]
    low, high = min(losses.min() for losses in late), max(losses.max() for losses in late)
    room = 0.06 * (high - low) or 0.1
    axes.set_ylim(low - room, high + room)
    ends = [each.tokens[-1] for each in sound]
    crosses = [tokens[-1] for each in drawn for tokens, _ in each.diverged if tokens.size]
    axes.set_xlim(min(*crosses, *ends, min(ends) / 2) * 0.95 / scale, 1.02 * max(ends) / scale)
    return high + room


def differences(study: Study, found: dict[str, dict[str, tuple[Difference, float | None]]], png: Path) -> list[str]:
    """Each variant less the control with its 95% interval, and the paper's difference of the same metric as a ring.

    Args:
      found: metric → variant → the difference and the paper's.

    Returns:
      an SVG for each metric; the PNG has them one above the other.
    """
    with matplotlib.rc_context(STYLE):
        heights = [0.95 + 0.27 * len(variants) for variants in found.values()]
        whole = Figure(figsize=(5.8, sum(heights)), dpi=120, layout="constrained")
        svgs = []
        panels = whole.subplots(len(found), height_ratios=heights, squeeze=False)[:, 0]
        for axes, height, (metric, variants) in zip(panels, heights, found.items()):
            _forest(axes, study, metric, variants)
            figure = Figure(figsize=(5.8, height), dpi=120, layout="constrained")
            _forest(figure.subplots(), study, metric, variants)
            svgs.append(_svg(figure))
        _write_png(whole, png)
        return svgs


def _forest(axes: Axes, study: Study, metric: str, variants: dict[str, tuple[Difference, float | None]]) -> None:
    looks = _looks(study)
    for row, (name, (difference, published)) in enumerate(variants.items()):
        if difference.has_interval:
            axes.plot([difference.low, difference.high], [row, row], color=looks[name]["color"], linewidth=2)
        axes.plot(
            difference.mean, row, color=looks[name]["color"], marker=looks[name]["marker"], markersize=7, markeredgewidth=0
        )
        if published is not None:
            axes.plot(published, row, marker="o", markersize=10, markerfacecolor="none", markeredgecolor=INK, markeredgewidth=1)
    axes.axvline(0, color=INK, linewidth=1)
    axes.set_yticks(range(len(variants)), list(variants))
    axes.set_ylim(len(variants) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.08)
    named = ", ".join(filter(None, (title(metric), unit(metric).replace("%", "points"))))
    axes.set_xlabel(named + (" (← better)" if metric in BETTER_WHEN_SMALLER else " (better →)"))


def _write_png(figure: Figure, path: Path) -> None:
    """In 64 colours, a third of the bytes."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64)
    with storage.written(path) as partial:
        picture.save(partial, "PNG", optimize=True)


def _svg(figure: Figure) -> str:
    svg = io.StringIO()
    figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None})
    return svg.getvalue()
