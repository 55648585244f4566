"""Questions whose answer is a span of a context: rows out of them, and answers out of the rows' logits.

An example's texts are question and context, its label (an answer's text, its first character in the context) for each
answer, () where there is none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from roberta_jax.errors import UserError
from roberta_jax.preparation.records import FORMATS
from roberta_jax.tasks.definitions import Example, Task
from roberta_jax.tasks.features import Encoded, Features, Logits
from roberta_jax.tasks.kinds import squad
from roberta_jax.tasks.kinds.kind import ALSO_VALID, VALID, Kind, Labels
from roberta_jax.tokenization.pretrained import PretrainedTokenizer, frame_of
from roberta_jax.tokenization.published import Frame
from roberta_jax.training.cross_entropy import cross_entropy


@dataclass(frozen=True, slots=True)
class Window:
    """A row `<s> question </s></s> part of the context </s>`, or as the tokenizer joins two texts."""

    example: int
    ids: np.ndarray  # int32 [n]
    head: int  # where the context begins in the row
    start: int  # which token of the context this is
    count: int  # tokens of the context


@dataclass(frozen=True)
class Windows:
    """Examples as rows; those of one example follow each other, and each example has one at least."""

    examples: Sequence[Example]
    rows: list[Window]
    offsets: list[np.ndarray]  # by example: [tokens, 2], the characters of the context that each token covers, see `_trim`
    targets: np.ndarray  # int32 [W, 2]: first and last token of the answer in the row; (0, 0), which is `<s>`, for none
    cut: int  # questions that were cut


@dataclass(frozen=True, slots=True)
class Span:
    """`context[start:end]`"""

    text: str
    start: int
    end: int
    score: float  # the sum of the two logits
    probability: float  # among the candidates


@dataclass(frozen=True)
class Candidates:
    """The spans that may be one example's answer."""

    spans: list[Span]  # the best first; [] for a context without a token
    null_score: float  # the greater, the surer that there is no answer


