"""What is dropped is what a comparison of all with all would drop, whatever the processes; nothing else is."""

import json
import random
import re
from pathlib import Path

import fsspec
import numpy as np
import pytest

from roberta_jax.data.corpus import report
from roberta_jax.errors import UserError
from roberta_jax.preparation import documents, ngrams, plan, prepare, processes
from roberta_jax.preparation.config import CorpusConfig, cache_key_fields
from roberta_jax.tokenization.tokenizer import ByteLevelBPE


def write(path: Path, texts: list[str]) -> str:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def changed(text: str, chooser: random.Random, words: int) -> str:
    """A near duplicate: some of its words are others."""
    parts = text.split(" ")
    for i in chooser.sample(range(len(parts)), words):
        parts[i] = f"other{chooser.randrange(1000)}"
    return " ".join(parts)


def planted(seed: int) -> list[str]:
    """Texts of which many repeat one another, exactly, nearly, hardly, and in chains."""
    chooser = random.Random(seed)
    texts = [" ".join(f"w{chooser.randrange(2000)}" for _ in range(chooser.randint(1, 150))) for _ in range(60)]
    for _ in range(120):
        text = chooser.choice(texts)
        often = min(len(text.split(" ")), chooser.choice([0, 0, 1, 2, 3, 6]))
        texts.append(changed(text, chooser, often))
    texts += ["?!", "...", "?!", "Same words", "same, words!"]
    chooser.shuffle(texts)
    return texts


def brute_force(texts: list[str], mode: str) -> dict[int, tuple[str, int]]:
    """Each text with each earlier one: the number of a dropped text → why, and which it repeats."""
    dropped, signatures = {}, [ngrams.signature(ngrams.words(text)[0]) for text in texts]
    for b, text in enumerate(texts):
        if text in texts[:b]:
            dropped[b] = ("exact_duplicates", texts.index(text))
        elif mode == "near" and ngrams.words(text)[0].size:
            firsts = []
            for band in range(0, ngrams.HASHES, 8):
                same = [(s[band : band + 8] == signatures[b][band : band + 8]).all() for s in signatures[: b + 1]]
                firsts.append(same.index(True))
            near = [a for a in firsts if a != b and (signatures[a] == signatures[b]).mean() >= 0.8]
            if near:
                dropped[b] = ("near_duplicates", min(near))
    return dropped


def made(texts, vocabulary, folder, processes=1, files=1, **fields):
    """The corpus of texts, and what dropped.jsonl says."""
    folder.mkdir()
    for number, part in enumerate(np.array_split(np.array(texts, object), files)):
        write(folder / f"{number:02}.jsonl", part.tolist())
    recipe = CorpusConfig((str(folder / "*.jsonl"),), vocabulary, "doc-sentences", 512, 0.2, **fields)
    corpus = prepare.prepare(recipe, folder / "corpus", folder / "cache", processes)
    lines = [json.loads(line) for line in (folder / "corpus" / "dropped.jsonl").read_text().splitlines()]
    return corpus, lines


def kept(corpus) -> list[str]:
    """The documents of the corpus, each of which fits one row."""
    tokenizer, found = corpus.tokenizer, []
    for rows in (corpus.train, corpus.valid):
        found += [tokenizer.decode(row[1 : row.tolist().index(tokenizer.eos)]) for row in rows.gather(np.arange(len(rows)))]
    return sorted(found)


def at(place: str) -> str:
    """The text in a file of JSON lines to which dropped.jsonl points."""
    path, number, start = re.fullmatch(r"(.*), document (\d+) from byte ([\d,]+)", place).groups()
    with open(path) as file:
        file.seek(int(start.replace(",", "")))
        return json.loads(file.readlines()[int(number) - 1])["text"]


@pytest.fixture(scope="module")
def vocabulary(small_corpus) -> str:
    return str(small_corpus.folder / "tokenizer")


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """A vocabulary in which the planted texts are short."""
    folder = tmp_path_factory.mktemp("words")
    ByteLevelBPE.train([" ".join(f"w{i} other{i}" for i in range(2000))], 6000).save(folder)
    return str(folder)


@pytest.mark.parametrize("mode", ["exact", "near"])
@pytest.mark.parametrize("seed, files", [(0, 3), (1, 90)])  # several shards a file, several files a shard
def test_what_is_dropped_is_what_comparing_all_with_all_drops(words, tmp_path, monkeypatch, mode, seed, files):
    monkeypatch.setattr(documents, "SMALLEST_SHARD", 3_000)
    monkeypatch.setattr(plan, "PARTITION_BYTES", 7_000)
    texts = planted(seed)
    expected = brute_force(texts, mode)
    corpus, lines = made(texts, words, tmp_path / "it", files=files, deduplicate=mode)
    assert len(corpus.manifest["shards"]) > 20
    assert kept(corpus) == sorted(text for i, text in enumerate(texts) if i not in expected)
    for kind in ("exact_duplicates", "near_duplicates"):
        numbers = [i for i, (why, _) in sorted(expected.items()) if why == kind]
        assert corpus.manifest["dropped"][kind] == len(numbers) and bool(numbers) == (mode == "near" or kind[0] == "e")
        shown = [line for line in lines if line["kind"] == kind]
        assert [line["text"] for line in shown] == [texts[i][:200] for i in numbers[:20]]
        for line, i in zip(shown, numbers):
            assert (at(line["document"]), at(line["repeats"])) == (texts[i], texts[expected[i][1]])
    assert corpus.manifest["documents"] == len(texts) - len(expected)
    assert f"{corpus.manifest['dropped']['exact_duplicates']:,} exact duplicates" in report(corpus.manifest)


