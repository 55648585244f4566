"""Whatever befalls a run's files beside its checkpoints: the next start and every reader end well or with one sentence."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from roberta_jax.ablations import results as of_ablations
from roberta_jax.ablations import run as ablations
from roberta_jax.config import typed
from roberta_jax.data.corpus import Corpus, report
from roberta_jax.errors import UserError
from roberta_jax.interop import hub
from roberta_jax.interop.conversion import config_to_transformers
from roberta_jax.model.config import RobertaConfig
from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.pretraining.job import pretrain
from roberta_jax.tasks import runs
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.tokenization import encodings
from roberta_jax.tokenization.pretrained import load_tokenizer
from roberta_jax.training.incidents import Incidents
from roberta_jax.training.logging import recovered
from roberta_jax.training.workdir import read_metrics
from roberta_jax.verify_resume import last_logged

DAMAGES = {
    "empty": b"",
    "zeros": b"\0" * 100,
    "null": b"null",
    "list": b"[]",
    "string": b'"x"',
    "object": b"{}",
    "not UTF-8": b'{"step": "\xff\xfe"}\n\x80\n',
    "not finite": b'{"step": NaN, "seconds": Infinity}\n',
    "deep": b"[" * 50_000,
}


def damage(path: Path, how: str) -> None:
    if how == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if how == "cut" else DAMAGES[how])


every_damage = pytest.mark.parametrize("how", ["cut", "folder", *DAMAGES])


@pytest.fixture(scope="module")
def config(small_corpus) -> PretrainConfig:
    fields = importlib.import_module("configs.tiny").get_config()
    fields.update(steps=2, batch_size=16, log_every=1, eval_every=1, checkpoint_every=1)
    fields.optimizer.update(name="adamw", warmup_steps=1)
    fields.model.update(num_layers=1, hidden_size=32, intermediate_size=64, vocab_size=400)
    fields.data.update(source=str(small_corpus.folder), tokenizer="400")
    return typed(PretrainConfig, fields.to_dict())


@pytest.fixture(scope="module")
def pretrained(config, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("pretrained")
    pretrain(config, workdir)
    Incidents(workdir).write("spike", 1, "a loss", loss=float("inf"))
    (workdir / "command.txt").write_text("python -m roberta_jax.main --config=configs/tiny.py")  # as the command does
    return workdir


@pytest.fixture(scope="module")
def finetuning(pretrained, tmp_path_factory) -> tuple[FinetuneConfig, Path]:
    """The config of two seeds' runs, and the folder where they are done."""
    folder = tmp_path_factory.mktemp("finetuned")
    lines = [json.dumps({"text": f"{word} the old sailor", "label": word}) for word in ("found", "lost") * 8]
    (folder / "train.jsonl").write_text("\n".join(lines))
    fields = importlib.import_module("configs.finetune").get_config("custom-classification")
    fields.update(init_from=str(pretrained), steps=2, batch_size=16, seeds=2, max_length=16, log_every=1)
    fields.data.update(train=str(folder / "train.jsonl"), valid=str(folder / "train.jsonl"))
    config = typed(FinetuneConfig, fields.to_dict())
    runs.run_tasks(config, folder / "run")
    return config, folder / "run"


