"""A page to try a model in: `python -m roberta_jax.demo --model=/tmp/run`.

It is Python's own HTTP server, which answers on this machine alone unless `--host` says otherwise, one page that needs no
network, and JSON behind it. The page shows what the model's head can do: guess masked words, classify, answer questions, find
entities. `GET /api/model` says what that is; the others are POST /api/NAME with an object, and NAME is a row of `ANSWERS`.
"""

import argparse
import contextlib
import dataclasses
import json
import socket
import sys
import threading
import time
import warnings
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from roberta_jax import storage
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json

PAGE = Path(__file__).with_name("demo.html")
LOCAL = ("127.0.0.1", "localhost", "::1")
# That rows are padded to, and the model's longest: few, so that few programs are compiled, and short, as a sentence is.
LENGTHS = (16, 32, 64, 128)
MOST_BYTES = 1 << 20  # of a request
KEPT = 3  # checkpoints in memory
# The page loads nothing from anywhere, and no other page shows it or posts to it.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def _text(request: dict, name: str = "text") -> str:
    value = request.get(name, "")
    if not isinstance(value, str):
        raise UserError(f"{name} is {value!r}; expected a text.")
    if any(0xD800 <= ord(character) < 0xE000 for character in value):
        raise UserError(f"{name} holds half a character, a surrogate; expected whole ones.")
    return value


def _pair(request: dict) -> tuple[str, ...]:
    first, second = _text(request), _text(request, "second")
    return (first, second) if second else (first,)


def _listed(values: list) -> list[dict]:
    return [dataclasses.asdict(value) for value in values]


def _fill(model, request: dict) -> dict:
    (masks,) = model.fill_mask([_text(request)], top_k=min(10, len(model.tokenizer)))
    return {"masks": [_listed(guesses) for guesses in masks]}


def _surprise(model, request: dict) -> dict:
    from roberta_jax.explain import surprises

    tokens = surprises(model, _text(request))
    return {"tokens": _listed(tokens), "score": -sum(token.nats for token in tokens)}


def _classify(model, request: dict) -> dict:
    texts = _pair(request)
    (answer,) = model.classify([texts if len(texts) > 1 else texts[0]])
    return {"labels": answer, "problem": model.problem}


def _effects(model, request: dict) -> dict:
    from roberta_jax.explain import effects

    return {"words": [_listed(words) for words in effects(model, _pair(request), _text(request, "label"))]}


def _answer(model, request: dict) -> dict:
    asked = _text(request, "question"), _text(request, "context")
    return {"answers": _listed(model.answers(*asked, top_k=5, may_be_empty=bool(request.get("may_be_empty"))))}


def _tag(model, request: dict) -> dict:
    words = _text(request).split()
    (tags,) = model.tag([words]) if words else ([],)
    return {"words": [{"text": word, "tag": tag} for word, tag in zip(words, tags)]}


def _choose(model, request: dict) -> dict:
    candidates = [line for line in _text(request, "candidates").splitlines() if line.strip()]
    chosen = model.choose(_text(request, "passage"), candidates)
    return {"candidates": [{"text": text, "probability": p} for text, p in zip(candidates, chosen)]}


def _similarity(model, request: dict) -> dict:
    vectors = model.embed([_text(request), _text(request, "second")], normalize=True)
    return {"cosine": float(vectors[0] @ vectors[1])}


# name → (the heads that have it, what it answers)
ANSWERS: dict[str, tuple[tuple[str, ...], Callable[[Any, dict], dict]]] = {
    "fill": (("lm_head",), _fill),
    "surprise": (("lm_head",), _surprise),
    "classify": (("classification",), _classify),
    "effects": (("classification",), _effects),
    "answer": (("span",), _answer),
    "tag": (("token_classification",), _tag),
    "choose": (("multiple_choice",), _choose),
    "similarity": (("",), _similarity),
}


