"""Sentence embeddings here and by transformers in PyTorch, in turn, in one run: sentences a second, texts to vectors.

    python -m benchmarks.inference [--json]

1,000 sentences of mixed lengths from the assets, else lines of the docstrings installed here, through base's shape with random
weights. Both sides tokenise, sort by length, cut into batches, pad and pool by the mean. On a CPU in float32 on all cores; on a
GPU in bfloat16, where PyTorch runs with SDPA, and with torch.compile too, each in batches of several sizes, of which its
fastest counts. Expected: at least 1.0 times transformers.
"""

import argparse
import itertools
import json
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import ASSETS, compare, comparison_lines, in_turn, needs
from benchmarks.tokenizer import documents
from roberta_jax import inference
from roberta_jax.errors import UserError, exit_with_sentence, first_line
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE


def sentences(count: int) -> list[str]:
    """Phrases of SST-2, sentences of CoLA and RTE (the longest), questions of XQuAD: equal parts, shuffled; or docstrings."""
    if not all((ASSETS / name).exists() for name in ("glue/SST-2", "glue/CoLA", "glue/RTE", "squad/xquad.en.json")):
        lines = [line.strip() for text in documents(["docs"], 1) for line in text.splitlines() if line.strip()]
        return [lines[i] for i in np.random.default_rng(0).permutation(len(lines))[:count]]
    sources: list[list[str]] = []
    sst2 = next((ASSETS / "glue" / "SST-2").glob("dev*"))
    sources.append([line.split("\t")[0] for line in sst2.read_text("utf-8").splitlines()[1:]])
    cola = next(path for path in (ASSETS / "glue" / "CoLA").iterdir() if "dev" in path.name)
    sources.append([line.split("\t")[3] for line in cola.read_text("utf-8").splitlines()])
    rte = next((ASSETS / "glue" / "RTE").glob("dev*"))
    sources.append([line.split("\t")[1] for line in rte.read_text("utf-8").splitlines()[1:]])
    articles = json.loads((ASSETS / "squad" / "xquad.en.json").read_text("utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    sources.append([question["question"] for paragraph in paragraphs for question in paragraph["qas"]])
    random = np.random.default_rng(0)
    picked = [source[i] for source in sources for i in random.permutation(len(source))[: -(-count // len(sources))]]
    return [picked[i] for i in random.permutation(len(picked))[:count]]


def random_base(folder: Path, layers: int, texts: list[str]) -> None:
    import torch
    import transformers

    known = ASSETS / "roberta-vocab"
    text = ByteLevelBPE.load(known) if known.is_dir() else ByteLevelBPE.train(texts, 50_265)
    config = transformers.RobertaConfig(
        vocab_size=len(text), num_hidden_layers=layers, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )
    torch.manual_seed(0)
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    LosslessTokenizer(text).save(folder)


def torch_embed(folder: Path, device: str, batch_size: int, compiled: bool) -> Callable[[list[str]], np.ndarray]:
    """Mean-pooled embeddings as one writes them with transformers, batches sorted by length."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    tokenizer = transformers.RobertaTokenizer.from_pretrained(folder)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = transformers.RobertaModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa", dtype=dtype)
    model = model.eval().to(device)
    forward = torch.compile(model, dynamic=True) if compiled else model

    def embed(texts: list[str]) -> np.ndarray:
        ids = tokenizer(texts, truncation=True, max_length=512)["input_ids"]
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        found = []
        with torch.inference_mode():
            for start in range(0, len(ids), batch_size):
                rows = {"input_ids": [ids[i] for i in order[start : start + batch_size]]}
                batch = tokenizer.pad(rows, return_tensors="pt").to(device)
                mask = batch["attention_mask"][..., None]
                found.append((forward(**batch).last_hidden_state * mask).sum(1) / mask.sum(1))
        vectors = torch.cat(found).float().cpu().numpy()
        return vectors[np.argsort(order)]

    return embed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sentences", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=12, help="of base's shape")
    parser.add_argument("--batch_size", type=int, nargs="+", help="PyTorch's, a side each (default 32; GPU: 32 128 512 1024)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    needs("torch", "transformers")
    gpu = jax.default_backend() == "gpu"
    texts = sentences(args.sentences)
    with tempfile.TemporaryDirectory() as folder:
        random_base(Path(folder), args.layers, texts)
        model = inference.load(folder, dtype="bfloat16" if gpu else "float32")
        sides, vectors, failed = {"roberta_jax": model.embed}, {"roberta_jax": model.embed(texts)}, {}
        sizes = args.batch_size or ([32, 128, 512, 1024] if gpu else [32])
        for size, compiled in itertools.product(sizes, [False, True] if gpu else [False]):
            name = f"transformers, {'torch.compile, ' if compiled else ''}batches of {size}"
            try:  # for want of memory, or of a C compiler
                embed = torch_embed(Path(folder), "cuda" if gpu else "cpu", size, compiled)
                vectors[name] = embed(texts)  # compiles, and warms up
                sides[name] = embed
            except Exception as error:
                failed[name] = first_line(error)
    if len(sides) == 1:
        raise UserError(f"no side of transformers runs here: {'; '.join(failed.values())}.")
    ours, *others = vectors.values()
    seconds = in_turn({name: lambda embed=embed: embed(texts) for name, embed in sides.items()}, args.rounds)
    theirs = sorted(list(sides)[1:], key=lambda name: statistics.median(seconds[name]))  # the fastest first
    found = compare({name: seconds[name] for name in ("roberta_jax", *theirs)}, len(texts)) | {
        "failed": failed,
        "sentences": len(texts),
        "tokens": sum(len(row) for row in model._rows(texts)),
        "device": f"{args.layers} layers, {model.config.dtype}, {jax.devices()[0].device_kind}",
        "largest_difference": max(float(np.abs(ours - other).max()) for other in others),
    }
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    what = f"{found['sentences']:,} sentences of {found['tokens']:,} ids, {found['device']}"
    first, *rest = comparison_lines(found, "sentences/s", what)
    failed = [f"| {name} | {reason} | | |" for name, reason in found["failed"].items()]
    return [f"{first}; values of vectors differ by {found['largest_difference']:.1e} at most", *rest, *failed]


if __name__ == "__main__":
    exit_with_sentence(main)
