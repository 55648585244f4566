"""The fields of a pretraining job."""

import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import PurePosixPath

import optax

from roberta_jax import storage
from roberta_jax.config import option, plain, with_changes
from roberta_jax.data.corpus import PAIRS
from roberta_jax.errors import UserError, check
from roberta_jax.model.config import RobertaConfig
from roberta_jax.output import show
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.tokenization import encodings
from roberta_jax.training.config import RunConfig
from roberta_jax.training.optimizer import in_proportion, last_rate, schedule, warmup


@dataclass(frozen=True)
class DataConfig(CorpusConfig):
    """The corpus, how much of it is used, and how it is masked."""

    mixture: tuple[str, ...] = option(
        (),
        "in the place of source: SOURCE=WEIGHT, several parted by commas; each is a corpus of its own, and has its part of the "
        "tokens in every stretch of the run; a vocabulary to train is the first one's",
    )
    fraction: float = option(1.0, "of the train rows that are used, evenly spread over the corpus")
    masking: str = option("roberta", "which tokens are predicted, and with what in their place: a mode of data/masking.py")
    masking_rate: float = option(0.15, "of the tokens, or words, that are predicted")
    mask_replace_prob: float = option(0.8, "of the predicted tokens: these become <mask>")
    random_replace_prob: float = option(0.1, "and these a random token; the rest is kept. BabyBERTa: 0.9, 0.1, none kept")
    cache: str = option(str(storage.CACHE), "of prepared corpora and trained vocabularies")
    processes: int = option(0, "that prepare the corpus; 0: one a core")

    def __post_init__(self):
        super().__post_init__()
        check(0 < self.fraction <= 1, "data.fraction", self.fraction, "a share above 0 and up to 1")
        check(self.processes >= 0, "data.processes", self.processes, "1 or more, or 0: one a core")
        check(bool(self.cache) and not storage.is_url(self.cache), "data.cache", self.cache, "a folder of this machine")
        masking_of(self)  # which looks at its fields
        self.sources()  # and so does this

    def sources(self) -> list[tuple[str, float, "DataConfig"]]:
        """(a name, its weight, what prepares it) of each source that is read; where there is no mixture that of the one."""
        if not self.mixture:
            return [(*_names([self.source]), 1.0, self)]
        found = {}
        for each in self.mixture:
            source, _, text = each.rpartition("=")
            try:
                weight = float(text)
            except ValueError:
                weight = 0.0
            right = bool(source) and 0 < weight < float("inf") and source not in found
            check(
                right,
                "data.mixture",
                ",".join(self.mixture),
                f"SOURCE=WEIGHT for each, once, a number above 0; {each!r} is not",
            )
            found[source] = weight
        configs = [replace(self, source=(source,), mixture=()) for source in found]
        return list(zip(_names([each.source for each in configs]), found.values(), configs))


def _names(sources: Collection[tuple[str, ...]]) -> list[str]:
    """Of sources that are read together: the last parts of their paths, or these paths where two would have the same name."""
    names = [",".join(PurePosixPath(path).name for path in paths) for paths in sources]
    return names if len({*names}) == len(names) else [",".join(paths) for paths in sources]


OF_MASKS = ("masking", "masking_rate", "mask_replace_prob", "random_replace_prob")  # of `config.data`


def masking_of(data: DataConfig):
    """The `Masking` of these fields."""
    from roberta_jax.data.masking import Masking  # here, so that a config file needs no TensorFlow

    return Masking(data.masking, data.masking_rate, data.mask_replace_prob, data.random_replace_prob)


# What a phase may change, besides all of `data` but these.
_OF_PHASES = ("batch_size", *(f"optimizer.{n}" for n in ("learning_rate", "warmup_steps", "schedule", "decay_steps", "floor")))
_NOT_OF_PHASES = ("data.tokenizer", "data.encoding", "data.cache", "data.processes")


