"""Pairs are read as their files mean them, whatever is wrong in one is a sentence, and suites are known for what they are."""

import json

import pytest

from roberta_jax.errors import UserError
from roberta_jax.pairs import published
from roberta_jax.pairs.published import PUBLISHED, SUPPLEMENT, ZORRO
from roberta_jax.pairs.suites import CATEGORIES, read


def jsonl(*records: dict) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


PAIR = {"sentence_good": "Who cleaned?\nDavid did.", "sentence_bad": "Who cleaned?\u2028The patio did."}


@pytest.mark.parametrize(
    ("name", "text", "names"),
    [
        ("a.jsonl", jsonl(PAIR, PAIR), {}),
        ("a.jsonl", jsonl(PAIR, PAIR).replace("\n", "\r\n\r\n").replace("\r\n\r\n", "\n\n", 1), {}),
        ("a.jsonl", "\ufeff" + jsonl(PAIR, PAIR).replace("sentence_", ""), {"good": "good", "bad": "bad"}),
        ("a.csv", 'sentence_good,sentence_bad\n"Who cleaned?\nDavid did.",Who cleaned?\u2028The patio did.\n', {}),
        (
            "a.tsv",
            'bad\tx\tgood\nWho cleaned?\u2028The patio did.\t1\t"Who cleaned?\nDavid did."',
            {"good": "good", "bad": "bad"},
        ),
    ],
)
def test_each_form_gives_the_same_pairs(tmp_path, name, text, names):
    (tmp_path / name).write_text(text, "utf-8", newline="")
    (suite,) = read([str(tmp_path / name)], **names)
    assert (suite.name, suite.whole, suite.paradigms[0].name) == (tmp_path.name, False, "a")
    assert set(suite.paradigms[0].pairs) == {tuple(PAIR.values())}


