"""The comparisons on which RoBERTa rests: `--config=configs/ablations.py:STUDY`, at a laptop's size.

    masking input_format batch_size encoding data, several parted by commas, or all
    masking/static is the variant static of masking beside that study's control, and no other

    python -m roberta_jax.main --config=configs/ablations.py:all --workdir=RUN --config.downstream.source=GLUE

Each variant is pretrained with each seed, measured on held-out rows that are the same for all and, where GLUE's folders are
given, fine-tuned on SST-2, CoLA and RTE; RUN/report.md and RUN/report.html set the outcome beside the paper's. The same
command goes on where it was stopped. Fields of configs/base.py may be given: a larger model, more steps, your own text.
"""

from dataclasses import fields

from ml_collections import ConfigDict

from configs import tiny
from roberta_jax.ablations.config import AblationsConfig
from roberta_jax.config import defaults
from roberta_jax.pretraining.config import PretrainConfig


def get_config(study: str = "all") -> ConfigDict:
    config = tiny.get_config()
    config.update(defaults(AblationsConfig, leave_out=[each.name for each in fields(PretrainConfig)]))
    config.job, config.study = "ablations", study
    config.steps, config.batch_size = 500, 32
    config.eval_every = config.checkpoint_every = 125
    config.keep_checkpoints = 1
    config.optimizer.update(name="adamw", learning_rate=3e-3, warmup_steps=0.06)  # of the steps, in which variants differ
    # A small part of the text, so that rows come again as they do in a long run.
    config.data.update(fraction=1 / 32, valid_fraction=0.002)
    return config
