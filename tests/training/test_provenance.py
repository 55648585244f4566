"""What tells one run from another: fields that came later change nothing of runs that had been made."""

import pytest

from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.training import provenance

# The fields of 0.3.0 on which figures depend: of either kind of run, of a pretraining, and of a fine-tuning.
OF_BOTH = """
steps batch_size seed init_from eval_every
optimizer.name optimizer.learning_rate optimizer.warmup_steps optimizer.weight_decay optimizer.decay_bias_and_norm optimizer.b1
optimizer.b2 optimizer.eps optimizer.clip_norm
guard.skip_above guard.spike_above guard.spike_steps guard.rewinds
model.vocab_size model.num_layers model.hidden_size model.intermediate_size model.num_heads model.max_length
model.num_token_types model.pad_id model.layer_norm_eps model.dropout model.attention_dropout model.initializer_range
model.dtype
data.source data.valid_fraction
"""
PRETRAINING = """
data.text_column data.documents data.invalid_utf8 data.bad_records data.tokenizer data.format data.length data.deduplicate
data.exclude data.encoding data.fraction data.masking data.masking_rate data.mask_replace_prob data.random_replace_prob
data.cache data.processes
"""
FINE_TUNING = """
task epochs from_scratch max_length packed patience seeds sweep together from_mnli
data.train data.valid data.test data.text_columns data.label_column
"""


@pytest.mark.parametrize(("config", "more"), [(PretrainConfig(), PRETRAINING), (FinetuneConfig(), FINE_TUNING)])
def test_a_run_that_0_3_0_began_is_the_same_run(config, more):
    """A field that is new has a place in `_LATER`, or in `WITHOUT_EFFECT`."""
    before = {f"config.{name}" for name in (OF_BOTH + more).split()}
    assert provenance.fields(config).keys() == before


def test_a_later_field_that_does_something_is_told():
    before = provenance.fields(PretrainConfig(init_from="model"))
    now = provenance.fields(PretrainConfig(init_from="model", new_vocabulary=True))
    assert provenance.difference(before, now) == "config.new_vocabulary None, not True"
    assert provenance.difference(now, before) == "config.new_vocabulary True, not False"
