"""Runs of ablations → a report: what differs from the control, how surely, and whether the paper says the same."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from roberta_jax import storage
from roberta_jax.ablations import pictures, tables
from roberta_jax.ablations.page import Code, Heading, Items, Paragraph, Part, Pictures, markdown, page
from roberta_jax.ablations.results import OWN, SMALL, SMALL_POINTS, Run, Study, in_order, title
from roberta_jax.ablations.statistics import (
    AGREES,
    CANNOT_TELL,
    DISAGREES,
    Comparison,
    Difference,
    Judged,
    holm,
    paired_difference,
)
from roberta_jax.errors import UserError

ONE_QUANTITY = ("loss", "bits_per_byte", "perplexity")  # in three units: the first that all variants have is tested, once

_LEGEND = (
    "Curves: the mean over seeds, in a band from the least to the most, of second halves at least; a dotted line is a run that "
    "did not stay finite. Differences: the mean over seeds that both ran and its 95% interval; a ring is the paper's. "
    "Tellable is the true difference that as many seeds with this spread would show in four of five cases."
)
_OF_CLAIMS = (
    "A difference is the first variant less the second. The first is better where the whole interval says so, and as good "
    f"where the whole interval says that it is worse by less than {SMALL['loss']:g} nats a masked token, "
    f"{SMALL['bits_per_byte']:g} bits a byte or {SMALL_POINTS:g} points. Where the paper says better, an interval whose gains "
    "are all smaller than that disagrees."
)


def write(studies: Sequence[Study], runs: Sequence[Run], folder: Path, command: str, machine: str) -> None:
    """Writes report.md, with its pictures curves-STUDY.png and differences-STUDY.png, and report.html into a folder.

    Args:
      runs: of these studies, in any order; those that are not there are listed.
      command: what was typed to make them, or "".
    """
    _check(studies, runs)
    folder.mkdir(parents=True, exist_ok=True)
    of_study = {study.name: [run for run in runs if run.study == study.name] for study in studies}
    there = [study for study in studies if of_study[study.name]]
    comparisons = [each for study in there for each in _corrected(compare(study, of_study[study.name]))]
    claims = [each for study in there for each in judge(study, of_study[study.name])]
    parts: list[Part] = [Heading("Ablations", 1), Paragraph(f"{date.today()}. {machine}"), Heading("In short", 3)]
    parts.append(Items(_summary(studies, of_study, comparisons, claims)))
    if claims:
        parts += [Heading("What the paper says"), tables.judged(claims, tables.digits(runs)), Paragraph(_OF_CLAIMS)]
    for study in there:
        own = [each for each in comparisons if each.study == study.name]
        parts += _study(study, of_study[study.name], own, folder)
    if runs:
        parts += [Heading("Cost"), tables.costs(there, of_study)]
    parts += [Heading("The command", 3), Code(command)] if command else []
    storage.write_text(folder / "report.md", markdown(parts))
    storage.write_text(folder / "report.html", page("Ablations", parts))


def _check(studies: Sequence[Study], runs: Sequence[Run]) -> None:
    known = {study.name: [variant.name for variant in study.variants] for study in studies}
    for study in studies:
        if study.control not in known[study.name]:
            raise UserError(
                f"study {study.name}: its control {study.control!r} is none of its variants, {', '.join(known[study.name])}."
            )
    seen = set()
    for run in runs:
        if run.variant not in known.get(run.study, ()):
            raise UserError(
                f"a run is of study {run.study!r}, variant {run.variant!r}, which the studies do not have: they are "
                f"{', '.join(known)}{': ' + ', '.join(known[run.study]) if run.study in known else ''}."
            )
        if (key := (run.study, run.variant, run.seed)) in seen:
            raise UserError(f"study {run.study}, variant {run.variant}, seed {run.seed} is there twice; once is expected.")
        seen.add(key)


def _values(runs: Sequence[Run]) -> dict[str, dict[str, dict[int, float]]]:
    """variant → metric → seed → value"""
    values: dict[str, dict[str, dict[int, float]]] = {}
    for run in runs:
        for metric, value in run.metrics.items():
            values.setdefault(run.variant, {}).setdefault(metric, {})[run.seed] = value
    return values


def judge(study: Study, runs: Sequence[Run]) -> list[Judged]:
    """Each claim about two variants that ran: in the loss, or where tokens differ in bits a byte, and in each of the tests."""
    values, found = _values(runs), []
    for claim in study.claims:
        first, second = values.get(claim.variant, {}), values.get(claim.other, {})
        both = in_order((first.keys() & second.keys()) - OWN - {"accuracy"})  # which is of the same predictions as the loss
        of_loss = [metric for metric in ONE_QUANTITY if metric in both][:1]
        for metric in of_loss + [metric for metric in both if metric not in ONE_QUANTITY]:
            found.append(Judged(claim, metric, paired_difference(first[metric], second[metric])))
    return found


def compare(study: Study, runs: Sequence[Run]) -> list[Comparison]:
    """Each variant that ran with the control, in each metric that both have; metric by metric."""
    values = _values(runs)
    control = values.get(study.control, {})
    base = next(variant.published for variant in study.variants if variant.name == study.control)
    tested = next((each for each in ONE_QUANTITY if all(each in metrics for metrics in values.values())), "")
    found = []
    for metric in in_order(control.keys() - OWN):
        for variant in study.variants:
            if variant.name == study.control or metric not in values.get(variant.name, ()):
                continue
            published, difference = variant.published.get(metric), None
            if published is not None and metric in base:
                difference = round(published - base[metric], 9)  # 92.9 − 92.5 is 0.4
            same_as = tested if metric in ONE_QUANTITY and metric != tested else ""
            if same_as and published is None:
                continue
            paired = paired_difference(values[variant.name][metric], control[metric])
            found.append(Comparison(study.name, variant.name, metric, paired, published, difference, same_as=same_as))
    return found


def _corrected(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Those of a study, which asks one question, with p values corrected for how many they are.

    Where a run is not finite there is no test: the seeds that went well are no fair choice.
    """
    sound = [i for i, each in enumerate(comparisons) if each.difference.has_interval and not each.difference.diverged]
    tested = [i for i in sound if not comparisons[i].same_as]
    corrected = dict(zip(tested, holm([comparisons[i].difference.p for i in tested])))
    return [replace(each, corrected=corrected.get(i, math.nan)) for i, each in enumerate(comparisons)]


