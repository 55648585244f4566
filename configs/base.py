"""RoBERTa-base, as the paper pretrained it (arXiv 1907.11692, Table 9).

    layers 12, hidden 768, FFN 3072, heads 12: 124,697,433 parameters
    peak lr 6e-4, 24,000 of 500,000 steps of warm-up, then linear to 0; batch 8,192 × 512; weight decay 0.01

    python -m roberta_jax.main --config=configs/base.py --workdir=RUN --config.data.source='text/*.txt.zst'

On 160 GB of English the paper's base model reaches 87.6 on MNLI and 94.8 on SST-2 (fairseq's model cards). With less data
and fewer machines take fairseq's smaller recipe: batch 2,048, learning rate 5e-4, 125,000 steps, 10,000 of warm-up.
Meant for slices of v5e:2x4 and v4:2x2x1 and more, or GPUs from A100 on. Of a chip's HBM it takes 6.9 of 15.75 GiB on
v5e:2x4, 7.0 of 30.75 on v4:2x2x1 and 5.9 of 74.5 on eight H100, where --config.microbatch_size=128 takes 18.3 and is some
5% faster by its roofline (python -m roberta_jax.plan --config=configs/base.py --topology=v5e:2x4).
"""

from ml_collections import ConfigDict

from roberta_jax.config import defaults
from roberta_jax.model.config import FIXED
from roberta_jax.pretraining.config import PretrainConfig


def get_config() -> ConfigDict:
    """Every field of a pretraining job, with what the paper's base model has; docs/fields.md says what each is."""
    config = ConfigDict(defaults(PretrainConfig, leave_out=[f"model.{name}" for name in FIXED]))
    config.microbatch_size = 32
    config.model.dtype = "bfloat16"
    return config