def split_context(
    question: np.ndarray,
    context: np.ndarray,
    frame: Frame,
    max_length: int,
    stride: int = 128,
    max_question: int = 64,
    example: int = 0,
) -> list[Window]:
    """All rows of one question, ids int32 [n] each.

    Args:
      frame: the ids before, between and behind two texts.
      max_length: ids in a row.
      stride: tokens by which neighbours overlap, as transformers has it (BERT's doc_stride is the step from one to the
        next); half of the room for the context at most.
      max_question: a question is cut to so many tokens, and to a little less than half of a row.

    Raises:
      UserError: max_length leaves no room, or stride is negative.
    """
    if max_length < 8 or stride < 0 or max_question < 1:
        raise UserError(
            f"max_length is {max_length}, stride {stride}, max_question {max_question}; expected 8, 0 and 1 or more."
        )
    before, between, behind = frame
    head = [*before, *question[: question_limit(max_length, max_question)], *between]
    room = max_length - len(head) - len(behind)
    step = room - min(stride, room // 2)
    windows = []
    for start in range(0, max(1, len(context) - room + step), step):
        part = context[start : start + room]
        windows.append(Window(example, np.array([*head, *part, *behind], np.int32), len(head), start, len(part)))
    return windows


def question_limit(max_length: int, max_question: int = 64) -> int:
    """Tokens that a question may take."""
    return min(max_question, max_length // 2 - 3)


def encode_windows(
    examples: Sequence[Example],
    tokenizer: PretrainedTokenizer,
    max_length: int,
    stride: int = 128,
    max_question: int = 64,
    answers: bool = True,
) -> Windows:
    """The windows of all examples (their `texts` are question and context), see `split_context` for the numbers and errors.

    Args:
      answers: whether to find the targets: the fewest tokens that cover an example's first answer. Without, all are (0, 0).
    """
    questions = tokenizer.encode([example.texts[0] for example in examples])
    encoded: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # many questions share a context
    rows, offsets, targets = [], [], []
    for i, (example, question) in enumerate(zip(examples, questions)):
        context = example.texts[1]
        if context not in encoded:
            ids, spans = tokenizer.encode_with_spans(context)
            encoded[context] = ids, _trim(context, spans)
        ids, spans = encoded[context]
        first, last = -1, -1
        if answers and example.label:
            answer, begin = example.label[0]
            first, last = _cover(spans, begin, begin + len(answer))
        for window in split_context(question, ids, frame_of(tokenizer, 2), max_length, stride, max_question, i):
            inside = window.start <= first and last < window.start + window.count
            shift = window.head - window.start
            targets.append((first + shift, last + shift) if inside else (0, 0))
            rows.append(window)
        offsets.append(spans)
    cut = sum(len(question) > question_limit(max_length, max_question) for question in questions)
    positions = np.array(targets, np.int32).reshape(-1, 2)
    return Windows(examples, rows, offsets, positions, cut)


def _trim(context: str, spans: np.ndarray) -> np.ndarray:
    """Spans [n, 2] that begin and end with no white space. Those of white space alone end before they begin."""
    solid = np.array([not character.isspace() for character in context], bool)
    at = np.arange(len(context))
    after = np.minimum.accumulate(np.append(np.where(solid, at, len(context)), len(context))[::-1])[::-1]
    before = np.maximum.accumulate(np.append(0, np.where(solid, at + 1, 0)))
    return np.stack([after[spans[:, 0]], before[spans[:, 1]]], axis=1).astype(np.int32)


def _cover(spans: np.ndarray, begin: int, end: int) -> tuple[int, int]:
    """The first and the last of the fewest tokens that cover these characters; (-1, -1) where none does."""
    first = int(np.searchsorted(spans[:, 1], begin, side="right"))  # a character may be several tokens: all of them
    last = int(np.searchsorted(spans[:, 0], end, side="left")) - 1
    return (first, last) if first <= last else (-1, -1)


def best_spans(windows: Windows, logits: Logits, n_best: int = 20, max_answer_tokens: int = 30) -> list[Candidates]:
    """The best spans of each example over all its windows, each span of characters once, with its best score.

    Args:
      logits: of each window float32 [n, 2 or 3] or longer, padding behind: how well a token begins and ends the answer,
        and in the third column, read at `<s>`, whether the window has an answer.

    Returns:
      For each example its `n_best` spans and its null score. That is, with two columns, the least sum of the two logits
      at `<s>` less the best span's score (less 0 where there is no span), as in BERT's script; with three it is the
      greatest third logit at `<s>`, negated.
    """
    by_example: list[list[np.ndarray]] = [[] for _ in windows.examples]
    nulls = np.full(len(windows.examples), np.inf)
    classified = len(logits) > 0 and logits[0].shape[1] == 3
    for window, values in zip(windows.rows, logits, strict=True):
        i = window.example
        nulls[i] = min(nulls[i], -values[0, 2] if classified else values[0].sum())
        spans = windows.offsets[i][window.start : window.start + window.count]
        begins, ends = values[window.head : window.head + window.count, :2].T
        by_example[i].append(_best_of_window(begins, ends, spans, n_best, max_answer_tokens))
    results = []
    for example, parts, null in zip(windows.examples, by_example, nulls.tolist()):
        best = _distinct(np.concatenate(parts))[:n_best]
        scores = best[:, 0]
        weights = np.exp(scores - scores.max(initial=-np.inf))
        rows = zip(best.tolist(), (weights / weights.sum()).tolist())
        spans = [
            Span(example.texts[1][int(start) : int(end)], int(start), int(end), score, p) for (score, start, end), p in rows
        ]
        results.append(Candidates(spans, null if classified or not spans else null - spans[0].score))
    return results


def _best_of_window(begins: np.ndarray, ends: np.ndarray, spans: np.ndarray, n_best: int, max_tokens: int) -> np.ndarray:
    """(score, first character, end) of the best spans, each once, the best first: float64 [at most n_best, 3]."""
    if len(begins) == 0:
        return np.zeros((0, 3))
    behind = max_tokens - 1  # row t of a view: tokens t to t + behind, where a span from t may end
    last = np.lib.stride_tricks.sliding_window_view(np.pad(spans[:, 1], (0, behind)), max_tokens)
    scores = begins[:, None] + np.lib.stride_tricks.sliding_window_view(np.pad(ends, (0, behind)), max_tokens)
    scores = np.where(last > spans[:, :1], scores, -np.inf).ravel()  # past the end `last` is 0
    count = 2 * n_best
    while True:  # several tokens may be one character, and so several pairs of tokens one span
        top = np.argpartition(scores, -count)[-count:] if count < len(scores) else np.arange(len(scores))
        top = top[scores[top] > -np.inf]
        rows = np.stack([scores[top], spans[top // max_tokens, 0], last[np.divmod(top, max_tokens)]], axis=1)
        best = _distinct(rows)[:n_best]
        if len(best) == n_best or count >= len(scores):
            return best
        count *= 8


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Rows (score, start, end), the best first and in the order of the text, each span once."""
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], -rows[:, 0]))]
    _, first = np.unique(rows[:, 1] * 2**31 + rows[:, 2], return_index=True)
    return rows[np.sort(first)]


def prediction_files(windows: Windows, candidates: Sequence[Candidates], threshold: float | None = None) -> dict[str, dict]:
    """File name → content, as SQuAD's evaluation script and its readers expect them, by the examples' ids.

    Args:
      threshold: an answer is empty where the null score is greater; None: never.
    """
    texts, n_best, nulls = {}, {}, {}
    for example, one in zip(windows.examples, candidates, strict=True):
        empty = not one.spans or (threshold is not None and one.null_score > threshold)
        texts[example.id] = "" if empty else one.spans[0].text
        n_best[example.id] = [{name: getattr(span, name) for name in Span.__slots__} for span in one.spans]
        nulls[example.id] = one.null_score
    return {"predictions.json": texts, "nbest_predictions.json": n_best, "null_odds.json": nulls}


def encode(examples: Sequence[Example], tokenizer: PretrainedTokenizer, labels: Labels, max_length: int) -> Features:
    """A row for each window, labels int32 [N, 2]: first and last token of the answer, (0, 0) where none is in the row."""
    known = all(example.label is not None for example in examples)
    windows = encode_windows(examples, tokenizer, max_length, answers=known)
    rows = [(window.ids,) for window in windows.rows]
    return Features(rows, windows.targets if known else None, windows, windows.cut)


def _loss(logits: jax.Array, batch: dict) -> tuple[jax.Array, jax.Array]:
    """The mean of the losses of both ends, among the row's own tokens.

    With three outputs the loss of whether there is an answer is added (the paper, section 5.2).
    """
    labels = batch["labels"]
    ends = jnp.where(batch["segment_ids"][..., None] > 0, logits[..., :2], -1e30).swapaxes(1, 2)  # [B, 2, L]
    losses = cross_entropy(ends, labels).mean(-1)
    if logits.shape[-1] == 3:
        losses += optax.sigmoid_binary_cross_entropy(logits[:, 0, 2], (labels[:, 0] > 0).astype(jnp.float32))
    return losses, (ends.argmax(-1) == labels).all(-1)


def _measure(task: Task, labels: Labels, split: Encoded, logits: Logits) -> dict[str, float]:
    candidates = best_spans(split.features.layout, logits)
    answers = [[text for text, _ in example.label] for example in split.examples]
    texts = [one.spans[0].text if one.spans else "" for one in candidates]
    return squad.squad_metrics(answers, texts, [one.null_score for one in candidates] if task.unanswerable else None)


def _predict(
    task: Task, labels: Labels, split: Encoded, logits: Logits
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    candidates = best_spans(split.features.layout, logits)
    files = prediction_files(split.features.layout, candidates, 0.0 if task.unanswerable else None)
    texts, nulls = files["predictions.json"], files["null_odds.json"]
    return [{"prediction": texts[example.id], "null_score": nulls[example.id]} for example in split.examples], files


def _files(task: Task) -> tuple[tuple[str, ...], ...]:
    version = r"-v2\.0" if task.unanswerable else r"-v1\.1"
    return tuple((name + version, f"{name}(-.*)?", *more) for name, *more in (("train",), (VALID, ALSO_VALID), ("test",)))


SPAN = Kind(
    head="span",
    outputs=lambda task, labels: 3 if task.unanswerable else 2,
    read_row=squad.read_row,
    file_reader={"json": squad.read_file}.get,
    files=_files,
    endings=tuple(FORMATS),
    shared_texts=lambda example: example.texts[1:],
    settle=squad.settle,
    encode=encode,
    loss=_loss,
    too_long=lambda max_length: f"have questions that are cut to {question_limit(max_length)} ids",
    measure=_measure,
    predict=_predict,
)
