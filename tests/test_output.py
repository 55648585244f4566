"""What is printed cannot steer a terminal, and what is written as JSON is JSON, whatever a corpus, a name or a number holds."""

import importlib.util
import json
import math
import sys
import unicodedata

import pytest

from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import printable, show, to_json, typed_command

EVERY = "".join(map(chr, range(0x3000))) + "\ud800\udcff\ufffe\U000e0041"
STEERING = {*map(chr, range(32)), "\x7f", *map(chr, range(0x80, 0xA0))} - {"\t", "\n"}
TURNING = {character for character in EVERY if unicodedata.bidirectional(character) in
           ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")}  # fmt: skip


def test_no_character_that_a_terminal_obeys_is_printed_and_all_others_are():
    assert len(STEERING) == 63 and len(TURNING) == 9
    found = printable(EVERY)
    assert len(found) == len(EVERY) and not set(found) & (STEERING | TURNING)
    changed = {before for before, after in zip(EVERY, found) if before != after}
    assert changed == STEERING | TURNING | set(map(chr, (0xD800, 0xDCFF)))
    found.encode()  # so every stream takes it
    assert printable("\x1b[31mred\x07\r\n") == "␛[31mred␇␍\n"


def test_sentences_and_lines_go_the_same_way(capsys):
    show("a\x1b]0;title\x07\ud83d")
    with pytest.raises(SystemExit):
        exit_with_sentence(lambda: (_ for _ in ()).throw(UserError("b\u202egnp.\x9b2J: no such file")))
    out, err = capsys.readouterr()
    assert out == "a␛]0;title␇\ufffd\n" and err == "error: b\ufffdgnp.\ufffd2J: no such file\n"


@pytest.mark.parametrize("indent", [None, 1])
def test_json_is_what_it_says_and_comes_back(indent):
    value = {EVERY: [EVERY, 1.5, True, None, ("a", 2)], "nested": {"loss": 0.1}}
    text = to_json(value, indent)
    assert json.loads(text) == json.loads(json.dumps(value))
    assert not set(text) & (STEERING | TURNING) and len(text.splitlines()) == (text.count("\n") + 1)
    text.encode()
    for number in (math.nan, math.inf, -math.inf):
        strictly = json.loads(to_json({"a": [number, {"b": number}], "c": 1.0}, indent), parse_constant=pytest.fail)
        assert strictly == {"a": [None, {"b": None}], "c": 1.0}


def test_what_was_typed_is_known_of_the_command_alone(monkeypatch):
    """A notebook's kernel has arguments of its own."""
    monkeypatch.setattr(sys, "argv", ["kernel", "-f", "kernel 1.json"])
    assert typed_command() == ""
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", importlib.util.find_spec("roberta_jax.main"))
    assert typed_command() == "python -m roberta_jax.main -f 'kernel 1.json'"


def test_show_finds_the_stream_of_the_moment(monkeypatch, capsys):
    show("to the other one", sys.stderr)
    assert capsys.readouterr() == ("", "to the other one\n")
