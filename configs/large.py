"""RoBERTa-large, as the paper pretrained it (arXiv 1907.11692, Table 9).

    layers 24, hidden 1024, FFN 4096, heads 16: 355,412,057 parameters
    peak lr 4e-4, 30,000 of 500,000 steps of warm-up, then linear to 0; batch 8,192 × 512; weight decay 0.01

    python -m roberta_jax.main --config=configs/large.py --workdir=RUN --config.data.source='text/*.txt.zst'

On 160 GB of English the paper reaches 90.2 on MNLI, 96.4 on SST-2 and 94.6 F1 on SQuAD 1.1 (Table 4).
Meant for slices of 64 chips and more. Of a chip's HBM it takes 9.0 of 15.75 GiB on v5e:16x16, 9.5 of 95.74 on
v5p:4x4x4 and 8.5 of 31.25 on v6e:8x8 (python -m roberta_jax.plan --config=configs/large.py --topology=v5e:16x16).
On GPUs of 80 GB take --config.microbatch_size=32: 14.7 GiB, and by its roofline a fifth faster than 8.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.microbatch_size = 8
    config.model.update(num_layers=24, hidden_size=1_024, intermediate_size=4_096, num_heads=16)
    config.optimizer.update(learning_rate=4e-4, warmup_steps=30_000)
    return config
