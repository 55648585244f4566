"""Text to rows here and as transformers' run_mlm.py makes them with `datasets`, in turn, in one run: tokens a second.

    python -m benchmarks.group_texts [--source FILE …] [--megabytes 50] [--vocab FOLDER] [--processes 2] [--json]

Both get the same plain text and the same vocabulary, and have as many processes; the time is that of the whole command, with
its imports, as one waits for it. run_mlm.py's way is two `map`s in batches of 1,000 lines: the fast tokenizer with a special
tokens mask, then `group_texts`, which puts all ids in a row and cuts that every 512. Ours splits sentences, packs whole ones,
counts what is repeated, and hashes what it writes. `datasets` has to be installed: pip install datasets.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import ASSETS, compare, comparison_lines, in_turn, needs
from benchmarks.tokenizer import documents
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

PEER = "run_mlm with datasets"


def run_mlm(text: str, vocab: str, length: int, processes: int) -> int:
    """What transformers' examples/pytorch/language-modeling/run_mlm.py does to a text; returns how many ids are in rows."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    tokenizer = transformers.RobertaTokenizerFast.from_pretrained(vocab)
    raw = datasets.load_dataset("text", data_files={"train": text}, split="train")

    def tokenize(examples: dict) -> dict:
        return tokenizer(examples["text"], return_special_tokens_mask=True)

    def group_texts(examples: dict) -> dict:
        joined = {name: [each for of_line in lines for each in of_line] for name, lines in examples.items()}
        whole = len(joined["input_ids"]) // length * length
        return {name: [ids[i : i + length] for i in range(0, whole, length)] for name, ids in joined.items()}

    tokens = raw.map(tokenize, batched=True, num_proc=processes, remove_columns=["text"])
    return len(tokens.map(group_texts, batched=True, num_proc=processes)) * length


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.group_texts", description=__doc__.split("\n")[0])
    english = ASSETS.parent / "english"
    parser.add_argument("--source", nargs="+", default=[str(english)], help="of text (default %(default)s)")
    parser.add_argument("--megabytes", type=float, default=50, help="of text at most (default %(default)s)")
    parser.add_argument("--vocab", default=str(ASSETS / "roberta-vocab"), help="folder with vocab.json and merges.txt")
    parser.add_argument("--length", type=int, default=512, help="ids a row (default %(default)s)")
    parser.add_argument("--processes", type=int, default=2, help="of either (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default %(default)s")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--peer", help=argparse.SUPPRESS)  # in a process of its own: makes the rows of this text
    args = parser.parse_args()
    if args.peer:
        print(run_mlm(args.peer, args.vocab, args.length, args.processes))
        return
    needs("datasets", "transformers")
    result = measure(args.source, args.megabytes, args.vocab, args.length, args.processes, args.rounds)
    print(json.dumps(result) if args.json else "\n".join(lines(result)))


def measure(source: list[str], megabytes: float, vocab: str, length: int, processes: int, rounds: int) -> dict:
    """What `compare` gives, how much text that was, and how many ids each side has put in rows."""
    with tempfile.TemporaryDirectory() as folder:
        texts = documents(source, megabytes)
        text = Path(folder, "text.txt")
        text.write_text("\n\n".join("\n".join(filter(str.strip, each.split("\n"))) for each in texts), encoding="utf-8")
        ByteLevelBPE.load(vocab).save(vocab := Path(folder, "vocab"))
        ids: dict[str, int] = {}

        def run(*module: str, where: str) -> str:
            """A command, with a cache that is empty before it."""
            environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
            environment |= {name: f"{where}/cache" for name in ("HF_HOME", "HF_DATASETS_CACHE", "XDG_CACHE_HOME")}
            common = [f"--processes={processes}", f"--length={length}"]
            done = subprocess.run([sys.executable, "-m", *module, *common], env=environment, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{module[0]}: {done.stderr.strip()[-2_000:]}")
            return done.stdout

        def ours() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as where:
                run("roberta_jax.prepare", f"--source={text}", f"--tokenizer={vocab}", f"--out={where}/corpus", where=where)
                ids["roberta_jax"] = sum(json.loads(Path(where, "corpus", "manifest.json").read_text())["tokens"].values())

        def theirs() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as where:
                said = run("benchmarks.group_texts", f"--peer={text}", f"--vocab={vocab}", where=where)
                ids[PEER] = int(said.split()[-1])

        seconds = in_turn({"roberta_jax": ours, PEER: theirs}, rounds)
        return compare(seconds, ids["roberta_jax"]) | {"megabytes": text.stat().st_size / 1e6, "ids": ids, "length": length}


def lines(found: dict) -> list[str]:
    """A table in Markdown."""
    made = ", ".join(f"{number:,} tokens by {name}" for name, number in found["ids"].items())
    return comparison_lines(found, "tokens/s", f"{found['megabytes']:.1f} MB in rows of {found['length']}, {made}")


if __name__ == "__main__":
    exit_with_sentence(main)
