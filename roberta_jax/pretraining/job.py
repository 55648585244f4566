"""The masked-LM job: a corpus, its masks, the loss, and what the model learned in the end."""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from roberta_jax import storage
from roberta_jax.data.corpus import PAIRS, Corpus
from roberta_jax.data.masking import Masking
from roberta_jax.data.pipeline import on_mesh, valid_batches
from roberta_jax.errors import UserError
from roberta_jax.folder_hashes import write_hashes
from roberta_jax.interop import hub
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.flops import train_flops
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.preparation.prepare import prepare
from roberta_jax.pretraining.branch import find as find_branch
from roberta_jax.pretraining.config import OF_MASKS, DataConfig, PretrainConfig, masking_of, naming_phase
from roberta_jax.pretraining.course import Course, Reading, Source
from roberta_jax.pretraining.examples import examples
from roberta_jax.pretraining.losses import losses_of_sources, masked_lm_loss, means_of_pairs, valid_loss
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.tokenizer import Tokenizer
from roberta_jax.training.checkpoint import saved_steps
from roberta_jax.training.distributed import Stop, require_same, said_by_any
from roberta_jax.training.evaluate import evaluate, make_eval_step
from roberta_jax.training.incidents import Incidents
from roberta_jax.training.job import Job
from roberta_jax.training.kernel_check import with_sound_attention
from roberta_jax.training.logging import put_aside, recovered, say
from roberta_jax.training.notes import Memory
from roberta_jax.training.sharding import batch_sharding, local_rows, make_mesh
from roberta_jax.training.step import TrainStep, accumulation, build_step
from roberta_jax.training.train import train
from roberta_jax.training.workdir import CHECKPOINTS, CONFIG_JSON, TOKENIZER


def check_devices(config: PretrainConfig) -> None:
    """Raises a UserError where the devices that there are can't share a batch."""
    mesh = make_mesh(config.fsdp)
    for number, phase in config.numbered_parts():
        with naming_phase(number):
            accumulation(phase.config.batch_size, config.microbatch_size, mesh)


def open_corpus(
    data: DataConfig,
    agree: Callable[[Tokenizer], None] = lambda tokenizer: None,
    tokenizer: Tokenizer | None = None,
) -> Corpus:
    """The prepared corpus that `source` names, or the one that it becomes.

    Args:
      agree: raises a UserError where the tokenizer is not the right one; it is asked before any row is made.
      tokenizer: in the place of `data.tokenizer`.
    """
    corpus = prepare(data, cache=Path(data.cache), processes=data.processes or None, agree=agree, tokenizer=tokenizer)
    corpus.train.fraction = data.fraction
    return corpus


def of_pairs(config: PretrainConfig) -> bool:
    """Whether there is a next-sentence loss."""
    return config.data.format in PAIRS


def model_of(config: PretrainConfig) -> RobertaConfig:
    """`config.model`, with the token types that its rows need."""
    return replace(config.model, num_token_types=max(1 + of_pairs(config), config.model.num_token_types))


def step_of(config: PretrainConfig, mesh: Mesh) -> TrainStep:
    """The training step of a config whose sizes are known, as `pretrain` has it."""
    return build_step(
        lambda key: init_masked_lm(key, config.model, of_pairs(config)),
        masked_lm_loss(config.model),
        config.optimizer,
        config.steps,
        mesh,
        rows=config.batch_size,
        microbatch_size=config.microbatch_size,
        guard=config.guard,
        seed=config.seed,
        schedule=config.own_rates(),
    )


# The shape of a model, whose vocab_size is 0 where it takes the corpus'; its parameters for a tokenizer; its own tokenizer.
Initial = tuple[RobertaConfig, Callable[[Tokenizer], dict], Tokenizer | None]


