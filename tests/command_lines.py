"""Command lines and the parsers of their commands: each is parsed in a process of its own, and nothing is run.

The processes are forked from one that has imported the package, so that a command takes milliseconds.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMPORTED = ("roberta_jax.pretraining.job", "roberta_jax.tasks.runs", "roberta_jax.ablations.run")


@functools.cache
def _server() -> subprocess.Popen:
    """Ends with this process, whose end closes the pipe."""
    environment, pipe = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"}, subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, __file__], cwd=ROOT, env=environment, stdin=pipe, stdout=pipe, text=True, bufsize=1
    )


def parse(module: str, arguments: list[str]) -> dict:
    """What `python -m module arguments` makes of its arguments.

    Returns:
      `rest`, the arguments that its parser leaves to others, or `error`, what it says instead of that.
    """
    _server().stdin.write(json.dumps([module, arguments]) + "\n")
    return json.loads(_server().stdout.readline())


def _answer(module: str, arguments: list[str], answer: int) -> None:
    """In the forked process: runs the command, whose parser ends it."""
    import argparse
    import runpy

    from absl import app, flags

    def done(rest: list[str]) -> None:
        os.write(answer, json.dumps({"rest": rest}).encode())
        os._exit(0)

    parse_known_args = argparse.ArgumentParser.parse_known_args

    def parsed_in_part(parser, *args):
        done(parse_known_args(parser, *args)[1])

    def parsed(parser, *args):
        if rest := parse_known_args(parser, *args)[1]:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        done([])

    def run(main, flags_parser):
        if "--help" in sys.argv:
            sys.exit("\n".join(f"--{name}" for name in flags.FLAGS))
        rest = flags_parser(sys.argv)[1:]
        _check_fields(flags.FLAGS["config"].value.to_dict())
        done(rest)

    argparse.ArgumentParser.parse_known_args, argparse.ArgumentParser.parse_args, app.run = parsed_in_part, parsed, run
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _check_fields(fields: dict) -> None:
    """As `main` does before it begins: every field known, of its type and of a value that it may have."""
    from roberta_jax.ablations.run import AblationsConfig
    from roberta_jax.config import typed
    from roberta_jax.pretraining.job import PretrainConfig
    from roberta_jax.tasks.runs import FinetuneConfig

    typed({"pretrain": PretrainConfig, "finetune": FinetuneConfig, "ablations": AblationsConfig}[fields["job"]], fields)


def _serve() -> None:
    for name in IMPORTED:
        __import__(name)
    for line in sys.stdin:
        answer, to_answer = os.pipe()
        said, to_say = os.pipe()
        if os.fork() == 0:
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(to_say, 1)
            os.dup2(to_say, 2)
            try:
                _answer(*json.loads(line), to_answer)
            except SystemExit as end:
                print(end.code if isinstance(end.code, str) else "", flush=True)
            finally:
                sys.stdout.flush()
                os._exit(1)
        os.close(to_answer)
        os.close(to_say)
        output = os.fdopen(said, errors="replace").read()
        found = os.fdopen(answer).read()
        os.wait()
        print(found or json.dumps({"error": output.strip() or "it ended before it had parsed its arguments"}), flush=True)


if __name__ == "__main__":
    _serve()