def lines_of(workdir: Path) -> list[dict]:
    return [json.loads(line, parse_constant=pytest.fail) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


# The next start

SIDE_FILES = ("config.json", "ledger.json", "metrics.jsonl", "incidents.jsonl", "tokenizer/vocab.json", "tokenizer/merges.txt")


@every_damage
def test_a_run_starts_again_whatever_became_of_its_side_files(config, pretrained, tmp_path, capsys, how):
    workdir = Path(shutil.copytree(pretrained, tmp_path / "run"))
    before = {name: (workdir / name).read_bytes() for name in SIDE_FILES}
    for name in SIDE_FILES:
        damage(workdir / name, how)
    Incidents(workdir).write("spike", 2, "another loss", loss=1.0)
    assert pretrain(config, workdir)
    said = capsys.readouterr().out
    assert "resuming from step 2" in said and "a unigram model of the train split has loss" in said
    for name in ("config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"):
        assert (workdir / name).read_bytes() == before[name], name
    assert json.loads((workdir / "ledger.json").read_text())["step"] == 2
    assert all("step" in line for line in lines_of(workdir))
    assert json.loads((workdir / "incidents.jsonl").read_text().splitlines()[-1])["what"] == "another loss"
    aside = {path.name for path in workdir.iterdir() if "damaged" in path.name}
    assert all(f"it is {name} now, and the run goes on without it" in said for name in aside)
    expected = {"ledger.json.damaged", "tokenizer.damaged"}
    expected |= set() if how in ("object", "not finite") else {"config.json.damaged"}  # there they are objects
    assert aside >= expected
    load_tokenizer(workdir / "tokenizer")
    assert hub.load(workdir).head == "lm_head"


def test_whole_lines_around_a_broken_one_are_kept(config, pretrained, tmp_path):
    workdir = Path(shutil.copytree(pretrained, tmp_path / "run"))
    whole = (workdir / "metrics.jsonl").read_bytes().splitlines(True)
    garbage = [
        b"\0\0\0\n",
        b'{"step": "two"}\n',
        b'{"step": 1}{\n',
        b'{"x": "\xff", "step": 1}\n',
        b"17\n",
        b"null\n",
        b"[1]\n",
    ]
    damaged = b"".join([whole[0], *garbage, *whole[1:], b'{"step": 9, "tra'])
    (workdir / "metrics.jsonl").write_bytes(damaged)
    assert [line["step"] for line in read_metrics(workdir)] == [line["step"] for line in lines_of(pretrained)]
    pretrain(config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == b"".join(whole)
    assert (workdir / "metrics.jsonl.damaged").read_bytes() == damaged


def test_the_half_line_of_a_kill_is_nothing_to_speak_of(config, pretrained, tmp_path, capsys):
    workdir = Path(shutil.copytree(pretrained, tmp_path / "run"))
    whole = (workdir / "metrics.jsonl").read_bytes()
    (workdir / "metrics.jsonl").write_bytes(whole + b'{"step": 9, "tra')
    pretrain(config, workdir)
    assert (workdir / "metrics.jsonl").read_bytes() == whole
    assert "damaged" not in capsys.readouterr().out and not list(workdir.glob("*damaged*"))


@pytest.mark.parametrize("how", ["cut", "folder", "zeros", "object"])
def test_fine_tuning_starts_again_whatever_became_of_its_side_files(finetuning, tmp_path, capsys, how):
    config, done = finetuning
    workdir = Path(shutil.copytree(done, tmp_path / "run"))
    of_seed = ("results.json", "task.json", "config.json", "ledger.json", "metrics.jsonl", "tokenizer/vocab.json",
               "tokenizer/merges.txt", "tokenizer/tokenizer.json", "predictions.jsonl")  # fmt: skip
    own = ("results.json", "results.md")
    written_alone = ("results.md", "predictions.jsonl", *(name for name in of_seed if name.startswith("tok")))
    for path in (*(workdir / "seed_1" / name for name in of_seed), *(workdir / name for name in own)):
        if how != "folder" or path.relative_to(workdir).as_posix().removeprefix("seed_1/") not in (
            *written_alone,
            "results.json",
        ):
            damage(path, how)
    if how == "folder":
        damage(workdir / "seed_1" / "results.json", how)
    before, after = runs.read_results(done / "results.json"), runs.run_tasks(config, workdir)
    said = capsys.readouterr().out
    assert [result.metrics for result in after] == [result.metrics for result in before]
    assert f"{workdir / 'seed_0'} is done" in said and f"{workdir / 'seed_1'} is done" not in said
    assert [result.metrics for result in runs.read_results(workdir / "results.json")] == [each.metrics for each in before]
    for name in ("task.json", "predictions.jsonl", "tokenizer/vocab.json", "tokenizer/merges.txt", "tokenizer/tokenizer.json"):
        assert (workdir / "seed_1" / name).read_bytes() == (done / "seed_1" / name).read_bytes(), name
    assert (workdir / "seed_1" / "results.json.damaged").exists() and (workdir / "seed_1" / "task.json.damaged").exists()
    assert hub.load(workdir / "seed_1").labels == ("found", "lost")


def test_a_folder_where_a_file_is_written_is_one_sentence(finetuning, tmp_path):
    config, done = finetuning
    for name in ("results.md", "seed_1/predictions.jsonl"):
        workdir = Path(shutil.copytree(done, tmp_path / name.replace("/", "_")))
        (workdir / "seed_1" / "results.json").unlink()
        damage(workdir / name, "folder")
        with pytest.raises(UserError, match=rf"{name} is a folder, and a file is to be written there"):
            runs.run_tasks(config, workdir)


# Readers


def ends_well_or_with_a_sentence(*readers) -> None:
    for read in readers:
        try:
            read()
        except UserError as error:
            assert 20 < len(str(error)) < 800 and "\n" not in str(error), error


@every_damage
def test_readers_of_a_run_end_well_or_with_a_sentence(pretrained, finetuning, tmp_path, how):
    (tmp_path / "runs").mkdir()
    for run, names in (
        (pretrained, ("config.json", "metrics.jsonl", "command.txt", "tokenizer/vocab.json", "tokenizer/merges.txt")),
        (finetuning[1] / "seed_0", ("config.json", "task.json", "metrics.jsonl", "tokenizer/tokenizer.json", "results.json")),
    ):
        for i, name in enumerate(names):
            workdir = Path(shutil.copytree(run, tmp_path / "runs" / f"{run.name}-{i}"))
            damage(workdir / name, how)
            ends_well_or_with_a_sentence(
                lambda: hub.export(workdir, tmp_path / "out"),  # noqa: B023
                lambda: hub.load(workdir, "best"),  # noqa: B023
                lambda: read_metrics(workdir),  # noqa: B023
                lambda: last_logged(workdir),  # noqa: B023
                lambda: runs.read_results(workdir / "results.json"),  # noqa: B023
            )
    if how not in ("object", "not finite"):
        with pytest.raises(UserError, match=r"config\.json"):
            hub.load(tmp_path / "runs" / f"{pretrained.name}-0")
    for name in ("vocab.json", "merges.txt"):
        with pytest.raises(UserError, match=rf"{name}: .*, by tokenizer\.hashes\.json"):
            hub.load(tmp_path / "runs" / f"{pretrained.name}-{3 + (name == 'merges.txt')}")


@every_damage
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "vocab.json", "merges.txt", "model.safetensors"])
def test_a_folder_of_transformers_is_read_or_refused_with_a_sentence(pretrained, tmp_path, how, name):
    if not (pretrained.parent / "exported").exists():
        hub.export(pretrained, pretrained.parent / "exported")
    folder = Path(shutil.copytree(pretrained.parent / "exported", tmp_path / "model"))
    damage(folder / name, how)
    ends_well_or_with_a_sentence(lambda: hub.load(folder))


