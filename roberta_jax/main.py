"""The door: `python -m roberta_jax.main --config=configs/tiny.py --workdir=/tmp/run`. Run it again to resume."""

import json
from pathlib import Path

from absl import app, flags, logging
from ml_collections import config_flags

from roberta_jax.config import parse_flags, typed
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.memory import use_huge_pages

_CONFIG = config_flags.DEFINE_config_file("config", None, "The job; --config.FIELD=VALUE changes one of its fields.")
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder for checkpoints, metrics and the tokenizer.")


def main(_) -> None:
    import jax  # here, so that --help does not wait for it
    from etils import epath

    from roberta_jax.data import storage
    from roberta_jax.data.prepare import DEFAULT_CACHE
    from roberta_jax.training import distributed

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(DEFAULT_CACHE.expanduser() / "compiled"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # of 1 s by default: there are many small programs
    if flags.FLAGS.verbosity == logging.INFO:  # absl's own default; Orbax says much at it, --verbosity=1 shows all
        logging.set_verbosity(logging.WARNING)
    fields, remote = _CONFIG.value.to_dict(), storage.is_url(_WORKDIR.value)
    if remote and not _WORKDIR.value.startswith("gs://"):
        raise UserError(f"--workdir={_WORKDIR.value}: expected a path of this machine, or gs://.")
    workdir = epath.Path(_WORKDIR.value) if remote else Path(_WORKDIR.value).expanduser()
    with distributed.joined():
        distributed.require_same("the config", json.dumps(fields, sort_keys=True))
        distributed.require_shared(workdir)
        run(fields, workdir)


def run(fields: dict, workdir: Path) -> None:
    """The job that `fields` describe."""
    if fields.get("job") == "finetune":
        from roberta_jax.tasks import runs

        runs.run(typed(runs.FinetuneConfig, fields), workdir)
        return
    if fields.get("job") == "ablations":
        from roberta_jax.ablations import run as ablations

        ablations.run(typed(ablations.AblationsConfig, fields), workdir)
        return
    from roberta_jax.training.pretrain import PretrainConfig, pretrain

    config, initial = typed(PretrainConfig, fields), None
    if config.init_from:
        from roberta_jax.interop import hub

        source = hub.load(config.init_from)
        initial = source.config, source.params, getattr(source.text, "tokenizer", None)
    pretrain(config, workdir, initial)


if __name__ == "__main__":
    use_huge_pages()
    flags.mark_flags_as_required(["config", "workdir"])
    exit_with_sentence(lambda: app.run(main, flags_parser=lambda argv: parse_flags(argv, _CONFIG)), outlives_output=True)
