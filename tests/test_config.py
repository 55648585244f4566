"""Config files: every field known, the shipped ones whole, what cannot be refused before anything is done."""

import importlib
import json
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from roberta_jax.ablations.config import AblationsConfig
from roberta_jax.config import defaults, plain, typed
from roberta_jax.data.masking import Masking
from roberta_jax.errors import UserError
from roberta_jax.model.config import FIXED
from roberta_jax.pretraining.config import DataConfig, PretrainConfig, with_sizes
from roberta_jax.tasks.config import FinetuneConfig

ROOT = Path(__file__).parent.parent


CONFIGS = {"tiny": PretrainConfig, "base": PretrainConfig, "large": PretrainConfig, "ablations": AblationsConfig}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shipped_config_has_every_field_that_a_person_can_set_and_no_other(name):
    config, cls = importlib.import_module(f"configs.{name}").get_config().to_dict(), CONFIGS[name]

    def paths(section, prefix=""):
        return {
            p
            for key, value in section.items()
            for p in (paths(value, f"{key}.") if isinstance(value, dict) else [prefix + key])
        }

    assert paths(config) == paths(defaults(cls, leave_out=[f"model.{name}" for name in FIXED]))
    assert typed(cls, plain(typed(cls, config))) == typed(cls, config)


@pytest.mark.parametrize("cls", [*CONFIGS.values(), FinetuneConfig])
def test_a_field_is_explained_where_it_is_declared(cls):
    for field in fields(cls):
        if is_dataclass(field.type):
            test_a_field_is_explained_where_it_is_declared(field.type)
        elif field.name not in ("job", *FIXED):
            assert field.metadata["help"], field.name


def test_a_default_that_stands_in_two_places_is_the_same():
    masking, data = Masking(), DataConfig()
    assert (data.masking, data.masking_rate) == (masking.mode, masking.rate)
    assert (data.mask_replace_prob, data.random_replace_prob) == (masking.mask_replace_prob, masking.random_replace_prob)


def test_a_config_is_read_before_any_device_is_asked_for():
    """Hosts of a cluster meet first, and `plan` chooses what is compiled for."""
    code = (
        "import jax, sys; from configs import ablations, large; large.get_config(); ablations.get_config();"
        "from jax._src import xla_bridge; print(xla_bridge.backends_are_initialized(), 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_names_that_hold_commas_come_back_whole():
    data = DataConfig(source=("a,b.txt", "c"), tokenizer="folder,1")
    assert plain(data)["source"] == "a\\,b.txt,c" and typed(DataConfig, plain(data)) == data
    assert typed(DataConfig, {"source": " a , b,", "tokenizer": "400"}) == DataConfig(source=("a", "b"), tokenizer=400)


@pytest.mark.parametrize(
    ("name", "model", "optimizer"),
    [
        ("base", (12, 768, 3072, 12), (6e-4, 24_000)),
        ("large", (24, 1024, 4096, 16), (4e-4, 30_000)),
    ],
)
def test_base_and_large_are_the_papers(name, model, optimizer):
    config = typed(PretrainConfig, importlib.import_module(f"configs.{name}").get_config().to_dict())
    m, o = config.model, config.optimizer
    assert (m.num_layers, m.hidden_size, m.intermediate_size, m.num_heads) == model
    assert (m.vocab_size, m.max_length, m.dropout, m.attention_dropout) == (50_265, 512, 0.1, 0.1)
    assert (o.learning_rate, o.warmup_steps) == optimizer
    assert (o.weight_decay, o.b1, o.b2, o.eps, o.clip_norm, o.decay_bias_and_norm) == (0.01, 0.9, 0.98, 1e-6, 0, True)
    assert (config.steps, config.batch_size) == (500_000, 8_192)
    assert (config.data.length, config.data.format) == (512, "full-sentences")
    assert (config.data.masking, config.data.masking_rate) == ("roberta", 0.15)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step": 3}, r"config.step is not a field .* did you mean config.steps\?"),
        ({"model": {"hiden_size": 3}}, r"config.model.hiden_size .* did you mean config.model.hidden_size\?"),
        ({"steps": "many"}, "config.steps is 'many'; expected a value of type int"),
        ({"data": 3}, "config.data is 3; expected a section"),
    ],
)
def test_a_field_that_cannot_be_is_named(fields, message):
    with pytest.raises(UserError, match=message):
        typed(PretrainConfig, fields)


def test_an_int_where_a_float_stands_is_taken():
    assert typed(PretrainConfig, {"optimizer": {"clip_norm": 1}}).optimizer.clip_norm == 1.0