@dataclass(frozen=True)
class Phase:
    """Some consecutive steps of a run."""

    first: int  # of these, counted from 0; of its batches too
    config: "PretrainConfig"  # with what it changes; `steps` are its own


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    job: str = "pretrain"
    model: RobertaConfig = field(default_factory=RobertaConfig)
    data: DataConfig = field(default_factory=DataConfig)
    keep_every: tuple[str, ...] = option(
        (),
        "checkpoints that are kept beside keep_checkpoints: every 1000 steps, say, every '10M tokens' or '1M words'; several "
        "parted by commas: at each of these",
    )
    phases: tuple[str, ...] = option(
        (),
        "of the run, one after another, parted by commas: each 'steps=N FIELD=VALUE …', what it changes of batch_size, the "
        "rate and data; N may be a share below 1, and the last phase has what is left",
    )
    continue_from: str = option(
        "", "RUN@STEP: a run's checkpoint, with optimizer, step and order of rows; steps counts them too"
    )
    new_vocabulary: bool = option(
        False,
        "data.tokenizer is another one than init_from's: its tokens begin as those of that model that stand for the same text",
    )

    def __post_init__(self):
        super().__post_init__()
        of_a_model = "False, where config.init_from names no model"
        check(bool(self.init_from) or not self.new_vocabulary, "new_vocabulary", self.new_vocabulary, of_a_model)
        run, _, step = self.continue_from.rpartition("@")
        right = not self.continue_from or run and step.isdecimal() and (not storage.is_url(run) or run.startswith("gs://"))
        expected = "RUN@STEP, a run's workdir, which is a path of this machine or gs://, and one of its checkpoints"
        check(right, "continue_from", self.continue_from, expected)
        for text in self.keep_every:
            expected = f"a number of steps, or as 10M tokens or 1M words; several parted by commas; {text!r} is none of these"
            check(_amount(text)[0] > 0, "keep_every", ",".join(self.keep_every), expected)

    def keeps(self, before: Mapping[str, int], now: Mapping[str, int]) -> bool:
        """Whether there is a point of `keep_every` behind the first and up to the second: "steps", "tokens" and "words"."""
        for text in self.keep_every:
            point, unit = _amount(text)
            first, last = before[unit], now[unit]
            if first // point < last // point if len(self.keep_every) == 1 else first < point <= last:
                return True
        return False

    @property
    def keeps_by_words(self) -> bool:
        return any(_amount(text)[1] == "words" for text in self.keep_every)

    @cached_property
    def parts(self) -> tuple[Phase, ...]:
        """Its phases; of a run that has none one, of all steps.

        Raises:
          UserError: names the phase that can't be.
        """
        if not self.phases:
            return (Phase(0, self),)
        alone, first, found = replace(self, phases=()), 0, []
        changes = [_changes(number, text) for number, text in enumerate(self.phases, 1)]
        for number, each in enumerate(changes, 1):
            left, last = self.steps - first, number == len(changes)
            steps = _steps_of(each.pop("steps", ""), self.steps, left if last else 0)
            if not (steps == left if last else 0 < steps < left):
                expected = f"the {left:,} that are left" if last else f"less than the {left:,} that are left"
                raise UserError(f"config.phases: phase {number} is {self.phases[number - 1]!r}; expected steps=N, {expected}.")
            if self.phases_have_rates and number > 1:
                each = {"optimizer.warmup_steps": "0"} | each
            if "data.source" in each:  # which a mixture would take the place of
                each = {"data.mixture": ""} | each
            with naming_phase(number):
                found.append(Phase(first, with_changes(replace(alone, steps=steps), each)))
            first += steps
        return tuple(found)

    def numbered_parts(self) -> Iterator[tuple[int, Phase]]:
        """(its number, each phase), from 1 on; of a run that has none (0, the whole)."""
        return enumerate(self.parts, 1 if self.phases else 0)

    def of_first_phase(self) -> "PretrainConfig":
        """As if all steps were the first phase's, for commands that look at one step or one corpus; they say so."""
        if not self.phases:
            return self
        first = self.parts[0].config
        what = (
            f"config.phases: what follows is as if all steps were those of the first of {len(self.phases)}, {self.phases[0]!r}"
        )
        show(what, sys.stderr)
        optimizer = first.optimizer if self.phases_have_rates else self.optimizer
        return replace(self, phases=(), batch_size=first.batch_size, data=first.data, optimizer=optimizer)

    def phases_of(self, steps: int) -> str:
        """`phases` for a run of so many steps, each in proportion and of one at least, as a flag gives them.

        So are warm-ups and decays, of those that have a rate of their own.
        """
        ends, later = [0], len(self.parts)
        for phase in self.parts:
            later -= 1
            end = round((phase.first + phase.config.steps) * steps / self.steps)
            ends.append(min(max(end, ends[-1] + 1), steps - later))
        numbers = [end - start for start, end in zip(ends, ends[1:])]
        scaled = []
        for number, text, phase in zip(numbers, self.phases, self.parts):
            changes = {"steps": ""} | _changes(0, text) | {"steps": str(number)}
            if self.phases_have_rates:
                warm_up, decay = in_proportion(phase.config.optimizer, phase.config.steps, number)
                changes |= {"optimizer.warmup_steps": str(warm_up), "optimizer.decay_steps": str(decay)}
            scaled.append(shlex.join(f"{name}={value}" for name, value in changes.items()))
        return plain(replace(self, phases=tuple(scaled)))["phases"]

    def sources_of(self, data: DataConfig) -> list[tuple[str, float, DataConfig]]:
        """`data.sources()`, `data` being this config's or a phase's: each of another path has another name in the whole run."""
        return [(self._source_names[each.source], weight, each) for _, weight, each in data.sources()]

    @cached_property
    def _source_names(self) -> dict[tuple[str, ...], str]:
        read = (self.data, *(phase.config.data for phase in self.parts))
        paths = dict.fromkeys(each.source for data in read for *_, each in data.sources())
        return dict(zip(paths, _names(paths)))

    @property
    def smallest_batch(self) -> int:
        """Of its phases, by which it is measured too: `batch_size` may be none of theirs."""
        return min(phase.config.batch_size for phase in self.parts)

    @property
    def longest(self) -> int:
        """The length of the longest rows, those that it is measured by among them."""
        return max(self.data.length, *(phase.config.data.length for phase in self.parts))

    @property
    def warmup_steps(self) -> int:
        """Of the first warm-up."""
        first = self.parts[0].config if self.phases_have_rates else self
        return warmup(first.optimizer, first.steps)

    @property
    def phases_have_rates(self) -> bool:
        return any(name.startswith("optimizer.") for text in self.phases for name in _changes(0, text))

    def own_rates(self) -> optax.Schedule | None:
        """Updates done → learning rate, where phases change it: each one's over its own steps."""
        if not self.phases_have_rates:
            return None
        starts = [0.0, *(last_rate(phase.config.optimizer) for phase in self.parts)]
        schedules = [schedule(p.config.optimizer, p.config.steps, start) for p, start in zip(self.parts, starts)]
        return optax.join_schedules(schedules, [phase.first for phase in self.parts[1:]])

    @property
    def model_before(self) -> str:
        """The field that names a model to go on with, and its value; "" where there is none."""
        name = "continue_from" if self.continue_from else "init_from"
        return f"config.{name} {getattr(self, name)}" if getattr(self, name) else ""

    @property
    def takes_tokenizer_of_model_before(self) -> bool:
        """Whether there is a model to go on with, which keeps its vocabulary, and data.tokenizer names none."""
        keeps = not self.new_vocabulary or bool(self.continue_from)
        return bool(self.model_before) and keeps and isinstance(self.data.tokenizer, int)

    def check_together(self) -> None:
        """Raises a UserError where fields do not go together."""
        if not self.phases_have_rates:
            warmup(self.optimizer, self.steps)
        self._check_sizes()  # of its own rows too, by which it is measured
        for number, phase in self.numbered_parts():
            with naming_phase(number):
                if self.phases_have_rates:
                    warmup(phase.config.optimizer, phase.config.steps)
                phase.config._check_sizes()
                alike = "one whose rows are pairs, or none are, as config.data.format has them: the model's heads stay"
                pairs = (each.data.format in PAIRS for each in (self, phase.config))
                check(len({*pairs}) == 1, "data.format", phase.config.data.format, alike)

    def _check_sizes(self) -> None:
        model, entries = self.model, self.data.tokenizer
        trained = isinstance(entries, int) and not self.takes_tokenizer_of_model_before
        if trained and model.vocab_size > entries:  # a text may give fewer than it is asked for, but not more
            raise UserError(
                f"config.model.vocab_size is {model.vocab_size}, the tokenizer has at most {entries} entries, by "
                "config.data.tokenizer; set it to 0, which takes as many as there are."
            )
        expected = f"at least config.data.length, {self.data.length}, or 0: that"
        check(not 0 < model.max_length < self.data.length, "model.max_length", model.max_length, expected)
        for name in ("hidden_size", "intermediate_size"):
            expected = f"a divisor of config.model.{name}, {getattr(model, name)}"
            check(getattr(model, name) % self.fsdp == 0, "fsdp", self.fsdp, expected)


