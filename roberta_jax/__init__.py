"""RoBERTa for JAX: pretrain, fine-tune, evaluate and export encoders."""

__version__ = "0.4.0.dev0"
