"""Every task gives its splits, examples and labels from folders, files and TFDS; what is wrong is named with its place."""

import json
import warnings

import pyarrow
import pyarrow.parquet
import pytest
from task_files import jsonl, sizes, table, told

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.definitions import GLUE, TASKS, Example
from roberta_jax.tasks.examples import read_splits
from roberta_jax.tasks.kinds.table import KINDS

# The table


def test_the_table_is_whole():
    assert set(GLUE) < set(TASKS) and len(TASKS) == 22
    for name, task in TASKS.items():
        assert task.kind in KINDS
        assert task.text_columns and task.metrics and 0 < task.learning_rate <= 2e-5
        assert bool(task.published) == (name in {*GLUE, "squad", "squad2", "race", "race-middle", "race-high"} - {"wnli"})
    assert dict(TASKS["rte"].published) == {"base": 78.7, "large": 86.6}
    assert TASKS["mnli"].labels == ("entailment", "neutral", "contradiction")


# Public data


@pytest.mark.parametrize(
    "task, folder, train, valid",
    [
        ("sst2", "glue/SST-2", 60_614, 6_735),
        ("cola", "glue/CoLA", 8_551, 527),
        ("rte", "glue/RTE", 2_490, 277),
        ("stsb", "glue/STS-B", 5_749, 1_500),
        ("wnut17", "ner", 3_394, 1_009),
    ],
)
def test_public_data(assets, task, folder, train, valid):
    splits = read_splits(task, TaskData(str(assets / folder)))
    assert (len(splits.train), sizes(splits.valid), splits.test) == (train, {"": valid}, {})
    assert len({example.place for example in splits.train}) == train
    if task == "rte":
        assert splits.train[0] == Example(
            f"{assets / folder}/train.tsv:2",
            "0",
            ("No Weapons of Mass Destruction Found in Iraq Yet.", "Weapons of Mass Destruction Found in Iraq."),
            "not_entailment",
        )
    if task == "wnut17":
        assert splits.labels[:3] == ("O", "B-corporation", "I-corporation") and len(splits.labels) == 13


@pytest.mark.parametrize("language", ["en", "zh", "hi"])
def test_xquad_and_no_paragraph_is_on_both_sides(assets, language):
    data = TaskData(train=str(assets / f"squad/xquad.{language}.json"))
    splits = read_splits("squad", data)
    train, valid = splits.train, splits.valid[""]
    assert len(train) + len(valid) == 1_190 and 60 < len(valid) < 180
    contexts = [{example.texts[1] for example in side} for side in (train, valid)]
    assert not contexts[0] & contexts[1] and sum(map(len, contexts)) == 240
    for example in train:
        for text, start in example.label:
            assert example.texts[1][start : start + len(text)] == text
    assert read_splits("squad", data) == splits
    assert splits.labels == () and train[0].place.endswith(f"xquad.{language}.json: question {train[0].id}")


# GLUE as its zip has it


def test_cola_and_its_test_with_a_header(tmp_path):
    table(tmp_path / "train.tsv", [("gj04", 1, "", "They sat."), ("gj04", 0, "*", 'Sat "they.')])
    table(tmp_path / "dev.tsv", [("gj04", 1, "", "He came.")])
    table(tmp_path / "test.tsv", [("index", "sentence"), (0, "Bill ran."), (1, "Ran bill.")])
    splits = read_splits("cola", TaskData(str(tmp_path)))
    assert told(splits.train) == [("0", ("They sat.",), "1"), ("1", ('Sat "they.',), "0")]
    assert told(splits.valid[""]) == [("0", ("He came.",), "1")]
    assert told(splits.test[""]) == [("0", ("Bill ran.",), None), ("1", ("Ran bill.",), None)]


