"""What belongs to one kind stands in its file: no other file of tasks/ asks for it by name."""

from pathlib import Path

import pytest

from roberta_jax.model.heads import HEADS
from roberta_jax.tasks import definitions
from roberta_jax.tasks.definitions import TASKS
from roberta_jax.tasks.kinds.table import KINDS

FOLDER = Path(definitions.__file__).parent
NAMED_ELSEWHERE = {"classification", "regression"}  # of transformers' problem types, with which finetune.py compares


@pytest.mark.parametrize("name", sorted(KINDS.keys() - NAMED_ELSEWHERE))
def test_a_kind_is_named_in_two_tables_and_where_it_is_defined(name):
    files = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.py") if f'"{name}"' in path.read_text()}
    assert files - {f"kinds/{name}.py"} == {"definitions.py", "kinds/table.py"}


def test_every_kind_has_a_task_and_a_head():
    assert {task.kind for task in TASKS.values()} == KINDS.keys()
    assert {kind.head for kind in KINDS.values()} == set(HEADS)