# Wrong values of each field, and what the sentence expects in its place.
POSITIVE, SHARE, BELOW_ONE, ABOVE_ZERO = (
    "1 or more",
    "a share between 0 and 1",
    "a share from 0 on, below 1",
    "a number above 0",
)
WRONG = {
    "job": [("bake", "'pretrain' or 'finetune' or 'ablations'")],
    "steps": [(0, POSITIVE), (-5, POSITIVE), (2**31, "less than 2³¹")],
    "batch_size": [(0, POSITIVE), (12, "the 8 devices do not divide"), (2**31, "less than 2³¹")],
    "microbatch_size": [(-1, "0 or more"), (3, "does not divide a device's share of 2 rows")],
    "seed": [(-1, "0 or more, and less than 2³²"), (2**32, "0 or more, and less than 2³²")],
    "init_from": [("no/such/model", "there is no such folder")],
    "new_vocabulary": [(True, "False, where config.init_from names no model")],
    "continue_from": [("run", "RUN@STEP, a run's workdir"), ("@5", "RUN@STEP"), ("no/such/run@5", "is no run's workdir")],
    "fsdp": [(0, POSITIVE), (3, "it must divide the 8 devices"), (-2, POSITIVE)],
    "log_every": [(0, POSITIVE)],
    "eval_every": [(0, POSITIVE), (-1, POSITIVE)],
    "checkpoint_every": [(0, POSITIVE)],
    "keep_checkpoints": [(0, POSITIVE)],
    "tracker": [("comet", "'' or 'wandb' or 'mlflow' or 'trackio'")],
    "profile": [(-1, "0 or more")],
    "keep_every": [("often", "a number of steps, or as 10M tokens"), ("0", "'0' is none"), ("5,1M rows", "'1M rows' is")],
    "phases": [
        ("steps=10", "phase 1 is 'steps=10'; expected steps=N, the 2,600 that are left"),
        ("steps=0,", "the 2,600 that are left"),
        ("steps=2600, steps=1", "less than the 2,600 that are left"),
        ("steps=many,steps=1", "less than the 2,600 that are left"),
        ("steps=0.5,steps=0.4", "phase 2 is 'steps=0.4'; expected steps=N, the 1,300 that are left"),
        ("steps=0.5,data.masking", "phase 2 is 'data.masking'; expected FIELD=VALUE"),
        ("steps=0.5,model.dropout=0.1", "phase 2 sets 'model.dropout'; expected steps, batch_size, optimizer.learning_rate"),
        ("steps=0.5,data.tokenizer=300", "phase 2 sets 'data.tokenizer'"),
        ("steps=0.5,data.mask=0.1", "phase 2: config.data.mask is not a field"),
        ("steps=0.5,data.masking_rate=1", "phase 2: config.data.masking_rate is 1.0; expected a share between"),
        ("steps=0.5,batch_size=many", "phase 2: config.batch_size is 'many'; expected a value of type int"),
        ("steps=0.5,batch_size=12", "phase 2: config.batch_size is 12, which the 8 devices do not divide"),
        ("steps=0.5,data.format=sentence-pair", "phase 2: config.data.format is 'sentence-pair'; expected one whose rows"),
        ("steps=0.5,optimizer.warmup_steps=1300", "phase 2: config.optimizer.warmup_steps is 1300.0; expected less than"),
    ],
    "model.vocab_size": [(-1, "0: what the data needs"), (2_049, "the tokenizer has at most 2048 entries")],
    "model.num_layers": [(0, POSITIVE)],
    "model.hidden_size": [(0, POSITIVE), (129, "a multiple of config.model.num_heads, 2")],
    "model.intermediate_size": [(0, POSITIVE)],
    "model.num_heads": [(0, POSITIVE)],
    "model.max_length": [(-1, "0: what the data needs"), (63, "at least config.data.length, 64")],
    "model.num_token_types": [(0, POSITIVE)],
    "model.dropout": [(-0.1, BELOW_ONE), (1.0, BELOW_ONE), (float("nan"), "finite")],
    "model.attention_dropout": [(-0.1, BELOW_ONE), (1.5, BELOW_ONE)],
    "model.initializer_range": [(0.0, ABOVE_ZERO), (float("inf"), "finite")],
    "model.position_init": [("sine", "'normal' or 'sinusoids'")],
    "model.dtype": [("float16", "'float32' or 'bfloat16'")],
    "model.remat": [("all", "'none' or 'dots' or 'full'")],
    "model.attention": [("flash", "'kernel' or 'xla'")],
    "optimizer.name": [("sgd", "'adamw' or 'stableadamw' or 'lamb' or 'muon' or 'lion'")],
    "optimizer.learning_rate": [(0.0, ABOVE_ZERO), (-1e-3, ABOVE_ZERO), (float("nan"), "finite")],
    "optimizer.warmup_steps": [(2_600, "less than config.steps, 2,600"), (-1, "0 or more")],
    "optimizer.schedule": [("triangle", "'linear' or 'cosine' or '1-sqrt' or 'constant'")],
    "optimizer.decay_steps": [(-1.0, "0 or more"), (2_599.0, "or less, which are the steps behind the warm-up")],
    "optimizer.floor": [(1.5, "a share from 0 to 1"), (-0.1, "a share from 0 to 1")],
    "optimizer.words_alone": [(-1.0, "0 or more")],
    "optimizer.weight_decay": [(-0.01, "0 or more")],
    "optimizer.b1": [(1.0, BELOW_ONE), (-0.1, BELOW_ONE)],
    "optimizer.b2": [(1.0, BELOW_ONE)],
    "optimizer.eps": [(0.0, ABOVE_ZERO)],
    "optimizer.clip_norm": [(-1.0, "0 or more")],
    "guard.skip_above": [(-1.0, "0, which turns it off, or more")],
    "guard.spike_above": [(-1.0, "0, which turns it off, or more")],
    "guard.spike_steps": [(0, POSITIVE)],
    "guard.rewinds": [(-1, "0, which turns it off, or more")],
    "data.source": [("", "a file, a folder, a glob"), (" , ", "a file, a folder, a glob")],
    "data.mixture": [
        ("web", "SOURCE=WEIGHT for each, once, a number above 0; 'web' is not"),
        ("web=0.5,books=0", "'books=0' is not"),
        ("web=1,web=2", "'web=2' is not"),
        ("=1", "'=1' is not"),
        ("web=nan", "'web=nan' is not"),
    ],
    "data.tokenizer": [("", "a name"), ("260", "261 or more"), ("no/such/folder", "no vocab.json")],
    "data.encoding": [("letters", "'bytes' or 'wordpiece'")],
    "data.format": [("whole-books", "'full-sentences' or")],
    "data.length": [(7, "at least 8 ids"), (-64, "at least 8 ids")],
    "data.valid_fraction": [(0.0, SHARE), (1.0, SHARE)],
    "data.fraction": [(0.0, "a share above 0 and up to 1"), (1.5, "a share above 0 and up to 1")],
    "data.masking": [("often", "'roberta' or 'fairseq'")],
    "data.masking_rate": [(0.0, SHARE), (1.0, SHARE)],
    "data.mask_replace_prob": [(-0.1, "a share from 0 to 1"), (0.95, "more than 1 together")],
    "data.random_replace_prob": [(1.5, "a share from 0 to 1"), (0.25, "more than 1 together")],
    "data.text_column": [("", "a name")],
    "data.documents": [("page", "'blank-line' or 'line' or 'file'")],
    "data.invalid_utf8": [("ignore", "'replace' or 'error'")],
    "data.bad_records": [("fix", "'error' or 'skip'")],
    "data.deduplicate": [("all", "'none' or 'exact' or 'near'")],
    "data.cache": [("", "a folder of this machine")],
    "data.processes": [(-1, "0: one a core")],
}
NEVER_WRONG = {  # booleans; sources, of which the message speaks; and what no config sets
    "optimizer.decay_bias_and_norm", "data.exclude", "model.pad_id", "model.layer_norm_eps",
}  # fmt: skip
OF_JOBS = [
    ("finetune", "seeds", 0, POSITIVE),
    ("finetune", "seed", 2**32 - 1, "few enough for seeds below 2³²", {"seeds": 2}),
    ("finetune", "epochs", 0, POSITIVE),
    ("finetune", "patience", -1, "0 or more"),
    ("finetune", "together", -1, "0 or more"),
    ("finetune", "eval_every", -1, "0 or more"),
    ("finetune", "max_length", 7, "8 or more"),
    ("finetune", "data.valid_fraction", 1.0, "less than 1"),
    ("finetune", "optimizer.warmup_steps", 9.0, "less than config.steps, 9", {"steps": 9}),
    ("finetune", "task", "sing", "there are glue, cola"),
    ("finetune", "init_from", "", "name the model"),
    ("ablations", "study", "everything", "there are all, masking"),
    ("ablations", "seeds", 0, POSITIVE),
    ("ablations", "init_from", "roberta-base", "expected none"),
    ("ablations", "continue_from", "run@5", "expected none"),
    ("ablations", "phases", "steps=0.5,", "expected none"),
    ("ablations", "data.mixture", "web=1,books=1", "expected none"),
    ("ablations", "batch_size", 12, "batch_size/2K: config.batch_size is 12, which the 8 devices", {"study": "batch_size"}),
    ("ablations", "optimizer.warmup_steps", 200.0, "less than config.steps, 166", {"study": "data"}),
    ("ablations", "downstream.steps", 0, POSITIVE),
    ("ablations", "downstream.learning_rate", 0.0, ABOVE_ZERO),
]
ROWS = [("tiny", field, value, expected, {}) for field, values in WRONG.items() for value, expected in values]
ROWS += [(*row, {})[:5] for row in OF_JOBS]
ROWS += [
    ("tiny", "steps", 400, "more than the 400 of config.continue_from", {"continue_from": "run@400"}),
    ("tiny", "fsdp", 8, "a divisor of config.model.intermediate_size, 12", {"model.intermediate_size": 12}),
    ("tiny", "data.tokenizer", "261", "262 or more", {"data.encoding": "unigram"}),
    ("base", "model.vocab_size", 50_265, "the tokenizer has at most 512 entries", {"data.tokenizer": "512"}),
]
RUN = """
import importlib, json, sys
from pathlib import Path
from roberta_jax.errors import UserError
from roberta_jax.main import run
for number, (config, field, value, _, others) in enumerate(json.load(sys.stdin)):
    module = importlib.import_module("configs." + config)
    fields = module.get_config(*["rte"] if config == "finetune" else []).to_dict()
    fields["data"] |= {"source": "no/such/source"} | ({} if config == "finetune" else {"cache": sys.argv[1] + "/cache"})
    for name, value in (others | {field: value}).items():
        *sections, last = name.split(".")
        section = fields
        for each in sections:
            section = section[each]
        section[last] = value
    try:
        run(fields, Path(sys.argv[1], "run"))
        print("no error")
    except UserError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    """What each row's run says, in one process; and the folder in which a run would have left something."""
    folder = tmp_path_factory.mktemp("nothing")
    done = subprocess.run(
        [sys.executable, "-c", RUN, folder], cwd=ROOT, input=json.dumps(ROWS), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0 and len(done.stdout.splitlines()) == len(ROWS), done.stdout[-500:] + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()], folder


