"""The mesh, the table of placements, and which rows a host feeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from roberta_jax.errors import UserError
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.training.optimizer import OptimizerConfig, make_optimizer
from roberta_jax.training.sharding import batch_sharding, local_rows, make_mesh, state_shardings
from roberta_jax.training.step import abstract_state, init_state

SMALL = RobertaConfig(vocab_size=300, num_layers=2, hidden_size=64, intermediate_size=128, num_heads=4, max_length=32)


def _abstract(mesh):
    return abstract_state(lambda key: init_masked_lm(key, SMALL), make_optimizer(OptimizerConfig(), 50_000), mesh)


def test_parameters_and_moments_are_born_on_the_fsdp_axis():
    mesh = make_mesh(fsdp=4)
    assert dict(mesh.shape) == {"trial": 1, "data": 2, "fsdp": 4}
    abstract = _abstract(mesh)
    state = init_state(lambda key: init_masked_lm(key, SMALL), make_optimizer(OptimizerConfig(), 50_000), 0, abstract)
    for tree in (state["params"], state["opt_state"][1].mu, state["opt_state"][1].nu):
        kernel = tree["encoder"]["layers"]["up"]["kernel"]
        assert kernel.shape == (2, 64, 128) and kernel.addressable_shards[0].data.shape == (2, 16, 128)
        assert tree["encoder"]["embeddings"]["word"]["embedding"].addressable_shards[0].data.shape == (300, 16)
    assert state["step"].sharding.is_fully_replicated


def test_a_path_that_no_row_covers_is_an_error():
    with pytest.raises(ValueError, match="covers new/matrix"):
        state_shardings(make_mesh(), {"new": {"matrix": jnp.zeros(3)}})


def test_an_axis_that_does_not_divide_is_refused():
    with pytest.raises(UserError, match="fsdp is 3"):
        make_mesh(fsdp=3)
    with pytest.raises(UserError, match="fsdp is 8, which does not divide axis 0 of kernel"):
        state_shardings(make_mesh(fsdp=8), {"kernel": jax.ShapeDtypeStruct((12, 4), jnp.float32)})


def test_one_host_feeds_every_row_once_in_order():
    mesh = make_mesh(fsdp=2)
    np.testing.assert_array_equal(local_rows(mesh, 24), np.arange(24))
    assert batch_sharding(mesh).shard_shape((24, 5)) == (3, 5)
