"""The downstream tasks as rows of a table: how each is read, trained, measured and compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Task:
    """One row. The hyperparameters are those of the paper's Table 10 where it has the task."""

    kind: str  # a key of tasks.kinds.table.KINDS
    metrics: tuple[str, ...]  # the first chooses the best epoch
    learning_rate: float
    batch_size: int
    weight_decay: float
    epochs: int
    labels: tuple[str, ...] = ()  # in the order of the outputs; () takes them from the train split
    published: tuple[tuple[str, float], ...] = ()  # ("base", 78.7), ("large", 86.6): dev set, first metric, in percent
    # How its files look. Of the alternatives the first whose columns are all there is taken.
    text_columns: tuple[tuple[str, ...], ...] = ()
    label_columns: tuple[str, ...] = ("label",)
    columns: tuple[str, ...] = ()  # the columns of a file that has no header
    faulty: bool = False  # the published files have broken lines: they are counted and left out, elsewhere an error
    unanswerable: bool = False  # span: some questions have no answer in their context
    tfds: str = ""  # its data set of TFDS; several, parted by commas, are read in turn
    tags: tuple[str, ...] = ()  # what the numbers mean that the hub's copy has in their place
    custom: bool = False  # a person's own data, whose texts stay as they are


@dataclass(frozen=True, slots=True)
class Example:
    """One example of any task, as it was read. What `texts` and `label` hold its kind says, in tasks/kinds."""

    place: str  # "path:line" or what else leads there, for messages
    id: str
    texts: tuple[str, ...]
    label: str | float | int | tuple | None = None  # None: it is not given, as in a test split


GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")

_BINARY = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")  # the order of GLUE in TFDS and on the hub
_SENTENCES = ("sentence1", "sentence2")
# learning rate, batch size, weight decay, epochs (paper, Table 10)
_GLUE_32 = (1e-5, 32, 0.1, 10)
_GLUE_16 = (1e-5, 16, 0.1, 10)
_RTE = (2e-5, 16, 0.1, 10)
_SQUAD = (1.5e-5, 48, 0.01, 2)
_RACE = (1e-5, 16, 0.1, 4)

NER = dict(text_columns=(("words",), ("tokens",)), label_columns=("tags", "ner_tags", "ner"))
_CONLL, _WNUT = (
    ("O", *(f"{prefix}-{type}" for type in types.split() for prefix in "BI"))
    for types in ("PER ORG LOC MISC", "corporation creative-work group location person product")
)
_SPAN = dict(text_columns=(("question", "context"),), label_columns=("answers",))
_CHOICE = dict(
    text_columns=(("article", "question", "options"), ("passage", "question", "options"), ("article", "questions", "options")),
    label_columns=("answer", "answers", "label"),
)
_TEXTS = dict(
    text_columns=(
        ("text1", "text2"),
        _SENTENCES,
        ("premise", "hypothesis"),
        ("question1", "question2"),
        ("text",),
        ("sentence",),
    )
)