def test_an_index_of_shards_names_files_and_no_paths(tmp_path):
    shape = RobertaConfig(400, num_layers=1, hidden_size=32, intermediate_size=64, num_heads=2, max_length=32)
    fields = config_to_transformers(shape, "lm_head", (), 0, 2, "roberta", "")
    (tmp_path / "config.json").write_text(json.dumps(fields))
    for name in ("../outside.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", None, 3, ["a"]):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        with pytest.raises(UserError, match=r"index\.json names .*, which is no plain name of a file"):
            hub.load(tmp_path)
    for places in ({}, [], None, "x"):
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
        with pytest.raises(UserError, match=r"index\.json has no weight_map"):
            hub.load(tmp_path)


def test_fields_of_another_shape_are_named(pretrained, finetuning, tmp_path):
    workdir = Path(shutil.copytree(finetuning[1] / "seed_0", tmp_path / "run"))
    for name, field, value, match in (
        ("task.json", "labels", 3, "labels is 3"),
        ("task.json", "kind", [], r"kind is \[\]"),
        ("task.json", "model_type", None, "model_type is None"),
        ("task.json", "labels", ["a", "b", "c"], "has 3 labels, checkpoint 2 2 outputs"),
        ("config.json", "model", None, 'no section "model"'),
        ("config.json", "model", {"num_layers": "two"}, "num_layers is 'two'"),
        ("config.json", "model", {"no": 1}, "model.no is not a field"),
    ):
        before = json.loads((workdir / name).read_text())
        (workdir / name).write_text(json.dumps(before | {field: value}))
        with pytest.raises(UserError, match=match):
            hub.load(workdir)
        (workdir / name).write_text(json.dumps(before))
    hub.load(workdir)