@pytest.mark.parametrize(
    "task, header, row, texts, label",
    [
        ("sst2", "sentence label", ["good ", 1], ("good",), "1"),
        ("mrpc", "Quality|#1 ID|#2 ID|#1 String|#2 String", [0, 7, 8, 'a "', "b"], ('a "', "b"), "0"),
        ("qqp", "id qid1 qid2 question1 question2 is_duplicate", [9, 1, 2, "a?", "b?", 1], ("a?", "b?"), "1"),
        (
            "stsb",
            "index genre filename year old_index source1 source2 sentence1 sentence2 score",
            [9, "g", "f", "y", 3, "none", "none", "a", "b", "4.250"],
            ("a", "b"),
            4.25,
        ),
        (
            "mnli",
            "index promptID pairID genre sentence1_parse sentence2_parse sentence1 sentence2 label1 gold_label",
            [9, "1p", "1pn", "fiction", "(a)", "(b)", "a", "b", "neutral", "contradiction"],
            ("a", "b"),
            "contradiction",
        ),
        ("qnli", "index question sentence label", [9, "a?", "b", "entailment"], ("a?", "b"), "entailment"),
        ("wnli", "index sentence1 sentence2 label", [9, "a", "b", 0], ("a", "b"), "0"),
    ],
)
def test_the_columns_of_glue(tmp_path, task, header, row, texts, label):
    columns = header.split("|" if "|" in header else " ")
    dev = "dev_matched.tsv" if task == "mnli" else "dev.tsv"
    for name in ("train.tsv", dev):
        table(tmp_path / name, [columns, row])
    keep = [i for i, column in enumerate(columns) if column not in TASKS[task].label_columns]
    table(tmp_path / dev.replace("dev", "test"), [[columns[i] for i in keep], [row[i] for i in keep]])
    splits = read_splits(task, TaskData(str(tmp_path)))
    id = "9" if 9 in row else "0"
    assert told(splits.train) == told(splits.valid[""]) == [(id, texts, label)]
    assert told(splits.test[""]) == [(id, texts, None)]


def test_the_parts_of_mnli(tmp_path):
    header, row = ("index", "sentence1", "sentence2"), (0, "a", "b")
    for name in ("train", "dev_matched", "dev_mismatched"):
        table(tmp_path / f"{name}.tsv", [(*header, "gold_label"), *[(*row, "neutral")] * (1 + len(name) % 3)])
    for name in ("test_matched", "test_mismatched", "diagnostic"):
        table(tmp_path / f"{name}.tsv", [header, row])
    splits = read_splits("mnli", TaskData(str(tmp_path)))
    assert sizes(splits.valid) == {"": 3, "mismatched": 3} and "dev_mis" in splits.valid["mismatched"][0].place
    assert sizes(splits.test) == {"": 1, "mismatched": 1, "diagnostic": 1}
    assert sizes(read_splits("mnli", TaskData(str(tmp_path), valid=f"{tmp_path}/dev_mismatched.tsv")).valid) == {"": 3}


def test_the_two_files_of_msr(tmp_path):
    rows = [("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"), *[(i % 2, i, i, f"a{i}", f"b{i}") for i in range(40)]]
    for name in ("train", "test"):
        table(tmp_path / f"msr_paraphrase_{name}.txt", rows)
        text = (tmp_path / f"msr_paraphrase_{name}.txt").read_bytes()
        (tmp_path / f"msr_paraphrase_{name}.txt").write_bytes(b"\xef\xbb\xbf" + text)
    splits = read_splits("mrpc", TaskData(str(tmp_path)))
    assert len(splits.train) + len(splits.valid[""]) == 40 == len(splits.test[""])
    assert splits.test[""][1].label == "1"


def test_the_broken_lines_of_qqp_are_counted(tmp_path):
    header = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")
    good = (1, 2, 3, "a?", "b?", 0)
    table(tmp_path / "train.tsv", [header, good, (1, 2, 3, '"half'), ('"', "rest?", 0), (1, 2, 3, "a?", "", 0), good])
    table(tmp_path / "dev.tsv", [header, good])
    table(tmp_path / "test.tsv", [("id", "question1", "question2"), (0, "a?", ""), (1, "a?", "b?")])
    with pytest.warns(UserWarning, match=r"^3 lines are left out, the first of them .*train\.tsv:3") as warned:
        splits = read_splits("qqp", TaskData(str(tmp_path)))
    assert len(warned) == 1 and len(splits.train) == 2
    assert told(splits.test[""])[0] == ("0", ("a?", ""), None)  # a prediction is owed for it


