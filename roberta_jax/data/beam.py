"""A preparation on Apache Beam: the same stages as in processes of one machine, and the same rows.

    python -m roberta_jax.data.beam --source gs://bucket/text/ --tokenizer 50265 --out gs://bucket/corpus \\
        --runner=DataflowRunner --project=PROJECT --region=REGION --temp_location=gs://bucket/tmp \\
        --sdk_container_image=IMAGE

What is not a flag of `roberta_jax.data.prepare` is Beam's. Workers need this package, the source and the folder that
is made: with another runner than the DirectRunner both are URLs or paths that every machine has. The machine that
launches lists the source, learns the vocabulary and, when all shards are there, writes the manifest; run again, the
command passes over the shards that are there.
"""

import difflib
import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from roberta_jax.data import duplicates, prepare, shards
from roberta_jax.data.recipe import Work, plan_of
from roberta_jax.errors import UserError, exit_with_sentence


def run(options: PipelineOptions, work: Work, spills: Path, processes: int) -> None:
    """Writes the shards that are not there yet. A shard is one element, so that a runner gives each to whom is free."""
    todo = shards.unwritten(work)
    if not todo:
        return
    plan = plan_of(work)
    try:
        with beam.Pipeline(options=options) as pipeline:
            # An element is (the number of a shard or partition, the blocks sent to it).
            sent = pipeline | "unwritten shards" >> beam.Create([(shard, b"") for shard in todo])
            if plan.recipe.drops:
                every = pipeline | "all shards" >> beam.Create([(shard, []) for shard in range(len(plan.shards))])
                blocks = every | "spread" >> beam.Reshuffle()
                for stage in duplicates.STAGES:
                    name = stage.__name__
                    if stage is not duplicates.sketch:
                        blocks |= f"to {name}" >> beam.GroupByKey()
                    blocks |= name >> beam.FlatMapTuple(partial(stage, work)).with_output_types(tuple[int, bytes])
                sent = (sent, blocks) | beam.Flatten()
            _ = sent | "to write" >> beam.GroupByKey() | "write" >> beam.MapTuple(partial(write, work))
    except Exception as error:
        # A worker's error arrives as text, often with its traceback.
        if sentence := re.search(r"UserError: (.*?)(?: \[while running|\n|$)", f"{type(error).__name__}: {error}"):
            raise UserError(sentence[1]) from None
        raise


def write(work: Work, shard: int, blocks: Iterable[bytes]) -> None:
    for name, number in shards.write_shard(work, shard, blocks).items():
        Metrics.counter("roberta_jax", name).inc(number)


def main() -> None:
    flags = prepare.parser("roberta_jax.data.beam", "Prepares a corpus on Apache Beam; other flags are Beam's own.")
    args, of_beam = flags.parse_known_args()
    options = PipelineOptions(of_beam)
    for name in options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys():
        # A runner may have flags that only its own server knows, so not each of these is a mistake.
        if meant := difflib.get_close_matches(name, ["runner", *vars(args)], 1, 0.8):
            raise UserError(f"there is no flag --{name}, neither here nor in Beam; did you mean --{meant[0]}?")
    prepare.run_command(args, run=partial(run, options))


if __name__ == "__main__":
    exit_with_sentence(main)
