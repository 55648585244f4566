"""Folders, workdirs and hub names in, folders that transformers loads out, and one sentence for what is wrong."""

import http.server
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from reference import config, randomised, rows, tensors

from roberta_jax import export
from roberta_jax.errors import UserError
from roberta_jax.interop import conversion, hub
from roberta_jax.interop.conversion import flatten, nest, shapes, to_transformers
from roberta_jax.interop.model_card import model_card
from roberta_jax.model.heads import apply_with_head
from roberta_jax.training.checkpoint import Checkpoints

KINDS = {
    "lm_head": "MaskedLM",
    "classification": "SequenceClassification",
    "span": "QuestionAnswering",
    "multiple_choice": "MultipleChoice",
    "token_classification": "TokenClassification",
}


@pytest.fixture(scope="module")
def model(small):
    return randomised(transformers.RobertaForMaskedLM(config(**small)))


@pytest.fixture
def folder(tmp_path, model, text):
    model.save_pretrained(tmp_path / "model")
    text.save(tmp_path / "model")
    return tmp_path / "model"


def same(first: dict, second: dict) -> bool:
    first, second = flatten(first), flatten(second)
    return first.keys() == second.keys() and all(first[path].tobytes() == second[path].tobytes() for path in first)


@pytest.mark.parametrize("head", KINDS)
def test_every_kind_of_model_goes_in_and_out_and_in_unchanged(tmp_path, small, text, head):
    labels = {"num_labels": 3, "id2label": {0: "no", 1: "so-so", 2: "yes"}} if "classification" in head else {}
    source = randomised(getattr(transformers, f"RobertaFor{KINDS[head]}")(config(**small, **labels)))
    source.save_pretrained(tmp_path / "in")
    text.save(tmp_path / "in")
    found = hub.export(tmp_path / "in", tmp_path / "out")
    assert found.head == head and found.labels == (("no", "so-so", "yes") if labels else ())
    assert same(hub.load(tmp_path / "out").params, found.params)
    auto = getattr(transformers, f"AutoModelFor{KINDS[head]}")
    loaded, report = auto.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values()), report
    assert type(loaded) is type(source) and loaded.dtype == torch.float32
    for name, array in tensors(source).items():
        assert array.tobytes() == tensors(loaded)[name].tobytes(), name
    if labels:
        assert loaded.config.id2label == labels["id2label"]


def test_the_kind_of_problem_goes_in_and_out(tmp_path, small, text):
    for problem in hub.PROBLEMS.values():
        source = transformers.RobertaForSequenceClassification(config(**small, num_labels=2, problem_type=problem))
        source.save_pretrained(tmp_path / "in")
        text.save(tmp_path / "in")
        assert hub.export(tmp_path / "in", tmp_path / "out").problem == problem
        assert transformers.AutoConfig.from_pretrained(tmp_path / "out").problem_type == problem
    fields = json.loads((tmp_path / "in" / "config.json").read_text())
    (tmp_path / "in" / "config.json").write_text(json.dumps(fields | {"problem_type": "ranking"}))
    with pytest.raises(UserError, match="problem_type is 'ranking'; expected single_label_classification, multi_label"):
        hub.load(tmp_path / "in")


def test_a_third_output_of_spans_is_left_out_of_the_export(tmp_path, small, text):
    ours = hub.config_from_transformers(config(**small).to_dict(), "config.json")
    random = np.random.default_rng(0)
    params = nest({path: 0.1 * random.standard_normal(shape, np.float32) for path, shape in shapes(ours, "span", 3).items()})
    pretrained = hub.Pretrained(ours, params, text, "span", origin="run, step 1")
    card = hub.model_card(pretrained, {"task": "squad2"}, [])
    assert "| Left out | the head's third output" in card and "| Data |" not in card
    hub.save(pretrained, tmp_path, card)
    loaded, report = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values())
    ids, mask = rows(len(text), [5, 16], 16)
    with torch.inference_mode():
        out = loaded(input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask))
    theirs = torch.stack([out.start_logits, out.end_logits], -1).numpy()
    logits = np.asarray(jax.jit(apply_with_head, static_argnums=1)(params, ours, ids, mask))  # [2, 16, 3]
    np.testing.assert_allclose(theirs[mask == 1], logits[..., :2][mask == 1], atol=1e-5)


