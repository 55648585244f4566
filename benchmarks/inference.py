"""Sentence embeddings here and by transformers in PyTorch, in turn, in one run: sentences a second, texts to vectors.

    python -m benchmarks.inference [--json]

1,000 sentences of mixed lengths from the assets through base's shape with random weights. Both sides tokenise, sort by
length, cut into batches, pad and pool by the mean. On a CPU in float32 on all cores; on a GPU in bfloat16, where PyTorch
runs with SDPA, and with torch.compile too. Expected: at least 1.0 times transformers.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import torch
import transformers

from benchmarks import ASSETS
from roberta_jax import inference
from roberta_jax.data.tokenizer import Tokenizer
from roberta_jax.interop.text import ByteLevelText


def sentences(count: int) -> list[str]:
    """Phrases of SST-2, sentences of CoLA and RTE (the longest), questions of XQuAD: equal parts, shuffled."""
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


def random_base(folder: Path, layers: int) -> None:
    config = transformers.RobertaConfig(
        vocab_size=50265, num_hidden_layers=layers, max_position_embeddings=514, type_vocab_size=1, layer_norm_eps=1e-5
    )
    torch.manual_seed(0)
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    ByteLevelText(Tokenizer.load(ASSETS / "roberta-vocab")).save(folder)


def torch_embed(folder: Path, device: str, batch_size: int, compiled: bool) -> Callable[[list[str]], np.ndarray]:
    """Mean-pooled embeddings as one writes them with transformers, batches sorted by length."""
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
    parser.add_argument("--batch_size", type=int, nargs="+", default=[32], help="PyTorch's; the best of several counts")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    gpu = jax.default_backend() == "gpu"
    torch.set_num_threads(os.cpu_count())
    texts = sentences(args.sentences)
    with tempfile.TemporaryDirectory() as folder:
        random_base(Path(folder), args.layers)
        model = inference.load(folder, dtype="bfloat16" if gpu else "float32")
        sides = {"roberta_jax": model.embed}
        for size in args.batch_size:
            device = "cuda" if gpu else "cpu"
            sides[f"transformers, batches of {size}"] = torch_embed(Path(folder), device, size, compiled=False)
            if gpu:
                sides[f"transformers, torch.compile, batches of {size}"] = torch_embed(Path(folder), device, size, True)
    vectors = {name: embed(texts) for name, embed in sides.items()}  # compiles, and warms up
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(args.rounds):
        for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
            started = time.perf_counter()
            sides[name](texts)
            seconds[name].append(time.perf_counter() - started)
    ours, *others = vectors.values()
    difference = max(float(np.abs(ours - other).max()) for other in others)
    fastest = min(list(sides)[1:], key=lambda name: statistics.median(seconds[name]))
    ratios = [theirs / mine for theirs, mine in zip(seconds[fastest], seconds["roberta_jax"])]
    tokens = sum(len(row) for row in model._rows(texts))
    report = {
        "sentences": len(texts),
        "tokens": tokens,
        "layers": args.layers,
        "device": f"{jax.devices()[0].device_kind}, {os.cpu_count()} cores, {platform.machine()}",
        "dtype": model.config.dtype,
        "rounds": args.rounds,
        "largest_difference": difference,
        "sentences_per_second": {name: [len(texts) / s for s in seconds[name]] for name in sides},
        "against": fastest,
        "ratio": {"median": statistics.median(ratios), "smallest": min(ratios), "largest": max(ratios)},
        "versions": {package.__name__: package.__version__ for package in (jax, torch, transformers)},
    }
    if args.json:
        print(json.dumps(report))
        return
    print(f"{len(texts):,} sentences, {tokens:,} tokens, {args.layers} layers, {model.config.dtype}, {report['device']}")
    print(f"{'':40} {'sentences/s':>12} {'least':>8} {'most':>8}")
    for name, rates in report["sentences_per_second"].items():
        print(f"{name:40} {statistics.median(rates):12.2f} {min(rates):8.2f} {max(rates):8.2f}")
    print(
        f"ratio, median of {args.rounds} rounds: {report['ratio']['median']:.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}); largest difference of a vector {difference:.1e}"
    )


if __name__ == "__main__":
    main()
