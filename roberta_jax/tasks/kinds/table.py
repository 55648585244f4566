"""The kinds of tasks by their names, which stand in tasks.definitions and in a run's task.json."""

from roberta_jax.tasks.kinds.kind import Kind
from roberta_jax.tasks.kinds.multiple_choice import MULTIPLE_CHOICE
from roberta_jax.tasks.kinds.span import SPAN
from roberta_jax.tasks.kinds.tagging import TAGGING
from roberta_jax.tasks.kinds.texts import CLASSIFICATION, MULTI_LABEL, REGRESSION

KINDS: dict[str, Kind] = {
    "classification": CLASSIFICATION,
    "multi_label": MULTI_LABEL,
    "regression": REGRESSION,
    "multiple_choice": MULTIPLE_CHOICE,
    "span": SPAN,
    "tagging": TAGGING,
}