@pytest.mark.parametrize("family", ["XLMRoberta", "Camembert"])
def test_the_other_families_go_in_and_out(tmp_path, small, text, family):
    kind = getattr(transformers, f"{family}ForMaskedLM")
    source = randomised(kind(config(kind.config_class, **small)))
    source.save_pretrained(tmp_path / "in")
    text.save(tmp_path / "in")
    hub.export(tmp_path / "in", tmp_path / "out")
    loaded, report = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert type(loaded) is kind and not any(report.values())
    assert transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("the cat")["input_ids"][0] == 0


def test_an_encoder_alone_and_the_auto_model(tmp_path, small, text, folder):
    transformers.RobertaModel(config(**small)).save_pretrained(tmp_path / "bare")
    found = hub.load(tmp_path / "bare")
    assert found.head == "" and found.params.keys() == {"encoder"}
    assert found.ignored.keys() == {"pooler.dense.weight", "pooler.dense.bias"}
    hub.export(folder, tmp_path / "out")
    _, report = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert report["missing_keys"] == {"pooler.dense.weight", "pooler.dense.bias"}  # no masked LM has one


@pytest.mark.parametrize("layout", ["shards", "pickle", "old pickle", "shards of pickles", "bfloat16"])
def test_every_layout_of_weights_gives_the_same(tmp_path, model, text, layout, folder):
    expected = hub.load(folder).params
    other = tmp_path / "other"
    if layout == "shards":
        model.save_pretrained(other, max_shard_size="50KB")
        assert len(list(other.glob("*.safetensors"))) > 2
    else:
        shutil.copytree(folder, other)
        (other / "model.safetensors").unlink()
        state = model.state_dict() | {"roberta.embeddings.position_ids": torch.arange(66)[None]}
        if layout == "shards of pickles":
            names = {name: f"pytorch_model-{i % 2}.bin" for i, name in enumerate(state)}
            for file in set(names.values()):
                torch.save({name: state[name] for name in state if names[name] == file}, other / file)
            (other / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
        elif layout == "bfloat16":
            rounded = {name: array.bfloat16() for name, array in state.items() if "decoder" not in name}
            safetensors.torch.save_file(rounded, other / "model.safetensors")
            expected = jax.tree.map(lambda x: np.asarray(x.astype(jax.numpy.bfloat16), np.float32), expected)
        else:
            torch.save(state, other / "pytorch_model.bin", _use_new_zipfile_serialization=layout == "pickle")
    assert same(hub.load(other).params, expected)


class Writes:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_what_is_wrong_is_one_sentence(folder, tmp_path):
    def fails(sentence, source=folder, **arguments):
        with pytest.raises(UserError, match=sentence) as caught:
            hub.load(source, **arguments)
        assert "\n" not in str(caught.value)

    fails("there is no such folder", source=tmp_path / "nothing" / "here" / "at all")
    (tmp_path / "empty").mkdir()
    fails("is no model: expected a workdir", source=tmp_path / "empty")
    weights, fields = folder / "model.safetensors", json.loads((folder / "config.json").read_text())
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    fails("model.safetensors is not a whole safetensors file")
    weights.write_bytes(whole[:20])
    fails("model.safetensors is not a whole safetensors file")
    weights.unlink()
    fails("neither model.safetensors nor pytorch_model.bin")
    torch.save({"bad": Writes(str(tmp_path / "written"))}, folder / "pytorch_model.bin")
    fails(r"pytorch_model\.bin is refused")
    assert not (tmp_path / "written").exists()
    weights.write_bytes(whole)
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "bert"}))
    fails("config of a 'bert'")
    (folder / "config.json").write_text("{")
    fails("config.json is not a JSON file")
    (folder / "config.json").write_text(json.dumps(fields | {"hidden_size": 32}))
    fails(r"word_embeddings.weight has shape \(280, 64\), expected \(280, 32\)")
    (folder / "config.json").write_text(json.dumps(fields | {"pad_token_id": 0}))
    fails("<pad> is 1 in the tokenizer and 0 in the model|position_embeddings")


def test_a_hub_that_does_not_answer_is_one_sentence(tmp_path):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "roberta_jax.export", "--model=a/b", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and not (tmp_path / "out").exists()
    assert done.stderr.startswith("error: the hub http://127.0.0.1:9 did not give a/b")
    assert len(done.stderr.splitlines()) == 1


