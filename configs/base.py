"""RoBERTa-base, as the paper pretrained it (Table 9), for a v5e:2x4 or a v4:2x2x1 slice."""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "pretrain"
    config.steps = 500_000
    config.batch_size = 8_192
    config.microbatch_size = 32
    config.seed = 0
    config.fsdp = 1
    config.log_every = 100
    config.eval_every = 5_000
    config.checkpoint_every = 5_000
    config.keep_checkpoints = 2

    config.model = ConfigDict()
    config.model.vocab_size = 50_265
    config.model.num_layers = 12
    config.model.hidden_size = 768
    config.model.intermediate_size = 3_072
    config.model.num_heads = 12
    config.model.max_length = 512
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.dtype = "bfloat16"
    config.model.remat = "none"

    config.optimizer = ConfigDict()
    config.optimizer.learning_rate = 6e-4
    config.optimizer.warmup_steps = 24_000
    config.optimizer.weight_decay = 0.01
    config.optimizer.decay_bias_and_norm = True
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.98
    config.optimizer.eps = 1e-6
    config.optimizer.clip_norm = 0.0

    config.data = ConfigDict()
    config.data.source = "docs"
    config.data.tokenizer = "50265"
    config.data.format = "full-sentences"
    config.data.length = 512
    config.data.valid_fraction = 0.01
    config.data.masking = "roberta"
    config.data.masking_rate = 0.15
    config.data.text_column = "text"
    config.data.documents = "blank-line"
    config.data.invalid_utf8 = "replace"
    config.data.cache = "~/.cache/roberta_jax"
    config.data.processes = 0
    return config
