"""A vector for each text of a file, as .npy or Parquet.

python -m roberta_jax.embed --model=/tmp/run --texts=lines.txt --out=vectors.npy
python -m roberta_jax.embed --model=/tmp/run --texts=table.parquet --column=body --out=vectors.parquet
"""

import argparse
import hashlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from roberta_jax import storage
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show, to_json

CHUNK = 4_096  # texts that are sorted by length together, and written before the next
TABLES = ("csv", "tsv", "jsonl", "parquet")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roberta_jax.embed", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a workdir, a folder of transformers or fairseq, or a hub name")
    parser.add_argument(
        "--texts", required=True, help="a file of UTF-8, a text a line; .csv, .tsv, .jsonl, .parquet; - reads lines from stdin"
    )
    parser.add_argument("--column", default="text", help="of a table: which one holds the texts (default %(default)s)")
    parser.add_argument(
        "--out",
        type=storage.output_path,
        required=True,
        help="FILE.npy, float32 [texts, hidden], or FILE.parquet, with the texts",
    )
    parser.add_argument("--checkpoint", default="newest", help="of a workdir: newest, best or a step")
    parser.add_argument("--pooling", default="mean", choices=["mean", "cls"], help="mean of all tokens, or <s>")
    parser.add_argument("--normalize", action="store_true", help="to length 1")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="of the arithmetic")
    args = parser.parse_args()
    if args.out.suffix not in (".npy", ".parquet"):
        raise UserError(f"--out is {args.out}; expected a name that ends with .npy or .parquet.")
    texts = _texts(args.texts, args.column)
    if not args.out.parent.is_dir():
        raise UserError(f"--out is {args.out}; there is no folder {args.out.parent}.")
    storage.require_place(args.out)
    from roberta_jax.inference import load  # here, so that --help does not wait for JAX
    from roberta_jax.training import provenance

    model = load(args.model, args.checkpoint, args.dtype)
    made_of = [
        provenance.hash_of(model.params),
        model.tokenizer.base.hash,
        args.pooling,
        args.normalize,
        args.dtype,
        CHUNK,
        texts,
    ]
    parts = _parts(args.out, hashlib.sha256(to_json(made_of).encode()).hexdigest())
    starts = range(0, len(texts), CHUNK)
    files = [parts / f"{start:012}.npy" for start in starts]
    if done := sum(file.is_file() for file in files):
        show(f"goes on: {done} of {len(files)} parts are in {parts}", sys.stderr)
    with tqdm(total=len(texts), unit="text", smoothing=0) as bar:
        for start, file in zip(starts, files):
            chunk = texts[start : start + CHUNK]
            if not file.is_file():
                with storage.written(file) as partial, open(partial, "wb") as opened:
                    np.save(opened, model.embed(chunk, args.pooling, args.normalize).astype("<f4"))
            bar.update(len(chunk))
    write = _write_npy if args.out.suffix == ".npy" else _write_parquet
    with storage.written(args.out) as partial:
        write(partial, texts, model.config.hidden_size, map(np.load, files))
    if model.head == "lm_head" and len(texts) > 1:
        cosine = _mean_cosine(np.load(files[0]))
        show(
            f"the model is a masked LM, which has not learned to tell texts apart: two of these have a cosine of {cosine:.2f} "
            "on average; docs/adapting.md says how it learns to",
            sys.stderr,
        )
    shutil.rmtree(parts)


def _mean_cosine(vectors: np.ndarray) -> float:
    """Of two of the vectors, over all pairs. [n, D]"""
    units, number = vectors / np.linalg.norm(vectors, axis=1, keepdims=True), len(vectors)
    return float(((units.sum(0) ** 2).sum() - number) / (number * (number - 1)))


def _texts(source: str, column: str) -> list[str]:
    from roberta_jax.preparation.records import ending_of
    from roberta_jax.preparation.tables import read_table

    try:
        if source == "-":
            content = sys.stdin.buffer.read() if sys.stdin else b""
        elif ending_of(source) in TABLES:
            return [_text_of(place, row, column) for place, row in read_table(source)]
        else:
            content = storage.read_bytes(source)
        lines = content.decode("utf-8-sig").split("\n")  # nothing else ends one: as many vectors as `wc -l` counts
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--texts is {source}, which cannot be read as UTF-8 text: {storage.reason(error)}.") from None
    return [line.removesuffix("\r") for line in (lines[:-1] if lines[-1] == "" else lines)]


def _text_of(place: str, row: dict, column: str) -> str:
    if not isinstance(row.get(column), str):
        found = f"{row[column]!r:.60}" if column in row else "not there"
        raise UserError(f"{place}: the column {column!r} is {found}; expected a text (--column). There are {', '.join(row)}.")
    return row[column]


def _parts(out: Path, key: str) -> Path:
    """The folder of what is done; emptied where that was made of something else."""
    parts = out.with_name(f"{out.name}.parts")
    noted = parts / "key.json"
    if not noted.is_file() or storage.read_json(noted).get("key") != key:
        shutil.rmtree(parts, ignore_errors=True)
        storage.write_json(noted, {"key": key})
    return parts


def _write_npy(path: Path, texts: list[str], size: int, chunks: Iterator[np.ndarray]) -> None:
    with open(path, "wb") as file:
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype("<f4")),
            "fortran_order": False,
            "shape": (len(texts), size),
        }
        np.lib.format.write_array_header_1_0(file, header)
        for vectors in chunks:
            file.write(vectors.tobytes())


def _write_parquet(path: Path, texts: list[str], size: int, chunks: Iterator[np.ndarray]) -> None:
    from roberta_jax.tokenization.published import readable

    schema = pa.schema([("text", pa.string()), ("embedding", pa.list_(pa.float32(), size))])
    with pq.ParquetWriter(path, schema) as writer:
        for number, vectors in enumerate(chunks):
            column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), size)
            chunk = pa.array(map(readable, texts[number * CHUNK : (number + 1) * CHUNK]), pa.string())  # of UTF-8 alone
            writer.write_table(pa.Table.from_arrays([chunk, column], schema=schema))


if __name__ == "__main__":
    exit_with_sentence(main)