def _summary(
    studies: Sequence[Study], of_study: dict[str, list[Run]], comparisons: Sequence[Comparison], claims: Sequence[Judged]
) -> list[str]:
    runs = [run for own in of_study.values() for run in own]
    lines = []
    if runs:
        once = {run.details.get("key", (run.study, run.variant, run.seed)): run.seconds for run in runs}
        hours = sum(once.values()) / 3600
        lines.append(f"{len(once)} runs, {hours:,.1f} hours in all.")
    if of_loss := [each.verdict[0] for each in claims if each.metric in ONE_QUANTITY]:
        lines.append(f"Of the paper's claims {len(of_loss)} were put to the test; by the loss: {_counted(of_loss)}.")
    if verdicts := [each.verdict[0] for each in comparisons if each.published_difference is not None]:
        lines.append(f"The paper has {len(verdicts)} of these differences in the same metric; direction: {_counted(verdicts)}.")
    return lines + _certainty(comparisons) + _missing(studies, of_study) + _not_finite(runs)


def _counted(verdicts: Sequence[str]) -> str:
    return ", ".join(f"{word} {verdicts.count(word)}" for word in (AGREES, DISAGREES, CANNOT_TELL))


def _certainty(comparisons: Sequence[Comparison]) -> list[str]:
    tested = [each for each in comparisons if not math.isnan(each.corrected)]
    if not tested:
        why = "No difference has an interval: that takes two seeds, and differences that are not the same in all."
        return [why] if comparisons else []
    clear = [each for each in tested if each.difference.is_clear]
    stand = [each for each in clear if each.corrected < 0.05]
    of_variant: dict[str, list[str]] = {}
    for each in stand:
        of_variant.setdefault(f"{each.study} {each.variant}", []).append(title(each.metric))
    named = "; ".join(f"{variant} ({', '.join(metrics)})" for variant, metrics in of_variant.items())
    return [
        f"{len(tested)} differences from a control were tested; the 95% intervals of {len(clear)} leave out 0. If no variant "
        f"mattered at all, about {len(tested) / 20:.1f} of them would. After Holm's correction for the number of tests in a "
        f"study {len(stand)} remain{'s' * (len(stand) == 1)}{': ' * bool(stand)}{named}."
    ]


