"""Each mode over a million rows: how many, which, replaced by what; and that nothing but (seed, epoch, row) decides it."""

import hashlib
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import tensorflow as tf

from roberta_jax.config import typed
from roberta_jax.data import masking as masking_module
from roberta_jax.data.masking import MODES, Masking, Mode, Vocabulary
from roberta_jax.data.pipeline import vocabulary_of
from roberta_jax.errors import UserError
from roberta_jax.pretraining.config import PretrainConfig

BOS, PAD, EOS, UNK, MASK = 0, 1, 2, 3, 999
SIZE, LENGTH, ROWS, CHUNKS = 1_000, 64, 20_000, 50
TEXT_IDS = np.arange(4, 990)  # 990 to 998 are in the vocabulary and come from no text, as RoBERTa's madeupwords
SPECIAL = np.isin(np.arange(SIZE), [BOS, PAD, EOS, UNK, MASK])


def make_vocabulary() -> Vocabulary:
    starts = np.random.default_rng(1).random(SIZE) < 0.6
    return Vocabulary(SIZE, BOS, PAD, EOS, MASK, TEXT_IDS, starts, SPECIAL)


VOCABULARY = make_vocabulary()


def make_rows(count: int = ROWS) -> np.ndarray:
    """Half of them full and of one document, half of any length, of two documents, padded."""
    random = np.random.default_rng(0)
    rows = random.choice(TEXT_IDS, (count, LENGTH)).astype(np.int32)
    rows[:, 0] = BOS
    for row in rows[::2]:
        end = random.integers(1, LENGTH)
        row[end], row[end + 1 :] = EOS, PAD
        if end > 8:
            row[end // 2 : end // 2 + 2] = EOS
    rows[1::2, -1] = EOS
    return rows


def words_of(rows: np.ndarray, starts_word: np.ndarray = VOCABULARY.starts_word) -> np.ndarray:
    """Which word of all each token is of, -1 for special ones: a word starts at its mark or behind a special token."""
    special = SPECIAL[rows]
    behind = np.pad(special, ((0, 0), (1, 0)), constant_values=True)[:, :-1]
    starts = ~special & (starts_word[rows] | behind)
    return np.where(special, -1, np.cumsum(starts).reshape(rows.shape) - 1)


def masker(masking: Masking, seed: int = 7, vocabulary: Vocabulary = VOCABULARY):
    return tf.function(lambda rows, row_ids, epochs: masking(rows, row_ids, epochs, seed, vocabulary))


def apply(mask, rows, row_ids, epoch=0) -> dict[str, np.ndarray]:
    row_ids = np.asarray(row_ids, np.int64)
    masked = mask(tf.constant(rows), tf.constant(row_ids), tf.fill(row_ids.shape, np.int64(epoch)))
    return {name: tensor.numpy() for name, tensor in masked.items()}


def selection(masked: dict[str, np.ndarray], length: int = LENGTH) -> np.ndarray:
    """bool [B, L]"""
    selected = np.zeros((len(masked["weights"]), length), bool)
    np.put_along_axis(selected, masked["positions"], masked["weights"] == 1, 1)
    return selected


@dataclass
class Totals:
    """What a million rows showed. A unit is a token, or a word where whole words are masked."""

    picked: np.ndarray = field(default_factory=lambda: np.zeros((LENGTH + 1, LENGTH + 1), np.int64))  # [units, of these]
    at: np.ndarray = field(default_factory=lambda: np.zeros(LENGTH, np.int64))  # selected in a full row, by position
    kinds: np.ndarray = field(default_factory=lambda: np.zeros(3, np.int64))  # masked, unchanged, another token
    originals: np.ndarray = field(default_factory=lambda: np.zeros(SIZE, np.int64))  # selected, by what stood there
    random: np.ndarray = field(default_factory=lambda: np.zeros(SIZE, np.int64))  # the other tokens
    mixed_words: int = 0
    tokens: int = 0


@pytest.fixture(scope="module", params=["roberta", "fairseq", "hf", "whole_word"])
def simulated(request) -> tuple[str, Totals]:
    mode, rows, totals = request.param, make_rows(), Totals()
    mask, full = masker(Masking(mode)), (rows != PAD).all(1)
    words = words_of(rows)
    in_text, word_lengths = words >= 0, np.bincount(words[words >= 0])
    row_of_word = np.nonzero(in_text)[0][np.unique(words[in_text], return_index=True)[1]]
    units = {"whole_word": np.bincount(row_of_word, minlength=ROWS), "fairseq": (rows != PAD).sum(1)}.get(mode, in_text.sum(1))
    for chunk in range(CHUNKS):
        masked = apply(mask, rows, np.arange(ROWS) + chunk * ROWS)
        selected, inputs = selection(masked), masked["input_ids"]
        assert (masked["labels"] == np.take_along_axis(rows, masked["positions"], 1)).all()
        assert (inputs == rows)[~selected].all()
        assert not (selected & (rows == PAD)).any()
        got, was = inputs[selected], rows[selected]
        kinds = [got == MASK, got == was, (got != MASK) & (got != was)]
        if mode == "whole_word":
            of_word = np.bincount(words[selected], minlength=len(word_lengths))
            assert ((of_word == 0) | (of_word == word_lengths)).all()  # whole, or not at all
            by_kind = [np.bincount(words[selected][kind], minlength=len(word_lengths)) for kind in kinds]
            agreed = [(of_word > 0) & (kind == of_word) for kind in by_kind]
            totals.mixed_words += (of_word > 0).sum() - sum(kind.sum() for kind in agreed)
            assert ((by_kind[0] == 0) | agreed[0]).all()  # <mask> for all of a word or none
            totals.kinds += [kind.sum() for kind in agreed]
            picked = np.bincount(row_of_word[of_word > 0], minlength=ROWS)
        else:
            totals.kinds += [kind.sum() for kind in kinds]
            picked = selected.sum(1)
        np.add.at(totals.picked, (units, picked), 1)
        totals.at += selected[full].sum(0)
        totals.originals += np.bincount(was, minlength=SIZE)
        totals.random += np.bincount(got[kinds[2]], minlength=SIZE)
        totals.tokens += selected.sum()
    return mode, totals


def chi_square(counts: np.ndarray) -> float:
    """In standard deviations from what as many equally likely cases give."""
    expected = counts.sum() / len(counts)
    return (((counts - expected) ** 2 / expected).sum() - (len(counts) - 1)) / np.sqrt(2 * (len(counts) - 1))


def test_how_many_are_selected_in_a_row(simulated):
    mode, totals = simulated
    assert totals.picked.sum() == 1_000_000
    for units, by_number in enumerate(totals.picked):
        rows, numbers = by_number.sum(), np.arange(LENGTH + 1)
        if not rows:
            continue
        mean = (by_number * numbers).sum() / rows
        if mode == "hf":  # every token for itself
            variance = 0.15 * 0.85 * units
            assert abs((by_number * (numbers - mean) ** 2).sum() / rows - variance) <= 0.1 * variance + 1e-9 or rows < 5_000
        else:  # ⌊0.15·n + u⌋
            floor = int(0.15 * units)
            assert set(np.nonzero(by_number)[0]) <= {floor, floor + 1}
            variance = 0.15 * units % 1 * (1 - 0.15 * units % 1)
        assert abs(mean - 0.15 * units) <= 6 * np.sqrt(variance / rows) + 1e-9, (units, mean)
    units = (totals.picked.sum(1) * np.arange(LENGTH + 1)).sum()
    assert abs((totals.picked.sum(0) * np.arange(LENGTH + 1)).sum() / units - 0.15) < 0.001


def test_independent_draws_vary_as_a_binomial(simulated):
    mode, totals = simulated
    by_number, numbers = totals.picked[62], np.arange(LENGTH + 1)  # rows that are full
    mean = (by_number * numbers).sum() / max(1, by_number.sum())
    variance = (by_number * (numbers - mean) ** 2).sum() / max(1, by_number.sum())
    if mode == "hf":
        assert by_number.sum() >= 500_000 and abs(variance / (62 * 0.15 * 0.85) - 1) < 0.01
    else:
        assert variance <= 0.25


def test_eighty_ten_ten(simulated):
    mode, totals = simulated
    shares = totals.kinds / totals.kinds.sum()
    hits = {"hf": 1 / SIZE, "fairseq": 1 / (SIZE - 4)}.get(mode, 0)  # a random token that is <mask>
    unchanged = 0.1 / len(TEXT_IDS)  # one that is what stood there
    expected = np.array([0.8 + 0.1 * hits, 0.1 + unchanged, 0.1 - 0.1 * hits - unchanged])
    assert np.abs(shares - [0.8, 0.1, 0.1]).max() < 0.002
    assert np.abs(shares - expected).max() < 6 * np.sqrt(0.16 / totals.kinds.sum()) + 0.0001
    assert totals.mixed_words < 0.001 * totals.kinds.sum()  # by chance the random token is the one that stood there


def test_what_may_be_selected(simulated):
    mode, totals = simulated
    assert totals.originals[TEXT_IDS].min() > 0 and totals.originals[PAD] == 0
    if mode == "fairseq":  # </s> and <s> as often as any other position
        assert abs(totals.originals[BOS] / (0.15 * 1_000_000) - 1) < 0.05 and totals.originals[EOS] > totals.originals[BOS]
    else:
        assert not totals.originals[SPECIAL].any()


def test_what_replaces_it(simulated):
    mode, totals = simulated
    allowed = {"hf": np.arange(SIZE), "fairseq": np.arange(4, SIZE)}.get(mode, TEXT_IDS)
    counts = totals.random.copy()
    assert counts.sum() > 200_000
    if mode in ("hf", "fairseq"):
        assert counts[MASK] == 0 and counts[990:999].min() > 0  # <mask> counts as masked here
        allowed = allowed[allowed != MASK]
    assert counts[np.setdiff1d(np.arange(SIZE), allowed)].sum() == 0
    usual = np.intersect1d(allowed, TEXT_IDS)  # these may be what stood there, as often one as another
    assert abs(chi_square(counts[usual])) < 6


def test_every_position_is_as_likely(simulated):
    mode, totals = simulated
    first, last = (0, LENGTH) if mode == "fairseq" else (1, LENGTH - 1)
    assert totals.at[:first].sum() == totals.at[last:].sum() == 0
    assert chi_square(totals.at[first:last]) < 6


@pytest.mark.parametrize("mode", MODES)
def test_shapes_and_slots(mode):
    masking, rows = Masking(mode), make_rows(100)
    masked = apply(masker(masking), rows, np.arange(100))
    shapes = {name: (array.shape, array.dtype) for name, array in masked.items()}
    slots = (100, masking.slots(LENGTH))
    assert shapes == {
        "input_ids": ((100, LENGTH), np.int32),
        "positions": (slots, np.int32),
        "labels": (slots, np.int32),
        "weights": (slots, np.float32),
    }
    assert set(np.unique(masked["weights"])) == {0, 1}
    for positions in masked["positions"]:
        assert len(set(positions)) == len(positions)  # so that scattering into a row means one thing
    assert Masking("roberta").slots(512) == 78  # ⌈0.15·512⌉ + 1


@pytest.mark.parametrize("mode", MODES)
def test_the_batch_decides_nothing(mode):
    mask, rows, row_ids = masker(Masking(mode)), make_rows(256), np.random.default_rng(2).integers(0, 10**12, 256)
    whole = apply(mask, rows, row_ids, epoch=3)
    for size in (1, 8):
        parts = [apply(mask, rows[i : i + size], row_ids[i : i + size], epoch=3) for i in range(0, 256, size)]
        for name, array in whole.items():
            np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)