def test_a_headerless_csv_of_stsb_and_other_kinds_of_table(tmp_path):
    (tmp_path / "train.csv").write_text('"A ""b"", c",d,4.75\r\ne,f,0\r\n')
    jsonl(tmp_path / "dev.jsonl", [{"sentence1": "a", "sentence2": "b", "label": 5, "idx": 17}])
    pyarrow.parquet.write_table(
        pyarrow.table({"sentence1": ["a"], "sentence2": ["b"], "label": [-1.0], "idx": [3]}),
        tmp_path / "test-00000-of-00001.parquet",
    )
    splits = read_splits("stsb", TaskData(str(tmp_path)))
    assert told(splits.train) == [("0", ('A "b", c', "d"), 4.75), ("1", ("e", "f"), 0.0)] and splits.labels == ()
    assert told(splits.valid[""]) == [("17", ("a", "b"), 5.0)]
    assert told(splits.test[""]) == [("3", ("a", "b"), None)]


def test_numbers_of_the_hub_are_labels_and_shards_are_one_split(tmp_path):
    for i, label in enumerate([1, 0]):
        pyarrow.parquet.write_table(
            pyarrow.table({"premise": ["a"], "hypothesis": [f"b{i}"], "label": [label], "idx": [i]}),
            tmp_path / f"train-0000{i}-of-00002.parquet",
        )
    jsonl(tmp_path / "validation_matched.jsonl", [{"premise": "a", "hypothesis": "b", "label": 2}])
    splits = read_splits("mnli", TaskData(str(tmp_path)))
    assert [example.label for example in splits.train] == ["neutral", "entailment"]
    assert splits.train[1].place == f"{tmp_path}/train-00001-of-00002.parquet:row 1"
    assert splits.valid[""][0].label == "contradiction"


# Custom tables


def test_custom_columns_labels_and_a_split_held_out_by_its_text(tmp_path):
    rows = [{"body": f"text {i // 2}", "stars": 10 - i % 3, "source": "x"} for i in range(200)]
    jsonl(tmp_path / "a.jsonl", rows[:120])
    jsonl(tmp_path / "b.jsonl", rows[120:])
    data = TaskData(train=f"{tmp_path}/a.jsonl, {tmp_path}/b.jsonl", text_columns="body", label_column="stars")
    splits = read_splits("custom-classification", data)
    assert splits.labels == ("8", "9", "10") and splits == read_splits("custom-classification", data)
    train, valid = ({example.texts for example in side} for side in (splits.train, splits.valid[""]))
    assert not train & valid and len(train | valid) == 100 and 8 < len(splits.valid[""]) < 40
    assert [example.id for example in (*splits.train, *splits.valid[""])] != [str(i) for i in range(200)]
    assert {example.id for example in (*splits.train, *splits.valid[""])} == {str(i) for i in range(200)}


def test_sets_of_labels(tmp_path):
    table(tmp_path / "train.tsv", [("text", "labels"), ("a", "red | blue|red"), ("b", ""), ("c", '["green"]')])
    jsonl(tmp_path / "dev.jsonl", [{"text": "d", "labels": ["blue", "green"]}])
    jsonl(tmp_path / "test.jsonl", [{"text": "e"}])
    splits = read_splits("custom-multi-label", TaskData(str(tmp_path)))
    assert [example.label for example in splits.train] == [("red", "blue"), (), ("green",)]
    assert splits.labels == ("blue", "green", "red")
    assert splits.valid[""][0].label == ("blue", "green") and splits.test[""][0].label is None


