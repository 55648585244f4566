"""Any model that can be read, as a folder that transformers loads.

python -m roberta_jax.export --model=RUN --out=DIR [--all] [--push_to=NAME]
"""

import argparse

from roberta_jax import storage
from roberta_jax.errors import exit_with_sentence
from roberta_jax.output import show


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m roberta_jax.export", description=__doc__.split("\n")[0])
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a workdir, a folder of transformers or fairseq, or a hub name")
    model.add_argument("--workdir", dest="model", help=argparse.SUPPRESS)  # as it was called before 0.3
    parser.add_argument("--out", type=storage.output_path, required=True, help="the folder to write")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", default="newest", help="of a workdir: newest, best or a step (default %(default)s)")
    which.add_argument("--all", action="store_true", help="of a workdir: every checkpoint that is kept, as folders in --out")
    parser.add_argument(
        "--names",
        metavar="TEMPLATE",
        default="step_{step}",
        help="of these folders, with {step}, {tokens} or {words} that it has seen: chck_{words} gives chck_10M (%(default)s)",
    )
    parser.add_argument("--push_to", metavar="NAME", help="upload it as this hub repository; of --all each as a revision of it")
    args = parser.parse_args()
    from roberta_jax.interop.hub import export, push  # here, so that --help does not wait for JAX
    from roberta_jax.interop.revisions import checkpoint_names

    if args.all:
        for step, name in checkpoint_names(args.model, args.names).items():
            show(f"{export(args.model, args.out / name, step).origin} → {args.out / name}")
            if args.push_to:
                show(f"uploaded to {push(args.out / name, args.push_to, name)}")
        if args.push_to:
            show(f"uploaded the last to {push(args.out / name, args.push_to)}")
        return
    pretrained = export(args.model, args.out, args.checkpoint)
    show(f"{pretrained.origin} → {args.out}")
    for name, reason in sorted(pretrained.ignored.items()):
        show(f"left out {name}: {reason}")
    if args.push_to:
        show(f"uploaded to {push(args.out, args.push_to)}")


if __name__ == "__main__":
    exit_with_sentence(main)