@pytest.mark.parametrize("number", range(len(ROWS)), ids=lambda number: f"{ROWS[number][1]}={ROWS[number][2]}")
def test_a_value_that_cannot_be_is_one_sentence_before_anything_is_read(sentences, number):
    """The source is not there: a run that had looked at it would have spoken of that."""
    said, folder = sentences[0][number], sentences[1]
    _, field, value, expected, _ = ROWS[number]
    if field == "init_from" and value == "no/such/model" or value == "no/such/folder":
        assert value in said
    else:
        assert f"config.{field}" in said or field == "seed" and "config.seeds is 2" in said, said
        assert "phase 0" not in said
    assert expected in said and "no/such/source" not in said and "\n" not in said, said
    assert not list(folder.iterdir())


def test_every_field_of_a_pretraining_is_in_the_table():
    def names(cls, prefix=""):
        for field in fields(cls):
            inner = is_dataclass(field.type)
            yield from names(field.type, f"{prefix}{field.name}.") if inner else [prefix + field.name]

    assert set(names(PretrainConfig)) == WRONG.keys() | NEVER_WRONG


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, (2_048, 64)),
        ({"data.tokenizer": "512", "data.length": 128}, (512, 128)),
        ({"model.vocab_size": 300, "model.max_length": 512}, (300, 512)),
    ],
)
def test_sizes_that_are_left_open_are_the_datas(changes, sizes):
    config = importlib.import_module("configs.tiny").get_config()
    config.update_from_flattened_dict(changes)
    model = with_sizes(typed(PretrainConfig, config.to_dict())).model
    assert (model.vocab_size, model.max_length) == sizes


def test_an_open_vocabulary_is_that_of_the_folder_of_a_tokenizer(small_corpus):
    config = importlib.import_module("configs.tiny").get_config()
    config.data.tokenizer = str(small_corpus.folder / "tokenizer")
    assert with_sizes(typed(PretrainConfig, config.to_dict())).model.vocab_size == 400
