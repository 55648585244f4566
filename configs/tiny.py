"""A small model on this machine's docstrings."""

from ml_collections import ConfigDict

from configs import base


def get_config() -> ConfigDict:
    config = base.get_config()
    config.steps = 1_000
    config.batch_size = 64
    config.microbatch_size = 0
    config.log_every = 50
    config.eval_every = 250
    config.checkpoint_every = 250
    config.model.update(vocab_size=4_096, num_layers=2, hidden_size=128, intermediate_size=512, num_heads=4)
    config.model.update(max_length=128, dropout=0.0, attention_dropout=0.0, dtype="float32")
    config.optimizer.update(learning_rate=2e-3, warmup_steps=100)
    config.data.update(tokenizer="4096", length=128)
    return config
