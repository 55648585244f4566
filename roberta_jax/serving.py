"""A model as one file that serves without this package's model code: StableHLO by jax.export, weights, tokenizer.

    python -m roberta_jax.serving --model=/tmp/run --out=/tmp/model.zip --lengths 64 128

The file is a zip archive:
  manifest.json           head, labels, lengths, ids of the special tokens, the order of the weights
  weights.safetensors     float32
  tokenizer.json          for the `tokenizers` library
  FUNCTION-LENGTH.bin     jax.export's artifact; the number of rows is free, the length is not
Functions: `hidden` (weights, ids [B, L], used [B]) → [B, L, D] and `logits`, the head's: of a masked LM
(weights, ids, used, positions [B, S]) → [B, S, V], of any other as `hidden` takes them. `used` counts a row's ids that
are not padding. To read it, `Served` needs jax, numpy and safetensors; flax and roberta_jax.model are not imported.
"""

import argparse
import json
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.export  # not loaded by `import jax`
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from roberta_jax.bucketing import map_rows, power_of_two
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json

BATCH_TOKENS = 1_024
PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def write(model, path: str | Path, lengths: Sequence[int] | None = None, platforms: Sequence[str] = ()) -> None:
    """Writes an `inference.Model`.

    Args:
      lengths: the buckets that rows are padded to; all of the model's by default. The longest is the longest row.
      platforms: of PLATFORMS; this process' own by default.
    """
    lengths = sorted(lengths or model.lengths)
    if lengths[0] < 3 or lengths[-1] > model.config.max_length:
        raise UserError(f"lengths are {lengths}; expected 3 to the model's {model.config.max_length} tokens.")
    leaves = jax.tree_util.tree_leaves_with_path(model.params)
    weights = {jax.tree_util.keystr(at, simple=True, separator="/"): np.asarray(leaf) for at, leaf in leaves}
    tree = jax.tree.structure(model.params)
    tokenizer = model.tokenizer
    manifest = {
        "version": 1,
        "head": model.head,
        "labels": model.labels,
        "lengths": lengths,
        "ids": {"bos": tokenizer.bos, "pad": tokenizer.pad, "eos": tokenizer.eos, "mask": tokenizer.mask},
        "weights": list(weights),
    }
    shapes = [jax.ShapeDtypeStruct(array.shape, array.dtype) for array in weights.values()]
    rows, slots = jax.export.symbolic_shape("rows, slots")
    from roberta_jax import storage  # here, so that reading a file needs none of its packages

    with storage.written(path) as partial, zipfile.ZipFile(partial, "w") as archive:  # not compressed: weights do not shrink
        archive.writestr("manifest.json", to_json(manifest, 1))
        archive.writestr("weights.safetensors", safetensors.numpy.save(weights))
        archive.writestr("tokenizer.json", tokenizer.to_json())
        for name, function in model.functions().items():
            for length in lengths:
                columns = [(rows, length), (rows,), (rows, slots)][: 3 if (name, model.head) == ("logits", "lm_head") else 2]
                arguments = [jax.ShapeDtypeStruct(shape, jnp.int32) for shape in columns]
                # JAX's own name of this process' platform is not that of its backend: "gpu" is cuda or rocm.
                export = jax.export.export(jax.jit(_over_leaves(function, tree)), platforms=platforms or None)
                exported = export(shapes, *arguments)
                archive.writestr(f"{name}-{length}.bin", bytes(exported.serialize()))


def _over_leaves(function: Callable, tree) -> Callable:
    return lambda leaves, *columns: function(jax.tree.unflatten(tree, leaves), *columns)


class Served:
    """Reads what `write` wrote, and runs it on rows of ids that begin with `<s>` and end with `</s>`."""

    def __init__(self, path: str | Path):
        try:
            with zipfile.ZipFile(path) as archive:
                self.manifest = json.loads(archive.read("manifest.json"))
                weights = safetensors.numpy.load(archive.read("weights.safetensors"))
                self.tokenizer_json = archive.read("tokenizer.json").decode()
                self._exported = {
                    name.removesuffix(".bin"): jax.jit(jax.export.deserialize(bytearray(archive.read(name))).call)
                    for name in archive.namelist()
                    if name.endswith(".bin")
                }
            self._weights = [jax.device_put(weights[name]) for name in self.manifest["weights"]]
            ids = self.manifest["ids"]
            self.lengths, self.pad, self.mask = self.manifest["lengths"], ids["pad"], ids["mask"]
        except (OSError, KeyError, TypeError, zipfile.BadZipFile, ValueError, safetensors.SafetensorError) as error:
            raise UserError(f"{path} is not a whole file of roberta_jax.serving: {error}.") from None

    def hidden(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The states of each row's tokens: [n, D] each."""
        found = self._run("hidden", rows, None)
        return [states[: len(row)] for row, states in zip(rows, found)]

    def logits(self, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The head's for each row: of a masked LM [masks, V], of a head on tokens [n, outputs], else [outputs]."""
        if self.manifest["head"] == "lm_head":
            masks = [np.flatnonzero(np.asarray(row) == self.mask) for row in rows]
            return [logits[: len(at)] for at, logits in zip(masks, self._run("logits", rows, masks))]
        found = self._run("logits", rows, None)
        return [logits[: len(row)] if logits.ndim == 2 else logits for row, logits in zip(rows, found)]

    def _run(self, name: str, rows: Sequence[np.ndarray], positions: Sequence[np.ndarray] | None) -> list[np.ndarray]:
        if too_long := [len(row) for row in rows if len(row) > self.lengths[-1]]:
            raise UserError(f"{len(too_long)} rows are longer than the {self.lengths[-1]} ids that the file serves.")

        def call(ids, used, indices):
            columns = [ids, used]
            if positions is not None:
                slots = power_of_two(max(1, *(len(positions[i]) for i in indices)))
                columns.append(np.zeros((len(ids), slots), np.int32))
                for at, i in enumerate(indices):
                    columns[2][at, : len(positions[i])] = positions[i]
            return self._exported[f"{name}-{ids.shape[1]}"](self._weights, *columns)

        return map_rows(call, rows, self.lengths, BATCH_TOKENS, self.pad)


def main() -> None:
    from roberta_jax import storage

    parser = argparse.ArgumentParser(
        prog="python -m roberta_jax.serving", description="Writes a model as one file that serves without its code."
    )
    parser.add_argument("--model", required=True, help="a workdir, a folder of transformers or fairseq, or a hub name")
    parser.add_argument("--out", type=storage.output_path, required=True, help="the file to write")
    parser.add_argument("--checkpoint", default="newest", help="of a workdir: newest, best or a step")
    parser.add_argument("--lengths", type=int, nargs="+", help="that rows are padded to (default: the model's buckets)")
    parser.add_argument("--platforms", nargs="+", default=(), choices=PLATFORMS, help="(default: this machine's)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the arithmetic")
    args = parser.parse_args()
    from roberta_jax.inference import load  # here, so that reading a file does not load the model's code

    storage.require_place(args.out)
    write(load(args.model, args.checkpoint, args.dtype), args.out, args.lengths, args.platforms)
    show(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    exit_with_sentence(main)