def opening(described: dict) -> dict[str, dict]:
    """name of an answer → what the page asks when it is opened, or much the same: all of it is compiled before.

    Args:
      described: see `Models.describe`.
    """
    review = {"text": "A warm, funny and moving film."}
    requests = {
        "fill": {"text": f"Returns the {described['mask']} of items in the list."},
        "surprise": {"text": "Returns the number of items in the list."},
        "classify": review,
        "effects": review | {"label": next(iter(described["labels"]), "")},
        "tag": {"text": "Anna Schmidt moved from Berlin to New York to work for the United Nations."},
        "answer": {"question": "Who wrote the letter?", "context": "The mayor wrote the letter last winter."},
        "choose": {"passage": "She opened the door and", "candidates": "walked in.\nthe the of."},
        "similarity": {"text": "The boat is old.", "second": "An old ship."},
    }
    return {name: requests[name] for name in described["answers"]}


class Models:
    """The checkpoints of a model, each loaded when it is first asked for; one answer is made at a time.

    Args:
      load: step, or "newest" or "best" → an `inference.Model`.
      steps: the checkpoints that there are, ascending.
    """

    def __init__(self, load: Callable[[Any], Any], first: Any, steps: Callable[[], list[int]]):
        from roberta_jax.bucketing import buckets

        self._load, self._first, self._steps, self._buckets = load, first, steps, buckets
        self._loaded: dict[Any, Any] = {}
        self._lock = threading.Lock()
        self._model(None)

    def _model(self, step: Any):
        if step is None:
            step = self._first
        elif type(step) is not int or step not in self._steps():
            raise UserError(f"there is no checkpoint {step!r}; there are {', '.join(map(str, self._steps())) or 'none'}.")
        if step not in self._loaded:
            for old in [each for each in self._loaded if each != self._first][: max(0, len(self._loaded) - KEPT + 1)]:
                del self._loaded[old]
            model = self._load(step)
            model.lengths = self._buckets(model.config.max_length, LENGTHS)
            self._loaded[step] = model
        return self._loaded[step]

    def describe(self) -> dict:
        """What the page shows of the model."""
        with self._lock:
            model = self._model(None)
            head = model.head or ""
            return {
                "name": str(model.origin),
                "head": head,
                "answers": [name for name, (heads, _) in ANSWERS.items() if head in heads],
                "labels": list(model.labels or ()),
                "problem": model.problem,
                "mask": model.tokenizer.mask_token,
                "layers": model.config.num_layers,
                "hidden": model.config.hidden_size,
                "vocabulary": len(model.tokenizer),
                "max_length": model.config.max_length,
                "checkpoints": self._steps(),
            }

    def answer(self, name: str, request: dict) -> dict:
        """What `ANSWERS` make of a request, how long that took, and what was said meanwhile, as of a text that was cut.

        Raises:
          UserError: the request, or the model for it.
        """
        if name not in ANSWERS:
            raise UserError(f"there is no {name!r}; there are {', '.join(ANSWERS)}.")
        with self._lock, warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", UserWarning)
            model, began = self._model(request.get("checkpoint")), time.perf_counter()
            answer = ANSWERS[name][1](model, request)
            notes = [str(each.message) for each in said if issubclass(each.category, UserWarning)]
            return answer | {"notes": notes, "milliseconds": 1e3 * (time.perf_counter() - began)}

    def warm_up(self) -> None:
        """Compiles what the page asks for first."""
        for name, request in opening(self.describe()).items():
            with contextlib.suppress(UserError):
                self.answer(name, request)


