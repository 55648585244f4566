"""A model of nearly BabyBERTa's size, for the grammar that some tens of millions of words hold: hours on two CPU cores.

    layers 6, hidden 256, FFN 1024, heads 4: 6,927,872 parameters
    rows of 64, filled with single sentences; a WordPiece vocabulary of 8,192, all lower case; 41 million ids

    python -m roberta_jax.main --config=configs/small.py --workdir=RUN --config.data.source='text/*.txt.zst' \
        --config.data.exclude=blimp/,zorro/
    python -m roberta_jax.minimal_pairs --model=RUN --source blimp/ zorro/ --all

On a CPU --config.microbatch_size=16, whose rows fit the caches, saves a tenth of the time. Expected: a valid loss of 3.58,
BLiMP 65.8, Zorro 83.8 (reports/small-2026-11-28.md).

Documents that share a sentence of eight words or more with the grammar suites are dropped.

Every sentence is an input of its own, as the suites have them, and its first word is the same token as further on: WordPiece
knows neither case nor the space before a word. No dropout, as the text is seen but once. Muon ends the plateau at which such
models stand, predicting a word by its frequency alone: docs/troubleshooting.md has what was tried.

That text is twenty sources. Of them childes, switchboard, court, textbooks_nc, readers, brown and parts of storybooks and web
may not be used commercially, and meetings' licence is not certain: a model that is to be shipped does without these.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.steps = 10_000
    config.batch_size = 64
    config.microbatch_size = 0
    config.log_every = 50
    config.eval_every = 500
    config.checkpoint_every = 500
    config.keep_checkpoints = 20  # all, 55 MB each: minimal_pairs --all draws the curve
    config.model.update(vocab_size=0, num_layers=6, hidden_size=256, intermediate_size=1024, num_heads=4, max_length=0)
    config.model.update(dropout=0.0, attention_dropout=0.0, initializer_range=0.06, dtype="float32")
    config.optimizer.update(name="muon", learning_rate=3e-3, warmup_steps=200, clip_norm=1.0)
    config.data.update(tokenizer="8192", encoding="wordpiece", format="single-sentences-packed", length=64)
    config.data.update(masking_rate=0.2, mask_replace_prob=0.9, random_replace_prob=0.1)
    return config