def test_near_duplicates_in_real_text_are_found_and_others_are_not(assets, tmp_path):
    speeches = (assets / "text" / "tinyshakespeare.txt").read_text().split("\n\n")
    originals = ["\n".join(speeches[i : i + 12]) for i in range(0, 2400, 12)]
    chooser = random.Random(0)
    exact = chooser.sample(originals, 20)
    near = [changed(text, chooser, 1) for text in originals if len(text.split(" ")) > 150][:40]  # of 250 shingles 5 differ
    far = [" ".join(chooser.sample(text.split(" "), len(text.split(" ")))) for text in originals[:20]]  # the same words
    recased = [text.upper().replace("\n", "  ") for text in originals[:20]]
    texts = originals + far + exact + near + recased
    fields = {"format": "doc-sentences", "valid_fraction": 0.2, "deduplicate": "near"}
    recipe = CorpusConfig((write(tmp_path / "a.jsonl", texts),), str(assets / "roberta-vocab"), **fields)
    manifest = prepare.prepare(recipe, tmp_path / "out", tmp_path / "cache", 1).manifest
    assert manifest["dropped"]["exact_duplicates"] == 20
    assert manifest["dropped"]["near_duplicates"] == len(near) + len(recased) == 60


def test_neither_the_number_of_processes_nor_of_shards_changes_what_is_dropped(words, tmp_path, monkeypatch):
    texts = planted(7)
    one, _ = made(texts, words, tmp_path / "one", deduplicate="near")
    monkeypatch.setattr(documents, "SMALLEST_SHARD", 4_000)
    many, _ = made(texts, words, tmp_path / "many", processes=2, deduplicate="near")
    assert len(many.manifest["shards"]) > 8 and len(one.manifest["shards"]) == 3
    assert kept(one) == kept(many) and one.manifest["dropped"] == many.manifest["dropped"]


def test_documents_that_overlap_an_evaluation_set_are_dropped(words, tmp_path):
    chooser = random.Random(0)
    texts = [" ".join(f"w{chooser.randrange(2000)}" for _ in range(60)) for _ in range(100)]
    inside = [" ".join(texts[i].split(" ")[20:33]).upper().replace(" ", ",  ") for i in (3, 50)]  # 13 words, written otherwise
    twelve = [" ".join(texts[9].split(" ")[:12]) + " but not this"]
    short = [" ".join(texts[70].split(" ")[5:14])]  # nine words, all of an evaluation text
    (tmp_path / "eval.txt").write_text("\n\n".join([*inside, *twelve, *short, "w1 w2"]))
    write(tmp_path / "eval.jsonl", [texts[99]])
    texts += [texts[3] + " w5", texts[11], "w1, W2"]  # an overlapping document is none that others can repeat
    exclude = (str(tmp_path / "eval.txt"), str(tmp_path / "eval.jsonl"))
    corpus, lines = made(texts, words, tmp_path / "it", deduplicate="exact", exclude=exclude)
    assert corpus.manifest["dropped"] == {"exact_duplicates": 1, "near_duplicates": 0, "overlapping_documents": 6}
    gone = {3, 50, 70, 99, 100, 101, 102}
    assert kept(corpus) == sorted(text for i, text in enumerate(texts) if i not in gone)
    overlaps = [line for line in lines if line["kind"] == "overlapping_documents"]
    assert overlaps[0]["shared"] == ",  ".join(texts[3].split(" ")[20:33]).replace(",  ", " ")
    alone, _ = made(texts, words, tmp_path / "alone", exclude=exclude)
    assert alone.manifest["dropped"] == {"exact_duplicates": 0, "near_duplicates": 0, "overlapping_documents": 6}


def test_a_document_that_overlaps_is_none_that_others_repeat(words, tmp_path):
    chooser = random.Random(0)
    texts = [" ".join(f"w{chooser.randrange(2000)}" for _ in range(150)) for _ in range(20)]
    parts = texts[4].split(" ")
    (tmp_path / "eval.txt").write_text(" ".join(parts[100:113]))
    texts.append(" ".join([*parts[:106], "other1", *parts[107:]]))  # without the words that the two share
    both, _ = made(texts, words, tmp_path / "both", deduplicate="near", exclude=(str(tmp_path / "eval.txt"),))
    near, _ = made(texts, words, tmp_path / "near", deduplicate="near")
    assert kept(both) == sorted(text for i, text in enumerate(texts) if i != 4) and kept(near) == sorted(texts[:-1])


