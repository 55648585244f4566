"""Uploads, by the hub's own client, to a server that takes what it sends: one model, and a revision for each checkpoint."""

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_runs import config

from roberta_jax.interop import hub
from roberta_jax.pretraining.job import pretrain


class Hub(BaseHTTPRequestHandler):
    """Of the hub's interface what an upload needs, with every file in the commit itself."""

    def do_GET(self):
        self._answer({})

    def do_POST(self):
        body, (*_, kind, revision) = self.rfile.read(int(self.headers["Content-Length"])), self.path.split("/")
        if self.path == "/api/repos/create":
            self._answer({"url": f"{self.server.address}/me/model"})
        elif self.path == "/api/validate-yaml":  # of the model card
            self._answer({"errors": [], "warnings": []})
        elif kind == "branch":
            self.server.files[revision] = {}
            self._answer({})
        elif kind == "preupload":
            asked = [file["path"] for file in json.loads(body)["files"]]
            self._answer({"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in asked]})
        elif kind == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[revision][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            self._answer({"commitUrl": f"{self.server.address}/me/model/commit/{'0' * 40}", "commitOid": "0" * 40})
        else:
            self.send_error(404)

    def _answer(self, value: dict):
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    """Its `files`: revision → path → bytes."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.address, server.files = f"http://127.0.0.1:{server.server_port}", {"main": {}}
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_each_checkpoint_is_a_revision_and_the_last_the_main_one(small_corpus, server, tmp_path):
    pretrain(config(small_corpus, steps=4, checkpoint_every=2, eval_every=2, log_every=1), tmp_path / "run")
    environment = os.environ | {"HF_ENDPOINT": server.address, "HF_TOKEN": "hf_none", "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-m", "roberta_jax.export", f"--model={tmp_path / 'run'}", f"--out={tmp_path / 'out'}", "--all"]
    command += ["--names=chck_{step}", "--push_to=me/model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert f"uploaded to {server.address}/me/model/tree/chck_2\n" in done.stdout
    assert done.stdout.endswith(f"uploaded the last to {server.address}/me/model\n")
    for revision, step in (("chck_2", 2), ("chck_4", 4), ("main", 4)):
        folder = tmp_path / "out" / f"chck_{step}"
        assert server.files[revision] == {path.name: path.read_bytes() for path in folder.iterdir()}
        (tmp_path / revision).mkdir()
        for name, content in server.files[revision].items():
            (tmp_path / revision / name).write_bytes(content)
        assert hub.load(tmp_path / revision).head == "lm_head"
    assert server.files["chck_2"]["model.safetensors"] != server.files["chck_4"]["model.safetensors"]


def test_a_card_shows_the_curve(small_corpus, tmp_path):
    pretrain(config(small_corpus, steps=30, checkpoint_every=30, eval_every=2, log_every=5), tmp_path / "run")
    hub.export(tmp_path / "run", tmp_path / "out")
    curve = (tmp_path / "out" / "README.md").read_text().split("## Curve\n\n")[1].split("\n\n")[0].splitlines()
    assert curve[0] == "| step | train/loss | valid/accuracy | valid/loss | valid/perplexity |" and set(curve[1]) == {"|", "-"}
    steps = [int(line.split("|")[1]) for line in curve[2:]]
    assert len(steps) == 12 and steps[0] == 2 and steps[-1] == 30 and steps == sorted(steps)
    losses = [float(line.split("|")[4]) for line in curve[2:]]
    assert losses[-1] < losses[0]