class Hub(http.server.BaseHTTPRequestHandler):
    """Just enough of the hub's interface for one repository."""

    commit, root = "0" * 40, None

    def do_GET(self):
        path = self.path.split("?")[0]
        files = sorted(file.name for file in self.root.iterdir())
        if path.startswith("/api/models/me/model/revision/"):
            body = {"id": "me/model", "modelId": "me/model", "sha": self.commit, "private": False, "downloads": 0}
            body |= {"tags": [], "siblings": [{"rfilename": name} for name in files]}
            self._send(json.dumps(body).encode())
        elif path.startswith("/api/models/me/model/tree/"):
            sizes = [(name, (self.root / name).stat().st_size) for name in files]
            entries = [{"type": "file", "path": name, "size": size, "oid": f"{name}"} for name, size in sizes]
            self._send(json.dumps(entries).encode())
        elif (name := path.rsplit("/", 1)[-1]) in files and path.startswith("/me/model/resolve/"):
            self._send((self.root / name).read_bytes(), ETag=f'"{name}"')
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def _send(self, body: bytes, **headers):
        self.send_response(200)
        for name, value in ({"X-Repo-Commit": self.commit, "Content-Length": len(body)} | headers).items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


READ = "import sys; from roberta_jax.interop import hub; p = hub.load('me/model'); print(p.head, p.config.vocab_size)"


