"""A trained model that answers: load, fill_mask, embed, score, classify, tag, choose, answer, pseudo_perplexity.

model = load("/tmp/run")
model.fill_mask(["Paris is the <mask> of France."])
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from tqdm import tqdm

from roberta_jax import scoring
from roberta_jax.bucketing import buckets, map_rows, power_of_two
from roberta_jax.errors import UserError
from roberta_jax.hardware import unseen_gpu
from roberta_jax.interop import hub
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_encoder, apply_masked_lm, apply_with_head
from roberta_jax.scoring import TooLong
from roberta_jax.tasks.definitions import Example
from roberta_jax.tasks.kinds import multiple_choice, span, tagging
from roberta_jax.tokenization.pretrained import PretrainedTokenizer, Sentence, encode_rows, encode_whole, frame_of

Texts = Sequence[str | tuple[str, str]]  # a pair becomes `<s> A </s></s> B </s>`
POOLINGS = ("mean", "cls")
LOGITS_TOKENS = 8_192  # ids in a batch that ends in masked-LM logits: 1.6 GB with every id masked, RoBERTa's vocabulary


@dataclass(frozen=True)
class Guess:
    """What may stand in the place of a mask."""

    token: str  # with its leading space, if it has one
    id: int
    probability: float
    text: str  # the text with this guess in the mask's place


@dataclass(frozen=True)
class Answer:
    """A span of a context: `context[start:end]`; empty where the question has no answer there."""

    text: str
    start: int
    end: int
    score: float  # the sum of the two logits; of an empty answer the null score of `tasks.kinds.span.best_spans`


def segments(ids: jax.Array, used: jax.Array) -> jax.Array:
    return (jnp.arange(ids.shape[1]) < used[:, None]).astype(jnp.int32)


@functools.partial(jax.jit, static_argnames=("config", "known", "top_k"))
def _fill(params, ids, used, positions, config: RobertaConfig, known: int, top_k: int):
    """Of the `known` first ids: an embedding table may have more rows than the tokenizer has entries."""
    logits = apply_masked_lm(params, config, ids, segments(ids, used), positions)
    return jax.lax.top_k(jax.nn.softmax(logits)[..., :known], top_k)


@functools.partial(jax.jit, static_argnames=("config", "pooling", "normalize"))
def _embed(params, ids, used, config: RobertaConfig, pooling: str, normalize: bool):
    hidden = apply_encoder(params, config, ids, segments(ids, used)).astype(jnp.float32)
    if pooling == "cls":
        pooled = hidden[:, 0]
    else:
        total = jnp.where(segments(ids, used)[..., None] == 1, hidden, 0).sum(axis=1)
        pooled = total / jnp.maximum(used, 1)[:, None]
    return pooled / jnp.linalg.norm(pooled, axis=1, keepdims=True) if normalize else pooled


@functools.partial(jax.jit, static_argnames="config")
def _logits(params, ids, used, config: RobertaConfig):
    return apply_with_head(params, config, ids, segments(ids, used))


class Model:
    """A loaded model. Lists may have any length; answers come in their order.

    Args:
      dtype: of the arithmetic, "float32" or "bfloat16".
      batch_tokens: ids in a batch; by default 1,024 on a CPU, whose batches then pad less, and 65,536 on an accelerator.
    """

    def __init__(self, pretrained: hub.Pretrained, dtype: str = "float32", batch_tokens: int | None = None):
        if pretrained.tokenizer is None:
            raise UserError(
                f"{pretrained.origin} has no tokenizer: put vocab.json and merges.txt, tokenizer.json, or GPT-2's "
                "vocab.bpe beside fairseq's dict.txt, there."
            )
        self.tokenizer: PretrainedTokenizer = pretrained.tokenizer
        self.config = dataclasses.replace(pretrained.config, dtype=dtype, remat="none")
        self.head, self.labels, self.problem = pretrained.head, pretrained.labels, pretrained.problem
        if self.head == "classification" and len(self.labels) == 1:
            self.problem = self.problem or "regression"  # as transformers takes it
        self.origin = pretrained.origin
        self.params = jax.device_put(pretrained.params)
        self.max_length = pretrained.max_length or self.config.max_length  # of a task's rows
        self.lengths = buckets(self.config.max_length)
        if sentence := unseen_gpu(jax.default_backend(), jax.__version__):
            warnings.warn(sentence, stacklevel=3)
        self.batch_tokens = batch_tokens or (1_024 if jax.default_backend() == "cpu" else 65_536)

    def fill_mask(self, texts: Sequence[str], top_k: int = 5) -> list[list[list[Guess]]]:
        """The most probable tokens for every `<mask>`: [text][mask][guess]; [] for a mask that was cut off."""
        self._need("lm_head", "fill_mask")
        if not 1 <= top_k <= len(self.tokenizer):
            raise UserError(f"top_k is {top_k}; expected 1 to {len(self.tokenizer)}.")
        texts, mask = self._listed(texts), self.tokenizer.mask_token
        rows = self._rows(texts)
        for text in texts:
            if mask not in text:
                raise UserError(f"{text!r} has no {mask} to fill.")
        masks = [np.flatnonzero(row == self.tokenizer.mask) for row in rows]

        def fill(ids, used, indices):
            positions = np.zeros((len(ids), power_of_two(max(1, *(len(masks[i]) for i in indices)))), np.int32)
            for at, i in enumerate(indices):
                positions[at, : len(masks[i])] = masks[i]
            return _fill(self.params, ids, used, positions, self.config, len(self.tokenizer), top_k)

        found = []
        for text, row, at, (probabilities, ids) in zip(texts, rows, masks, self._map(fill, rows, LOGITS_TOKENS)):
            guesses = [
                [self._guess(row, position, i, p) for i, p in zip(ids[n], probabilities[n])] for n, position in enumerate(at)
            ]
            found.append(guesses + [[]] * (text.count(mask) - len(at)))
        return found

    def _guess(self, row: np.ndarray, position: int, i: int, probability: float) -> Guess:
        before, behind = map(len, frame_of(self.tokenizer, 1))
        filled = [*row[before:position], i, *row[position + 1 : len(row) - behind]]
        return Guess(self.tokenizer.decode([i]), int(i), float(probability), self.tokenizer.decode(filled))

    def embed(self, texts: Texts, pooling: str = "mean", normalize: bool = False) -> np.ndarray:
        """One vector for each text: float32 [n, hidden].

        Args:
          pooling: "mean" of all its tokens, `<s>` and `</s>` too, or "cls", the state of `<s>`.
          normalize: to length 1.
        """
        if pooling not in POOLINGS:
            raise UserError(f"pooling is {pooling!r}; it can be 'mean' or 'cls'.")
        vectors = self._map(
            lambda ids, used, _: _embed(self.params, ids, used, self.config, pooling, normalize), self._rows(texts)
        )
        return np.array(vectors, np.float32).reshape(len(vectors), self.config.hidden_size)

    def classify(self, texts: Texts) -> list[dict[str, float]]:
        """Label → probability for each text or pair. They sum to 1, save where a text may have several labels.

        Of a regression, its label → the value.
        """
        self._need("classification", "classify")
        found = self._logits(self._rows(texts, self.max_length))
        if self.problem == "multi_label_classification":
            found = [scipy.special.expit(logits) for logits in found]
        elif self.problem != "regression" and len(self.labels) > 1:
            found = [scipy.special.softmax(logits) for logits in found]
        return [dict(zip(self.labels, values.tolist())) for values in found]

    def tag(self, texts: Sequence[str | Sequence[str]]) -> list[list[str]]:
        """The tag of each word, read at its first token. A text too long for a row goes on in the next.

        Args:
          texts: each a list of words, or a text, whose words end at white space.
        """
        self._need("token_classification", "tag")
        words = [tuple(text.split() if isinstance(text, str) else text) for text in self._listed(texts)]
        if not words:
            return []
        examples = [Example("", "", of_text) for of_text in words]
        features = tagging.encode(examples, self.tokenizer, self.labels, self.max_length)
        return tagging.word_tags(features, self._logits([row for (row,) in features.rows]), self.labels, len(examples))

    def choose(self, passage: str, candidates: Sequence[str]) -> list[float]:
        """The probability of each candidate: how a story goes on, or, of a passage's question, that and one option."""
        self._need("multiple_choice", "choose")
        candidates = self._listed(candidates)
        if not candidates:
            return []
        example = Example("", "", (passage, *candidates))
        features = multiple_choice.encode([example], self.tokenizer, (), self.max_length)
        self._say_cut(features.cut, 1, "passages", self.max_length)
        return scipy.special.softmax(np.array(self._logits(features.rows[0]))).tolist()

    def answer(
        self,
        questions: Sequence[tuple[str, str]],
        may_be_empty: bool = False,
        max_answer_tokens: int = 30,
        stride: int = 128,
    ) -> list[Answer]:
        """The best span for each (question, context).

        Args:
          may_be_empty: whether "no answer" is among the candidates: by the head's third output where it has one, else
            `<s>` as the span.
          stride: tokens by which windows overlap where a context is longer than a row.
        """
        answers = []
        for candidates in self._spans(questions, 1, max_answer_tokens, stride):
            if not candidates.spans or (may_be_empty and candidates.null_score > 0):
                answers.append(Answer("", 0, 0, candidates.null_score))
            else:
                (best,) = candidates.spans
                answers.append(Answer(best.text, best.start, best.end, best.score))
        return answers

    def answers(self, question: str, context: str, top_k: int = 5, may_be_empty: bool = False) -> list[Answer]:
        """The best spans for one question, the best first; `may_be_empty` as in `answer`, an empty one stands first."""
        (candidates,) = self._spans([(question, context)], top_k)
        spans = [Answer(each.text, each.start, each.end, each.score) for each in candidates.spans]
        is_empty = not spans or (may_be_empty and candidates.null_score > 0)
        empty = [Answer("", 0, 0, candidates.null_score)] if is_empty else []
        return (empty + spans)[:top_k]

    def _spans(
        self, questions: Sequence[tuple[str, str]], n_best: int, max_answer_tokens: int = 30, stride: int = 128
    ) -> list[span.Candidates]:
        self._need("span", "answer")
        examples = [Example("", "", tuple(question)) for question in self._listed(questions)]
        windows = span.encode_windows(examples, self.tokenizer, self.max_length, stride, answers=False)
        self._say_cut(windows.cut, len(examples), "questions", span.question_limit(self.max_length))
        return span.best_spans(windows, self._logits([window.ids for window in windows.rows]), n_best, max_answer_tokens)

    def pseudo_perplexity(self, texts: Sequence[str]) -> np.ndarray:
        """exp of the mean loss over a text's tokens, each masked in its turn: float64 [n]; NaN for an empty text.

        Source: Salazar et al. 2020, Masked Language Model Scoring. A text of n tokens costs n rows.
        """
        self._need("lm_head", "pseudo_perplexity")
        rows, sentences = self._rows(texts), []
        before, behind = map(len, frame_of(self.tokenizer, 1))
        for row in rows:
            at = np.arange(len(row))
            sentences.append(Sentence(row, (at < before) | (at >= len(row) - behind), np.zeros_like(row)))
        counts = np.array([(~sentence.special).sum() for sentence in sentences])
        return np.exp(-self._score(sentences, "pll") / np.maximum(counts, 1))

    def score(self, texts: Sequence[str], metric: str = "pll", show_progress: bool = False) -> np.ndarray:
        """How probable each text is, to compare texts with: float64 [n], in nats; NaN for an empty text, but by "holistic".

        Args:
          metric: "pll", "pll-word-l2r" or "holistic": what `scoring.METRICS` says of each. A text of n tokens costs n rows,
            by "holistic" one; that is only for models that never learned to predict tokens which were kept in their place.

        Raises:
          TooLong: a text is longer than the model's rows, so that its score would be of a part.
        """
        self._need("lm_head", "score")
        if metric not in scoring.METRICS:
            raise UserError(f"metric is {metric!r}; it can be {' or '.join(map(repr, scoring.METRICS))}.")
        texts = self._listed(texts)
        unique = list(dict.fromkeys(texts))
        mask = self.tokenizer.mask_token
        if masked := next((text for text in unique if mask in text), None):
            raise UserError(f"{masked!r} has {mask} in it: what stands there cannot be scored.")
        sentences = encode_whole(self._fast, unique)
        lengths = [len(sentence.ids) for sentence in sentences]
        if (longest := max(lengths, default=0)) > self.config.max_length:
            raise TooLong(
                f"a text of {longest} tokens is longer than the model's {self.config.max_length}, and what were cut off could "
                f"not be compared: {unique[lengths.index(longest)][:80]!r}…"
            )
        found = self._score(sentences, metric, show_progress)
        return np.array([found[number] for number in map({text: i for i, text in enumerate(unique)}.get, texts)], float)

    @functools.cached_property
    def _fast(self):
        return self.tokenizer.fast()

    def _score(self, sentences: Sequence[Sentence], metric: str, show_progress: bool = False) -> np.ndarray:
        def forward(batch: scoring.Batch) -> jax.Array:
            return scoring.log_probabilities(self.params, *batch[1:], self.config)

        lengths = buckets(self.config.max_length, scoring.LENGTHS)
        sizes, ids = (self.batch_tokens, LOGITS_TOKENS), (self.tokenizer.mask, self.config.pad_id)
        with tqdm(total=scoring.rows_of(sentences, metric), unit="row", smoothing=0, disable=not show_progress) as bar:
            return scoring.score(forward, sentences, metric, lengths, *sizes, *ids, bar.update)

    def functions(self) -> dict[str, Callable]:
        """What `serving.write` exports: (params, ids, used[, positions]) → hidden states, or the head's logits."""
        config = self.config

        def hidden(params, ids, used):
            return apply_encoder(params, config, ids, segments(ids, used)).astype(jnp.float32)

        def masked_lm_logits(params, ids, used, positions):
            return apply_masked_lm(params, config, ids, segments(ids, used), positions)

        def logits(params, ids, used):
            return apply_with_head(params, config, ids, segments(ids, used))

        of_head = {"logits": masked_lm_logits if self.head == "lm_head" else logits} if self.head else {}
        return {"hidden": hidden} | of_head

    def _map(self, function, rows: Sequence[np.ndarray], most_tokens: int | None = None):
        tokens = min(self.batch_tokens, most_tokens or self.batch_tokens)
        return map_rows(function, rows, self.lengths, tokens, self.config.pad_id)

    def _logits(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        return self._map(lambda ids, used, _: _logits(self.params, ids, used, self.config), rows)

    def _need(self, head: str, what: str) -> None:
        if self.head != head:
            raise UserError(f"{self.origin} cannot {what}: its head is {self.head or 'none'!r}, that needs {head!r}.")

    def _rows(self, texts: Texts, max_length: int = 0) -> list[np.ndarray]:
        """Ids with `<s>` and `</s>`, cut to the model's length or a shorter one; a warning says how many were cut."""
        max_length = max_length or self.config.max_length
        pairs = [(text,) if isinstance(text, str) else tuple(text) for text in self._listed(texts)]
        rows, cut = encode_rows(self.tokenizer, pairs, max_length)
        self._say_cut(cut, len(rows), "texts", max_length)
        return rows

    def _listed(self, texts: Iterable) -> list:
        if isinstance(texts, str):
            raise UserError("expected a list of texts, not one text.")
        return list(texts)

    def _say_cut(self, cut: int, of: int, what: str, limit: int) -> None:
        if cut:
            room = f"the {limit} tokens that a question may take" if what == "questions" else f"the model's {limit} tokens"
            warnings.warn(f"{cut} of {of} {what} are too long for {room} and were cut.", stacklevel=4)


def load(
    source: str | Path, checkpoint: str | int = "newest", dtype: str = "float32", batch_tokens: int | None = None
) -> Model:
    """A model from whatever `interop.hub.load` reads: a workdir, a folder of transformers or fairseq, a hub name."""
    return Model(hub.load(source, checkpoint), dtype, batch_tokens)
