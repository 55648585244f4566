"""The door: `python -m roberta_jax.main --config=configs/tiny.py --workdir=/tmp/run`. Run it again to resume."""

import contextlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from absl import app, flags, logging

from roberta_jax.config import typed
from roberta_jax.config_files import define_config, parse_flags
from roberta_jax.errors import UserError, check_choice, exit_with_sentence
from roberta_jax.memory import use_huge_pages

_CONFIG = define_config()
_WORKDIR = flags.DEFINE_string("workdir", None, "The folder for checkpoints, metrics and the tokenizer.")
_PROFILE = flags.DEFINE_integer("profile", None, "Steps to trace for TensorBoard's profiler: config.profile.", lower_bound=1)


def main(_) -> None:
    import jax  # here, so that --help does not wait for it
    from etils import epath

    from roberta_jax import storage
    from roberta_jax.training import distributed

    if not jax.config.jax_compilation_cache_dir:
        with contextlib.suppress(OSError, RuntimeError):  # nowhere to keep what is compiled: then it is not kept
            compiled = storage.CACHE.expanduser() / "compiled"
            storage.require_writable(compiled)
            jax.config.update("jax_compilation_cache_dir", str(compiled))
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # of 1 s by default: there are many small ones
    if flags.FLAGS.verbosity == logging.INFO:  # absl's own default; Orbax says much at it, --verbosity=1 shows all
        logging.set_verbosity(logging.WARNING)
    fields, remote = _CONFIG.value.to_dict(), storage.is_url(_WORKDIR.value)
    if _PROFILE.value:
        fields["profile"] = _PROFILE.value
    if remote and not _WORKDIR.value.startswith("gs://"):
        raise UserError(f"--workdir={_WORKDIR.value}: expected a path of this machine, or gs://.")
    workdir = epath.Path(_WORKDIR.value) if remote else Path(_WORKDIR.value).expanduser()
    with distributed.initialized_cluster():
        distributed.require_same_software()
        distributed.require_same("the config", json.dumps(fields, sort_keys=True))
        distributed.require_shared(workdir)
        run(fields, workdir)


def run(fields: dict, workdir: Path) -> None:
    """The job that `fields` describe."""
    from roberta_jax.training.distributed import alone_in

    check_choice("job", fields.get("job"), ("pretrain", "finetune", "ablations"))
    if fields["job"] == "finetune":
        from roberta_jax.tasks import runs
        from roberta_jax.tasks.config import FinetuneConfig

        config = typed(FinetuneConfig, fields)
        _require_ready(config, workdir)
        with alone_in(workdir):
            runs.run_tasks(config, workdir)
    elif fields["job"] == "ablations":
        from roberta_jax.ablations import run as ablations

        config = typed(ablations.AblationsConfig, fields)
        _require_ready(config, workdir)
        ablations.run(config, workdir)
    else:
        from roberta_jax.pretraining.config import PretrainConfig
        from roberta_jax.pretraining.job import pretrain

        config = typed(PretrainConfig, fields)
        _require_ready(config, workdir)
        with alone_in(workdir):
            begins_anew = config.init_from and not config.continue_from
            pretrain(config, workdir, _initial(config, workdir) if begins_anew else None)


def _require_ready(config: Any, workdir: Path) -> None:
    """Raises a UserError for what would end the run later, before anything is read."""
    from roberta_jax import storage
    from roberta_jax.training import trackers

    trackers.require_installed(config.tracker)

    if not storage.is_url(workdir):
        storage.require_writable(workdir)


def _initial(config: Any, workdir: Path):
    """What `pretrain` asks for. Of a run that resumes the model that it began with is not needed, and may be gone."""
    from roberta_jax.interop import hub
    from roberta_jax.interop.positions import with_positions
    from roberta_jax.interop.vocabulary import with_vocabulary
    from roberta_jax.training import distributed, provenance
    from roberta_jax.training.logging import say

    init_from = config.init_from

    def load():
        source, longest = hub.load(init_from), config.longest
        if (positions := source.config.max_length) >= longest:
            return source
        say(f"config.init_from has {positions:,} positions, rows {longest:,}: the further ones begin as its own again")
        return with_positions(source, longest)

    def params(source, tokenizer) -> dict:
        if not config.new_vocabulary:
            return source.params
        found, sentence = with_vocabulary(source, tokenizer, config.seed)
        say(sentence)
        return found

    if (shape := hub.shape_of_run(workdir)) is not None:
        return shape, lambda tokenizer: params(load(), tokenizer), None
    source = load()
    held = provenance.hash_of(source.params), asdict(source.config), source.tokenizer and source.tokenizer.to_json()
    distributed.require_same(f"what config.init_from {init_from} holds", json.dumps(held))
    if source.head != "lm_head":
        say(f"config.init_from has no masked-LM head but {source.head or 'an encoder alone'}: a new one begins")
    if config.new_vocabulary and source.tokenizer is None:
        raise UserError(
            f"config.init_from {init_from} has no tokenizer, and config.new_vocabulary begins from its tokens; save it there."
        )
    own = None if config.new_vocabulary else source.tokenizer and source.tokenizer.base
    shape = replace(source.config, vocab_size=0) if config.new_vocabulary else source.config
    return shape, partial(params, source), own


if __name__ == "__main__":
    use_huge_pages()
    flags.mark_flags_as_required(["config", "workdir"])
    exit_with_sentence(lambda: app.run(main, flags_parser=lambda argv: parse_flags(argv, _CONFIG)), outlives_output=True)
