"""README.md of an exported model: what it was trained on, for how long, how well it did, and by which command."""

from typing import Any

from roberta_jax.interop.conversion import TRANSFORMERS_HEADS
from roberta_jax.interop.pretrained import Pretrained
from roberta_jax.output import to_json

ROWS = 12  # of the curve, at most
_DATA = ("source", "mixture", "train", "valid", "format", "masking")  # fields of `config.data`, where they are not empty


def _curve(measured: list[dict[str, Any]], names: list[str]) -> list[str]:
    """What was measured along the way, by step, as a table; train/loss is that logged last before."""
    lines, last = [], {}
    for entry in measured:
        last |= entry
        if any(name.startswith("valid/") for name in entry):
            cells = (f"{last[name]:.4f}" if name in last else "" for name in names)
            lines.append(f"| {entry['step']:,} | {' | '.join(cells)} |")
    if len(lines) < 2:
        return []
    some = sorted({round(i * (len(lines) - 1) / (ROWS - 1)) for i in range(ROWS)})
    return ["## Curve", "", f"| step | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|", *(lines[i] for i in some), ""]


def step_of(pretrained: Pretrained) -> int:
    """The step of the checkpoint that it was read from; of a workdir's model alone."""
    return int(pretrained.origin.rsplit(" ", 1)[-1])


def model_card(
    pretrained: Pretrained,
    fields: dict[str, Any],
    metrics: list[dict[str, Any]],
    command: str = "",
    seen: dict[str, int] | None = None,
) -> str:
    """Markdown with the hub's front matter.

    Args:
      fields: the run's config.json.
      metrics: its metrics.jsonl.
      command: what was typed to train it, where that was noted.
      seen: how many "tokens" and "words" in its training, see `hub.seen_by`.
    """
    model, data, step = pretrained.config, fields.get("data", {}), step_of(pretrained)
    of_data = {name: data.get(name) for name in _DATA if name != "source" or not data.get("mixture")}
    length = f" of {data['length']} tokens" if "length" in data else ""
    each = "" if fields.get("phases") else f", {fields.get('batch_size', 0):,} rows{length} each"
    rows = {
        "Shape": f"{model.num_layers} layers, hidden {model.hidden_size}, feed-forward {model.intermediate_size}, "
        f"{model.num_heads} heads, vocabulary {model.vocab_size:,}, at most {model.max_length} tokens",
        "Task": fields.get("task", ""),
        "Data": ", ".join(f"{name} {value}" for name, value in of_data.items() if value),
        "Phases": fields.get("phases", ""),
        "Steps": f"{step:,} of {fields.get('steps', 0):,}{each}",
        "Seen": ", ".join(f"{number:,} {name}" for name, number in (seen or {}).items()),
    }
    if pretrained.head == "span" and len(pretrained.params["span"]["out"]["bias"]) == 3:
        rows["Left out"] = "the head's third output, whether there is an answer: transformers' class has two"
    measured = [entry for entry in metrics if entry["step"] <= step]
    latest = {name: (value, entry["step"]) for entry in measured for name, value in entry.items() if name != "step"}
    shown = [name for name in sorted(latest) if name.startswith("valid/") or name == "train/loss"]
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {TRANSFORMERS_HEADS[pretrained.head].pipeline}",
        "tags: [roberta, jax]",
        "---",
        "",
        "# A RoBERTa trained with roberta_jax",
        "",
        *("| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value)),
        "",
        "## Metrics",
        "",
        *("| metric | value | step |", "|---|---|---|"),
        *(f"| {name} | {latest[name][0]:.4f} | {latest[name][1]:,} |" for name in shown),
        "",
        *_curve(measured, shown),
        *(("## Command", "", "```bash", command, "```", "") if command else ()),
        "## Config",
        "",
        "With every field:",
        "",
        *("```json", to_json(fields, 1), "```"),
        "",
    ]
    return "\n".join(lines)
