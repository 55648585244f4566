"""Small files for the tests of tasks, and what was read from them."""

import json


def table(path, rows):
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows))


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def told(examples):
    """What examples say, without their places."""
    return [(example.id, example.texts, example.label) for example in examples]


def sizes(parts):
    return {part: len(examples) for part, examples in parts.items()}
