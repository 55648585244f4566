"""Which script a character is of, by the first word of its Unicode name."""

import functools
import unicodedata

_BY_FIRST_WORD = {"CJK": "Han", "HIRAGANA": "kana", "KATAKANA": "kana"} | {
    name.upper(): name
    for name in (
        "Latin Cyrillic Greek Arabic Devanagari Hangul Hebrew Thai Armenian Georgian Ethiopic Bengali Gujarati Gurmukhi "
        "Kannada Khmer Lao Malayalam Myanmar Oriya Sinhala Tamil Telugu Tibetan"
    ).split()
}


@functools.cache
def script_of(character: str) -> str | None:
    """Such as "Latin", "Han" or "kana"; None for what is of no script, or of a rarer one."""
    name = unicodedata.name(character, "").removeprefix("HALFWIDTH ").removeprefix("FULLWIDTH ")
    return _BY_FIRST_WORD.get(name.replace("-", " ").partition(" ")[0])