def test_another_evaluation_set_is_another_corpus_and_no_option_none(documents, vocabulary, tmp_path):
    source, folders = write(tmp_path / "a.jsonl", documents[:99]), set()
    recipe = {"source": (source,), "tokenizer": vocabulary, "length": 64, "valid_fraction": 0.2}
    (tmp_path / "eval.txt").write_text("Some words that stand nowhere else.")
    for fields in ({}, {"deduplicate": "exact"}, {"exclude": (str(tmp_path / "eval.txt"),)}):
        folders.add(prepare.prepare(CorpusConfig(**recipe | fields), None, tmp_path / "cache", 1).folder)
    (tmp_path / "eval.txt").write_text("Other words that stand nowhere else.")
    folders.add(
        prepare.prepare(CorpusConfig(**recipe, exclude=(str(tmp_path / "eval.txt"),)), None, tmp_path / "cache", 1).folder
    )
    assert len(folders) == 4
    decide = cache_key_fields(CorpusConfig(**recipe))  # as it was before there were these options
    assert decide.keys() == {"source", "tokenizer", "format", "length", "valid_fraction", "reading"}
    assert decide["reading"].keys() == {"text_column", "documents", "invalid_utf8"}


def test_nothing_left_and_what_cannot_be_is_named(documents, vocabulary, tmp_path):
    source = write(tmp_path / "a.jsonl", documents[:5])
    with pytest.raises(UserError, match="data.deduplicate is 'fuzzy'; it can be 'none' or 'exact' or 'near'"):
        CorpusConfig((source,), vocabulary, deduplicate="fuzzy")
    with pytest.raises(UserError, match=r"no document with any text in it left \(overlapping_documents: 5\)"):
        prepare.prepare(CorpusConfig((source,), vocabulary, exclude=(source,)), tmp_path / "out", tmp_path / "cache", 1)
    recipe = CorpusConfig((source,), vocabulary, exclude=(source,), deduplicate="near")  # of a shard that has none left
    with pytest.raises(UserError, match=r"no document with any text in it left \(overlapping_documents: 5\)"):
        prepare.prepare(recipe, tmp_path / "near", tmp_path / "cache", 1)
    with pytest.raises(UserError, match=r"nothing\.txt: no such file, folder or glob \(data\.exclude\)"):
        recipe = CorpusConfig((source,), vocabulary, exclude=(str(tmp_path / "nothing.txt"),))
        prepare.prepare(recipe, tmp_path / "other", tmp_path / "cache", 1)


def test_a_sketch_that_was_deleted_is_made_anew(documents, vocabulary, tmp_path):
    """As the sentence about a damaged one advises."""
    recipe = CorpusConfig((write(tmp_path / "a.jsonl", documents[:99]),), vocabulary, length=64, deduplicate="near")

    def ended(*arguments):
        processes.run(*arguments)
        raise UserError("ended")

    with pytest.raises(UserError, match="^ended$"):
        prepare.make(recipe, tmp_path / "out", tmp_path / "cache", 1, ended)
    (sketch,) = tmp_path.glob("out.*.partial/work/sketch-00000.npz")
    sketch.unlink()
    for note in tmp_path.glob("out.*.partial/work/shard-*.npz"):
        note.unlink()
    again, whole = (prepare.prepare(recipe, tmp_path / name, tmp_path / "cache", 1) for name in ("out", "whole"))
    assert again.manifest["shards"] == whole.manifest["shards"]


def test_what_goes_between_stages_is_of_one_folder_alone(documents, small_corpus, tmp_path):
    """Else one that was begun elsewhere would pass for half done here."""
    fsspec.filesystem("memory").pipe("/duplicates/text/a.txt", "\n\n".join(documents[:9]).encode())
    recipe = CorpusConfig(("memory://duplicates/text",), str(small_corpus.folder / "tokenizer"), deduplicate="near")
    spills = []

    def ended(work, folder, workers):
        spills.append(folder)
        raise UserError("ended")

    for out in ("one", "two", "one"):
        with pytest.raises(UserError, match="^ended$"):
            prepare.make(recipe, f"memory://duplicates/{out}", tmp_path / "cache", 1, ended)
    assert spills[0] == spills[2] != spills[1]


def test_a_prepared_corpus_that_kept_its_duplicates_is_refused(small_corpus, vocabulary):
    for fields, said in (({"deduplicate": "near"}, "deduplicate none"), ({"exclude": ("docs",)}, r"exclude \[\]")):
        with pytest.raises(UserError, match=f"prepared with {said}, the config asks for"):
            prepare.prepare(CorpusConfig((str(small_corpus.folder),), vocabulary, length=64, **fields))
