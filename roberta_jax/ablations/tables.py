"""The tables of the report."""

import math
from collections.abc import Iterable, Sequence

from roberta_jax.ablations.page import Table
from roberta_jax.ablations.results import Run, Study, in_order, title, unit
from roberta_jax.ablations.statistics import Comparison, Difference, Judged, mean_and_deviation


def digits(runs: Sequence[Run]) -> dict[str, int]:
    """metric → digits behind the point, the same all over a study."""
    largest: dict[str, float] = {}
    for run in runs:
        for metric, value in run.metrics.items():
            largest[metric] = max(largest.get(metric, 0), abs(value) if math.isfinite(value) else 0)
    return {metric: 2 if unit(metric) == "%" or value >= 20 else 4 for metric, value in largest.items()}


def measured(study: Study, runs: Sequence[Run]) -> Table:
    """A row for each variant that ran: its metrics, mean ± standard deviation over seeds, and what it took."""
    shown = digits(runs)
    metrics = in_order(shown)
    took = {"seconds a run": lambda run: run.seconds}
    if len({(run.tokens, run.parameters) for run in runs}) > 1:  # else the setting says them
        took |= {"tokens a run": lambda run: run.tokens, "parameters": lambda run: run.parameters}
    rows = []
    for variant in study.variants:
        if not (own := [run for run in runs if run.variant == variant.name]):
            continue
        values = [[run.metrics[metric] for run in own if metric in run.metrics] for metric in metrics]
        means = [_mean(each, shown[metric]) for each, metric in zip(values, metrics)]
        rows.append([variant.name, variant.what, str(len(own)), *means, *(span(map(each, own)) for each in took.values())])
    named = [", ".join(filter(None, (title(metric), unit(metric)))) for metric in metrics]
    header = ["variant", "what", "seeds", *named, *took]
    return Table(header, rows, "ll" + "r" * (len(header) - 2))


def compared(comparisons: Sequence[Comparison], shown: dict[str, int]) -> Table:
    rows = []
    for each in comparisons:
        found, after = each.difference, shown[each.metric]
        pairs = f"{found.pairs}" + f" ({found.diverged} not finite)" * bool(found.diverged)
        rows.append(
            [
                title(each.metric),
                each.variant,
                _signed(found.mean, after),
                _interval(found, after),
                pairs,
                _tellable(found, after),
                f"as {title(each.same_as)}" if each.same_as else "–" if math.isnan(each.corrected) else f"{each.corrected:.2g}",
                "–" if each.published is None else f"{each.published:g}",
                "–" if each.published_difference is None else _signed(each.published_difference, 2, short=True),
                _said(each),
            ]
        )
    header = ["metric", "variant", "difference", "95% interval", "pairs", "tellable", "p, Holm", "the paper's"]
    return Table([*header, "its difference", "direction"], rows, "llrrrrrrrl")


def judged(claims: Sequence[Judged], shown: dict[str, int]) -> Table:
    rows, last = [], None
    for each in claims:
        claim, found, after = each.claim, each.difference, shown[each.metric]
        named = ["", ""] if claim is last else [claim.what, f"{claim.variant}, {claim.other}"]
        measured = [_signed(found.mean, after), _interval(found, after), _tellable(found, after)]
        rows.append([*named, title(each.metric), *measured, _said(each)])
        last = claim
    header = ["the paper's claim", "compared", "metric", "difference", "95% interval", "tellable", "verdict"]
    return Table(header, rows, "lllrrrl")


def vocabularies(study: Study, runs: Sequence[Run]) -> Table | None:
    """What each variant's tokenizer makes of the text, by script; None of a study where it is the same, or was not measured."""
    details = {}
    for run in runs:
        if study.is_of_encodings and "tokens_per_word" in run.details:
            details.setdefault(run.variant, run.details)  # it does not vary with the seed
    if not details:
        return None
    scripts = list(dict.fromkeys(script for each in details.values() for script in each["tokens_per_word"]))
    rows = []
    for name in (variant.name for variant in study.variants if variant.name in details):
        each = details[name]
        words = [each["tokens_per_word"].get(script) for script in scripts]
        rows.append(
            [
                name,
                f"{each['vocabulary']:,}",
                f"{each['bytes_per_token']:.2f}",
                f"{100 * each['unknown_rate']:.3f}",
                f"{100 * each['bytes_lost']:.3f}",
                *("–" if value is None else f"{value:.2f}" for value in words),
            ]
        )
    header = ["variant", "vocabulary", "bytes a token", "unknown tokens, %", "bytes lost, %"]
    return Table([*header, *(f"tokens a word: {script}" for script in scripts)], rows, "l" + "r" * (4 + len(scripts)))


def costs(studies: Sequence[Study], of_study: dict[str, Sequence[Run]]) -> Table:
    """Seconds of each variant, also as a multiple of its control's over the seeds that both ran, and what makes it that."""
    rows = []
    for study in studies:
        seconds: dict[str, dict[int, float]] = {}
        for run in of_study[study.name]:
            seconds.setdefault(run.variant, {})[run.seed] = run.seconds
        control = seconds.get(study.control, {})
        for variant in study.variants:
            if not (own := seconds.get(variant.name)):
                continue
            both = own.keys() & control.keys()
            base = sum(control[seed] for seed in both)
            times = f"{sum(own[seed] for seed in both) / base:.2f}" if base else "–"
            fields = ", ".join(
                f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}"
                for name, value in variant.fields.items()
            )
            rows.append([study.name, variant.name, span(own.values()), times, fields or "–"])
    return Table(["study", "variant", "seconds a run", "times the control", "config fields"], rows, "llrrl")


def _mean(values: Sequence[float], after: int) -> str:
    if not values:
        return "–"
    mean, deviation = mean_and_deviation(values)
    finite = sum(map(math.isfinite, values))
    if not finite:
        return "not finite"
    spread = "" if math.isnan(deviation) else f"\n± {deviation:.{after}f}"
    return f"{mean:.{after}f}{spread}" + (f"\n{finite} of {len(values)} finite" if finite < len(values) else "")


def _said(one: Comparison | Judged) -> str:
    return ": ".join(filter(None, one.verdict))


def _interval(found: Difference, after: int) -> str:
    return f"{_signed(found.low, after)} to {_signed(found.high, after)}" if found.has_interval else "–"


def _tellable(found: Difference, after: int) -> str:
    return f"{found.tellable:.{after}f}" if found.has_interval else "–"


def span(values: Iterable[float]) -> str:
    """What takes one value, or from the least to the most."""
    shown = list(dict.fromkeys(f"{value:,.0f}" for value in sorted(values)))
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}"


def _signed(value: float, after: int, short: bool = False) -> str:
    if math.isnan(value):
        return "–"
    text = f"{value:+.{after}f}"
    if short:
        text = text.rstrip("0").rstrip(".")
    if not text.strip("+-0."):
        return "0" if short else text[1:]
    return text.replace("-", "−")
