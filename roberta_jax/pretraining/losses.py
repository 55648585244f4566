"""Pretraining's losses, as sums over a batch: of masked tokens, and of pairs whether the second follows the first."""

from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp

from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm, apply_with_next_sentence
from roberta_jax.training.cross_entropy import label_logits
from roberta_jax.training.step import Loss


def masked_lm_loss(config: RobertaConfig, sources: Sequence[str] = ()) -> Loss:
    """Cross-entropy and accuracy, summed over the predictions of a batch such as `abstract_batch`; of pairs with the
    next-sentence loss.

    That one is summed over the pairs, each weighed by `pair_weights` float32 [B], see `add_pair_weights`.

    Args:
      sources: names those of a mixture, by whose "source" int32 [B] of a batch there are also each one's masked-LM loss, as
        "loss/NAME", and number of predictions, as "share/NAME".
    """

    def loss(params, batch, keys):
        inputs = [batch[name] for name in ("input_ids", "segment_ids", "positions")]
        if "is_next" not in batch:
            return of_masked_lm(apply_masked_lm(params, config, *inputs, keys), batch)
        logits, of_next = apply_with_next_sentence(params, config, *inputs, batch["token_type_ids"], keys)
        sums, weights, is_next = of_masked_lm(logits, batch), batch["pair_weights"], batch["is_next"]
        losses = jax.nn.logsumexp(of_next, axis=-1) - jnp.where(is_next == 1, of_next[:, 1], of_next[:, 0])
        nsp = {"nsp_loss": (losses * weights).sum(), "nsp_accuracy": ((of_next.argmax(-1) == is_next) * weights).sum()}
        return sums | nsp | {"loss": sums["loss"] + nsp["nsp_loss"], "mlm_loss": sums["loss"]}

    def of_masked_lm(logits, batch):
        weights, labels = batch["weights"], batch["labels"]
        of_label = label_logits(logits, labels)
        losses = jax.nn.logsumexp(logits, axis=-1) - of_label
        hits = of_label >= logits.max(-1)  # a maximum that the loss takes too; on a CPU argmax takes 20 times as long
        sums = {"loss": (losses * weights).sum(), "accuracy": (hits * weights).sum(), "weight": weights.sum()}
        for number, name in enumerate(sources if "source" in batch else ()):
            mine = weights * (batch["source"] == number)[:, None]
            sums |= {f"loss/{name}": (losses * mine).sum(), f"share/{name}": mine.sum()}
        return sums

    return loss


def losses_of_sources(means: dict[str, float]) -> dict[str, float]:
    """From the means over all predictions of "loss/NAME" and "share/NAME" to each source's loss over its own."""
    shares = {name.removeprefix("share/"): share for name, share in means.items() if name.startswith("share/")}
    return {f"loss/{name}": means[f"loss/{name}"] / share if share else float("nan") for name, share in shares.items()}


def abstract_batch(
    rows: int, length: int, slots: int, pairs: bool, sharding: jax.sharding.Sharding
) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of what `masked_lm_loss` takes: [B, L] of ids, [B, S] of predictions and, of pairs, [B]."""
    ids, predictions = (rows, length), (rows, slots)
    shapes = {"input_ids": ids, "segment_ids": ids, "positions": predictions, "labels": predictions, "weights": predictions}
    if pairs:
        shapes |= {"token_type_ids": ids, "is_next": (rows,), "pair_weights": (rows,)}
    dtypes = {name: jnp.float32 if name.endswith("weights") else jnp.int32 for name in shapes}
    return {name: jax.ShapeDtypeStruct(shape, dtypes[name], sharding=sharding) for name, shape in shapes.items()}


def add_pair_weights(
    batches: Iterator[dict[str, jax.Array]], sharding: jax.sharding.Sharding
) -> Iterator[dict[str, jax.Array]]:
    """Batches with `pair_weights`: all pairs of a global batch weigh as much together as all of its predictions.

    A step divides every sum by the number of predictions, which makes the next-sentence loss the mean over the pairs.
    """
    share = jax.jit(lambda weights, pairs: jnp.full(pairs.shape, weights.sum() / pairs.size), out_shardings=sharding)
    for batch in batches:
        yield batch | {"pair_weights": share(batch["weights"], batch["is_next"])}


def valid_loss(loss: Loss) -> Loss:
    """Of pairs: sums over those that do not just fill a batch, and their number, for `means_of_pairs`."""

    def sums(params, batch, keys):
        pairs = (batch["is_next"] >= 0).astype(jnp.float32)
        return loss(params, batch | {"pair_weights": pairs}, keys) | {"pairs": pairs.sum()}

    return sums


def means_of_pairs(means: dict[str, float]) -> dict[str, float]:
    """From means over the predictions of a split to those of the next-sentence loss over its pairs."""
    pairs = means.pop("pairs")
    means |= {name: means[name] / pairs for name in ("nsp_loss", "nsp_accuracy")}
    return means | {"loss": means["mlm_loss"] + means["nsp_loss"]}
