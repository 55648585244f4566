"""Minimal pairs scored here and by a PyTorch loop over transformers' model, in turn, in one run: pairs a second by PLL.

    python -m benchmarks.minimal_pairs [--pairs 3] [--json]

A sample of BLiMP's and Zorro's pairs and a model of BabyBERTa's size (8 × 256, vocabulary of 8,192) with random weights, in
float32 on all cores. Both sides tokenise, make a row for each token and sum. PyTorch's takes rows sorted by length, in batches
of each size that is given, of which its fastest counts, pads them to the longest, and gathers the masked slots' logits from
transformers' of all positions, as its users' loops do; "slots" are a second loop, whose head gets the masked slots alone, which
one has to write oneself. Every pair must be ranked the same. On two cores without AVX-512 it is 1.2 times the loop of its
fastest batch size (36 pairs/s): both spend their time in the same matrix products, and the loop has the logits besides.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import ASSETS, compare, comparison_lines, in_turn, needs
from roberta_jax import inference
from roberta_jax.errors import exit_with_sentence
from roberta_jax.pairs import suites
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

SUITES = Path(os.environ.get("ROBERTA_TEST_SUITES", ASSETS.parent / "suites"))
SHAPES = {  # layers, hidden, feed-forward, heads, vocabulary
    "babyberta": (8, 256, 1_024, 8, 8_192),
    "base": (12, 768, 3_072, 12, 50_265),
}


def random_model(folder: Path, shape: str, texts: list[str]) -> None:
    import torch
    import transformers

    layers, hidden, ffn, heads, vocabulary = SHAPES[shape]
    known = shape == "base"
    tokenizer = ByteLevelBPE.load(ASSETS / "roberta-vocab") if known else ByteLevelBPE.train(texts, vocabulary)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=ffn,
        num_attention_heads=heads,
        max_position_embeddings=130,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
    )
    torch.manual_seed(0)
    transformers.RobertaForMaskedLM(config).save_pretrained(folder)
    LosslessTokenizer(tokenizer).save(folder)


def torch_score(folder: Path, device: str, batch_size: int, slots: bool) -> Callable[[list[str]], np.ndarray]:
    """Pseudo-log-likelihoods as one writes them with transformers: every token's row, sorted by length, in batches."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count())
    tokenizer = transformers.RobertaTokenizerFast.from_pretrained(folder)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = transformers.RobertaForMaskedLM.from_pretrained(folder, attn_implementation="sdpa", dtype=dtype).eval().to(device)

    def score(texts: list[str]) -> np.ndarray:
        encoded = tokenizer(texts, return_special_tokens_mask=True)
        rows = [
            (owner, position)
            for owner, special in enumerate(encoded["special_tokens_mask"])
            for position, is_special in enumerate(special)
            if not is_special
        ]
        rows.sort(key=lambda row: -len(encoded["input_ids"][row[0]]))
        total = np.zeros(len(texts))
        with torch.inference_mode():
            for start in range(0, len(rows), batch_size):
                batch = rows[start : start + batch_size]
                ids = [encoded["input_ids"][owner] for owner, _ in batch]
                made = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(device)
                at, position = torch.arange(len(batch)), torch.tensor([position for _, position in batch])
                labels = made["input_ids"][at, position].clone()
                made["input_ids"][at, position] = tokenizer.mask_token_id
                if slots:
                    logits = model.lm_head(model.roberta(**made).last_hidden_state[at, position])
                else:
                    logits = model(**made).logits[at, position]
                found = logits.float().log_softmax(-1)[at, labels].cpu().numpy()
                np.add.at(total, [owner for owner, _ in batch], found.astype(np.float64))
        return total

    return score


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=int, default=3, help="of each of the 90 paradigms (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", default="babyberta", choices=SHAPES)
    parser.add_argument("--batch_size", type=int, nargs="+", default=[16, 64, 256], help="PyTorch's; each is a side")
    parser.add_argument("--slots", action="store_true", help="a loop too whose head gets the masked slots alone")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    args = parser.parse_args()
    vocabulary = [ASSETS / "roberta-vocab"] * (args.shape == "base")
    needs("torch", "transformers", paths=[SUITES / "blimp", SUITES / "zorro", *vocabulary])
    gpu = jax.default_backend() == "gpu"
    read = suites.read([str(SUITES / "blimp"), str(SUITES / "zorro")], pairs=args.pairs)
    texts = [sentence for suite in read for paradigm in suite.paradigms for pair in paradigm.pairs for sentence in pair]
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder), args.shape, texts)
        model = inference.load(folder, dtype="bfloat16" if gpu else "float32")
        sides = {"roberta_jax": model.score}
        for size in args.batch_size:
            for slots in (False, True)[: 1 + args.slots]:
                name = f"transformers, {'slots, ' if slots else ''}batches of {size}"
                sides[name] = torch_score(Path(folder), "cuda" if gpu else "cpu", size, slots)
    ours, *others = (score(texts) for score in sides.values())  # compiles, and warms up
    seconds = in_turn({name: lambda score=score: score(texts) for name, score in sides.items()}, args.rounds)
    found = compare(seconds, len(texts) // 2) | {
        "pairs": len(texts) // 2,
        "shape": f"{args.shape}, {model.config.dtype}, {jax.devices()[0].device_kind}",
        "largest_difference": max(float(np.abs(ours / other - 1).max()) for other in others),
        "ranked_otherwise": max(int((np.sign(ours[::2] - ours[1::2]) != np.sign(o[::2] - o[1::2])).sum()) for o in others),
    }
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    first, *rest = comparison_lines(found, "pairs/s", f"{found['pairs']:,} pairs, {found['shape']}")
    same = f"scores differ by {found['largest_difference']:.1e} at most, {found['ranked_otherwise']} pairs are ranked otherwise"
    return [f"{first}; {same}", *rest]


if __name__ == "__main__":
    exit_with_sentence(main)
