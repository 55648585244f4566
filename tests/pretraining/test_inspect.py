"""What is said of a corpus is counted again another way; rows are those that training sees; a page keeps text harmless."""

import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from absl import flags
from browser import picture
from forked import tiny_on
from hypothesis import given
from hypothesis import strategies as st
from small_runs import config
from task_files import random_model

from roberta_jax import inspect as inspect_command
from roberta_jax.config import plain
from roberta_jax.data.corpus import Corpus
from roberta_jax.data.masking import Masking
from roberta_jax.data.pipeline import train_batches
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.preparation import packing, prepare, shards
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.statistics import Piece, corpus_statistics, pieces, scripts
from roberta_jax.pretraining import inspect
from roberta_jax.pretraining.config import masking_of
from roberta_jax.pretraining.course import Course, Reading, Source
from roberta_jax.pretraining.inspect_html import blocks, page
from roberta_jax.pretraining.job import open_corpus
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

WORLD = [
    "The <script>document.title = 'taken'</script> & <img src=https://example.org/a.png> stay text. \x1b[31m.",
    "كان البحّار العجوز يمشي على الشاطئ كل صباح قبل شروق الشمس. وجد قارباً خشبياً قرب الميناء.",
    "昨日の夜、古い図書館で小さな銀の硬貨を二枚見つけた。今日は雨が降っている。",
    "Старый моряк нашёл лодку 🙂 возле гавани до восхода солнца.\nПрошлым летом он её починил.",
]


