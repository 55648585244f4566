"""The door: `python -m roberta_jax.main --config=configs/tiny.py --workdir=/tmp/run`."""

from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from roberta_jax.errors import exit_with_sentence

_CONFIG = config_flags.DEFINE_config_file("config", None, "The job; any field by --config.FIELD=…")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where checkpoints, metrics and the tokenizer go. Run again to resume.")


def main(_) -> None:
    from roberta_jax.config import typed
    from roberta_jax.training.pretrain import PretrainConfig, pretrain

    pretrain(typed(PretrainConfig, _CONFIG.value), Path(_WORKDIR.value))


if __name__ == "__main__":
    flags.mark_flags_as_required(["config", "workdir"])
    exit_with_sentence(lambda: app.run(main))
