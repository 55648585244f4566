"""A trace of a run's steps lies where TensorBoard looks for it, and is read by JAX's own reader of such files."""

import importlib

import jax

from roberta_jax.config import typed
from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.pretraining.job import pretrain


def fields(small_corpus, **changes):
    config = importlib.import_module("configs.tiny").get_config()
    config.update(steps=6, batch_size=16, log_every=3, eval_every=6, checkpoint_every=6, **changes)
    config.model.update(num_layers=1, hidden_size=32, intermediate_size=64, vocab_size=len(small_corpus.tokenizer))
    config.optimizer.update(name="adamw", warmup_steps=2)
    config.data.update(source=str(small_corpus.folder), tokenizer=str(len(small_corpus.tokenizer)))
    return typed(PretrainConfig, config.to_dict())


def test_the_steps_that_were_asked_for_are_traced_and_no_other(small_corpus, tmp_path, capsys):
    pretrain(fields(small_corpus, profile=2), tmp_path)
    assert f"steps 4 to 5 are traced: tensorboard --logdir={tmp_path / 'tensorboard'}\n" in capsys.readouterr().out
    (trace,) = tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(trace)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events]
    assert sorted(dict(event.stats)["step_num"] for event in events if event.name == "train") == [4, 5]
    assert any("train_step" in event.name for event in events)  # the compiled step itself


def test_a_trace_ends_with_its_run_and_one_that_has_no_step_is_said(small_corpus, tmp_path, capsys):
    pretrain(fields(small_corpus, profile=100), tmp_path / "long")
    assert "steps 4 to 6 are traced" in capsys.readouterr().out
    assert len(list((tmp_path / "long").glob("tensorboard/plugins/profile/*/*.xplane.pb"))) == 1
    pretrain(fields(small_corpus, profile=1), tmp_path / "long")
    assert "no step was traced" in capsys.readouterr().out