def test_a_hub_name_honours_endpoint_cache_and_offline_mode(folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(b"not asked for where there are safetensors")
    (folder / "bpe.model").write_bytes(b"another of our encodings is asked for too")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("One", (Hub,), {"root": folder}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache")}
    environment |= {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def read(**more):
        return subprocess.run([sys.executable, "-c", READ], env=environment | more, capture_output=True, text=True, timeout=120)

    try:
        first = read()
        assert first.stdout == "lm_head 280\n", first.stderr[-2000:]
        assert not list((tmp_path / "cache").rglob("pytorch_model.bin"))
        assert list((tmp_path / "cache").rglob("bpe.model"))
    finally:
        server.shutdown()
    offline = read(HF_HUB_OFFLINE="1")
    assert offline.stdout == "lm_head 280\n", offline.stderr[-2000:]


@pytest.mark.parametrize(("checkpoint", "step"), [("newest", 3), ("best", 2), ("1", 1), (1, 1)])
def test_a_workdir_gives_the_checkpoint_that_was_asked_for(workdir, text, checkpoint, step):
    found = hub.load(workdir, checkpoint)
    assert found.head == "lm_head" and found.tokenizer.base.hash == text.base.hash
    assert all((leaf == step).all() and isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found.params))
    assert found.origin == f"{workdir}, step {step}"


def test_a_workdir_without_what_was_asked_for_is_one_sentence(workdir, tmp_path):
    with pytest.raises(UserError, match="has newest, best, 1, 2, 3"):
        hub.load(workdir, "7")
    other = tmp_path / "run"
    shutil.copytree(workdir, other)
    (other / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no valid/loss"):
        hub.load(other, "best")
    fields = json.loads((other / "config.json").read_text())
    fields["model"]["num_layers"] = 3
    (other / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=r"is \(2, 64\) in checkpoint 3, by config.json \(3, 64\)"):
        hub.load(other)
    shutil.rmtree(other / "checkpoints" / "3" / "default")
    (other / "config.json").write_text((workdir / "config.json").read_text())
    with pytest.raises(UserError, match="not a whole checkpoint|no checkpoint"):
        hub.load(other)
    shutil.rmtree(other / "checkpoints")
    (other / "checkpoints").mkdir()
    with pytest.raises(UserError, match="holds no checkpoint yet"):
        hub.load(other)


def test_a_workdir_is_exported_with_a_card_that_says_what_it_is(workdir, tmp_path, monkeypatch, capsys):
    (workdir / "command.txt").write_text("python -m roberta_jax.main --config=configs/tiny.py --workdir=/tmp/run\n")
    arguments = ["export", f"--model={workdir}", f"--out={tmp_path / 'out'}", "--checkpoint=best"]
    monkeypatch.setattr(sys, "argv", arguments)
    export.main()
    assert "step 2 →" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("config.json", "model.safetensors", "vocab.json", "merges.txt", "tokenizer.json"),
        *("tokenizer_config.json", "special_tokens_map.json", "README.md"),
    }
    card = (tmp_path / "out" / "README.md").read_text()
    for line in ("source lines.txt", "2 of 3, 8 rows of 64", "| valid/loss | 2.0000 | 2 |", "--config=configs/tiny.py"):
        assert line in card
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded, report = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(report.values())
    exported = to_transformers(hub.load(workdir, "best").params)
    assert all(np.array_equal(tensors(loaded)[name], array) for name, array in exported.items())


def test_a_card_names_the_data_that_was_read_and_no_command_that_was_not_given(workdir):
    """A mixture's sources, and not the field that it takes the place of; of a notebook no arguments of the kernel."""
    fields = json.loads((workdir / "config.json").read_text())
    mixed = fields | {"data": fields["data"] | {"source": "docs", "mixture": "web/=0.7,books=0.3"}}
    card = model_card(hub.load(workdir), mixed, [])
    assert "| Data | mixture web/=0.7,books=0.3, format" in card and "source docs" not in card and "## Command" not in card
    tuned = fields | {"data": {"source": "", "train": "reviews.csv", "valid": ""}}
    assert "| Data | train reviews.csv |" in model_card(hub.load(workdir), tuned, [])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory, text, small, workdir):
    """The workdir of two trials of a classifier, whose parameters are their numbers; those of the second were best before."""
    folder = tmp_path_factory.mktemp("tuned")
    fields = json.loads((workdir / "config.json").read_text()) | {"task": "rte", "data": {"source": "folder"}}
    (folder / "config.json").write_text(json.dumps(fields))
    text.base.save(folder / "tokenizer")
    task = {"task": "rte", "kind": "multi_label", "labels": ["old", "new"], "metric": "f1"}
    (folder / "task.json").write_text(json.dumps(task))
    (folder / "metrics.jsonl").write_text(json.dumps({"step": 2, "valid/f1": 0.9}) + "\n")
    checkpoints = Checkpoints(folder / "checkpoints", 1, "")
    model = hub.typed(hub.RobertaConfig, fields["model"])
    trials = np.arange(2, dtype=np.float32)
    wanted = shapes(model, "classification", 2).items()
    params = nest({path: np.zeros((2, *shape), np.float32) + trials.reshape(2, *[1] * len(shape)) for path, shape in wanted})
    last = jax.tree.map(np.zeros_like, params)
    best = {"params": params, "value": np.float32([0.8, 0.9]), "step": np.int32([1, 2])}
    checkpoints.save(2, {"params": last, "opt_state": last, "step": np.int32([2, 2]), "best": best})
    checkpoints.close()
    return folder


def test_the_workdir_of_tuned_models_gives_the_best_and_says_its_labels(tuned, tmp_path):
    found = hub.export(tuned, tmp_path / "out", "best")
    assert (found.head, found.labels, found.problem) == ("classification", ("old", "new"), "multi_label_classification")
    assert found.origin == f"{tuned}, step 2"
    assert all((array == 1).all() for array in jax.tree.leaves(found.params))
    loaded = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert loaded.id2label == {0: "old", 1: "new"} and loaded.problem_type == found.problem
    card = (tmp_path / "out" / "README.md").read_text()
    for line in ("| Task | rte |", "| Data | source folder |", "2 of 3, 8 rows each", "| valid/f1 | 0.9000 | 2 |"):
        assert line in card
    other = tmp_path / "other"
    shutil.copytree(tuned, other)
    task = json.loads((tuned / "task.json").read_text())
    (other / "task.json").write_text(json.dumps(task | {"labels": ["old", "new", "so-so"]}))
    with pytest.raises(UserError, match="task.json has 3 labels, checkpoint 2 2 outputs"):
        hub.load(other)


def test_a_workdir_is_no_place_for_an_export(workdir):
    """Whose config.json it would write over."""
    before = (workdir / "config.json").read_bytes()
    with pytest.raises(UserError, match=f"{workdir} is a run's workdir, whose config.json .* name a new folder"):
        hub.export(workdir, workdir)
    assert (workdir / "config.json").read_bytes() == before


def test_pushing_without_a_hub_says_where_the_export_is(workdir, tmp_path):
    environment = os.environ | {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path)}
    out = tmp_path / "out"
    command = [sys.executable, "-m", "roberta_jax.export", f"--model={workdir}", f"--out={out}"]
    done = subprocess.run([*command, "--push_to=me/model"], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and f"the export is in {out}" in done.stderr
    assert (out / "model.safetensors").is_file()


def test_nothing_here_imports_tensorflow_or_torch():
    code = "import sys, roberta_jax.inference, roberta_jax.interop.hub, roberta_jax.serving, roberta_jax.embed\n"
    code += "print([name for name in ('tensorflow', 'torch', 'transformers') if name in sys.modules])"
    root = Path(hub.__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]", done.stderr


def edited(folder, **changes):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | changes))
    return folder


