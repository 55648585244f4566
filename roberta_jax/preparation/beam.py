"""A preparation on Apache Beam: the same stages as in processes of one machine, and the same rows.

Workers need this package, the source and the folder that
is made: with another runner than the DirectRunner both are URLs or paths that every machine has. The machine that
launches lists the source, learns the vocabulary and, when all shards are there, writes the manifest; run again, the
command passes over the shards that are there.
"""

import difflib
import re
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions

from roberta_jax.errors import UserError
from roberta_jax.preparation import duplicates, shards
from roberta_jax.preparation.plan import Preparation, plan_of


def runner(flags: list[str], known: Iterable[str]) -> Callable[[Preparation, Path, int], None]:
    """What `preparation.prepare.make` runs, by Beam's own flags.

    Args:
      known: the names of the command's other flags, one of which may have been meant.
    """
    options = PipelineOptions(flags)
    for name in options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys():
        # A runner may have flags that only its own server knows, so not each of these is a mistake.
        if meant := difflib.get_close_matches(name, ["runner", *known], 1, 0.8):
            raise UserError(f"there is no flag --{name}, neither here nor in Beam; did you mean --{meant[0]}?")
    return partial(run, options)


def run(options: PipelineOptions, work: Preparation, spills: Path, processes: int) -> None:
    """Writes the shards that are not there yet. A shard is one element, so that a runner gives each to whom is free."""
    todo = shards.unwritten(work)
    if not todo:
        return
    plan = plan_of(work)
    try:
        with beam.Pipeline(options=options) as pipeline:
            # An element is (the number of a shard or partition, the blocks sent to it).
            sent = pipeline | "unwritten shards" >> beam.Create([(shard, b"") for shard in todo])
            if plan.config.drops:
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


def write(work: Preparation, shard: int, blocks: Iterable[bytes]) -> None:
    for name, number in shards.write_shard(work, shard, blocks).items():
        Metrics.counter("roberta_jax", name).inc(number)
