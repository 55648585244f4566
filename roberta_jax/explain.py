"""What a model's answer rests on: how each token surprises it, and what each word does to a label."""

import functools
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from roberta_jax.bucketing import buckets, map_rows, power_of_two
from roberta_jax.errors import UserError
from roberta_jax.inference import Model
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm
from roberta_jax.tokenization.pretrained import encode_rows, frame_of

ROWS = 64  # that a text is asked about in; of a longer one several tokens or words are masked at once
# What copies of a text that each have another token masked are padded to. They stand side by side, apart in attention: a
# sentence's own few lengths, padded one by one, would be half padding.
WIDTHS = tuple(range(64, 513, 64))


@dataclass(frozen=True)
class Surprise:
    """A token of a text, masked."""

    token: str
    nats: float  # -log of the probability that it had
    best: str  # the token that had most
    probability: float  # the best one's


@dataclass(frozen=True)
class Effect:
    """A word of a text, masked, or several words that stand together."""

    text: str
    change: float  # the label's probability, or of a regression its value, less what it is without the word


@functools.partial(jax.jit, static_argnames=("config", "known"))
def _predict(params, ids, segment_ids, positions, labels, config: RobertaConfig, known: int):
    logits = apply_masked_lm(params, config, ids, segment_ids, positions)[..., :known]
    logs = jax.nn.log_softmax(logits.astype(jnp.float32))  # [B, S, V]
    return jnp.take_along_axis(logs, labels[..., None], axis=-1)[..., 0], logs.argmax(-1), logs.max(-1)


def surprises(model: Model, text: str) -> list[Surprise]:
    """Of each token of the text, as far as it fits a row: what a masked LM makes of its place without it.

    Raises:
      UserError: the model has no masked-LM head.
    """
    if model.head != "lm_head":
        raise UserError(f"{model.origin} has no masked-LM head, which is needed to tell how probable a token is.")
    ((row,), cut) = encode_rows(model.tokenizer, [(text,)], model.config.max_length)
    if cut:
        warnings.warn(f"the text is too long for the model's {model.config.max_length} tokens and was cut.", stacklevel=2)
    before, behind = map(len, frame_of(model.tokenizer, 1))
    places = np.arange(before, len(row) - behind)
    masked = [places[number::ROWS] for number in range(min(ROWS, len(places)))]
    copies = np.tile(row, (len(masked), 1))
    for copy, at in zip(copies, masked):
        copy[at] = model.tokenizer.mask
    rows = -(-len(copies) // max(1, WIDTHS[-1] // len(row)))
    parts = np.array_split(np.arange(len(copies)), max(1, rows))  # the copies of each row

    def predict(ids, used, indices):
        place = np.arange(ids.shape[1])
        segment_ids = np.where(place < used[:, None], place // len(row) + 1, 0).astype(np.int32)
        slots = [np.concatenate([copy * len(row) + masked[i] for copy, i in enumerate(parts[index])]) for index in indices]
        positions = np.zeros((len(ids), power_of_two(max(map(len, slots)))), np.int32)
        labels = np.zeros_like(positions)
        for number, at in enumerate(slots):
            positions[number, : len(at)], labels[number, : len(at)] = at, row[at % len(row)]
        return _predict(model.params, ids, segment_ids, positions, labels, model.config, len(model.tokenizer))

    found: list[Surprise | None] = [None] * len(row)
    joined, widths = [copies[part].reshape(-1) for part in parts if len(part)], buckets(max(WIDTHS[-1], len(row)), WIDTHS)
    predicted = map_rows(predict, joined, widths, model.batch_tokens, model.config.pad_id)
    for part, (logs, best, best_logs) in zip(parts, predicted):
        at = np.concatenate([masked[i] for i in part])
        for place, log, other, other_log in zip(at, logs, best, best_logs):
            decode = model.tokenizer.decode
            found[place] = Surprise(decode([row[place]]), float(-log), decode([other]), float(np.exp(other_log)))
    return found[before : len(row) - behind]


def effects(model: Model, texts: Sequence[str], label: str) -> list[list[Effect]]:
    """What each word of a text, or of a pair, does to a label: masked, and the label asked for again.

    Raises:
      UserError: the model does not classify, or has no such label.
    """
    # What follows these has no place in a row.
    places = [[match.span() for match in re.finditer(r"\S+", text)][: model.config.max_length] for text in texts]
    words = [[text[start:end] for start, end in of] for text, of in zip(texts, places)]
    together = max(1, -(-sum(map(len, words)) // ROWS))  # words that are masked at once
    parts = [[slice(start, start + together) for start in range(0, len(of), together)] for of in words]
    variants, mask = [tuple(texts)], model.tokenizer.mask_token
    for number, slices in enumerate(parts):
        for each in slices:
            changed = texts[number]
            for start, end in reversed(places[number][each]):  # the white space stays, so that the mask alone differs
                changed = f"{changed[:start]}{mask}{changed[end:]}"
            variants.append((*texts[:number], changed, *texts[number + 1 :]))
    answers = model.classify([each[0] if len(each) == 1 else each for each in variants])
    if label not in answers[0]:
        raise UserError(f"{model.origin} has no label {label!r}; it has {', '.join(answers[0])}.")
    whole, *others = (answer[label] for answer in answers)
    left = iter(others)
    return [[Effect(" ".join(of[each]), whole - next(left)) for each in slices] for of, slices in zip(words, parts)]
