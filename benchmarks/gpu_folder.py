"""Makes the folder that `benchmarks.on_gpu` takes along to a bare machine: a prepared corpus, minimal pairs, packages.

    python -m benchmarks.gpu_folder [--out .gpu] [--text ../shared/english] [--pairs ../shared/suites/blimp]

In it are corpus/ (rows of 128 and a vocabulary of 8,192, learned from the same text), blimp/ (the first pairs of
each paradigm) and packages/, wheels of what Python may lack there, for 3.12 on Linux. At most 40 MB. Git ignores .gpu/.
"""

import argparse
import itertools
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from roberta_jax.errors import UserError, exit_with_sentence

FOLDER = Path(__file__).parents[1] / ".gpu"
LARGEST = 40_000_000  # bytes
ENGLISH = Path(__file__).parents[2] / "shared" / "english"
# Speech to children and between adults, stories, school books, an encyclopaedia, news: 13 million tokens, 30 MB.
SOURCES = "childes switchboard storybooks childrens_books textbooks wikipedia news web"
PACKAGES = ("ml_collections", "tensorboardX", "tiktoken", "sentencepiece")  # by the names that they are imported by


def make_corpus(folder: Path, sources: list[str], vocabulary: int, length: int) -> None:
    """Prepares what is not there yet, and leaves nothing beside the corpus itself."""
    # here: a bare machine cannot import these, and unpacks packages first
    from roberta_jax.preparation.config import CorpusConfig
    from roberta_jax.preparation.prepare import prepare

    prepare(CorpusConfig(tuple(sources), vocabulary, length=length), folder / "corpus", folder / "cache")
    shutil.rmtree(folder / "cache", ignore_errors=True)
    for path in folder.glob("*.lock"):
        path.unlink()


def take_pairs(folder: Path, suite: Path, number: int) -> None:
    """The first `number` lines of each of a suite's files."""
    (folder / "blimp").mkdir(exist_ok=True)
    for path in sorted(suite.glob("*.jsonl")):
        with open(path, encoding="utf-8") as file:
            (folder / "blimp" / path.name).write_text("".join(itertools.islice(file, number)), "utf-8")


def take_packages(folder: Path) -> None:
    """The wheel of each in packages/NAME/, as pip chooses it for the other machine."""
    platforms = [f"--platform=manylinux{version}_x86_64" for version in ("_2_28", "_2_27", "_2_17", "2014")]
    wanted = ["--python-version=3.12", "--implementation=cp", *platforms, "--only-binary=:all:", "--no-deps"]
    for name in PACKAGES:
        target = folder / "packages" / name
        if target.is_dir():
            continue
        partial = target.with_suffix(".partial")
        command = [sys.executable, "-m", "pip", "download", "--quiet", *wanted, f"--dest={partial}", name.replace("_", "-")]
        if subprocess.run(command).returncode:
            raise UserError(f"pip has no {name} for Python 3.12 on Linux; its message stands above.")
        os.replace(partial, target)


def unpack_packages(folder: Path, names: list[str], to: Path) -> None:
    """Puts packages that have travelled where Python can import them; what has not travelled is left out."""
    for name in names:
        for wheel in (folder / "packages" / name).glob("*.whl"):
            with zipfile.ZipFile(wheel) as file:
                file.extractall(to)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_folder", description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=FOLDER, help="default %(default)s")
    parser.add_argument("--text", type=Path, default=ENGLISH, help="a folder of .txt.zst (default %(default)s)")
    parser.add_argument("--sources", default=SOURCES, help="files of it, without .txt.zst (default %(default)s)")
    parser.add_argument("--vocabulary", type=int, default=8_192, help="default %(default)s")
    parser.add_argument("--length", type=int, default=128, help="default %(default)s")
    parser.add_argument("--pairs", type=Path, default=ENGLISH.parent / "suites" / "blimp", help="default %(default)s")
    parser.add_argument("--number", type=int, default=100, help="of pairs a paradigm (default %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    make_corpus(args.out, [str(args.text / f"{name}.txt.zst") for name in args.sources.split()], args.vocabulary, args.length)
    if args.pairs.is_dir():
        take_pairs(args.out, args.pairs, args.number)
    take_packages(args.out)
    for part in sorted(args.out.iterdir()):
        print(f"{size_of(part) / 1e6:6.1f} MB {part}")
    if (size := size_of(args.out)) > LARGEST:
        raise UserError(f"{args.out} has {size / 1e6:.1f} MB; expected {LARGEST / 1e6:.0f} at most: name fewer --sources.")


if __name__ == "__main__":
    exit_with_sentence(main)