def made(texts: list[str], folder: Path, **fields) -> Corpus:
    """A corpus, prepared in this process."""
    (folder / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    recipe = CorpusConfig((str(folder / "text.jsonl"),), **{"tokenizer": 300, "length": 64, "valid_fraction": 0.2} | fields)

    def here(work, spills, processes):
        for shard in shards.unwritten(work):
            shards.write_shard(work, shard)

    return Corpus(prepare.make(recipe, folder / "corpus", folder / "cache", 1, here))


def numbered(texts: list[str], copies: int) -> list[str]:
    return [f"{text} {i}." for i in range(copies) for text in texts]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> dict:
    """What is found in a corpus of several scripts, and of markup."""
    corpus = made(numbered(WORLD, 30), tmp_path_factory.mktemp("world"))
    return corpus_statistics(corpus, Masking(), batch_size=4, steps=100, seed=1, rows=12)


@pytest.fixture(scope="module")
def found(small_corpus) -> dict:
    return corpus_statistics(small_corpus, Masking(), batch_size=6, steps=500, seed=3, rows=8)


# What is counted


def test_figures_are_those_of_all_rows(small_corpus, found):
    rows, tokenizer = small_corpus.train.gather(np.arange(len(small_corpus.train))), small_corpus.tokenizer
    special = {tokenizer.bos, tokenizer.pad, tokenizer.eos}
    counts = Counter(id for id in rows.ravel().tolist() if id not in special)
    assert found["sample_rows"] == len(rows)  # so small a corpus is measured whole
    assert [(each["id"], each["count"]) for each in found["top_tokens"][:5]] == counts.most_common(5)
    assert found["top_tokens"][0]["share"] == pytest.approx(counts.most_common(1)[0][1] / counts.total())
    possible = set(tokenizer.text_ids.tolist())
    never, rare = len(possible - counts.keys()), sum(number < 10 for number in counts.values())
    assert found["vocabulary_use"] == {"ids": len(possible), "never": never, "rare": rare, "unknown": 0}
    lengths = (rows != tokenizer.pad).sum(1)
    edges = found["row_lengths"]["edges"]
    for i, (start, end) in enumerate(zip(edges, edges[1:])):
        last = lengths <= end if i == len(edges) - 2 else lengths < end
        assert found["row_lengths"]["rows"][i] == ((lengths >= start) & last).sum()
    train = found["splits"]["train"]
    assert (train["rows"], train["tokens"]) == (len(rows), lengths.sum())
    assert train["fill"] == pytest.approx(lengths.mean() / 64)
    run = found["run"]
    assert run["epochs"] == pytest.approx(500 * 6 / len(rows)) and run["tokens"] == round(500 * 6 * lengths.mean())
    text = "".join(tokenizer.decode_bytes(row).decode() for row in rows)
    latin = sum(character.isalpha() for character in text) / len(text)
    assert found["scripts"]["Latin"] == pytest.approx(latin) and found["scripts"]["space"] == text.count(" ") / len(text)
    masks = found["masking"]
    assert abs(masks["predicted"] - 0.15) < 0.004 and abs(masks["masked"] - 0.8) < 0.03
    assert masks["masked"] + masks["random"] + masks["kept"] == pytest.approx(1)
    assert abs(masks["random"] - 0.1) < 0.02 and masks["predicted_per_row"] == pytest.approx(
        0.15 * counts.total() / len(rows), 0.03
    )


def test_the_shares_of_the_config_are_shown_beside_those_that_were_drawn(small_corpus):
    found = corpus_statistics(small_corpus, Masking("hf", 0.3, 0.6, 0.15), 6, 500, 3, rows=1)
    masks = found["masking"]
    assert {name: masks[name] for name in ("mode", "rate", "mask_replace_prob", "random_replace_prob", "keep_prob")} == {
        "mode": "hf", "rate": 0.3, "mask_replace_prob": 0.6, "random_replace_prob": 0.15, "keep_prob": 0.25,
    }  # fmt: skip
    assert abs(masks["masked"] - 0.6) < 0.03 and abs(masks["kept"] - 0.25) < 0.03
    assert "masking hf 0.3, 60/15/25:" in "\n".join(inspect.lines(found, "", False)) and "hf, 0.3, 60/15/25" in page(found)


def test_scripts_share_bytes():
    assert scripts("ab я 漢ｶか!٣\udcff") == pytest.approx(
        {"Han": 3 / 19, "kana": 6 / 19, "Latin": 2 / 19, "Cyrillic": 2 / 19, "space": 2 / 19, "digits": 2 / 19}
        | {"punctuation": 1 / 19, "other": 1 / 19}
    )
    given_names = scripts("αا한कกאա")
    assert set(given_names) == {"Greek", "Arabic", "Hangul", "Devanagari", "Thai", "Hebrew", "Armenian"}


def test_rows_are_those_of_the_first_steps(small_corpus, found):
    batches = train_batches(small_corpus, Masking(), 6, seed=3)
    steps = [next(batches), next(batches)]
    for number, row in enumerate(found["rows"]):
        batch, i = steps[number // 6], number % 6
        ids = small_corpus.train.gather(np.array([row["row"]]))[0]
        length = (ids != small_corpus.tokenizer.pad).sum()
        assert row["step"] == number // 6 and row["input_ids"] == batch["input_ids"][i, :length].tolist()
        predicted = batch["positions"][i][batch["weights"][i] > 0]
        assert row["positions"] == sorted(predicted) and row["labels"] == ids[sorted(predicted)].tolist()
        assert row["text"] == small_corpus.tokenizer.decode(ids[:length]) == "".join(piece.text for piece in row["pieces"])


def test_rows_of_a_part_of_the_corpus_have_the_numbers_of_the_whole(small_corpus):
    corpus = Corpus(small_corpus.folder)
    corpus.train.fraction = 0.25
    for row in corpus_statistics(corpus, Masking(), batch_size=6, steps=5, seed=3, rows=8)["rows"]:
        ids = small_corpus.train.gather(np.array([row["row"]]))[0]
        assert row["text"] == small_corpus.tokenizer.decode(ids[ids != small_corpus.tokenizer.pad])


def test_rows_of_a_mixture_are_those_that_the_run_sees(small_corpus, other_corpus, capsys):
    """Of the first source, whose order has a seed of its own there."""
    run = config(small_corpus, **{"data.mixture": f"{small_corpus.folder}=0.7,{other_corpus.folder}=0.3"})
    sources = tuple(Source(name, open_corpus(data), weight) for name, weight, data in run.data.sources())
    rows = Course([Reading(0, sources, masking_of(run.data), run.batch_size, run.seed)]).rows_of(0)
    wanted = [int(row.rpartition(" ")[2]) for row in rows if row.startswith(f"{sources[0].name} ")]
    figures, _ = inspect.inspect(plain(run), 4)
    assert [row["row"] for row in figures["rows"]] == wanted[:4] and figures["run"]["seed"] == run.seed
    assert figures["run"]["batch_size"] == pytest.approx(len(wanted), abs=1)
    assert f"of which about {figures['run']['batch_size']} of the 16 rows of a batch are" in capsys.readouterr().err


def test_a_model_that_goes_on_has_its_own_tokenizer(small_corpus, tmp_path):
    """A size in data.tokenizer asks for none to be trained."""
    model = random_model(small_corpus.tokenizer, tmp_path / "model")
    fields = plain(config(small_corpus, init_from=str(model), **{"data.tokenizer": "50265", "model.vocab_size": 0}))
    figures, _ = inspect.inspect(fields, 2)
    assert figures["corpus"] == str(small_corpus.folder) and figures["vocabulary"] == len(small_corpus.tokenizer)


# Pieces


@given(st.text(min_size=1, max_size=30), st.data())
def test_pieces_are_the_text_whatever_is_masked(text, data):
    tokenizer = SMALLEST
    original = np.array([tokenizer.bos, *tokenizer.encode(text), tokenizer.eos])
    predicted = np.array(data.draw(st.lists(st.booleans(), min_size=len(original), max_size=len(original))))
    put = np.array(data.draw(st.lists(st.integers(0, 259), min_size=len(original), max_size=len(original))))
    seen = np.where(predicted, put, original)
    found = pieces(seen, original, predicted, tokenizer)
    assert "".join(piece.text for piece in found) == f"<s>{text}</s>"
    assert any(piece.kind not in ("text", "special") for piece in found) == predicted.any()


SMALLEST = ByteLevelBPE.train(["a"], 261)  # every byte is a token


def test_a_character_of_several_tokens_stays_whole():
    original = np.array([SMALLEST.bos, *SMALLEST.encode("a語bcd"), SMALLEST.eos])
    seen, predicted = original.copy(), np.zeros(len(original), bool)
    seen[3], seen[5], seen[6] = SMALLEST.mask, SMALLEST.encode("x")[0], SMALLEST.encode("y")[0]
    predicted[[3, 5, 6, 7]] = True  # the middle byte of 語; b, c and d
    assert pieces(seen, original, predicted, SMALLEST) == [
        Piece("special", "<s>"), Piece("text", "a"), Piece("masked", "語"), Piece("random", "bc", "xy"), Piece("kept", "d"),
        Piece("special", "</s>"),
    ]  # fmt: skip


@pytest.mark.parametrize("format", packing.FORMATS)
def test_each_format_shows_where_its_inputs_end(format, documents, tmp_path):
    corpus = made(documents[:60], tmp_path, format=format, length=256)
    found = corpus_statistics(corpus, Masking("fairseq" if format == "doc-sentences" else "roberta"), 4, 10, 0, rows=6)
    shown = [["".join(piece.text for piece in block) for block in blocks(row["pieces"])] for row in found["rows"]]
    if "pair" in format:
        assert all(len(blocks) == 2 for blocks in shown) and 0 < found["is_next"] < 1
        assert "of another document" in page(found) and "B follows A" in page(found)
    elif format != "doc-sentences":
        assert max(map(len, shown)) > 1
        parted = [block for blocks in shown for block in blocks[:-1]]
        assert all(block.endswith("</s>" if format.endswith("-packed") else "</s></s>") for block in parted)
    assert (found["inputs_per_row"] > 1) == format.endswith("-packed")
    assert list(inspect.lines(found, "", False))


# What is shown


def test_a_terminal_gets_marks_and_nothing_that_steers_it(world):
    plain = "\n".join(inspect.lines(world, "prepared", colours=False))
    assert "⟦" in plain and "→" in plain and "⟦=" in plain and "\x1b" not in plain and "␛[31" in plain
    assert "\nprepared\n100 steps of 4 rows: " in plain and "昨日の夜" in plain
    coloured = "\n".join(inspect.lines(world, "prepared", colours=True))
    assert set(re.findall("\x1b\\[[0-9;]*.", coloured)) == {"\x1b[30;43m", "\x1b[97;41m", "\x1b[30;42m", "\x1b[2m", "\x1b[0m"}


class Elements(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.tags, self.attributes, self.text = Counter(), set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags[tag] += 1
        self.attributes |= {name for name, _ in attributes}

    def handle_data(self, data):
        self.text += data


def test_a_page_fetches_nothing_and_runs_nothing_of_the_text(world):
    made = Elements(page(world))
    assert not made.tags.keys() & {"script", "img", "link", "iframe", "a", "object"}
    assert not made.attributes & {"src", "href", "onload", "onclick", "srcset"} and "url(" not in page(world)
    shown = re.sub(r"→|\s", "", made.text)
    assert "default-src 'none'" in page(world) and "昨日の夜" in shown and "<s>" in shown
    assert any("<script>document.title" in row["text"] for row in world["rows"])  # it was in what the page shows
    for kind in ("masked", "random", "kept"):
        expected = sum(piece.kind == kind for row in world["rows"] for piece in row["pieces"])
        assert page(world).count(f'class="{kind}"') == expected + 1  # and the legend
    assert made.tags["article"] == 12 and made.tags["rect"] == len(world["row_lengths"]["rows"])


def test_a_page_looks_like_one(world, tmp_path):
    (tmp_path / "page.html").write_text(page(world), encoding="utf-8")
    picture(tmp_path / "page.html", tmp_path / "page.png", 1200, 2000)
    pixels = tf.io.decode_png((tmp_path / "page.png").read_bytes(), channels=3).numpy()
    assert pixels.shape == (2000, 1200, 3)
    for colour in ((0xCF, 0xE2, 0xFF), (0xFF, 0xD9, 0xC2), (0xCF, 0xEE, 0xD6)):  # marks: masked, random, kept
        assert (pixels == colour).all(-1).sum() > 200, colour
    margin = pixels[:, 1180:]  # nothing hangs over the edge
    assert (margin == 255).all()


# The command


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process: exit code, what it printed, what it complained of."""

    def run_with(*arguments: str):
        monkeypatch.setattr(sys, "argv", ["inspect", *arguments])
        with pytest.raises(SystemExit) as end:
            exit_with_sentence(inspect_command.command)
        return end.value.code or 0, *capsys.readouterr()

    def own() -> dict:
        return {name: flags.FLAGS[name] for name in flags.FLAGS if name.split(".")[0] in ("config", "rows", "html", "json")}

    before = own()  # of another command, if a test has imported one
    for name in before:
        delattr(flags.FLAGS, name)
    yield run_with
    for name in own():
        delattr(flags.FLAGS, name)
    for name, flag in before.items():
        flags.FLAGS[name] = flag


def test_the_command_prints_one_object_and_writes_the_page(run, small_corpus, tmp_path):
    arguments = [*tiny_on(small_corpus, {"seed": 3}), "--rows=3", "--json", f"--html={tmp_path / 'page.html'}"]
    code, out, _ = run(*arguments)
    found = json.loads(out)
    assert code == 0 and len(found["rows"]) == 3 and set(found["rows"][0]) == {
        "step", "row", "input_ids", "positions", "labels", "text", "seen",
    }  # fmt: skip
    assert found["run"]["batch_size"] == 16 and found["corpus"] == str(small_corpus.folder)
    assert "The first 3 rows that a run with seed 3 sees" in (tmp_path / "page.html").read_text()


def test_without_a_config_there_is_one_sentence(run):
    code, out, err = run()
    assert code == 2 and out == "" and re.fullmatch(r"error: .*--config.*\n", err)


def test_an_empty_corpus_and_an_unknown_field_are_named(small_corpus, tmp_path):
    (tmp_path / "text.txt").write_text("\n\n \n")
    fields = {"source": str(tmp_path / "text.txt"), "cache": str(tmp_path), "tokenizer": str(small_corpus.folder / "tokenizer")}
    with pytest.raises(UserError, match="text.txt: no document with any text"):
        inspect.inspect({"job": "pretrain", "data": fields}, 8)
    with pytest.raises(UserError, match=r"config.data.sources is not a field .* did you mean config.data.source\?"):
        inspect.inspect({"job": "pretrain", "data": {"sources": "docs"}}, 8)
    with pytest.raises(UserError, match="config.job is 'finetune'; inspect knows 'pretrain'"):
        inspect.inspect({"job": "finetune"}, 8)