def test_of_alternating_lines_the_second_is_the_good_one(tmp_path):
    for end in ("\n", "\r\n", ""):
        (tmp_path / "irregular-verb.txt").write_text(f"He chose to .\nHe chosen to .\r\n  a b\nc d{end}", newline="")
        (suite,) = read([str(tmp_path / "*.txt")])
        assert suite.paradigms[0].pairs == (("He chosen to .", "He chose to ."), ("c d", "  a b"))
    assert (suite.name, suite.whole) == ("Zorro", False)  # one paradigm of 23


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"one\ntwo\nthree\n", r"a\.txt has 3 lines, an odd number: expected pairs, a bad sentence and below it"),
        ("a.txt", b"one\ntwo\n\nfour\n", r"a\.txt, line 3 is empty"),
        ("a.txt", b"", r"a\.txt is empty"),
        ("a.jsonl", b"\n \n", r"a\.jsonl is empty"),
        ("a.jsonl", b"\xff\xfe", r"a\.jsonl cannot be read as UTF-8 text"),
        ("a.jsonl", b'{"sentence_good": "a"}\n', r"a\.jsonl, line 1: there is no 'sentence_bad' among sentence_good; --bad"),
        (
            "a.jsonl",
            b'{"sentence_good": "a", "sentence_bad": 3}\n',
            r"a\.jsonl, line 1: sentence_bad is 3; expected a sentence",
        ),
        ("a.jsonl", b'{"sentence_good": " ", "sentence_bad": "a"}\n', r"line 1: sentence_good is ' '; expected a sentence"),
        ("a.jsonl", b'\n{"sentence_good": "a"', r"a\.jsonl, line 2 is not JSON"),
        ("a.jsonl", b'["a", "b"]\n', r"a\.jsonl, line 1 is no JSON object"),
        ("a.csv", b"x,sentence_bad\na,b\n", r"a\.csv, line 2: there is no 'sentence_good' among x, sentence_bad; --good"),
        ("a.csv", b"sentence_good,sentence_bad\na\n", r"a\.csv, line 2 has another number of columns .* has 2"),
        ("a.csv", b"sentence_good,sentence_bad\na,b,c\n", r"a\.csv, line 2 has another number of columns"),
        ("a.csv", b'sentence_good,sentence_bad\na,"b\n', r"a\.csv, line \d cannot be read as a table"),
        ("a.tsv", b"sentence_good\tsentence_bad\n", r"a\.tsv holds no pair"),
        ("a.parquet", b"PAR1", r"a\.parquet: minimal pairs are read from \.jsonl, \.csv, \.tsv, \.txt"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read([str(tmp_path / name)])


def test_sources_without_files_are_named(tmp_path):
    (tmp_path / "README.md").write_text("no pairs")
    with pytest.raises(UserError, match=r"holds no file of \.jsonl, \.csv, \.tsv, \.txt"):
        read([str(tmp_path)])
    for nowhere in ("nowhere", "*.jsonl"):
        with pytest.raises(UserError, match="is no file, folder or glob that names any"):
            read([str(tmp_path / nowhere)])


def test_the_suites_are_whole_and_have_their_papers_categories(minimal_pairs):
    folders = [str(minimal_pairs / name) for name in ("blimp", "blimp-supplement", "zorro")]
    blimp, supplement, zorro = read(
        [*folders, str(minimal_pairs / "zorro" / "*.txt")]
    )  # a file that is named twice counts once
    assert [(suite.name, suite.whole) for suite in (blimp, supplement, zorro)] == [
        ("BLiMP", True), ("BLiMP supplement, filtered", True), ("Zorro", True),
    ]  # fmt: skip
    assert (blimp.pairs, supplement.pairs, zorro.pairs) == (67_000, 5_218, 46_000)
    category = {paradigm.name: paradigm.category for paradigm in blimp.paradigms}
    assert len(set(category.values())) == 12 and set(category.values()) == set(CATEGORIES.values())
    assert category["animate_subject_trans"] == category["animate_subject_passive"] == category["passive_1"]
    assert {paradigm.name for paradigm in zorro.paradigms} == set(ZORRO)
    assert sorted(paradigm.name for paradigm in supplement.paradigms) == sorted(SUPPLEMENT)
    verbs = next(paradigm for paradigm in zorro.paradigms if paradigm.name == "irregular-verb")
    good = "Michael chose the good one some time ago ."
    assert verbs.pairs[0] == (good, good.replace("chose", "chosen"))
    turns = next(paradigm for paradigm in supplement.paradigms if paradigm.name == "turn_taking")
    assert any("\n" in good for good, _ in turns.pairs)


def test_zorro_is_the_same_with_the_good_line_first_as_unmasked_has_it(minimal_pairs, tmp_path):
    (suite,) = read([str(minimal_pairs / "zorro")])
    for paradigm in suite.paradigms:
        text = "".join(f"{good}\n{bad}\n" for good, bad in paradigm.pairs)
        (tmp_path / f"{paradigm.name}.txt").write_text(text)
    assert read([str(tmp_path)]) == [suite]


def test_a_sample_is_the_same_and_a_larger_one_holds_it(minimal_pairs):
    source = [str(minimal_pairs / "zorro")]
    small, again, large = (read(source, pairs=pairs)[0] for pairs in (40, 40, 100))
    assert small == again and small.pairs == 40 * 23 and small.whole
    for few, more in zip(small.paradigms, large.paradigms, strict=True):
        assert set(few.pairs) <= set(more.pairs) and few.of == 2_000
        everything = dict.fromkeys(read([str(minimal_pairs / "zorro" / f"{few.name}.txt")])[0].paradigms[0].pairs)
        places = [list(everything).index(pair) / len(everything) for pair in more.pairs]
        assert 0.3 < sum(places) / len(places) < 0.7  # of the whole file
    assert read(source, pairs=5_000) == read(source)


def test_published_rows_are_means_of_what_they_are_made_of():
    assert set(published.CATEGORIES) == set(CATEGORIES.values())
    for row in PUBLISHED:
        if len(row.paradigms) == 23:
            assert abs(sum(row.paradigms.values()) / 23 - row.overall) < 0.06, row
        if row.over_categories and row.categories:
            assert abs(sum(row.categories.values()) / 12 - row.over_categories) < 0.06, row
        if row.paradigms and row.suite.startswith("BLiMP supplement"):
            assert abs(sum(row.paradigms.values()) / 5 - row.overall) < 0.06, row
        if row.suite == "BLiMP" and row.categories:  # weighed by their paradigms, the mean over these
            paradigms = (2, 9, 7, 5, 8, 2, 7, 2, 8, 7, 4, 6)
            mean = sum(n * value for n, value in zip(paradigms, row.categories.values(), strict=True)) / 67
            assert abs(mean - row.overall) < 0.75, (row, mean)
