"""What people and programs are given to read: text that cannot steer a terminal, JSON that every reader takes."""

import json
import math
import shlex
import sys
from typing import Any, TextIO

_C1 = range(0x80, 0xA0)
_BIDI = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # embeddings, overrides and isolates: they turn the text around
_SURROGATES = range(0xD800, 0xE000)  # of file names that are not UTF-8; no stream takes them
_SHOWN = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"} | {0x7F: 0x2421}
_SHOWN |= dict.fromkeys((*_C1, *_BIDI, *_SURROGATES), 0xFFFD)
# json leaves these as they are; U+2028 and U+2029 end a line for Python's splitlines.
_ESCAPED = {code: f"\\u{code:04x}" for code in (0x7F, *_C1, 0x2028, 0x2029, *_BIDI, *_SURROGATES)}


def printable(text: str) -> str:
    """The text with a picture in the place of each character that a terminal would obey; tabs and line ends stay."""
    return text.translate(_SHOWN)


def show(text: str, file: TextIO | None = None) -> None:
    """Prints text that may quote a corpus, a file or a name."""
    print(printable(text), file=file or sys.stdout, flush=True)


def typed_command() -> str:
    """What started this process, where that was `main`; "" in a notebook, say, whose arguments are its own."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name} {shlex.join(sys.argv[1:])}" if spec and spec.name == "roberta_jax.main" else ""


def to_json(value: Any, indent: int | None = None) -> str:
    """JSON; a number that is not finite becomes null, a character that a terminal would obey its escape."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, indent=indent)
    except ValueError:
        text = json.dumps(_finite(value), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.translate(_ESCAPED)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
