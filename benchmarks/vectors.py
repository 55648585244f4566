"""How alike in meaning two sentences are, by a model's vectors: Spearman on STS-B before and after sentence-transformers.

    python -m benchmarks.vectors --model=RUN [--pairs ../shared/assets/glue/STS-B] [--epochs 4] [--seed 0] [--json]

The recipe is docs/adapting.md's: the model's export, the mean over tokens, CoSENT's loss on the train pairs. What is measured
is the correlation of the dev pairs' cosines with the scores that people gave, and the mean cosine of sentences of two pairs.
sentence-transformers and datasets have to be installed: pip install sentence-transformers datasets.
"""

import argparse
import csv
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks import ASSETS, needs
from roberta_jax.errors import exit_with_sentence
from roberta_jax.output import to_json


def read_pairs(path: Path) -> dict[str, list]:
    """A file of STS-B, whose scores are from 0 to 5, by columns: "sentence1", "sentence2" and "score" from 0 to 1."""
    with open(path, encoding="utf-8", newline="") as file:
        first, second, scores = zip(*csv.reader(file))
    return {"sentence1": list(first), "sentence2": list(second), "score": [float(score) / 5 for score in scores]}


def measure(encoder, pairs: dict[str, list]) -> dict[str, float]:
    """The Spearman correlation of cosines and scores, and the cosine of two sentences that are no pair, on average."""
    from scipy.stats import spearmanr

    first, second = (encoder.encode(pairs[name], normalize_embeddings=True) for name in ("sentence1", "sentence2"))
    correlation = spearmanr((first * second).sum(1), pairs["score"]).statistic
    return {"spearman": float(correlation), "cosine_of_others": float((first * np.roll(second, 1, 0)).sum(1).mean())}


def train(folder: str, pairs: dict[str, list], epochs: float, seed: int, out: str) -> Iterator:
    """Yields the encoder of an export twice: before it is trained on the pairs, and after."""
    import datasets
    import sentence_transformers
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss

    encoder = sentence_transformers.SentenceTransformer(folder, device="cpu")
    yield encoder
    arguments = sentence_transformers.SentenceTransformerTrainingArguments(
        out, num_train_epochs=epochs, per_device_train_batch_size=16, warmup_steps=0.1, seed=seed, report_to="none"
    )
    sentence_transformers.SentenceTransformerTrainer(
        encoder, arguments, train_dataset=datasets.Dataset.from_dict(pairs), loss=CoSENTLoss(encoder)
    ).train()
    yield encoder


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.vectors", description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="a workdir, a folder of transformers or fairseq, or a hub name")
    pairs = ASSETS / "glue" / "STS-B"
    parser.add_argument("--pairs", type=Path, default=pairs, help="folder of train.csv and dev.csv (default %(default)s)")
    parser.add_argument("--epochs", type=float, default=4, help="default %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the lines")
    args = parser.parse_args()
    needs("sentence_transformers", "datasets", paths=[args.pairs / "train.csv", args.pairs / "dev.csv"])
    from roberta_jax.interop import hub

    train_pairs, dev_pairs = (read_pairs(args.pairs / f"{split}.csv") for split in ("train", "dev"))
    with tempfile.TemporaryDirectory() as folder:
        origin = hub.export(args.model, Path(folder, "model")).origin
        encoders = train(f"{folder}/model", train_pairs, args.epochs, args.seed, f"{folder}/out")
        before, after = (measure(encoder, dev_pairs) for encoder in encoders)
    if args.json:
        print(to_json({"model": origin, "epochs": args.epochs, "seed": args.seed, "before": before, "after": after}))
        return
    for name, found in (("as pretrained", before), (f"after {args.epochs:g} × the train pairs", after)):
        print(f"{origin}, {name}: Spearman {found['spearman']:.3f}, cosine of others {found['cosine_of_others']:.2f}")


if __name__ == "__main__":
    exit_with_sentence(main)