def _changes(number: int, text: str) -> dict[str, str]:
    """The fields that a phase changes, and its `steps`, by their names.

    Raises:
      UserError: names one that no phase changes.
    """
    try:
        found = dict(each.split("=", 1) for each in shlex.split(text))
    except ValueError:
        raise UserError(f"config.phases: phase {number} is {text!r}; expected FIELD=VALUE, several parted by spaces.") from None
    for name in found:
        if name not in ("steps", *_OF_PHASES) and (not name.startswith("data.") or name in _NOT_OF_PHASES):
            known = f"steps, {', '.join(_OF_PHASES)} and those of data but {', '.join(_NOT_OF_PHASES)}"
            raise UserError(f"config.phases: phase {number} sets {name!r}; expected {known}.")
    return found


def _amount(text: str) -> tuple[int, str]:
    """(a number, of "steps", "tokens" or "words") of a point of `keep_every`; (0, "") where it is none."""
    found = re.fullmatch(r"(\d+(?:_\d+)*(?:\.\d+)?) *([kKMGBT]?) *(tokens|steps|words)?", text)
    if not found:
        return 0, ""
    factor = {"": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}[found[2]]
    return round(float(found[1]) * factor), found[3] or "steps"


def _steps_of(text: str, steps: int, left: int) -> int:
    """A phase's steps, of so many in all; `left` are what the last one has, which may leave them out, or round otherwise."""
    try:
        number = float(text or left)
    except ValueError:
        return -1
    if not text or not 0 < number < 1:
        return int(number) if number.is_integer() else -1
    shared = round(number * steps)
    return left if left and abs(shared - left) < 1 + 0.001 * steps else shared


@contextmanager
def naming_phase(number: int) -> Iterator[None]:
    """Says in which phase something is wrong; number 0 is the whole of a run that has none."""
    try:
        yield
    except UserError as error:
        if not number:
            raise
        raise UserError(f"config.phases: phase {number}: {error}") from None


def with_sizes(config: PretrainConfig) -> PretrainConfig:
    """`config` with the sizes that it leaves open, as far as they are known before a text is read."""
    model = config.model
    if not model.vocab_size:
        tokenizer = config.data.tokenizer
        model = replace(model, vocab_size=tokenizer if isinstance(tokenizer, int) else len(encodings.of_model(tokenizer)))
    return replace(config, model=replace(model, max_length=model.max_length or config.longest))