def test_a_test_split_of_empty_fields_has_no_sets_of_labels(tmp_path):
    """As pandas writes what is missing."""
    table(tmp_path / "train.tsv", [("text", "labels"), ("a", "red"), ("b", "red|blue"), ("c", "")])
    table(tmp_path / "test.tsv", [("text", "labels"), ("a", ""), ("b", "")])
    splits = read_splits("custom-multi-label", TaskData(str(tmp_path), valid=f"{tmp_path}/train.tsv"))
    assert [example.label for example in splits.test[""]] == [None, None] and splits.train[2].label == ()
    (tmp_path / "test.tsv").unlink()
    jsonl(tmp_path / "test.jsonl", [{"text": "a", "labels": []}])  # which says that there are none
    splits = read_splits("custom-multi-label", TaskData(str(tmp_path), valid=f"{tmp_path}/train.tsv"))
    assert splits.test[""][0].label == ()


def test_which_column_is_the_label_the_train_split_says(tmp_path, capsys):
    """A column of another name that could be one is none in a row that lacks the label."""
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": "x", "class": "1"}, {"text": "b", "label": "y", "class": "2"}])
    jsonl(tmp_path / "test.jsonl", [{"text": "c", "class": "3"}])
    splits = read_splits("custom-classification", TaskData(str(tmp_path), valid=f"{tmp_path}/train.jsonl"))
    assert splits.test[""][0].label is None and splits.labels == ("x", "y") and "taken for" not in capsys.readouterr().out
    with open(tmp_path / "train.jsonl", "a") as file:
        file.write('{"text": "d", "class": "z"}\n')
    with pytest.raises(UserError, match="train.jsonl:3: no column 'label'"):
        read_splits("custom-classification", TaskData(str(tmp_path), valid=f"{tmp_path}/train.jsonl"))
    (tmp_path / "test.jsonl").unlink()
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "Class": "x"}, {"text": "b", "Class": "y"}])
    splits = read_splits("custom-classification", TaskData(str(tmp_path), valid=f"{tmp_path}/train.jsonl"))
    assert splits.labels == ("x", "y") and "the column 'Class' is taken for 'label'" in capsys.readouterr().out
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    jsonl(tmp_path / "valid.jsonl", [{"text": "a", "target": "y"}])
    splits = read_splits("custom-classification", TaskData(str(tmp_path)))
    assert splits.valid[""][0].label == "y" and "the column 'target' is taken for 'label'" in capsys.readouterr().out
    jsonl(tmp_path / "valid.jsonl", [{"text": "a", "Class": "x", "class": "y"}])
    with pytest.raises(UserError, match="valid.jsonl:1: no column 'label'"):
        read_splits("custom-classification", TaskData(str(tmp_path)))


@pytest.mark.parametrize(
    ("task", "columns", "said"),
    [
        (
            "custom-classification",
            "title,subtitle,body",
            "text_columns is 'title,subtitle,body'; expected names of columns, 1 or 2 for",
        ),
        ("custom-multiple-choice", "question,options", "expected names of columns, 3 for custom-multiple-choice"),
        ("custom-span", "question", "expected names of columns, 2 for custom-span"),
        ("custom-tagging", "words,tags", "expected names of columns, 1 for custom-tagging"),
    ],
)
def test_another_number_of_columns_is_a_sentence(tmp_path, task, columns, said):
    with pytest.raises(UserError, match=said):
        read_splits(task, TaskData(str(tmp_path), text_columns=columns))


def test_mnli_with_one_of_its_valid_parts_alone_has_the_other_held_out(tmp_path):
    rows = [(i, f"a {i}", f"b {i}", "neutral") for i in range(300)]
    for name in ("train", "dev_mismatched"):
        table(tmp_path / f"{name}.tsv", [("index", "sentence1", "sentence2", "gold_label"), *rows])
    valid = read_splits("mnli", TaskData(str(tmp_path))).valid
    assert valid.keys() == {"", "mismatched"} and 0 < len(valid[""]) < 300 == len(valid["mismatched"])


