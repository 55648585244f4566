"""Fine-tuning data as people have it: what can mean one thing only is read as that and said, the rest is a sentence."""

import json
import shutil

import pyarrow
import pyarrow.parquet
import pytest
from task_files import jsonl, random_model, sizes, table, told
from test_runs import settings

from roberta_jax.errors import UserError
from roberta_jax.inference import load
from roberta_jax.interop import hub
from roberta_jax.tasks import runs
from roberta_jax.tasks.config import TaskData
from roberta_jax.tasks.definitions import TASKS
from roberta_jax.tasks.examples import read_splits
from roberta_jax.tasks.finetune import prepare
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.tokenization.pretrained import FastTokenizer, LosslessTokenizer


def read(task, **data):
    """The splits; of the valid one too, where none is given, train's file again."""
    data = {name: str(value) for name, value in data.items()}
    return read_splits(task, TaskData(**{"valid": data.get("train", "")} | data if "source" not in data else data))


def written(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


# The cases


def test_multi_hot_lists_are_positions(cases):
    rows = [json.loads(line) for line in open(cases / "tasks/multi_hot.jsonl")]
    splits = read("custom-multi-label", train=cases / "tasks/multi_hot.jsonl")
    assert splits.labels == ("0", "1", "2", "3")
    for row, example in zip(rows, splits.train, strict=True):
        assert example.label == tuple(str(i) for i, there in enumerate(row["labels"]) if there)


def test_commas_part_labels(cases, capsys):
    splits = read("custom-multi-label", train=cases / "tasks/multi_comma.csv")
    assert [example.label for example in splits.train] == [("x", "y"), ("x",), ("y",)] and splits.labels == ("x", "y")
    assert "'x,y' is taken for several labels, parted by ','" in capsys.readouterr().out


def test_no_question_is_lost_where_ids_stand_twice(cases, capsys):
    splits = read("custom-span", train=cases / "tasks/same_ids.jsonl")
    ids = [example.id for example in splits.train]
    rows = [json.loads(line) for line in open(cases / "tasks/same_ids.jsonl")]
    assert len(set(ids)) == len(ids) == len(rows) and ids[:4] == ["p0", "p0#2", "p1", "p1#2"]
    assert capsys.readouterr().out.count("predictions are written under new ones") == 1


@pytest.mark.parametrize("name", ["nan_label", "list_label"])
def test_what_is_no_class(cases, tmp_path, name):
    path = cases / f"tasks/{name}.jsonl"
    with pytest.raises(UserError, match=rf"{name}\.jsonl:{3 if 'nan' in name else 1}: (an empty 'label'|the label is \['x'\])"):
        read("custom-classification", train=path)
    jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": 0}, {"text": "b", "label": 1}])
    test = read("custom-classification", train=tmp_path / "train.jsonl", test=path).test[""]
    assert [example.label for example in test] == (["1", "0", None] if "nan" in name else [None, None])


def test_whole_numbers_and_floats_are_one_label(cases, capsys):
    folder = cases / "tasks"
    splits = read("custom-classification", train=folder / "int_labels_train.jsonl", valid=folder / "float_labels_valid.jsonl")
    assert splits.labels == ("0", "1") and [example.label for example in splits.valid[""]] == ["1", "0"]
    assert "the label '1.0' is taken for '1'" in capsys.readouterr().out


def test_columns_without_a_name_are_left_out(cases):
    splits = read("custom-classification", train=cases / "tasks/empty_headers.csv", text_columns="v2", label_column="v1")
    assert told(splits.train) == [("0", ("see you at noon",), "ham"), ("1", ("win a prize now",), "spam")]


@pytest.mark.parametrize(
    "name, rows, said",
    [
        ("label_named_target.csv", [("hello", "1"), ("bye", "0")], "the column 'target' is taken for 'label'"),
        ("space_before_label.csv", [("hello", "a"), ("bye", "b")], ""),
        ("pandas_quoted.tsv", [('He said "hi" to me', "1"), ("bye", "0")], ""),
    ],
)
def test_tables_of_spreadsheets(cases, capsys, name, rows, said):
    splits = read("custom-classification", train=cases / "tasks" / name)
    assert [(example.texts[0], example.label) for example in splits.train] == rows
    assert said in capsys.readouterr().out


def test_halves_of_emoji(cases, small_corpus):
    splits = read("custom-tagging", train=cases / "tasks/lone_surrogate_tags.jsonl")
    for tokenizer in (LosslessTokenizer(small_corpus.tokenizer), FastTokenizer(small_corpus.tokenizer)):
        features = KINDS["tagging"].encode(splits.train, tokenizer, splits.labels, 64)
        assert len(features) == 4 and all((labels >= 0).sum() == 3 for labels in features.labels)


def test_columns_of_germeval(cases, tmp_path):
    path = cases / "tasks/germeval_columns.tsv"
    with pytest.raises(
        UserError, match=r"germeval_columns\.tsv:2: several columns may hold the tags; it has 1: '1', 2: 'Ebersberg'"
    ):
        read("custom-tagging", train=path)
    for words in ("2", "words"):  # without its number, that of the words is told by the one that counts them
        splits = read("custom-tagging", train=path, text_columns=words, label_column="3")
        assert [(e.texts, e.label) for e in splits.train] == [(("Ebersberg", "liegt"), ("B-LOC", "O"))]
    with pytest.raises(UserError, match=r"there is no column 9; it has 1: '1'"):
        read("custom-tagging", train=path, label_column="9")


def test_the_diagnostic_set_where_glue_has_it(cases, tmp_path):
    for name in ("MNLI", "diagnostic"):
        (tmp_path / "glue" / name).mkdir(parents=True)
    shutil.copy(cases / "tasks/glue_diagnostic/diagnostic/diagnostic.tsv", tmp_path / "glue/diagnostic")
    header, row = ("index", "sentence1", "sentence2"), (0, "a", "b")
    for name in ("train", "dev_matched"):
        table(tmp_path / f"glue/MNLI/{name}.tsv", [(*header, "gold_label"), (*row, "neutral"), (*row, "-")])
    table(tmp_path / "glue/MNLI/test_matched.tsv", [header, row])
    with pytest.warns(UserWarning, match="2 lines are left out.*no label that was agreed on"):
        splits = read_splits("mnli", TaskData(str(tmp_path / "glue/MNLI")))
    assert sizes(splits.test) == {"": 1, "diagnostic": 2} and len(splits.train) == 1


# And others of their kind


@pytest.mark.parametrize(
    "labels, expected",
    [
        ([[1, 0, 1], [0, 0, 0]], [("0", "2"), ()]),
        ([[True, False], [False, True]], [("0",), ("1",)]),
        ([[1.0, 0.0], [0.0, 1.0]], [("0",), ("1",)]),
        (["[1, 0, 0]", "[0, 1, 1]"], [("0",), ("1", "2")]),
        ([[0, 3], [3], [7, 0]], [("0", "3"), ("3",), ("7", "0")]),
        ([[0], [0, 1], []], [("0",), ("0", "1"), ()]),
        ([["a"], ["b", "a"], []], [("a",), ("b", "a"), ()]),
        (["a;b", "b", "a"], [("a", "b"), ("b",), ("a",)]),
        (["Food, Drink", "Sports"], [("Food, Drink",), ("Sports",)]),
        ([["a, b"], ["a"], ["b"], ["a", "b"]], [("a, b",), ("a",), ("b",), ("a", "b")]),
        ([[0, 1], [1, 0]], "could be names, or 0 or 1 for each of 2 labels"),
        ([[1], [0]], "could be names, or 0 or 1 for each of 1 labels"),
        ([[0, 0, 1], [1, 0]], "2 numbers for the labels; expected 3"),
        (["0|0|1", "1|0|0"], "write 0 or 1 for each label as a JSON list"),
        (["1,0,1", "0,0,0", "0,0,1"], "write 0 or 1 for each label as a JSON list"),
        ([[0.3, 0.7], [1.0, 0.0]], "expected names, or 0 or 1 for each label"),
        ([[None, "x"], ["y"]], "expected names, or 0 or 1 for each label"),
        ([{"a": 1}, ["y"]], "expected a list"),
    ],
)
def test_sets_of_labels_in_every_form(tmp_path, labels, expected):
    jsonl(tmp_path / "train.jsonl", [{"text": f"text {i}", "labels": label} for i, label in enumerate(labels)])
    if isinstance(expected, str):
        with pytest.raises(UserError, match=rf"train\.jsonl:\d: .*{expected}"):
            read("custom-multi-label", train=tmp_path / "train.jsonl")
    else:
        splits = read("custom-multi-label", train=tmp_path / "train.jsonl")
        assert [example.label for example in splits.train] == expected


def test_a_position_that_train_never_has_is_a_label(tmp_path):
    for name, labels in (("train", [[1, 0, 0], [0, 0, 0]]), ("valid", [[0, 0, 1], [0, 1, 1]])):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": f"text {i}", "labels": label} for i, label in enumerate(labels)])
    splits = read("custom-multi-label", source=tmp_path)
    assert splits.labels == ("0", "1", "2") and [example.label for example in splits.valid[""]] == [("2",), ("1", "2")]


@pytest.mark.parametrize("train, valid, labels", [
    ("1 0", "1.0 0.0", "1 0"), ("1.0 0.0", "1 0", "1.0 0.0"), ("1.0 0", "1 0.0", "1.0 0"), ("-1 2", "-1.0 2.00", "-1 2"),
    ("01 1", "01 1", "01 1"), ("a 1.5", "a 1.5", "a 1.5"),
])  # fmt: skip
def test_a_number_is_one_label_however_it_is_written(tmp_path, train, valid, labels):
    for name, values in (("train", train), ("valid", valid)):
        (tmp_path / f"{name}.csv").write_text("text,label\n" + "".join(f"t,{value}\n" for value in values.split()))
    splits = read("custom-classification", source=tmp_path)
    assert [example.label for example in splits.valid[""]] == labels.split() and set(labels.split()) == set(splits.labels)


@pytest.mark.parametrize("value", ["NaN", "null", "[1]", '{"a": 1}'])
@pytest.mark.parametrize("task, good", [("custom-classification", '"x"'), ("custom-regression", "1.5")])
def test_no_label_is_an_error_but_in_a_test_split(tmp_path, task, good, value):
    rows = [f'{{"text": "a", "label": {good}}}\n', '{"text": "b", "label": "2"}\n']
    bad = written(tmp_path, "bad.jsonl", f'{rows[0]}{{"text": "b", "label": {value}}}\n')
    with pytest.raises(UserError, match=r"bad\.jsonl:2: "):
        read(task, train=bad)
    splits = read(task, train=written(tmp_path, "train.jsonl", "".join(rows)), test=bad)
    assert splits.test[""][1].label is None and splits.test[""][0].label is not None


@pytest.mark.parametrize("text", [" a ", "a\u00a0", "\ta b", "a  "])
def test_texts_of_ones_own_are_what_classify_is_given(tmp_path, text):
    jsonl(tmp_path / "train.jsonl", [{"text": text, "label": "x"}, {"text": "b", "label": "y"}])
    assert read("custom-classification", train=tmp_path / "train.jsonl").train[0].texts == (text,)
    choice = {"article": text, "question": "q", "options": ["x", "y"], "answer": "B"}
    span = {"question": text, "context": f"{text}x", "answers": {"text": ["x"], "answer_start": [len(text)]}}
    for task, row in (("custom-multiple-choice", choice), ("custom-span", span)):
        jsonl(tmp_path / "train.jsonl", [row, row])
        assert read(task, train=tmp_path / "train.jsonl").train[0].texts[0] == text
    jsonl(tmp_path / "train.jsonl", [{"text": " \t", "label": "x"}])
    with pytest.raises(UserError, match=r"train\.jsonl:1: an empty 'text'"):
        read("custom-classification", train=tmp_path / "train.jsonl")


@pytest.mark.parametrize("name", ["val", "eval", "Valid", "DEV", "Validation", "devel", "evaluation"])
def test_a_valid_split_by_any_of_its_names(tmp_path, name, capsys):
    for file, text in (("Train.csv", "a"), (f"{name}.csv", "b")):
        (tmp_path / file).write_text(f"text,label\n{text},x\n{text},y\n")
    splits = read("custom-classification", source=tmp_path)
    assert [example.texts for example in splits.valid[""]] == [("b",)] * 2
    assert "held out" not in capsys.readouterr().out


def test_what_is_held_out_is_said(tmp_path, capsys):
    (tmp_path / "train.csv").write_text("text,label\n" + "".join(f"text {i},{i % 2}\n" for i in range(100)))
    splits = read("custom-classification", source=tmp_path)
    assert (
        f"there is no valid split, so {len(splits.valid['']):,} of 100 train examples are held out" in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    "text, rows",
    [
        ('text\tlabel\n"a ""b"""\tx\nc\ty\n', [('a "b"', "x"), ("c", "y")]),
        ('text\tlabel\n"a\tb"\tx\nc\ty\n', [("a\tb", "x"), ("c", "y")]),
        ('text\tlabel\n"two\nlines"\tx\nc\ty\n', [("two\nlines", "x"), ("c", "y")]),
        ('"text"\t"label"\n"a"\t"x"\n"c"\t"y"\n', [("a", "x"), ("c", "y")]),
        ('text\tlabel\n"half\tx\nc\ty\n', [('"half', "x"), ("c", "y")]),
        ('text\tlabel\n"Hi" he said\tx\nc "d"\ty\n', [('"Hi" he said', "x"), ('c "d"', "y")]),
        ('text\tlabel\n"half\tx\nrest"\ty\n', [('"half', "x"), ('rest"', "y")]),
        ('text\tlabel\na "b" c\tx\n5" long\ty\n', [('a "b" c', "x"), ('5" long', "y")]),
    ],
)
def test_quotes_of_a_tsv(tmp_path, text, rows):
    path = written(tmp_path, "train.tsv", text)
    assert [(e.texts[0], e.label) for e in read("custom-classification", train=path).train] == rows
    glue = written(tmp_path, "glue.tsv", "sentence\tlabel\n" + '"a ""b"""\t1\nc\t0\n')
    assert read("sst2", train=glue).train[0].texts == ('"a ""b"""',)  # there a quote is a character like any other


@pytest.mark.parametrize(
    "text, rows",
    [
        ('text, label\n"a, b", x\nc, y\n', [("a, b", "x"), ("c", "y")]),
        ('text,label\nhello, "a"\nbye, "b"\n', [("hello", "a"), ("bye", "b")]),
        ('label, text\nx, "a, b"\ny, c\n', [("a, b", "x"), ("c", "y")]),
        ('text,label\n"He said, ""hi""",x\n" c",y\n', [('He said, "hi"', "x"), (" c", "y")]),
        ("Text,LABEL\na,x\nc,y\n", [("a", "x"), ("c", "y")]),
        (" text ,Labels\na,x\nc,y\n", [("a", "x"), ("c", "y")]),
        (",text,class\n0,a,x\n1,c,y\n", [("a", "x"), ("c", "y")]),
        ("text,target,other,\na,x,1,\nc,y,2,\n", [("a", "x"), ("c", "y")]),
        ("text,target,class\na,x,1\n", "no column 'label'"),
        ("text,text,label\na,b,x\n", "a column's name stands twice"),
    ],
)
def test_headers_that_mean_one_thing_only(tmp_path, text, rows):
    path = written(tmp_path, "train.csv", text)
    if isinstance(rows, str):
        with pytest.raises(UserError, match=rows):
            read("custom-classification", train=path)
    else:
        assert [(e.texts[0], e.label) for e in read("custom-classification", train=path).train] == rows


def test_a_name_that_is_given_is_not_guessed_at(tmp_path):
    path = written(tmp_path, "train.csv", "text,target\na,x\nb,y\n")
    with pytest.raises(UserError, match="no column 'stars'"):
        read("custom-classification", train=path, label_column="stars")


def test_a_comma_in_a_files_name(tmp_path):
    path = written(tmp_path, "a, b.csv", "text,label\na,x\nb,y\n")
    assert len(read("custom-classification", train=str(path).replace(",", "\\,"), valid=tmp_path / "a?*.csv").train) == 2


@pytest.mark.parametrize("form", ["lines", "list", "indented"])
def test_a_json_file(tmp_path, form):
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    text = {"lines": lines, "list": json.dumps(rows), "indented": json.dumps(rows, indent=2)}[form]
    written(tmp_path, "train.json", text)
    assert [e.label for e in read("custom-classification", source=tmp_path, valid=tmp_path / "train.json").train] == ["x", "y"]
    written(tmp_path, "train.csv", "text,label\nc,x\nd,y\n")  # a table goes before
    assert read("custom-classification", source=tmp_path, valid=tmp_path / "train.json").train[0].texts == ("c",)


@pytest.mark.parametrize("task", ["squad", "custom-span"])
@pytest.mark.parametrize("answers", [{"text": [], "answer_start": []}, [], None])
def test_a_test_split_of_spans_without_answers(tmp_path, task, answers):
    row = {"question": "q", "context": "a b"}
    jsonl(tmp_path / "train.jsonl", [row | {"answers": {"text": ["b"], "answer_start": [2]}}])
    jsonl(tmp_path / "test.jsonl", [row | {"answers": answers}] * 2)
    splits = read(task, train=tmp_path / "train.jsonl", test=tmp_path / "test.jsonl")
    assert [example.label for example in splits.test[""]] == [None, None]


@pytest.mark.parametrize(
    "given, expected",
    [
        ("B-X E-X O S-Y S-Y", "B-X I-X O B-Y B-Y"),
        ("B-X I-X E-X B-X E-X", "B-X I-X I-X B-X I-X"),
        ("B-X L-X U-X O", "B-X I-X B-X O"),
        ("I-X I-X O I-Y", "B-X I-X O B-Y"),
        ("B-X I-X B-X O", "B-X I-X B-X O"),
    ],
)
def test_schemes_of_tags(tmp_path, given, expected):
    tags = given.split()
    written(tmp_path, "train.conll", "".join(f"w{i} {tag}\n" for i, tag in enumerate(tags)))
    jsonl(tmp_path / "train.jsonl", [{"tokens": [f"w{i}" for i in range(len(tags))], "ner_tags": tags}])
    for name in ("train.conll", "train.jsonl"):
        assert read("custom-tagging", train=tmp_path / name).train[0].label == tuple(expected.split())


@pytest.mark.parametrize(
    "text, words, tags",
    [
        ("# sent_id = 1\n1 New B-X\n2 York I-X\n\n# sent_id = 2\n1 is O\n", ("New", "York"), ("B-X", "I-X")),
        ("0\tNew\tNNP\tB-X\n1\tYork\tNNP\tI-X\n", ("New", "York"), ("B-X", "I-X")),
        ("#begin document (x); part 0\nNew B-X\nYork I-X\n#end document\n", ("New", "York"), ("B-X", "I-X")),
        ("# O\nNew B-X\n", ("#", "New"), ("O", "B-X")),
        ("1 CD B-NP O\n\nNew NNP B-NP B-X\n", ("1",), ("O",)),
        ("1 O\n2 O\n", ("1", "2"), ("O", "O")),
    ],
)
def test_columns_and_comments_of_conll(tmp_path, text, words, tags):
    example = read("custom-tagging", train=written(tmp_path, "train.conll", text)).train[0]
    assert (example.texts, example.label) == (words, tags)


def test_numbers_of_the_hub_for_tags(tmp_path):
    names = ["O", "B-X", "I-X"]
    info = {"info": {"features": {"ner_tags": {"feature": {"names": names, "_type": "ClassLabel"}, "_type": "Sequence"}}}}
    columns = pyarrow.table({"tokens": [["New", "York"], ["is"]], "ner_tags": [[1, 2], [0]]})
    columns = columns.replace_schema_metadata({"huggingface": json.dumps(info)})
    pyarrow.parquet.write_table(columns, tmp_path / "train.parquet")
    splits = read("custom-tagging", train=tmp_path / "train.parquet")
    assert [example.label for example in splits.train] == [("B-X", "I-X"), ("O",)]
    jsonl(tmp_path / "train.jsonl", [{"tokens": ["EU", "rejects"], "ner_tags": [3, 0]}])
    assert read("conll2003", train=tmp_path / "train.jsonl").train[0].label == ("B-ORG", "O")
    with pytest.raises(UserError, match=r"train\.jsonl:1: the tag 3 is not known; expected names"):
        read("custom-tagging", train=tmp_path / "train.jsonl")
    assert [len(TASKS[name].tags) for name in ("conll2003", "wnut17")] == [9, 13]


@pytest.mark.parametrize("answer", ["ß", "²", "ŉ", "", "AB", -1, 2])
def test_answers_that_are_none(tmp_path, answer):
    jsonl(tmp_path / "train.jsonl", [{"article": "a", "question": "q", "options": ["x", "y"], "answer": answer}])
    with pytest.raises(UserError, match=r"train\.jsonl:1: "):
        read("custom-multiple-choice", train=tmp_path / "train.jsonl")


# A whole run


@pytest.fixture(scope="module")
def model(small_corpus, tmp_path_factory):
    return random_model(small_corpus.tokenizer, tmp_path_factory.mktemp("model"))


ROWS = {
    "custom-classification": ({"text": "the sailor sold a boat"}, "label", ["a", "b"]),
    "custom-multi-label": ({"text": "the sailor sold a boat"}, "labels", [["a"], ["b"]]),
    "custom-regression": ({"text": "the sailor sold a boat"}, "score", [1.5, 2.5]),
    "custom-multiple-choice": ({"article": "the", "question": "who", "options": ["a", "b"]}, "answer", ["A", "B"]),
    "custom-span": (
        {"question": "who", "context": "the sailor sold a boat"},
        "answers",
        [{"text": ["boat"], "answer_start": [18]}, {"text": ["the"], "answer_start": [0]}],
    ),
    "custom-tagging": ({"words": ["the", "sailor"]}, "tags", [["O", "B-X"], ["B-X", "O"]]),
}


@pytest.mark.parametrize("task", ROWS)
@pytest.mark.parametrize("shown", ["wholly", "partly", "none"])
def test_the_labelled_part_of_a_test_split(small_corpus, tmp_path, task, shown):
    row, column, labels = ROWS[task]
    labels_of_test = {"wholly": labels * 2, "partly": [labels[0], None, labels[1], None], "none": [None] * 4}[shown]
    jsonl(tmp_path / "train.jsonl", [row | {column: labels[i % 2]} for i in range(4)])
    jsonl(tmp_path / "test.jsonl", [row | {column: label} for label in labels_of_test])
    splits = read(task, train=tmp_path / "train.jsonl", test=tmp_path / "test.jsonl")
    prepared = prepare(TASKS[task], splits, LosslessTokenizer(small_corpus.tokenizer), 32)
    test, labelled = prepared.test[""], prepared.labelled.get("")
    assert len(test.examples) == 4 and (test.features.labels is None) == (shown != "wholly")
    if shown == "none":
        assert labelled is None
    else:
        assert (labelled is test) == (shown == "wholly") and len(labelled.examples) == {"wholly": 4, "partly": 2}[shown]
        assert labelled.features.labels is not None


def test_a_test_split_that_is_labelled_in_part_is_measured_on_that_part(model, tmp_path, capsys):
    for name, labels in (("train", "abab"), ("test", ["a", None, None, "b"])):
        jsonl(tmp_path / f"{name}.jsonl", [{"text": "the sailor sold a boat", "label": label} for label in labels])
    data = {"data.train": f"{tmp_path}/train.jsonl", "data.valid": f"{tmp_path}/train.jsonl"}
    config = settings("custom-classification", model, **data, **{"data.test": f"{tmp_path}/test.jsonl", "steps": 1})
    runs.run_tasks(config, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/predictions_test.jsonl").read_text().splitlines()]
    assert ["label" in line for line in lines] == [True, False, False, True]
    right = sum(line["prediction"] == line.get("label") for line in lines)
    found = json.loads((tmp_path / "run/metrics_test.json").read_text())["test"]
    assert (found["examples"], found["without_label"], found["accuracy"]) == (2, 2, right / 2)
    assert "on the 2 of 4 examples that have a label" in capsys.readouterr().out
    jsonl(tmp_path / "test.jsonl", [{"text": "the sailor sold a boat"}] * 3)  # another test split, without labels
    runs.run_tasks(config, tmp_path / "run")
    assert len((tmp_path / "run/predictions_test.jsonl").read_text().splitlines()) == 3
    assert not (tmp_path / "run/metrics_test.json").exists()  # which was of the one before


def test_a_model_is_given_rows_as_long_as_it_was_trained_on(model, tmp_path):
    """So that a longer text is cut where it was in training: what `classify` says is what stands in predictions.jsonl."""
    words = "the sailor sold a boat near the harbour before sunrise and the mayor lost it".split()
    rows = [{"text": " " + " ".join(words[i:] + words[:i]) + "  ", "label": "ab"[i % 2]} for i in range(8)]
    jsonl(tmp_path / "train.jsonl", rows)
    data = {"data.train": f"{tmp_path}/train.jsonl", "data.valid": f"{tmp_path}/train.jsonl"}
    config = settings("custom-classification", model, **data, steps=3, batch_size=4)
    runs.run_tasks(config, tmp_path / "run")
    hub.export(tmp_path / "run", tmp_path / "exported")
    told = [json.loads(line)["scores"] for line in (tmp_path / "run/predictions.jsonl").read_text().splitlines()]
    for folder in ("run", "exported"):
        answers = load(tmp_path / folder)
        assert answers.max_length == 16 < answers.config.max_length
        with pytest.warns(UserWarning, match="8 of 8 texts are too long for the model's 16 tokens"):
            found = answers.classify([row["text"] for row in rows])
        assert found == [pytest.approx(scores, abs=1e-5) for scores in told]
    settings_of_export = json.loads((tmp_path / "exported/tokenizer_config.json").read_text())
    assert settings_of_export["model_max_length"] == 16
