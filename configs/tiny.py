"""A small model on the docstrings of the packages installed here: three minutes on two CPU cores, no download.

    layers 2, hidden 128, FFN 512, heads 2: 686,336 parameters; rows of 64; vocabulary 2,048, trained on the same text

    python -m roberta_jax.main --config=configs/tiny.py --workdir=/tmp/run

Rows are short, so that each position is seen often, batches are small, initial weights as wide as the narrow model needs,
positions begin as sinusoids, and the optimizer is Muon: all let it find its neighbours soon. Expect a valid loss 2.5 nats under
the unigram model's with the packages of requirements.txt alone, less where many more are installed, whose text is less alike.
"""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.steps = 2_600
    config.batch_size = 16
    config.microbatch_size = 0
    config.log_every = 100
    config.eval_every = 1_300
    config.checkpoint_every = 650
    config.model.update(vocab_size=0, num_layers=2, hidden_size=128, intermediate_size=512, num_heads=2, max_length=0)
    config.model.update(dropout=0.0, attention_dropout=0.0, initializer_range=0.06, position_init="sinusoids")
    config.model.update(dtype="float32", remat="none")
    config.optimizer.update(name="muon", learning_rate=3e-3, warmup_steps=0.05)
    config.data.update(tokenizer="2048", length=64)
    return config