@pytest.mark.parametrize(
    "task, rows, said",
    [
        ("rte", [("sentence1", "sentence2", "label"), ("a", "b", "maybe")], "train.tsv:2: the label 'maybe' is not known"),
        ("rte", [("sentence1", "label"), ("a", "entailment")], "train.tsv:2: no columns 'sentence1', 'sentence2' .*it has"),
        ("rte", [("sentence1", "sentence2"), ("a", "b")], "train.tsv:2: no column 'label' .*it has 'sentence1'"),
        ("rte", [("sentence1", "sentence2", "label"), ("a", " ", "entailment")], "train.tsv:2: an empty 'sentence2'"),
        ("rte", [("sentence1", "sentence2", "label"), ("a", "b", "")], "train.tsv:2: an empty 'label'"),
        ("custom-classification", [("text", "label"), ("a", " ")], "train.tsv:2: an empty 'label'"),
        ("rte", [("sentence1", "sentence2", "label"), ("a", "b")], "train.tsv:2: 2 fields; expected 3"),
        ("rte", [("sentence1", "sentence2", "label")], "train.tsv: the train split holds no example"),
        ("cola", [("x", 1, "", "a"), ("x", -1, "", "b")], "train.tsv:2: the label '-1' is not known; there are 0, 1"),
        ("stsb", [("a", "b", "5"), ("a", "b", "five")], "train.tsv:2: the score is 'five'; expected a number"),
        ("stsb", [("a", "b", "nan")], "train.tsv:1: the score is 'nan'; expected a number"),
        ("custom-multi-label", [("text", "label"), ("a", "x||y")], "train.tsv:2: an empty label in 'x||y'"),
        ("custom-multi-label", [("text", "label"), ("a", "[x]")], "train.tsv:2: the set of labels is .*expected a list"),
        ("custom-classification", [("text", "label"), ("a", "x")], r"train.tsv:2: .*labels \['x'\] alone"),
    ],
)
def test_what_is_wrong_in_a_table_is_named(tmp_path, task, rows, said):
    table(tmp_path / "train.tsv", rows)
    with pytest.raises(UserError, match=said.replace("|", r"\|")):
        read_splits(task, TaskData(str(tmp_path)))


def test_what_is_wrong_with_files_is_named(tmp_path):
    def said(match, task="rte", **data):
        with pytest.raises(UserError, match=match):
            read_splits(task, TaskData(**data))

    (tmp_path / "README").touch()
    here = str(tmp_path)
    said(r"no train split here .*looked for train \(\.tsv \.csv \.jsonl \.parquet \.json\); it has README", source=here)
    said("looked for train-v1.1 or train", task="squad", source=here)
    said("or a folder of RACE's .txt", task="race", source=here)
    said("nowhere: no such folder", source=f"{here}/nowhere")
    said(r"x\.tsv: no such file \(config\.data\.train\)", train=f"{here}/x.tsv")
    said("config.data.source and config.data.train are empty")
    said("config.task is 'imdb'; there are cola, sst2", task="imdb", source=here)
    said("TFDS has no data set of this task's own", task="wnut17", source="tfds:")
    said("config.data.valid_fraction is 1.0; expected more than 0", source=here, valid_fraction=1.0)
    table(tmp_path / "train.tsv", [("sentence1", "sentence2", "label"), ("a", "b", "entailment")])
    said("valid_fraction 0.1 leaves no valid example out of 1", source=here)
    jsonl(tmp_path / "train.jsonl", [{}])
    said(r"train\.jsonl, train\.tsv could each be the train split; config\.data\.train can say which", source=here)
    table(tmp_path / "dev.tsv", [("sentence1", "sentence2", "label")])
    said("the valid split holds no example", source=here, train=f"{here}/train.tsv")