# Published: for GLUE fairseq's examples/roberta/README.md, single task, and for SQuAD the paper's; both on the dev set.
# RACE is the one task whose figures are the test set's. WNLI, the two of named entities and the custom ones have no recipe
# of their own in the paper: theirs is ours, RTE's, SQuAD's or RACE's by kind.
TASKS: dict[str, Task] = {
    "cola": Task(
        "classification",
        ("matthews", "accuracy"),
        *_GLUE_16,
        _BINARY,
        published=(("base", 63.6), ("large", 68.0)),
        text_columns=(("sentence",),),
        columns=("source", "label", "star", "sentence"),
        tfds="glue/cola",
    ),
    "sst2": Task(
        "classification",
        ("accuracy",),
        *_GLUE_32,
        _BINARY,
        published=(("base", 94.8), ("large", 96.4)),
        text_columns=(("sentence",),),
        tfds="glue/sst2",
    ),
    "mrpc": Task(
        "classification",
        ("accuracy", "f1"),
        *_GLUE_16,
        _BINARY,
        published=(("base", 90.2), ("large", 90.9)),
        text_columns=(("#1 String", "#2 String"), _SENTENCES),
        label_columns=("Quality", "label"),
        tfds="glue/mrpc",
    ),
    "stsb": Task(
        "regression",
        ("pearson", "spearman"),
        *_RTE,
        published=(("base", 91.2), ("large", 92.4)),
        text_columns=(_SENTENCES,),
        label_columns=("score", "label"),
        columns=("sentence1", "sentence2", "score"),
        tfds="glue/stsb",
    ),
    "qqp": Task(
        "classification",
        ("accuracy", "f1"),
        *_GLUE_32,
        _BINARY,
        published=(("base", 91.9), ("large", 92.2)),
        text_columns=(("question1", "question2"),),
        label_columns=("is_duplicate", "label"),
        faulty=True,
        tfds="glue/qqp",
    ),
    "mnli": Task(
        "classification",
        ("accuracy",),
        *_GLUE_32,
        ("entailment", "neutral", "contradiction"),
        published=(("base", 87.6), ("large", 90.2)),
        text_columns=(_SENTENCES, ("premise", "hypothesis")),
        label_columns=("gold_label", "label"),
        faulty=True,
        tfds="glue/mnli",
    ),
    "qnli": Task(
        "classification",
        ("accuracy",),
        *_GLUE_32,
        _ENTAILMENT,
        published=(("base", 92.8), ("large", 94.7)),
        text_columns=(("question", "sentence"),),
        tfds="glue/qnli",
    ),
    "rte": Task(
        "classification",
        ("accuracy",),
        *_RTE,
        _ENTAILMENT,
        published=(("base", 78.7), ("large", 86.6)),
        text_columns=(_SENTENCES,),
        tfds="glue/rte",
    ),
    "wnli": Task("classification", ("accuracy",), *_RTE, _BINARY, text_columns=(_SENTENCES,), tfds="glue/wnli"),  # ours
    "squad": Task("span", ("f1", "exact_match"), *_SQUAD, published=(("large", 94.6),), tfds="squad/v1.1", **_SPAN),
    "squad2": Task(
        "span", ("f1", "exact_match"), *_SQUAD, published=(("large", 89.4),), unanswerable=True, tfds="squad/v2.0", **_SPAN
    ),
    "race": Task(
        "multiple_choice",
        ("accuracy",),
        *_RACE,
        published=(("large", 83.2),),
        faulty=True,
        tfds="race/middle,race/high",
        **_CHOICE,
    ),
    "race-middle": Task(
        "multiple_choice", ("accuracy",), *_RACE, published=(("large", 86.5),), faulty=True, tfds="race/middle", **_CHOICE
    ),
    "race-high": Task(
        "multiple_choice", ("accuracy",), *_RACE, published=(("large", 81.3),), faulty=True, tfds="race/high", **_CHOICE
    ),
    "conll2003": Task("tagging", ("f1", "precision", "recall"), *_RTE, tags=_CONLL, tfds="conll2003", **NER),  # ours
    "wnut17": Task("tagging", ("f1", "precision", "recall"), *_RTE, tags=_WNUT, **NER),  # ours
    # All below is ours.
    "custom-classification": Task("classification", ("accuracy",), *_RTE, custom=True, **_TEXTS),
    "custom-multi-label": Task(
        "multi_label", ("f1", "accuracy"), *_RTE, label_columns=("labels", "label"), custom=True, **_TEXTS
    ),
    "custom-regression": Task(
        "regression", ("pearson", "spearman"), *_RTE, label_columns=("score", "label"), custom=True, **_TEXTS
    ),
    "custom-multiple-choice": Task("multiple_choice", ("accuracy",), *_RACE, custom=True, **_CHOICE),
    "custom-span": Task("span", ("f1", "exact_match"), *_SQUAD, unanswerable=True, custom=True, **_SPAN),
    "custom-tagging": Task("tagging", ("f1", "precision", "recall"), *_RTE, custom=True, **NER),
}