def _missing(studies: Sequence[Study], of_study: dict[str, list[Run]]) -> list[str]:
    lines, gone, expected = [], [], 0
    for study in studies:
        there = {(run.variant, run.seed) for run in of_study[study.name]}
        if not there:
            lines.append(f"{study.title}: no runs are there, so the study is left out.")
        each = [(variant.name, seed) for variant in study.variants for seed in sorted({seed for _, seed in there})]
        expected += len(each)
        gone += [f"{study.name} {name} seed {seed}" for name, seed in each if (name, seed) not in there]
    if gone:
        lines.append(f"{len(gone)} of {expected} runs {'is' if len(gone) == 1 else 'are'} not there: {'; '.join(gone)}.")
    return lines


def _not_finite(runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        wrong = [title(metric) for metric in in_order(run.metrics) if not math.isfinite(run.metrics[metric])]
        if not all(math.isfinite(loss) for _, loss in run.curve):
            wrong.append("the curve")
        if wrong:
            lines.append(f"{run.study} {run.variant} seed {run.seed} is not finite and in no mean: {', '.join(wrong)}.")
    return lines


def _study(study: Study, runs: Sequence[Run], comparisons: Sequence[Comparison], folder: Path) -> list[Part]:
    seeds = sorted({run.seed for run in runs})
    setting = (
        f"{len({run.variant for run in runs})} variants, the control {study.control}; seed{'s' * (len(seeds) > 1)} "
        f"{', '.join(map(str, seeds))}; {tables.span(run.tokens for run in runs)} tokens a run, "
        f"{tables.span(run.parameters for run in runs)} parameters. {study.note}"
    )
    parts: list[Part] = [Heading(study.title), Paragraph(study.question), Paragraph(setting)]
    parts += [tables.measured(study, runs), _drawn(study, runs, comparisons, folder), Paragraph(_LEGEND)]
    if comparisons:
        parts += [Heading(f"Differences from {study.control}", 3), tables.compared(comparisons, tables.digits(runs))]
    there = {metric for run in runs for metric in run.metrics}
    unmeasured = []
    for metric in in_order(metric for variant in study.variants for metric in variant.published if metric not in there):
        values = [f"{each.name} {each.published[metric]:g}" for each in study.variants if metric in each.published]
        unmeasured.append(f"{title(metric)} {', '.join(values)}")
    if unmeasured:
        parts.append(Paragraph(f"The paper also has what is not measured here: {'; '.join(unmeasured)}."))
    if vocabularies := tables.vocabularies(study, runs):
        parts += [Heading("What the vocabularies make of the text", 3), vocabularies]
    return parts


def _drawn(study: Study, runs: Sequence[Run], comparisons: Sequence[Comparison], folder: Path) -> Pictures:
    safe = re.sub(r"[^\w-]+", "-", study.name)
    files, svgs = [], []
    if any(run.curve for run in runs):
        name, what = f"curves-{safe}.png", f"{study.title}: valid loss over the tokens seen"
        svgs.append((pictures.curves(study, runs, folder / name), what))
        files.append((name, what))
    panels: dict[str, dict[str, tuple[Difference, float | None]]] = {}
    for each in comparisons:
        if each.difference.pairs:
            panels.setdefault(each.metric, {})[each.variant] = each.difference, each.published_difference
    if panels:
        name, what = f"differences-{safe}.png", f"{study.title}: differences from {study.control}"
        drawn = pictures.differences(study, panels, folder / name)
        svgs += [(svg, f"{what}, {title(metric)}") for svg, metric in zip(drawn, panels)]
        files.append((name, what))
    return Pictures(files, svgs)