def pretrain(config: PretrainConfig, workdir: Path, initial: Initial | None = None, stop: Stop | None = None) -> bool:
    """Trains a masked LM and says what it learned.

    Args:
      initial: what `config.init_from` names: its sizes take the place of `config.model`'s, its parameters, for the corpus'
        tokenizer, are the first, and its own tokenizer must be that; it is, where `data.tokenizer` names no other. A run
        that resumes has them in its workdir. Of `config.continue_from` all this is found here.
      stop: see `train`.

    Returns:
      Whether it has done all its steps; a signal ends it before.
    """
    branch, begun = None, bool(saved_steps(workdir / CHECKPOINTS))
    if config.continue_from:
        shape = hub.shape_of_run(workdir) if begun else None
        branch = None if shape else find_branch(config, workdir)
        initial = (shape, _nothing, None) if shape else (branch.model, _nothing, branch.tokenizer)
    if initial:
        config = replace(config, model=config.model.with_shape_of(initial[0]))
    check_devices(config)
    config.check_together()
    kept = workdir / TOKENIZER
    own, agree = _tokenizer_of(initial, config, kept), partial(_require_agreement, config, initial, kept)
    open_sources, pairs, masking = _opening(config, agree, own), of_pairs(config), masking_of(config.data)
    sources = open_sources(config.data)
    corpus, course = sources[0].corpus, Course(_readings(config, open_sources))
    corpora = {id(each.corpus): each.corpus for each in (*sources, *course.sources)}.values()
    lengths = sorted({each.length for each in corpora})
    model = replace(model_of(config), max_length=config.model.max_length or lengths[-1])
    if not initial or not model.vocab_size:
        model = replace(model, vocab_size=len(corpus.tokenizer), pad_id=corpus.tokenizer.pad)
    config = replace(config, model=model)
    for one in corpora:
        _require_rows(config, one, evaluated=any(source.corpus is one for source in sources))
    require_same(f"the tokenizer of the corpus in {corpus.folder}", corpus.tokenizer.hash)
    if jax.process_index() == 0:
        corpus.tokenizer.save(kept)
        write_hashes(kept)
    model = with_sound_attention(model, lengths, make_mesh(config.fsdp), workdir)
    loss = masked_lm_loss(model, course.names)
    eval_step = make_eval_step(valid_loss(loss) if pairs else loss)

    @functools.cache
    def cost(rows: int, length: int, slots: int) -> tuple[int, float]:
        return rows * length, train_flops(model, rows, length, slots)

    def evaluate_on_valid(params: dict, mesh: Mesh) -> dict[str, float]:
        rows = config.smallest_batch // accumulation(config.smallest_batch, config.microbatch_size, mesh)
        means = []
        for source in sources:
            made = valid_batches(source.corpus, masking, rows, local_rows(mesh, rows))
            of_source = evaluate(eval_step, params, on_mesh(made, batch_sharding(mesh)))
            means.append(means_of_pairs(of_source) if pairs else of_source)
        whole = means[0] if len(means) == 1 else {name: _weighted(sources, [each[name] for each in means]) for name in means[0]}
        whole |= perplexity(whole)
        if len(means) > 1:
            whole |= {f"loss/{source.name}": each["loss"] for source, each in zip(sources, means)}
        return {f"valid/{name}": value for name, value in whole.items()}

    def continued(abstract: dict) -> tuple[dict, Memory]:
        """Where none of the workdir's own checkpoints can be gone on from, or only such as hold unsound steps."""
        found = branch or find_branch(config, workdir)
        return found.state(config, course.reading(found.step), abstract)

    floor = _entropy(_weighted(sources, [_unigram(source.corpus, masking) for source in sources]))
    job = Job(
        init=lambda key: init_masked_lm(key, model, pairs),
        loss=loss,
        train_batches=course.batches,
        evaluate=evaluate_on_valid,
        rows=config.smallest_batch,
        cost=lambda batch: cost(*batch["input_ids"].shape, batch["positions"].shape[1]),
        initial=lambda: _with_token_types(initial[1](corpus.tokenizer), model.num_token_types) if initial else {},
        dtype=model.dtype,
        derived=lambda means: perplexity(means) | losses_of_sources(means),
        watch=partial(nothing_learned, config, floor),
        rows_of=course.rows_of,
        continued=continued if config.continue_from else None,
        note=course.note,
        begin=course.begin,
        held=course.held,
        keep=partial(_keeps, config, course),
    )
    for number, phase in config.numbered_parts():
        if number:
            last = phase.first + phase.config.steps
            say(f"phase {number} of {len(config.phases)}, steps {phase.first + 1:,} to {last:,}: {config.phases[number - 1]}")
        _say_reading(course.reading(phase.first), phase.config.steps)
    say(f"without learning the loss is {np.log(model.vocab_size):.2f}, by how often each token stands in the text {floor:.2f}")
    _note_order(workdir)
    if branch and not begun:
        branch.copy_metrics(workdir)
        say(f"continuing {branch.run} after step {branch.step:,}")
    state = train(job, config, workdir, stop)
    if state is not None:
        of_unigrams = _weighted(sources, [unigram_loss(source.corpus, masking) for source in sources])
        say(f"a unigram model of the train split has loss {of_unigrams:.4f} on the same predictions")
        for line in examples(state["params"], model, corpus):
            say(line)
    return state is not None


