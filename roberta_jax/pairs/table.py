"""What `accuracy.measure` found, for a person and as JSON, with the published rows of the same suite and metric beside it."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from roberta_jax.pairs.accuracy import INTERVALS, Result, Share
from roberta_jax.pairs.published import CATEGORIES, Published, beside

SHORT = dict(zip(CATEGORIES, "ana arg bind ctrl d-n ell fill irr isl npi quant s-v".split(), strict=True))


def as_json(results: Sequence[Result], metric: str) -> list[dict]:
    """Shares are between 0 and 1, published ones in percent."""
    found = []
    for result in results:
        suite, rows = result.suite, beside(result.suite.name, metric) if result.suite.whole else []
        found.append(
            {
                "suite": suite.name,
                "pairs": suite.pairs,
                "of": sum(paradigm.of for paradigm in suite.paradigms),
                "overall": _share(result.overall),
                "over_categories": _share(result.over_categories) if result.over_categories else None,
                "categories": {name: _share(share) for name, share in result.categories.items()},
                "paradigms": {name: _share(share) for name, share in result.paradigms.items()},
                "published": [{name: value for name, value in asdict(row).items() if value} for row in rows],
            }
        )
    return found


def _share(share: Share) -> dict:
    names = ("accuracy", "low", "high", "pairs", "ties")
    return {name: getattr(share, name) for name in names}


def lines(results: Sequence[Result], metric: str) -> Iterator[str]:
    for result in results:
        yield from _suite(result, metric)
        yield ""
    yield INTERVALS


def _suite(result: Result, metric: str) -> Iterator[str]:
    suite, rows = result.suite, beside(result.suite.name, metric) if result.suite.whole else []
    of = sum(paradigm.of for paradigm in suite.paradigms)
    sample = f", a sample of {of:,}, the same for every model" if suite.pairs < of else ""
    yield f"{suite.name}: {suite.pairs:,} pairs of {len(suite.paradigms)} paradigms{sample}, by {metric}"
    of_paradigms = [row for row in rows if row.paradigms]
    width = max(40, *(len(name) for name in result.paradigms))
    legend = "".join(f"{f'[{number}]':>7}" for number in range(1, len(of_paradigms) + 1))
    yield f"{'paradigm':{width}}       %    95% interval   ties{legend}"
    for name, share in sorted(result.paradigms.items()):
        theirs = "".join(f"{row.paradigms.get(name, float('nan')):7.1f}" for row in of_paradigms)
        yield _row(name, share, width) + theirs
    if result.categories:
        yield "category"
        for name, share in result.categories.items():
            yield _row(name, share, width)
        if result.over_categories:
            yield _row(f"mean over {len(result.categories)} categories, as BabyLM's", result.over_categories, width)
    yield _row(f"mean over {len(result.paradigms)} paradigms", result.overall, width)
    if ties := result.overall.ties:
        yield f"{ties:,} of {suite.pairs:,} pairs have two equal scores, which counts as wrong."
    for number, row in enumerate(of_paradigms, 1):
        yield f"[{number}] {row.model}"
    if not suite.whole and beside(suite.name, metric):
        yield f"published scores are of all of {suite.name}, which this is not, and are left out"
    yield from _published(result, rows, metric)


def _row(name: str, share: Share, width: int) -> str:
    return f"{name:{width}} {100 * share.accuracy:7.1f}  {100 * share.low:5.1f} to {100 * share.high:5.1f} {share.ties:6,}"


def _published(result: Result, rows: Sequence[Published], metric: str) -> Iterator[str]:
    """This model among the published ones, in percent."""
    if not rows:
        return
    with_categories = any(row.categories for row in rows)
    mean = "paradigms" if rows[0].overall is not None else "categories"
    here = result.overall if mean == "paradigms" else result.over_categories
    yield f"published, the same suite by {metric} too; mean over {mean}"
    head = f"{'':60}{'mean':>7}" + "".join(f"{short:>6}" for short in SHORT.values() if with_categories)
    yield head.rstrip()
    ours = {name: 100 * share.accuracy for name, share in result.categories.items()}
    entries = [(100 * here.accuracy, "this model", ours, "")]
    entries += [(row.overall or row.over_categories, row.model, row.categories, row.source) for row in rows]
    for value, model, categories, source in sorted(entries, key=lambda entry: entry[0]):
        cells = "".join(f"{categories[name]:6.1f}" if name in categories else f"{'':6}" for name in SHORT if with_categories)
        yield f"{model:60}{value:7.1f}{cells}  {source}".rstrip()


def curve(points: Sequence[tuple[str, Sequence[Result]]]) -> Iterator[str]:
    """The mean over paradigms at each checkpoint, a bar from 50 to 100%.

    Args:
      points: (what the checkpoint is, its results), in order.
    """
    for at, suite in enumerate(result.suite for result in points[0][1]):
        yield f"{suite.name}, mean over {len(suite.paradigms)} paradigms, bar from 50 to 100%"
        for name, results in points:
            share = results[at].overall
            bar = "█" * round(max(0.0, 80 * (share.accuracy - 0.5)))
            yield f"{name}  {100 * share.accuracy:5.1f}  {100 * share.low:5.1f} to {100 * share.high:5.1f}  {bar}".rstrip()
        yield ""