def test_good_files_bring_no_warning(tmp_path):
    table(tmp_path / "train.tsv", [("sentence1", "sentence2", "label"), ("a", "b", "entailment")])
    table(tmp_path / "dev.tsv", [("sentence1", "sentence2", "label"), ("a", "b", "not_entailment")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_splits("rte", TaskData(str(tmp_path))).labels == ("entailment", "not_entailment")


def test_splits_behind_a_url(tmp_path):
    """A folder, files and a folder of RACE's, as on this machine."""
    header, row = "sentence1\tsentence2\tlabel\n", "a\tb\tentailment\n"
    race = json.dumps({"article": "a", "questions": ["q"], "options": [["x", "y"]], "answers": ["B"]})
    for name, text in (("RTE/train.TSV", header + row), ("RTE/dev.tsv", header + 2 * row), ("race/train/high/1.txt", race)):
        with storage.written(f"memory://tasks/{name}") as partial:
            partial.write_text(text)
    splits = read_splits("rte", TaskData("memory://tasks/RTE"))
    assert (len(splits.train), sizes(splits.valid)) == (1, {"": 2}) and splits.train[0].place.endswith("RTE/train.TSV:2")
    files = TaskData(train="memory://tasks/RTE/dev.tsv", valid="memory://tasks/RTE/train.TSV")
    assert told(read_splits("rte", files).train) == [(str(i), ("a", "b"), "entailment") for i in range(2)]
    folder = TaskData(train="memory://tasks/race/train", valid="memory://tasks/race/train/high")
    assert told(read_splits("race", folder).train) == [("high1.txt/0", ("a", "q x", "q y"), 1)]
    with pytest.raises(UserError, match="memory://tasks/nowhere: no such folder"):
        read_splits("rte", TaskData("memory://tasks/nowhere"))


# TFDS


@pytest.fixture(scope="module")
def tfds_name():
    """A data set with the features of several of TFDS's own."""
    import numpy as np
    import tensorflow_datasets as tfds

    text = tfds.features.Text()

    class RobertaJaxTask(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "sentence": text,
                "label": tfds.features.ClassLabel(names=["unacceptable", "acceptable"]),
                "idx": np.int32,
                "context": text,
                "question": text,
                "answers": tfds.features.Sequence({"text": text, "answer_start": np.int32}),
                "tokens": tfds.features.Sequence(text),
                "ner": tfds.features.Sequence(tfds.features.ClassLabel(names=["O", "B-LOC", "I-LOC"])),
            }
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {split: self._generate_examples(split) for split in ("train", "validation", "test")}

        def _generate_examples(self, split):
            for i in range(2):
                yield (
                    i,
                    {
                        "sentence": f"{split} {i}",
                        "label": -1 if split == "test" else i,
                        "idx": i,
                        "context": "In Ulm.",
                        "question": "Where?",
                        "answers": {"text": ["Ulm"], "answer_start": [3]},
                        "tokens": ["In", "Ulm"],
                        "ner": [0, 1],
                    },
                )

    RobertaJaxTask().download_and_prepare()
    return "roberta_jax_task"


@pytest.mark.parametrize(
    "task, texts, labels",
    [
        ("cola", ("train 0",), ["0", "1"]),
        ("squad", ("Where?", "In Ulm."), [(("Ulm", 3),)] * 2),
        ("conll2003", ("In", "Ulm"), [("O", "B-LOC")] * 2),
        ("custom-classification", ("train 0",), ["unacceptable", "acceptable"]),
    ],
)
def test_a_data_set_of_tfds(tfds_name, task, texts, labels):
    splits = read_splits(task, TaskData(f"tfds:{tfds_name}"))
    train = sorted(splits.train, key=lambda example: example.texts)
    assert train[0].texts == texts and [example.label for example in train] == labels
    assert sizes(splits.valid) == sizes(splits.test) == {"": 2}
    assert {example.place for example in train} == {f"tfds:{tfds_name}[train]:{i}" for i in (1, 2)}
    if task == "cola":
        assert {(example.id, example.label) for example in splits.test[""]} == {("0", None), ("1", None)}
