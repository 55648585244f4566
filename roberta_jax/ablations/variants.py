"""The studies: what RoBERTa's paper compared, each as variants of one config, with the figures that it published."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

from roberta_jax.ablations.results import Claim, Study, Variant
from roberta_jax.errors import UserError
from roberta_jax.pretraining.config import PretrainConfig, with_sizes

T = TypeVar("T")
WORDPIECE = 30_522 / 50_265  # entries of BERT's vocabulary beside RoBERTa's


def changed(config: T, values: dict[str, Any]) -> T:
    """`config` with other values in dotted fields, such as `data.masking`."""
    known = {field.name for field in fields(config)}
    for path, value in values.items():
        name, _, rest = path.partition(".")
        assert name in known, path
        inner = getattr(config, name)
        config = replace(config, **{name: changed(inner, {rest: value}) if is_dataclass(inner) else value})
    return config


def studies(config: PretrainConfig, devices: int = 1) -> tuple[Study, ...]:
    """All of them, of sizes that follow from the config's."""
    return masking(config), input_format(), batch_size(config, devices), encoding(config), data(config)


def chosen(config: PretrainConfig, names: str, devices: int = 1) -> list[Study]:
    """The studies that `names` has: all, or some parted by commas; STUDY/VARIANT has that variant beside the control alone.

    Args:
      devices: that share a batch.

    Raises:
      UserError: one is not known.
    """
    every = {study.name: study for study in studies(config, devices)}
    kept: dict[str, set[str]] = {}  # study → variants
    for name in list(every) if names == "all" else names.split(","):
        name, _, variant = name.strip().partition("/")
        if name not in every:
            raise UserError(f"config.study {name!r} is not known; there are all, {', '.join(every)}.")
        variants = [each.name for each in every[name].variants]
        if variant and variant not in variants:
            raise UserError(f"config.study {name!r} has no variant {variant!r}; there are {', '.join(variants)}.")
        kept.setdefault(name, set()).update({every[name].control, variant} if variant else variants)
    return [every[name].only(variants) for name, variants in kept.items()]


def masking(config: PretrainConfig) -> Study:
    few = {"data.fraction": config.data.fraction / 32}  # static masks are dynamic ones until each pattern was seen, ten epochs

    def variant(name: str, what: str, mode: str = "roberta", published: dict | None = None, **more: Any) -> Variant:
        return Variant(name, what, few | {"data.masking": mode} | more, published or {})

    rates = [variant(f"rate-{rate}", f"{rate}% are predicted", **{"data.masking_rate": rate / 100}) for rate in (20, 30, 40)]
    return Study(
        "masking",
        "Masking",
        "Do masks drawn anew each time a row is seen beat ten fixed patterns, and does the way of drawing matter?",
        "dynamic",
        (
            variant("dynamic", "15% of the tokens, drawn anew each time", published={"squad2_f1": 78.7, "sst2": 92.9}),
            variant("static", "ten patterns a row, in turn", "static", {"squad2_f1": 78.3, "sst2": 92.5}),
            variant("fairseq", "special tokens count and may be masked", "fairseq"),
            variant("hf", "each token by itself, so their number varies", "hf"),
            variant("whole-word", "whole words", "whole_word"),
            variant("spans", "runs of whole words, 3.8 in the mean", "spans"),
            *rates,
        ),
        "A thirty-second of the other studies' rows, each seen as many times as often. The loss is on the same held-out rows "
        "with the same masks (15% of the tokens) for all.",
        (Claim("masks drawn anew are as good as static ones or slightly better", "dynamic", "static", or_as_good=True),),
    )


def input_format() -> Study:
    def variant(name: str, what: str, **published: float) -> Variant:
        return Variant(name, what, {"data.format": name}, published)

    return Study(
        "input_format",
        "Input format and next-sentence loss",
        "Does the next-sentence loss help, do single sentences hurt, and do whole documents help?",
        "full-sentences",
        (
            variant(
                "full-sentences",
                "rows filled across documents, no next-sentence loss",
                squad1_f1=90.4,
                squad2_f1=79.1,
                sst2=92.5,
            ),
            variant("segment-pair", "two segments, next-sentence loss", squad1_f1=90.4, squad2_f1=78.7, sst2=92.9),
            variant("sentence-pair", "two sentences, next-sentence loss", squad1_f1=88.7, squad2_f1=76.2, sst2=92.1),
            variant("doc-sentences", "rows end where documents do", squad1_f1=90.6, squad2_f1=79.7, sst2=92.7),
            variant("doc-sentences-packed", "the same, several in a row, kept apart by attention"),
        ),
        "Batches hold about as many tokens in all. The loss is on held-out rows of full-sentences, the same for all.",
        (
            Claim("single sentences hurt", "segment-pair", "sentence-pair"),
            Claim("the next-sentence loss brings nothing", "doc-sentences", "segment-pair", or_as_good=True),
            Claim("rows of one document are slightly better", "doc-sentences", "full-sentences"),
        ),
    )


