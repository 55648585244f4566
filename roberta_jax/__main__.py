"""The commands, each by its name: `roberta-jax train --config=tiny --workdir=RUN`, or `python -m roberta_jax train …`."""

import runpy
import sys

from roberta_jax import __version__
from roberta_jax.errors import UserError, exit_with_sentence
from roberta_jax.output import show

COMMANDS = {  # word → its module, and what it does
    "train": ("main", "pretrain or fine-tune a model, or compare settings"),
    "prepare": ("prepare", "make rows of ids from text, once, for several runs"),
    "inspect": ("inspect", "show the first rows of a run, with their masks"),
    "plan": ("plan", "estimate memory, time and cost before a chip is rented"),
    "export": ("export", "write a model as a folder that transformers loads"),
    "fill_mask": ("fill_mask", "guess what stands in the place of <mask>"),
    "embed": ("embed", "make a vector of each text"),
    "minimal_pairs": ("minimal_pairs", "measure grammar by BLiMP, Zorro or pairs of your own"),
    "serving": ("serving", "write a model as one file that serves without this package"),
    "demo": ("demo", "try a model on a page in a browser"),
    "verify_resume": ("verify_resume", "prove that a run that is killed ends as an undisturbed one"),
}


def main() -> None:
    """Runs the command that the first argument names."""
    word = sys.argv[1] if len(sys.argv) > 1 else "--help"
    module, _ = (COMMANDS | {"main": COMMANDS["train"]}).get(word.replace("-", "_"), ("", ""))
    if module:
        del sys.argv[1]
        runpy.run_module(f"roberta_jax.{module}", run_name="__main__", alter_sys=True)
        return
    exit_with_sentence(lambda: _tell(word))


def _tell(word: str) -> None:
    if word == "--version":
        show(__version__)
    elif word in ("--help", "-h", "help"):
        show("usage: roberta-jax COMMAND …, each of which takes --help\n")
        show("\n".join(f"  {name:14} {does}" for name, (_, does) in COMMANDS.items()))
    else:
        raise UserError(f"there is no command {word!r}; there are {', '.join(COMMANDS)}.")


if __name__ == "__main__":
    main()