@pytest.mark.parametrize("mode", MODES)
def test_another_epoch_row_or_seed_is_another_draw(mode):
    masking, rows = Masking(mode), np.repeat(make_rows(2)[1:], 20_000, 0)
    mask, row_ids = masker(masking), np.arange(20_000)
    first = selection(apply(mask, rows, row_ids))
    again = selection(apply(mask, rows, row_ids))
    np.testing.assert_array_equal(first, again)
    others = {
        "epoch": apply(mask, rows, row_ids, epoch=1),
        "a far epoch": apply(mask, rows, row_ids, epoch=2**40),
        "row": apply(mask, rows, row_ids + 1),
        "a far row": apply(mask, rows, row_ids + 2**40),
        "seed": apply(masker(masking, seed=8), rows, row_ids),
        "a negative seed": apply(masker(masking, seed=-1), rows, row_ids),
    }
    for name, other in others.items():
        other = selection(other)
        share = (first & other).sum() / first.sum()  # selected by both, of those selected by one
        assert abs(share - first.mean()) < 0.02 and (first != other).any(1).mean() > 0.99, name


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("mask, random", [(0.9, 0.1), (1, 0), (0.5, 0.2)])
def test_what_goes_in_their_place_is_a_field(mode, mask, random):
    """The same tokens are predicted whatever goes in their place: shares at five standard deviations of the decisions."""
    rows, masking = make_rows(5_000), Masking(mode, mask_replace_prob=mask, random_replace_prob=random)
    masked, usual = (apply(masker(each), rows, np.arange(len(rows))) for each in (masking, Masking(mode)))
    for name in ("positions", "labels", "weights"):
        np.testing.assert_array_equal(masked[name], usual[name])
    selected, inputs = selection(masked), masked["input_ids"]
    got, was = inputs[selected], rows[selected]
    assert (inputs == rows)[~selected].all()
    shares = np.array([(got == MASK).mean(), ((got != MASK) & (got != was)).mean(), (got == was).mean()])
    expected = np.array([mask, random, 1 - mask - random])
    decisions = selected.sum() / {"whole_word": 2, "spans": 8}.get(mode, 1)  # of the mean word, and more than the mean run
    assert np.abs(shares - expected).max() < 5 * np.sqrt(0.25 / decisions) + 1.5 * random / len(TEXT_IDS)
    if mask + random == 1:  # nothing is kept, but a random token that is by chance the one that stood there
        assert (got == was).mean() < 2 * random / len(TEXT_IDS) + 1e-9
    if not random:
        assert ((got == MASK) | (got == was)).all()