def test_an_encoder_whose_config_names_a_head_is_read_without_it(tmp_path, small, text):
    """sentence-transformers/all-distilroberta-v1 says RobertaForMaskedLM."""
    transformers.RobertaModel(config(**small)).save_pretrained(tmp_path)
    text.save(tmp_path)
    edited(tmp_path, architectures=["RobertaForMaskedLM"])
    with pytest.warns(UserWarning, match="says RobertaForMaskedLM, but there is no tensor of its head"):
        found = hub.load(tmp_path)
    assert found.head == "" and found.params.keys() == {"encoder"}


def test_a_head_that_the_config_does_not_name_is_read(folder):
    assert hub.load(edited(folder, architectures=["RobertaModel"])).head == "lm_head"


@pytest.mark.parametrize("names", ["gamma and beta", "the decoder's bias"])
def test_older_names_of_tensors_give_the_same(folder, model, names):
    expected, state = hub.load(folder).params, {k: v.clone() for k, v in model.state_dict().items()}
    if names == "gamma and beta":
        for module in ("LayerNorm", "layer_norm"):
            for old, new in ((".weight", ".gamma"), (".bias", ".beta")):
                state = {name.replace(module + old, module + new): array for name, array in state.items()}
        assert sum(name.endswith((".gamma", ".beta")) for name in state) == 12
    else:
        del state["lm_head.bias"]
        assert "lm_head.decoder.bias" in state
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert same(hub.load(folder).params, expected)


WRONG = [None, -1, 0, 1.5, "7", [], {}, True, 10**30]


@pytest.mark.parametrize("name", [*conversion._FIELDS, "architectures", "id2label", "problem_type", "model_type", "is_decoder"])
def test_whatever_stands_in_a_field_of_config_json_is_read_or_one_sentence(folder, name):
    """Nothing but a UserError, of one line, that names the field, or what does not go together with it."""
    whole = json.loads((folder / "config.json").read_text())
    for value in WRONG:
        (folder / "config.json").write_text(json.dumps(whole | {name: value}))
        try:
            hub.load(folder)
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 600
            assert any(part in str(error) for part in (name, "config.json", "tensor", "architecture", "<pad>", "ids go up")), (
                error
            )


INDEXES = ["[]", "null"] + [
    json.dumps({"weight_map": places}) for places in ([], {"a": []}, {"a": 1}, {"a": "../b"}, {"a": "config.json"})
]


@pytest.mark.parametrize("content", INDEXES)
def test_an_index_of_another_shape_is_one_sentence(folder, content):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(UserError) as caught:
        hub.load(folder)
    assert "\n" not in str(caught.value)


def test_quantized_tensors_are_one_sentence(folder):
    path = folder / "model.safetensors"
    loaded = safetensors.torch.load_file(path)
    name = "roberta.embeddings.word_embeddings.weight"
    for dtype, word in ((torch.float8_e4m3fn, "F8_E4M3"), (torch.int8, "int8")):
        safetensors.torch.save_file(loaded | {name: loaded[name].to(dtype)}, path)
        with pytest.raises(UserError, match=f"{name} is of {word}"):
            hub.load(folder)


@pytest.mark.parametrize("name", ["tokenizer_config", "special_tokens_map", "added_tokens", "tokenizer"])
def test_whatever_stands_beside_a_tokenizer_is_read_or_one_sentence(folder, name):
    path = folder / f"{name}.json"
    for content in ("", "[]", "null", "{", '{"mask_token": 5}', '{"mask_token": []}', '{"added_tokens_decoder": []}',
                    '{"added_tokens_decoder": {"a": 1}}', '{"additional_special_tokens": 5}', '{"tokenizer_class": []}',
                    '{"a": "b"}', '{"a": null}', '{"<x>": 1e30}', '{"model": null}'):  # fmt: skip
        path.write_text(content)
        try:
            hub.load(folder)
        except UserError as error:
            known = (name, "<mask>", "ids go up to")
            assert "\n" not in str(error) and any(part in str(error) for part in known), (content, error)