# A corpus, and what ablations keep


@every_damage
def test_a_corpus_is_opened_or_refused_with_a_sentence(small_corpus, tmp_path, how):
    folder = Path(shutil.copytree(small_corpus.folder, tmp_path / "corpus"))
    damage(folder / "verified.json", how)
    assert len(Corpus(folder).train) == len(small_corpus.train)
    if how != "folder":
        assert json.loads((folder / "verified.json").read_text()).keys() == small_corpus.manifest["shards"].keys()
    for name in (
        "manifest.json",
        "token_counts.npy",
        "train-00000-of-00001.npy",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
    ):
        kept = (folder / name).read_bytes()
        damage(folder / name, how)
        with pytest.raises(UserError, match=name.partition("/")[0]):
            Corpus(folder)
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).write_bytes(kept)
    assert report(Corpus(folder).manifest) == report(small_corpus.manifest)


@pytest.mark.parametrize("encoding", encodings.FILES)
@every_damage
def test_a_vocabulary_is_read_or_refused_with_a_sentence(documents, tmp_path, encoding, how, vocabularies):
    folder = Path(shutil.copytree(vocabularies(encoding), tmp_path / "vocabulary"))
    for name in sorted(path.name for path in folder.iterdir()):
        kept = (folder / name).read_bytes()
        damage(folder / name, how)
        ends_well_or_with_a_sentence(lambda: encodings.load(folder), lambda: load_tokenizer(folder))
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).write_bytes(kept)


@pytest.fixture(scope="module")
def vocabularies(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabularies")

    def made(encoding: str) -> Path:
        if not (folder / encoding).exists():
            encodings.train(documents[:200], 400, encoding).save(folder / encoding)
        return folder / encoding

    return made


@every_damage
def test_a_run_of_the_ablations_that_cannot_be_read_is_made_again(tmp_path, how, capsys):
    one = of_ablations.Run("s", "v", 0, {"loss": float("nan"), "accuracy": 3.0}, [(1, float("inf")), (2, 0.5)], 1.0, 2, 3,
                           {"key": "k", "unknown_rate": float("nan")})  # fmt: skip
    path = tmp_path / "run.json"
    of_ablations.save(path, [one])
    json.loads(path.read_text(), parse_constant=pytest.fail)
    (found,) = of_ablations.load(path)
    assert np.isnan(found.metrics["loss"]) and found.curve[0][1] == np.inf and found.curve[1] == (2, 0.5)
    assert recovered(path, ablations._only_run, None).seed == 0
    damage(path, how)
    ends_well_or_with_a_sentence(lambda: of_ablations.load(path))
    assert recovered(path, ablations._only_run, None) is None
    assert "it is run.json.damaged now" in capsys.readouterr().out and (tmp_path / "run.json.damaged").exists()
