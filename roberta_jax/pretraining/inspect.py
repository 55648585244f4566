"""What a run is about to train on, as an object and as lines for a terminal."""

import sys
from collections.abc import Iterator

from roberta_jax.config import typed
from roberta_jax.errors import UserError
from roberta_jax.output import printable, show
from roberta_jax.pretraining.inspect_html import LEGEND, blocks, marked, row_title, shares_of, spaced

# Of what is predicted: on a terminal, and elsewhere.
COLOURS = {"masked": "\x1b[30;43m{0}\x1b[0m", "random": "\x1b[97;41m{0}→{1}\x1b[0m", "kept": "\x1b[30;42m{0}\x1b[0m"}
BRACKETS = {"masked": "⟦{0}⟧", "random": "⟦{0}→{1}⟧", "kept": "⟦={0}⟧"}
DIM = "\x1b[2m{0}\x1b[0m"


def inspect(fields: dict, rows: int) -> tuple[dict, str]:
    """The report of a config's corpus, and what its preparation said of it.

    Raises:
      UserError: a field, the source or the corpus cannot be used.
    """
    from roberta_jax.data.corpus import report
    from roberta_jax.preparation.statistics import (
        corpus_statistics,  # here, so that --help does not wait for JAX and TensorFlow
    )
    from roberta_jax.pretraining.config import PretrainConfig, masking_of
    from roberta_jax.pretraining.course import Reading, Source
    from roberta_jax.pretraining.job import open_corpus
    from roberta_jax.tokenization import encodings

    if fields.get("job") != "pretrain":
        raise UserError(f"config.job is {fields.get('job')!r}; inspect knows 'pretrain'.")
    config = typed(PretrainConfig, fields).of_first_phase()
    run, _, _ = config.continue_from.rpartition("@")
    tokenizer = encodings.of_model(run or config.init_from) if config.takes_tokenizer_of_model_before else None
    sources = []
    for name, weight, data in config.data.sources():
        sources.append(Source(name, open_corpus(data, tokenizer=tokenizer), weight))
        tokenizer = sources[0].corpus.tokenizer
    masking, corpus, batch_size = masking_of(config.data), sources[0].corpus, config.batch_size
    reading = Reading(0, tuple(sources), masking, batch_size, config.seed)
    if len(sources) > 1:
        batch_size = max(1, round(batch_size * float(reading.mixture.quotas[0] / reading.mixture.quotas.sum())))
        show(
            f"config.data.mixture: what follows is of the first of {len(sources)} sources, {sources[0].name}, of which about "
            f"{batch_size:,} of the {config.batch_size:,} rows of a batch are",
            sys.stderr,
        )
    figures = corpus_statistics(corpus, masking, batch_size, config.steps, reading.seeds[0], rows)
    figures["run"]["seed"] = config.seed
    return figures, report(corpus.manifest)


def lines(figures: dict, prepared: str, colours: bool) -> Iterator[str]:
    """The report for a terminal."""
    marks, dim = (COLOURS, DIM) if colours else (BRACKETS, "{0}")
    for kind, meaning in LEGEND.items():
        yield f"{marks[kind].format('was here', 'is there')}  {meaning}"
    for row in figures["rows"]:
        yield f"\n{dim.format('— ' + row_title(row))}"
        for block in blocks(row["pieces"]):
            yield "".join(_marked(piece, marks, dim) for piece in block)
    yield "\n" + printable(prepared)
    run, masks, sample = figures["run"], figures["masking"], figures["sample_rows"]
    yield (
        f"{run['steps']:,} steps of {run['batch_size']:,} rows: {run['epochs']:.2f} epochs of {run['rows']:,} rows, "
        f"{run['tokens']:,} tokens"
    )
    yield (
        f"masking {masks['mode']} {masks['rate']:g}, {shares_of(masks)}: {masks['predicted']:.2%} of the tokens are predicted, "
        f"{masks['predicted_per_row']:.1f} of {masks['slots']} slots a row, none in {masks['rows_without']:.2%} of the rows; "
        f"{masks['masked']:.1%} <mask>, {masks['random']:.1%} random, {masks['kept']:.1%} kept (measured on {sample:,} rows)"
    )
    if "is_next" in figures:
        yield f"pairs: in {figures['is_next']:.1%} of them B follows A"
    if figures["inputs_per_row"] > 1:
        yield f"{figures['inputs_per_row']:.2f} inputs a row"
    use = figures["vocabulary_use"]
    yield (
        f"of {use['ids']:,} ids that text can give, {use['never']:,} are never in train rows, {use['rare']:,} fewer than "
        f"10 times; {use['unknown']:.3%} of the tokens are <unk>"
    )
    yield f"\nlengths of {sample:,} rows, in ids"
    edges, counts = figures["row_lengths"]["edges"], figures["row_lengths"]["rows"]
    for start, end, count in zip(edges, edges[1:], counts):
        yield f"{start:7,.0f} to {end:5,.0f} {count:9,} {_bar(count / max(counts))}"
    yield "\nbytes by script"
    for name, share in figures["scripts"].items():
        yield f"{name:>16} {share:9.3%} {_bar(share)}"
    yield "\ntokens that stand in train rows most often"
    for token in figures["top_tokens"]:
        yield f"{spaced(token['text']):>16} {token['share']:9.3%} {token['count']:13,}"


def _marked(piece, marks: dict, dim: str) -> str:
    if piece.kind == "special":
        return dim.format(piece.text)
    if piece.kind == "text":
        return printable(piece.text)
    return marks[piece.kind].format(*marked(piece))


def _bar(share: float) -> str:
    return "█" * round(40 * share)
