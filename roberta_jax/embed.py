"""A vector for each line of a file of texts, as .npy or Parquet.

python -m roberta_jax.embed --model=/tmp/run --texts=lines.txt --out=vectors.npy
"""

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from roberta_jax import storage
from roberta_jax.errors import UserError, exit_with_sentence

CHUNK = 4_096  # texts that are sorted by length together


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roberta_jax.embed", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a workdir, a folder of transformers or fairseq, or a hub name")
    parser.add_argument("--texts", type=Path, required=True, help="a file of UTF-8, a text a line")
    parser.add_argument(
        "--out", type=Path, required=True, help="FILE.npy, float32 [lines, hidden], or FILE.parquet, with the texts"
    )
    parser.add_argument("--checkpoint", default="newest", help="of a workdir: newest, best or a step")
    parser.add_argument("--pooling", default="mean", choices=["mean", "cls"], help="mean of all tokens, or <s>")
    parser.add_argument("--normalize", action="store_true", help="to length 1")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the arithmetic")
    args = parser.parse_args()
    if args.out.suffix not in (".npy", ".parquet"):
        raise UserError(f"--out is {args.out}; expected a name that ends with .npy or .parquet.")
    try:
        texts = args.texts.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--texts is {args.texts}, which cannot be read as UTF-8 text: {error}.") from None
    texts = texts[:-1] if texts[-1] == "" else texts
    if not args.out.parent.is_dir():
        raise UserError(f"--out is {args.out}; there is no folder {args.out.parent}.")
    storage.require_place(args.out)
    from roberta_jax.inference import load  # here, so that --help does not wait for JAX

    model = load(args.model, args.checkpoint, args.dtype)
    write = _write_npy if args.out.suffix == ".npy" else _write_parquet
    with storage.written(args.out) as partial, tqdm(total=len(texts), unit="text", smoothing=0) as bar:

        def chunks():
            for start in range(0, len(texts), CHUNK):
                chunk = texts[start : start + CHUNK]
                yield chunk, model.embed(chunk, args.pooling, args.normalize)
                bar.update(len(chunk))

        write(partial, len(texts), model.config.hidden_size, chunks())


def _write_npy(path: Path, count: int, size: int, chunks) -> None:
    with open(path, "wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype("<f4")),
            "fortran_order": False,
            "shape": (count, size),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for _, vectors in chunks:
            file.write(vectors.astype("<f4").tobytes())


def _write_parquet(path: Path, count: int, size: int, chunks) -> None:
    schema = pa.schema([("text", pa.string()), ("embedding", pa.list_(pa.float32(), size))])
    with pq.ParquetWriter(path, schema) as writer:
        for chunk, vectors in chunks:
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), size)
            writer.write_table(pa.Table.from_arrays([pa.array(chunk, pa.string()), column], schema=schema))


if __name__ == "__main__":
    exit_with_sentence(main)