def _require_rows(config: PretrainConfig, corpus: Corpus, evaluated: bool) -> None:
    """Raises a UserError where a corpus lacks what a run needs of it, or is another one on another host.

    The same rows may have another key there, of another copy of the text: each host takes the first one's.
    """
    for split in ("train", "valid") if evaluated else ("train",):
        if not len(getattr(corpus, split)):
            raise UserError(
                f"{corpus.folder}: the {split} split has no row; give more text, or another data.valid_fraction than "
                f"{config.data.valid_fraction:g}."
            )
    if config.keeps_by_words and "words" not in corpus.manifest:
        raise UserError(f"config.keep_every: {corpus.folder} was prepared before words were counted; prepare it again.")
    require_same(f"the corpus in {corpus.folder}", json.dumps(corpus.manifest["shards"], sort_keys=True))
    corpus.manifest["key"] = said_by_any(corpus.manifest["key"])


def _keeps(config: PretrainConfig, course: Course, step: int, *batches: int) -> bool:
    """`Job.keep`, which is asked at every step."""
    seen = ({"steps": at} | course.seen(number) for at, number in zip((step - 1, step), batches))
    return bool(config.keep_every) and config.keeps(*seen)


def _nothing(tokenizer: Tokenizer) -> dict:
    """The parameters of who finds them in a checkpoint."""
    return {}


def _opening(
    config: PretrainConfig, agree: Callable[[Tokenizer], None], tokenizer: Tokenizer | None
) -> Callable[[DataConfig], tuple[Source, ...]]:
    """`config.data` → its sources, opened. Each corpus is opened once, and all have the tokenizer of the first."""
    opened: dict[DataConfig, Corpus] = {}
    no_masks = {each: getattr(DataConfig(), each) for each in OF_MASKS}

    def opened_as(data: DataConfig) -> Corpus:
        rows = replace(data, **no_masks)
        if rows not in opened:
            first = next(iter(opened.values()), None)
            opened[rows] = open_corpus(rows, agree, first.tokenizer if first else tokenizer)
        return opened[rows]

    return lambda data: tuple(Source(name, opened_as(each), weight) for name, weight, each in config.sources_of(data))


def _readings(config: PretrainConfig, open_sources: Callable[[DataConfig], tuple[Source, ...]]) -> list[Reading]:
    """What each phase reads."""
    found = []
    for number, phase in config.numbered_parts():
        with naming_phase(number):
            masking, sources = masking_of(phase.config.data), open_sources(phase.config.data)
        found.append(Reading(phase.first, sources, masking, phase.config.batch_size, config.seed))
    return found


def _weighted(sources: Sequence[Source], values: Sequence[Any]) -> Any:
    """The mean of a value of each source, by their weights."""
    total = sum(source.weight for source in sources)
    return sum(source.weight / total * value for source, value in zip(sources, values))


def _say_reading(reading: Reading, steps: int) -> None:
    masking, rows = reading.masking, steps * reading.batch_size
    for source, quota in zip(reading.sources, reading.mixture.quotas / reading.mixture.quotas.sum()):
        corpus, epochs = source.corpus, rows * quota / len(source.corpus.train)
        share = f"{quota:.1%} from {source.name}: " if len(reading.sources) > 1 else ""
        say(f"{share}{len(corpus.train):,} rows of {corpus.length} in {corpus.folder}: {steps:,} steps are {epochs:.2f} epochs")
        if masking.patterns and epochs <= masking.patterns:
            say(f"{masking.mode} masks come again after {masking.patterns} epochs: all of this run's are those of dynamic ones")
    say(
        f"masking {masking.mode} {masking.rate:g}: of what is predicted {masking.mask_replace_prob:.1%} is <mask>, "
        f"{masking.random_replace_prob:.1%} random, {masking.keep_prob:.1%} kept"
    )


def _tokenizer_of(initial: Initial | None, config: PretrainConfig, kept: Path) -> Tokenizer | None:
    """That of the model to go on with, which a run that resumes has in its workdir; None where the config says another."""
    if not initial or not config.takes_tokenizer_of_model_before:
        return None
    found = initial[2] or encodings.find(kept)
    if found is None:
        raise UserError(f"{config.model_before} has no tokenizer; name one in config.data.tokenizer.")
    return found