class Server(ThreadingHTTPServer):
    """Serves the page and the models' answers."""

    daemon_threads, request_queue_size, allow_reuse_address = True, 128, True

    def __init__(self, models: Models, host: str, port: int):
        self.models, self.host = models, host
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Handler)

    def handle_error(self, request, client_address) -> None:
        """A client that is gone is no error of ours."""
        if not isinstance(sys.exception(), (ConnectionError, TimeoutError)):
            show(f"! {client_address[0]}: {type(sys.exception()).__name__}: {sys.exception()}", sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One client."""

    protocol_version, timeout, server_version = "HTTP/1.1", 30, "roberta_jax"
    server: Server

    def do_GET(self) -> None:
        """The page, or what the model is."""
        if not self._from_here():
            return
        if self.path in ("/", "/index.html"):
            self._reply(HTTPStatus.OK, PAGE.read_bytes(), "text/html; charset=utf-8")
        elif self.path == "/api/model":
            self._json(HTTPStatus.OK, self.server.models.describe())
        else:
            self._json(HTTPStatus.NOT_FOUND, {"error": f"{self.path}: there is /, /api/model and POST /api/NAME."})

    def do_POST(self) -> None:
        """An answer to the object that the client sends."""
        if not self._from_here():
            return
        try:
            size = int(self.headers.get("Content-Length", ""))
        except ValueError:
            size = -1
        if not 0 <= size <= MOST_BYTES:
            self.close_connection = True
            self.rfile.read(min(max(0, size), 16 * MOST_BYTES))  # so that the client comes to read the answer
            said = f"expected a Content-Length of at most {MOST_BYTES:,} bytes."
            return self._json(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {"error": said})
        body = self.rfile.read(size)
        if self.headers.get_content_type() != "application/json":  # which no other site's page may send unasked
            return self._json(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, {"error": "expected Content-Type: application/json."})
        try:
            request = json.loads(body)
            if not isinstance(request, dict):
                raise UserError("expected a JSON object.")
            if not self.path.startswith("/api/"):
                raise UserError(f"{self.path}: expected /api/NAME.")
            answer = self.server.models.answer(self.path.removeprefix("/api/"), request)
        except (UserError, ValueError, RecursionError) as error:
            return self._json(HTTPStatus.BAD_REQUEST, {"error": str(error)})
        except Exception as error:  # the next request is to be answered all the same
            show(f"! {self.path}: {type(error).__name__}: {error}", sys.stderr)
            return self._json(HTTPStatus.INTERNAL_SERVER_ERROR, {"error": f"{type(error).__name__}: {error}"})
        self._json(HTTPStatus.OK, answer)

    def _from_here(self) -> bool:
        """Whether a server of this machine alone was asked by that name: a foreign one may be made to lead here."""
        name = self.headers.get("Host", "").rpartition("]")[0].strip("[") or self.headers.get("Host", "").partition(":")[0]
        if self.server.host not in LOCAL or name in LOCAL:
            return True
        self.close_connection = True
        self._json(HTTPStatus.FORBIDDEN, {"error": f"{name!r} is not this machine's name; open http://localhost."})
        return False

    def _json(self, status: HTTPStatus, value: dict) -> None:
        self._reply(status, to_json(value).encode(), "application/json")

    def _reply(self, status: HTTPStatus, body: bytes, kind: str) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
            "Referrer-Policy": "no-referrer",
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing is said of each request."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roberta_jax.demo", description="A page to try a model in.")
    parser.add_argument("--model", required=True, help="a workdir, a folder of transformers or fairseq, or a hub name")
    parser.add_argument("--checkpoint", default="newest", help="of a workdir: newest, best or a step (default %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="0: any that is free (default %(default)s)")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0: for all who reach it (default %(default)s: this machine)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the arithmetic")
    args = parser.parse_args()
    from roberta_jax.inference import load  # here, so that --help does not wait for JAX
    from roberta_jax.interop.hub import steps_of

    def steps() -> list[int]:
        is_here = storage.is_url(args.model) or Path(args.model).expanduser().is_dir()
        return steps_of(args.model) if is_here else []

    models = Models(lambda step: load(args.model, step, args.dtype), args.checkpoint, steps)
    try:
        server = Server(models, args.host, args.port)
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {args.port} of {args.host} cannot be had: {error}; name another one, or 0.") from None
    models.warm_up()
    host = f"[{args.host}]" if ":" in args.host else args.host
    show(f"http://{host}:{server.server_port} shows {args.model}; Ctrl-C ends it")
    with server:
        server.serve_forever()


if __name__ == "__main__":
    exit_with_sentence(main)