# SHA-256 of input_ids and weights as runs begun before those shares were fields have them: such a run goes on with these.
DRAWN = {
    "roberta": "dfb6478629903b9d",
    "fairseq": "04f174ea74997e80",
    "hf": "64bf0f878af97c05",
    "whole_word": "315373f5160bcaf5",
    "static": "3402e785a453d013",
    "spans": "fffb42627ebc2df9",
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_begun_before_goes_on_with_the_same_masks(mode):
    masked = apply(masker(Masking(mode)), make_rows(2_000), np.arange(2_000) + 10**10, epoch=13)
    drawn = masked["input_ids"].tobytes() + masked["weights"].tobytes()
    assert hashlib.sha256(drawn).hexdigest()[:16] == DRAWN[mode]


def test_the_rate_is_a_field():
    masked = apply(masker(Masking("roberta", 0.4)), make_rows(2_000)[1::2], np.arange(1_000))
    assert set(masked["weights"].sum(1)) == {24, 25}  # of 62 tokens


def test_nothing_is_selected_where_there_is_nothing():
    rows = np.full((4, LENGTH), PAD, np.int32)
    rows[:, 0], rows[:, 1] = BOS, EOS
    for mode in ("roberta", "hf", "whole_word"):
        masked = apply(masker(Masking(mode)), rows, np.arange(4))
        assert masked["weights"].sum() == 0
        np.testing.assert_array_equal(masked["input_ids"], rows)


def test_words_are_those_of_the_text(small_corpus):
    tokenizer, vocabulary = small_corpus.tokenizer, vocabulary_of(small_corpus.tokenizer)
    rows = small_corpus.train.gather(np.arange(500))
    masked = apply(masker(Masking("whole_word"), vocabulary=vocabulary), rows, np.arange(500))
    selected, split_words = selection(masked), 0
    for row, chosen in zip(rows, selected):
        words, number = {}, 0
        for at, id in enumerate(row):
            text = tokenizer.decode_bytes([id]).decode()
            number += not text or text.startswith(" ")  # a special token, or a word's space
            if text:
                words.setdefault(number, []).append(at)
            number += not text
        text = "".join(tokenizer.decode_bytes([id]).decode() or "\n" for id in row)
        assert len(words) == len(text.split())
        picked = [chosen[at].tolist() for at in words.values()]
        assert all(all(each) or not any(each) for each in picked)
        assert sum(map(all, picked)) in {int(0.15 * len(words)), int(0.15 * len(words)) + 1}
        split_words += sum(len(each) > 1 and all(each) for each in picked)
    assert split_words > 500


def test_white_space_of_any_kind_parts_words(roberta_tokenizer):
    vocabulary = vocabulary_of(roberta_tokenizer)
    text = " unbelievably\nextraordinary\tcounterintuitively  electroencephalograph"
    ids = [roberta_tokenizer.bos, *roberta_tokenizer.encode(text), roberta_tokenizer.eos]
    row = np.full((2_000, 64), roberta_tokenizer.pad, np.int32)
    row[:, : len(ids)] = ids
    selected = selection(apply(masker(Masking("whole_word", 0.3), vocabulary=vocabulary), row, np.arange(2_000)))
    together = {
        roberta_tokenizer.decode(np.array(ids)[np.nonzero(chosen[: len(ids)])[0]])
        for chosen in selected
        if chosen[: len(ids)].any()
    }
    words = [" unbelievably", "\n", "extraordinary", "\t", "counterintuitively", " electroencephalograph", " "]
    for found in together:
        for word in words:
            found = found.replace(word, "|", 1)
        assert set(found) == {"|"}, found
    assert len(together) > 45  # of the 21 pairs and 35 triples of seven words


def test_static_masks_are_ten_patterns_in_turn(roberta_tokenizer, assets):
    """On real text; the patterns of the first ten epochs are those of `roberta`."""
    text = (assets / "text" / "tinyshakespeare.txt").read_text("utf-8")
    ids = roberta_tokenizer.encode(text[:100_000])[: 126 * 150].reshape(-1, 126)
    rows = np.pad(ids, ((0, 0), (1, 1)), constant_values=roberta_tokenizer.bos).astype(np.int32)
    rows[:, -1] = roberta_tokenizer.eos
    vocabulary, row_ids = vocabulary_of(roberta_tokenizer), np.arange(len(rows))
    static, drawn = (masker(Masking(mode), vocabulary=vocabulary) for mode in ("static", "roberta"))
    epochs = [apply(static, rows, row_ids, epoch) for epoch in range(40)]
    for i in row_ids:
        patterns = {epoch["input_ids"][i].tobytes() for epoch in epochs}
        assert len(patterns) == 10 and len({epoch["input_ids"][i].tobytes() for epoch in epochs[:10]}) == 10
    for epoch in range(40):
        np.testing.assert_array_equal(epochs[epoch]["input_ids"], apply(drawn, rows, row_ids, epoch % 10)["input_ids"])


def test_spans_are_runs_of_whole_words():
    masking, rows = Masking("spans"), make_rows()
    masked = apply(masker(masking), rows, np.arange(ROWS))
    selected, inputs, words = selection(masked), masked["input_ids"], words_of(rows)
    tokens = (words >= 0).sum(1)
    assert set(masked["weights"].sum(1) - np.floor(0.15 * tokens)) == {0, 1}  # as many as `roberta` masks
    assert masking.slots(LENGTH) == Masking("roberta").slots(LENGTH)
    edges = np.diff(np.pad(selected, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    cut, runs, in_words = 0, 0, []
    for row, first, last in zip(np.nonzero(edges == 1)[0], np.nonzero(edges == 1)[1], np.nonzero(edges == -1)[1]):
        whole = words[row, first] != words[row, first - 1] and words[row, min(last, LENGTH - 1)] != words[row, last - 1]
        cut, runs = cut + (not whole), runs + 1
        in_words.append(words[row, last - 1] - words[row, first] + 1)
    assert cut <= ROWS and 2 * cut < runs  # no more than one in a row
    # Spans of 3.8 words; rows of 64 tokens with 9 to mask cut many short, and neighbours grow together.
    assert 2.4 < np.mean(in_words) < 3.8
    kinds = [(inputs == MASK) & selected, (inputs == rows) & selected]
    assert abs(kinds[0].sum() / selected.sum() - 0.8) < 0.01 and abs(kinds[1].sum() / selected.sum() - 0.1) < 0.01
    changes = (kinds[0][:, 1:] != kinds[0][:, :-1]) & selected[:, 1:] & selected[:, :-1]
    assert changes.sum() < 0.05 * selected.sum()  # one decision for a span: a change is where two spans meet


def test_a_word_too_long_for_the_slots_is_left_whole():
    masking, rows = Masking("whole_word"), make_rows(4_000)
    starts = np.random.default_rng(1).random(SIZE) < 0.03
    mask = masker(masking, vocabulary=replace(VOCABULARY, starts_word=starts))
    words, selected = words_of(rows, starts), selection(apply(mask, rows, np.arange(4_000)))
    lengths, of_word = np.bincount(words[words >= 0]), np.bincount(words[selected], minlength=words.max() + 1)
    assert ((of_word == 0) | (of_word == lengths)).all()
    assert (lengths > masking.slots(LENGTH)).sum() > 500 and (of_word > masking.slots(LENGTH) / 2).sum() > 50


def test_modes_and_rates_that_are_not_known_are_refused():
    with pytest.raises(UserError, match="data.masking is 'span'; it can be 'roberta' or 'fairseq' or 'hf' or .* or 'spans'"):
        Masking("span")
    with pytest.raises(UserError, match=r"data.masking_rate is 1\.5"):
        Masking("roberta", 1.5)


@pytest.mark.parametrize(
    ("mask", "random", "message"),
    [
        (-0.1, 0.1, r"data.mask_replace_prob is -0\.1; expected a share from 0 to 1"),
        (0.8, 10.0, r"data.random_replace_prob is 10\.0; expected a share from 0 to 1"),
        (float("nan"), 0.1, "data.mask_replace_prob is nan"),
        (0.9, 0.2, r"data.mask_replace_prob 0\.9 and config.data.random_replace_prob 0\.2 are more than 1 together"),
    ],
)
def test_shares_that_cannot_be_are_refused(mask, random, message):
    with pytest.raises(UserError, match=message):
        Masking("roberta", 0.15, mask, random)
    with pytest.raises(UserError, match=message):  # and so before a corpus is prepared
        typed(PretrainConfig, {"data": {"mask_replace_prob": mask, "random_replace_prob": random}})


def test_what_is_kept_is_the_rest():
    kept = [Masking("hf", 0.15, *shares).keep_prob for shares in ((0.8, 0.1), (0.9, 0.1), (0.7, 0.2), (1, 0), (0, 0))]
    assert kept == [0.1, 0, 0.1, 0, 1]


def test_a_mode_is_a_function_and_a_row_of_one_table(monkeypatch):
    """Only here: the config takes its name, rows are masked by it, and its own properties are asked for."""

    def first_tokens(rows):
        hashes = masking_module._hash_of_positions(rows)
        positions = tf.broadcast_to(tf.range(1, rows.slots + 1)[None], (len(rows.ids), rows.slots))
        return masking_module.Selection(hashes, positions, tf.ones(positions.shape, bool))

    monkeypatch.setitem(MODES, "first", Mode(first_tokens, patterns=3))
    config = typed(PretrainConfig, {"data": {"masking": "first"}}).data
    masking, rows = Masking(config.masking), make_rows(10)[1::2]
    assert masking.patterns == 3 and not masking.predicts_special_tokens
    masked = [apply(masker(masking), rows, np.arange(5), epoch) for epoch in (0, 1, 3)]
    assert np.flatnonzero(selection(masked[0]).all(0)).tolist() == list(range(1, masking.slots(LENGTH) + 1))
    assert (masked[0]["input_ids"] == masked[2]["input_ids"]).all() and (masked[0]["input_ids"] != masked[1]["input_ids"]).any()
