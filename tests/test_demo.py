"""The page to try a model in: what its server answers, what it lives through, and how it looks and is clicked through."""

import contextlib
import http.client
import json
import math
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from browser import Page
from random_models import LABELS, random_model

from roberta_jax import demo, inference
from roberta_jax.tokenization.json_tokenizer import JsonTokenizer
from roberta_jax.tokenization.pretrained import FastTokenizer
from tests.interop.published import word_piece

HEADS = ["lm_head", *LABELS, ""]
TEXT = "The old sailor found a wooden boat near the harbour."
EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title='taken'\"> <b>&amp;"
LONG = "The old sailor found a wooden boat. " * 3_000


@pytest.fixture(scope="module")
def models(small_corpus):
    return {(head, seed): random_model(small_corpus.tokenizer, head, seed) for head in HEADS for seed in (0, 1)}


@contextlib.contextmanager
def serving(models, head: str, steps=()):
    """A server of a model, whose last checkpoint is what it begins with; yields its port."""
    loaded = demo.Models(lambda step: models[head, int(step == 100)], "newest", lambda: list(steps))
    with demo.Server(loaded, "127.0.0.1", 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_the_host_may_be_of_the_newer_internet_protocol(models):
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with demo.Server(demo.Models(lambda _: models["", 0], "newest", list), "::1", 0) as server:
        assert server.server_address[0] == "::1" and server.server_port


@pytest.fixture(scope="module")
def ports(models):
    with contextlib.ExitStack() as stack:
        yield {head: stack.enter_context(serving(models, head, (100, 200))) for head in HEADS}


def ask(port: int, path: str, body=None, **headers) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    kind = {"Content-Type": "application/json"} if content is not None else {}
    connection.request("GET" if content is None else "POST", path, content, kind | headers)
    reply = connection.getresponse()
    found = json.loads(reply.read())
    connection.close()
    return reply.status, found


def answer(port: int, name: str, **request) -> dict:
    status, found = ask(port, f"/api/{name}", request)
    assert status == 200, found
    return found


# What it answers


def test_each_head_answers_as_the_model_does(ports, models):
    of = {head: models[head, 0] for head in HEADS}
    masked = TEXT.replace("sailor", "<mask>")
    found = answer(ports["lm_head"], "fill", text=masked)
    ((expected,),) = of["lm_head"].fill_mask([masked], 10)
    assert [(each["token"], each["text"]) for each in found["masks"][0]] == [(each.token, each.text) for each in expected]
    assert answer(ports["lm_head"], "surprise", text=TEXT)["score"] == pytest.approx(of["lm_head"].score([TEXT])[0], rel=1e-5)
    (labels,) = of["classification"].classify([TEXT])
    assert answer(ports["classification"], "classify", text=TEXT)["labels"] == pytest.approx(labels, rel=1e-5)
    (pair,) = of["classification"].classify([(TEXT, "It sank.")])
    assert answer(ports["classification"], "classify", text=TEXT, second="It sank.")["labels"] == pytest.approx(pair, rel=1e-5)
    words = answer(ports["classification"], "effects", text=TEXT, label="neutral")["words"]
    assert [each["text"] for each in words[0]] == TEXT.split()
    (best,) = of["span"].answer([("Who found it?", TEXT)])
    answers = answer(ports["span"], "answer", question="Who found it?", context=TEXT)["answers"]
    assert len(answers) == 5 and answers[0]["text"] == best.text == TEXT[answers[0]["start"] : answers[0]["end"]]
    assert [each["score"] for each in answers] == sorted((each["score"] for each in answers), reverse=True)
    (tags,) = of["token_classification"].tag([TEXT])
    assert [each["tag"] for each in answer(ports["token_classification"], "tag", text=TEXT)["words"]] == tags
    chosen = answer(ports["multiple_choice"], "choose", passage="The old", candidates="sailor\n\nboat")["candidates"]
    assert [each["text"] for each in chosen] == ["sailor", "boat"]
    assert sum(each["probability"] for each in chosen) == pytest.approx(1)
    assert answer(ports[""], "similarity", text=TEXT, second=TEXT)["cosine"] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("head", HEADS)
def test_what_the_model_is_says_what_it_answers(ports, head):
    status, found = ask(ports[head], "/api/model")
    assert (status, found["head"], found["checkpoints"], found["max_length"]) == (200, head, [100, 200], 64)
    assert found["answers"] == [name for name, (heads, _) in demo.ANSWERS.items() if head in heads] and found["answers"]


def test_each_checkpoint_is_asked_by_its_step(ports, models):
    def best(**request):
        return answer(ports["lm_head"], "surprise", text=TEXT, **request)["score"]

    assert best(checkpoint=100) == pytest.approx(models["lm_head", 1].score([TEXT])[0], rel=1e-5)
    assert best(checkpoint=200) == best() != best(checkpoint=100)
    for wrong in (300, "best", [1], 1.5):
        status, found = ask(ports["lm_head"], "/api/surprise", {"text": TEXT, "checkpoint": wrong})
        assert status == 400 and "there are 100, 200" in found["error"], wrong


@pytest.mark.parametrize("head", HEADS)
def test_the_page_opens_with_what_has_been_compiled(ports, head):
    """Each answer of a head is asked for at the start, and is one."""
    requests = demo.opening(ask(ports[head], "/api/model")[1])
    assert requests.keys() == {name for name, (heads, _) in demo.ANSWERS.items() if head in heads}
    for name, request in requests.items():
        answer(ports[head], name, **request)
        asked = [text for text in request.values() if text in demo.PAGE.read_text()]
        assert asked or name in ("fill", "answer"), request  # which are parts of what it asks


# What it lives through

TEXTS = {"empty": "", "blanks": " \n\t ", "long": LONG, "script": EVIL, "others": "東京 🤗 \u202eevil \x00 é"}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("head", HEADS)
def test_any_text_has_an_answer_or_a_sentence(ports, head, kind):
    text = TEXTS[kind]
    for name in ask(ports[head], "/api/model")[1]["answers"]:
        request = dict.fromkeys(("text", "second", "question", "context", "passage", "candidates"), text) | {"label": "neutral"}
        status, found = ask(ports[head], f"/api/{name}", request)
        if status == 400:
            assert name == "fill" and "<mask>" in found["error"], found  # there is none in it
        else:
            assert status == 200, found
            assert kind != "long" or found["notes"] or name == "tag"  # which goes on in another row
            assert kind not in ("empty", "blanks") or not found["notes"], found["notes"]


WRONG = [
    ("/api/fill", b"{", 400, "Expecting"),
    ("/api/fill", b"[1]", 400, "expected a JSON object"),
    ("/api/fill", b"\xff\xfe", 400, ""),
    ("/api/fill", b'{"text": 5}', 400, "text is 5; expected a text"),
    ("/api/fill", b'{"text": "\\ud800 <mask>"}', 400, "half a character"),
    ("/api/fill", b"[" * 100_000, 400, ""),
    ("/api/bake", b"{}", 400, "there is no 'bake'; there are fill,"),
    ("/api/classify", b'{"text": "x"}', 400, "cannot classify: its head is 'lm_head'"),
    ("/api/fill", b"x" * ((1 << 20) + 1), 413, "at most"),
    ("/", b"{}", 400, "expected /api/NAME"),
    ("/../../etc/passwd", None, 404, "there is /"),
    ("/demo.py", None, 404, "there is /"),
]


@pytest.mark.parametrize(("path", "body", "status", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_a_wrong_request_is_a_sentence_and_the_next_one_is_answered(ports, path, body, status, message):
    found = ask(ports["lm_head"], path, body)
    assert found[0] == status and message in found[1]["error"], found
    assert answer(ports["lm_head"], "fill", text="a <mask>")["masks"]


def test_no_other_sites_page_is_answered(ports):
    """Neither by a name that was made to lead here, nor by what a browser sends without asking."""
    port = ports["lm_head"]
    assert ask(port, "/api/model", Host="evil.example")[0] == 403
    assert ask(port, "/api/fill", {"text": "<mask>"}, Host="evil.example:80")[0] == 403
    assert ask(port, "/api/fill", {"text": "<mask>"}, **{"Content-Type": "text/plain"})[0] == 415
    assert ask(port, "/api/model", Host=f"localhost:{port}")[0] == 200


def test_twenty_at_once_are_answered_each_its_own(ports):
    texts = [f"The old sailor found {'a boat ' * number}<mask>" for number in range(20)]
    alone = [answer(ports["lm_head"], "fill", text=text)["masks"] for text in texts]
    with ThreadPoolExecutor(20) as pool:
        together = list(pool.map(lambda text: answer(ports["lm_head"], "fill", text=text)["masks"], texts))
    assert together == alone


def test_a_client_that_is_gone_is_nobodys_error(ports, capfd):
    port, body = ports["lm_head"], json.dumps({"text": LONG}).encode()
    kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}"
    head = f"POST /api/surprise HTTP/1.1\r\nHost: localhost\r\n{kind}\r\n\r\n"
    for said in (b"", b"GET", head.encode(), head.encode() + body[:100], head.encode() + body):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # it breaks off, and does not take leave
            client.sendall(said)
    assert answer(port, "fill", text="a <mask>")["masks"] and "Traceback" not in capfd.readouterr().err


def test_a_port_that_is_taken_is_a_sentence(models, monkeypatch, capsys):
    monkeypatch.setattr(inference, "load", lambda *_: models["lm_head", 0])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("sys.argv", ["demo", "--model=random", f"--port={port}"])
        with pytest.raises(demo.UserError, match=f"--port {port} of 127.0.0.1 cannot be had: .*name another one"):
            demo.main()


# How it looks, and is clicked through


def url(port: int) -> str:
    return f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def wide(ports):
    """A page of the masked LM's."""
    with Page(url(ports["lm_head"])) as page:
        page.wait_for("document.querySelectorAll('#guesses-a .row').length == 10")
        yield page


def test_words_are_masked_by_a_click_and_their_guesses_have_bars(wide, models):
    wide.type("#text-a", TEXT)
    wide.wait_for("document.querySelectorAll('#words-a button').length == 10 && !document.querySelector('#guesses-a .card')")
    wide.click("#words-a button:nth-child(3)")
    wide.wait_for("document.querySelectorAll('#guesses-a .row').length == 10")
    ((expected,),) = models["lm_head", 0].fill_mask([TEXT.replace("sailor", "<mask>")], 10)
    shown = wide.evaluate("[...document.querySelectorAll('#guesses-a .row span:first-child')].map(e => e.textContent)")
    assert shown == [each.token.replace("\n", "↵") or "(empty)" for each in expected]
    wide.click("#words-a button:nth-child(5)")
    wide.wait_for("document.querySelectorAll('#guesses-a .card').length == 2")
    for number in (3, 5):
        wide.click(f"#words-a button:nth-child({number})")
    wide.wait_for("!document.querySelector('#guesses-a .card')")


def test_a_model_that_writes_its_mask_otherwise_is_asked_in_its_own_words(small_corpus):
    """BERT's tokenizer has [MASK]: at the start, in a request, and where a word is clicked."""
    names = {"bos": "[CLS]", "pad": "[PAD]", "eos": "[SEP]", "unk": "[UNK]", "mask": "[MASK]"}
    tokenizer = FastTokenizer(JsonTokenizer(word_piece()[0], names, "here"))
    model = random_model(tokenizer.base, "lm_head", tokenizer=tokenizer)
    with serving({("lm_head", 0): model}, "lm_head") as port:
        assert ask(port, "/api/model")[1]["mask"] == "[MASK]"
        assert len(answer(port, "fill", text="The [MASK] sailor found [MASK]")["masks"]) == 2
        with Page(url(port)) as page:
            page.wait_for("document.querySelectorAll('#guesses-a .row').length == 10")  # of the word that is masked at first
            page.type("#text-a", "The [MASK] sailor")
            page.wait_for("document.querySelector('#guesses-a h3')?.textContent == '[MASK]'")
            page.click("#words-a button:nth-child(3)")
            page.wait_for("document.querySelectorAll('#guesses-a .card').length == 2")
            assert page.evaluate("document.querySelector('#error').hidden")
            assert not page.evaluate("document.querySelector('#tokens-a').textContent")  # a mask has no surprise


def test_each_tokens_surprise_is_a_colour_and_two_sentences_are_compared(wide):
    wide.type("#text-a", TEXT)
    wide.wait_for(f"document.querySelector('#tokens-a').textContent == {json.dumps(TEXT)}")
    assert (
        wide.evaluate(
            "new Set([...document.querySelectorAll('#tokens-a span')].map(e => getComputedStyle(e).backgroundColor)).size"
        )
        > 5
    )
    assert "nats" in wide.evaluate("document.querySelector('#tokens-a span').title")
    if wide.evaluate("!!document.querySelector('#compare')"):
        wide.click("#compare")
    wide.type("#text-b", TEXT + " " + TEXT)
    wide.wait_for(f"document.querySelector('#tokens-b').textContent.startsWith({json.dumps(TEXT)})")
    said = wide.evaluate("document.querySelector('#verdict').textContent")
    assert "The first is more probable" in said


def test_a_checkpoint_is_picked_and_all_is_asked_again(wide, models):
    wide.type("#text-a", TEXT)
    score = "document.querySelector('#score-a').textContent"
    newest, oldest = (f"score {models['lm_head', seed].score([TEXT])[0]:.2f}" for seed in (0, 1))
    wide.wait_for(f"{score}.startsWith({json.dumps(newest)})")
    wide.evaluate("(() => { const e = document.querySelector('#steps'); e.value = 0; e.dispatchEvent(new Event('input')) })()")
    wide.wait_for(f"{score}.startsWith({json.dumps(oldest)})")
    assert wide.evaluate("document.querySelector('#step').textContent") == "checkpoint of step 100"


def test_a_texts_tags_are_text_and_an_empty_one_is_nothing(wide):
    wide.type("#text-a", EVIL)
    wide.wait_for("document.querySelector('#tokens-a').textContent.startsWith('</script><script>document.title')")
    assert "was cut" in wide.evaluate("document.querySelector('#notes').textContent")  # it has more tokens than a row
    assert wide.evaluate("document.title") == "random lm_head · roberta_jax"
    assert wide.evaluate("document.querySelectorAll('#app script, #app img, #app b').length") == 0
    wide.type("#text-a", "")
    wide.wait_for("!document.querySelector('#tokens-a span') && !document.querySelector('#words-a button')")
    assert wide.evaluate("document.querySelector('#error').hidden")


def test_words_of_a_sure_answer_are_coloured_too(ports):
    """By the log-odds that each takes away, as computed here from the server's answers."""
    port, text = ports["classification"], "A warm, funny and moving film."
    labels = answer(port, "classify", text=text)["labels"]
    label, whole = max(labels.items(), key=lambda item: item[1])
    (words,) = answer(port, "effects", text=text, label=label)["words"]
    odds = [math.log((whole - each["change"]) / (1 - whole + each["change"])) for each in words]
    expected = [min(75, 25 * abs(math.log(whole / (1 - whole)) - each)) for each in odds]
    with Page(url(port)) as page:
        page.wait_for(SHOWN["classification"])
        found = page.evaluate(
            "[...document.querySelectorAll('#effects span')].map(e => [e.textContent, +e.style.getPropertyValue('--p')])"
        )
    assert [word for word, _ in found] == text.split()
    assert [strength for _, strength in found] == pytest.approx(expected, rel=1e-3) and max(expected) > 5


SHOWN = {  # what each head's page has when it has answered
    "lm_head": "document.querySelectorAll('#guesses-a .row').length == 10 && document.querySelector('#tokens-a span')",
    "classification": "document.querySelectorAll('#labels .row').length == 3 && document.querySelector('#effects span')",
    "span": "document.querySelectorAll('#answers .row').length == 5 && document.querySelector('#marked mark')",
    "token_classification": "document.querySelector('#marked')?.textContent.includes('Schmidt')",
    "multiple_choice": "document.querySelectorAll('#chosen .row').length == 2",
    "": "document.querySelectorAll('#similar .row').length == 1",
}


@pytest.mark.parametrize("head", SHOWN)
def test_every_heads_page_fits_a_narrow_and_dark_screen(ports, head):
    with Page(url(ports[head]), width=340, dark=True) as page:
        page.wait_for(SHOWN[head])
        assert page.evaluate("document.documentElement.scrollWidth") <= 340
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
        assert page.evaluate("document.querySelector('#error').hidden"), page.evaluate("document.body.innerText")