def dividing(share: int, most: int) -> int:
    """The largest microbatch, of `most` rows at most, that divides a device's `share` of a batch; of 0 it is 0: all at once."""
    return next((size for size in range(min(most, share), 0, -1) if share % size == 0), 0)


def batch_size(config: PretrainConfig, devices: int) -> Study:
    """The paper's 256, 2K and 8K as an eighth, once and four times the config's batch, and one more beyond."""
    peak, of_device = config.optimizer.learning_rate, max(1, config.batch_size // devices)  # rows of the config's

    def variant(name: str, what: str, times: float, rate: float, optimizer: str = "", **published: float) -> Variant:
        share = max(1, round(config.batch_size * times / devices))  # rows of a device
        at_once = config.microbatch_size or (of_device if times > 1 else 0)
        rows = config.batch_size if times == 1 else share * devices  # an eighth may be too few for the devices
        return Variant(
            name,
            what,
            {
                "batch_size": rows,
                "microbatch_size": dividing(share, at_once),
                "steps": max(1, round(config.steps * config.batch_size / rows)),
                "optimizer.learning_rate": rate,
                "optimizer.name": optimizer or config.optimizer.name,
            },
            published,
        )

    return Study(
        "batch_size",
        "Batch size",
        "At an equal number of tokens, do large batches help?",
        "2K",
        (
            variant("2K", f"{config.batch_size} rows, rate {peak:g}", 1, peak, perplexity=3.68, sst2=92.9),
            variant("256", "an eighth of that, or a row a device, rate a seventh", 1 / 8, peak / 7, perplexity=3.99, sst2=92.7),
            variant("8K", "four times, rate 10/7", 4, peak * 10 / 7, perplexity=3.77, sst2=92.8),
            variant("8K-lamb", "four times, by LAMB, rate 4", 4, peak * 4, "lamb"),
            variant("32K", "sixteen times, rate 20/7", 16, peak * 20 / 7),
            variant("32K-lamb", "sixteen times, by LAMB, rate 8", 16, peak * 8, "lamb"),
        ),
        "Named as the paper's batches, whose ratios and learning rates these have; steps are as many fewer, by accumulation. "
        "In the paper 2K was best, in perplexity and in every task, and not 8K, which it took for its speed. Rates beyond 8K "
        "and of LAMB are ours.",
        (
            Claim("2K is better than 256 at as many tokens", "2K", "256"),
            Claim("8K is better than 256 at as many tokens", "8K", "256"),
        ),
    )


def encoding(config: PretrainConfig) -> Study:
    size = with_sizes(config).model.vocab_size

    def variant(name: str, what: str, encoding: str, size: int) -> Variant:
        return Variant(name, what, {"data.encoding": encoding, "data.tokenizer": size})

    return Study(
        "encoding",
        "Text encoding",
        "Are bytes enough?",
        "bytes",
        (
            variant("bytes", "byte-level BPE, RoBERTa's", "bytes", size),
            variant("wordpiece", "WordPiece, lower-cased, BERT's", "wordpiece", round(size * WORDPIECE)),
            variant("unigram", "SentencePiece unigram, bytes where it has no piece", "unigram", size),
            variant("bpe", "SentencePiece BPE, bytes where it has no piece", "bpe", size),
            variant("characters", "characters", "characters", size),
        ),
        "Bits a byte: the loss of a masked token over the bytes that a token stands for. Tokens that stand for more are harder "
        "and fewer, so this compares what losses do not; but it is of masked tokens with both sides seen, and no compression. "
        "The paper found byte-level BPE slightly worse on some tasks and took it because it knows no unknown word.",
        (Claim("bytes are slightly worse", "wordpiece", "bytes", or_as_good=True),),
    )


def data(config: PretrainConfig) -> Study:
    steps = max(1, config.steps // 3)

    def variant(name: str, what: str, share: int, times: int = 1, **published: float) -> Variant:
        return Variant(name, what, {"data.fraction": config.data.fraction / share, "steps": steps * times}, published)

    return Study(
        "data",
        "Data and steps",
        "How much do more text and more steps bring?",
        "1x-data",
        (
            variant("1x-data", "a sixteenth of the rows", 16, sst2=95.3, squad2_f1=87.3),
            variant("4x-data", "a quarter", 4),
            variant("16x-data", "all rows", 1, sst2=95.6, squad2_f1=87.7),
            variant("16x-data-3x-steps", "all rows, three times the steps", 1, 3, sst2=96.1, squad2_f1=88.7),
            variant("16x-data-5x-steps", "all rows, five times the steps", 1, 5, sst2=96.4, squad2_f1=89.4),
        ),
        "The paper's are its large model's on 16 GB and 160 GB, 100K, 300K and 500K steps. Here 1x is a third of the "
        "other studies' steps.",
        (
            Claim("more text is better at as many steps", "16x-data", "1x-data"),
            Claim("three times the steps are better", "16x-data-3x-steps", "16x-data"),
            Claim("five times are better still", "16x-data-5x-steps", "16x-data-3x-steps"),
        ),
    )