def _require_agreement(config: PretrainConfig, initial: Initial | None, kept: Path, tokenizer: Tokenizer) -> None:
    """Raises a UserError where a corpus' tokenizer is not that of the config, of `initial` or of the run begun in a workdir.

    Args:
      kept: the workdir's tokenizer.
    """
    wanted = config.model.vocab_size
    if initial and initial[2] and initial[2].hash != tokenizer.hash:
        other = "" if config.continue_from else ", or set config.new_vocabulary, which gives the model the corpus'"
        raise UserError(f"{config.model_before} has another tokenizer than the corpus; name it in data.tokenizer{other}.")
    if initial and wanted:  # whose table may have more rows than there are ids
        if len(tokenizer) > wanted or tokenizer.pad != config.model.pad_id:
            raise UserError(
                f"{config.model_before} has {wanted} rows of embeddings and <pad> {config.model.pad_id}, "
                f"data.tokenizer {config.data.tokenizer} ids up to {len(tokenizer) - 1} and <pad> {tokenizer.pad}."
            )
    elif wanted not in (0, len(tokenizer)):
        raise UserError(
            f"config.model.vocab_size is {wanted}, the tokenizer has {len(tokenizer)} entries; set it to that, or to 0."
        )
    try:
        another = encodings.encoding_in(kept) and encodings.load(kept).hash != tokenizer.hash
    except UserError as error:
        put_aside(kept, str(error))
        another = False
    if another:
        raise UserError(f"{kept} is another tokenizer than the corpus'; take another workdir or that run's corpus.")


def _note_order(workdir: Path) -> None:
    """Says where a run goes on that began by the order of rows of versions before 0.2, which config.json does not name."""
    steps, began = saved_steps(workdir / CHECKPOINTS), recovered(workdir / CONFIG_JSON, storage.parse_json, {})
    if steps and "steps" in began and "version" not in began:
        what = (
            "this run began with an order of rows that was much the same in every epoch and for every seed; from here on each "
            "epoch is a new one, so its first epoch from now on may hold rows that the broken-off one has had"
        )
        Incidents(workdir).write("order", steps[-1], what)


def perplexity(means: dict[str, float]) -> dict[str, float]:
    return {"perplexity": float(np.exp(means.get("mlm_loss", means["loss"])))}


def _with_token_types(params: dict, number: int) -> dict:
    """The encoder's parameters for so many token types; those that it did not know begin as the ones that it did."""
    encoder = params["encoder"]
    table = encoder["embeddings"]["token_type"]["embedding"]
    table = np.resize(table, (number, table.shape[1]))
    return params | {"encoder": encoder | {"embeddings": encoder["embeddings"] | {"token_type": {"embedding": table}}}}


def _unigram(corpus: Corpus, masking: Masking) -> np.ndarray:
    """How often each id stands in the train split, with one more of each, of those that are predicted: float64 [V], sum 1."""
    counts = corpus.token_counts.astype(np.float64) + 1
    if not masking.predicts_special_tokens:
        counts[[corpus.tokenizer.bos, corpus.tokenizer.eos]] = 1e-9  # these are never predicted
    return counts / counts.sum()


def unigram_entropy(corpus: Corpus, masking: Masking) -> float:
    """About the loss of a model that only knows how often each id stands in the train split, in nats a prediction."""
    return _entropy(_unigram(corpus, masking))


def _entropy(shares: np.ndarray) -> float:
    return float(-(shares * np.log(shares)).sum())


def nothing_learned(config: PretrainConfig, floor: float, step: int, means: dict[str, float]) -> tuple[str, str] | None:
    """An incident, if the first log line behind the warm-up, a third of the steps and a hundred is no better than `floor`."""
    due = max(config.warmup_steps, config.steps / 3, 100)
    loss = means.get("mlm_loss", means.get("loss", 0.0))
    if not due <= step < due + config.log_every or loss < floor - 0.02:
        return None
    return "no learning", (
        f"the loss, {loss:.2f}, is no better than {floor:.2f}, which how often each token stands in the text gives: so far the "
        "model has not learned to look at other tokens; docs/troubleshooting.md says what helps"
    )


def unigram_loss(corpus: Corpus, masking: Masking) -> float:
    """The valid split's masked-LM loss by how often each id stands in the train split, in nats a prediction."""
    loss = -np.log(_unigram(corpus, masking))
    total = weight = 0.0
    for batch in valid_batches(corpus, masking, 256):
        total += (loss[batch["labels"]] * batch["weights"]).sum()
        weight += batch["weights"].sum()
    return total / weight
