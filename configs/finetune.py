"""Fine-tuning: `--config=configs/finetune.py:TASK`, where TASK is a row of roberta_jax/tasks/definitions.py.

    cola sst2 mrpc stsb qqp mnli qnli rte wnli squad squad2 race race-middle race-high conll2003 wnut17
    custom-classification custom-multi-label custom-regression custom-multiple-choice custom-span custom-tagging
    glue, which is the first nine, or several parted by commas

    python -m roberta_jax.main --config=configs/finetune.py:rte --workdir=RUN --config.init_from=MODEL --config.data.source=RTE

Adam β 0.9, 0.98, ε 1e-6; linear decay after a warm-up of 6% of the steps; dropout 0.1; no clipping (the paper, Table 10).
Learning rate, batch size, weight decay and epochs are the task's there. From the released base model the paper's recipe
reaches 78.7 on RTE, 94.8 on SST-2 and 63.6 on CoLA: medians of five seeds, the best epoch on the dev set.
"""

from dataclasses import fields

from ml_collections import ConfigDict, FieldReference

from roberta_jax.config import defaults
from roberta_jax.model.config import OF_A_RUN, RobertaConfig
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.tasks.definitions import TASKS


class _Task(FieldReference):
    """config.task, which stays what the file's argument says, since other fields follow from it."""

    given = False

    def set(self, value: str, type_safe: bool = True) -> None:
        if self.given and value != self.get():
            raise ValueError(f"config.task is the config file's argument, as in --config=configs/finetune.py:{value}.")
        super().set(value, type_safe)
        self.given = True


def get_config(task: str = "") -> ConfigDict:
    """Every field of a fine-tuning job; docs/fields.md says what each is. Sizes are the model's that it begins with."""
    task = task.strip()
    sizes = [f"model.{each.name}" for each in fields(RobertaConfig) if each.name not in OF_A_RUN]
    of_the_task = ["epochs", "batch_size", "optimizer.learning_rate", "optimizer.weight_decay"]
    leave_out = [*sizes, "guard", *(of_the_task if task not in TASKS else [])]  # several tasks have each its own
    config = ConfigDict(defaults(FinetuneConfig, leave_out))
    config.task = _Task(task)
    config.log_every = 50
    config.optimizer.warmup_steps = 0.06  # of the steps
    if task in TASKS:
        row = TASKS[task]
        config.epochs, config.batch_size = row.epochs, row.batch_size
        config.optimizer.update(learning_rate=row.learning_rate, weight_decay=row.weight_decay)
    return config
