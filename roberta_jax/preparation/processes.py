"""A preparation in processes of this machine: what one stage sends to the next goes through files."""

import functools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from tqdm import tqdm

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.preparation import duplicates, shards
from roberta_jax.preparation.plan import Preparation, plan_of
from roberta_jax.preparation.workers import Workers


def run(work: Preparation, spills: Path, processes: int) -> None:
    """Writes the shards that are not there yet.

    Args:
      spills: a folder on this machine for what goes from stage to stage.
    """
    plan = plan_of(work)
    todo, last = shards.unwritten(work), None
    with Workers(min(processes, len(plan.shards))) as pool:
        each = functools.partial(_each, pool, work)
        if plan.config.drops and todo:
            for stage in duplicates.STAGES:
                keys = range(plan.partitions if stage is duplicates.earliest else len(plan.shards))
                done = [key for key in keys if _index(spills, stage.__name__, key).is_file()]
                if stage is duplicates.sketch:
                    left = storage.names(work.path(""))
                    done = [key for key in done if duplicates.sketch_file(key) in left]
                sizes = plan.sizes if stage is duplicates.sketch else [1] * len(keys)
                each(stage.__name__, functools.partial(_spill, work, spills, stage, last), sizes, done)
                last = stage.__name__
        done = sorted(set(range(len(plan.shards))) - set(todo))
        each("preparing", functools.partial(_write, work, spills, last), plan.sizes, done)


def _each(
    pool: Workers, work: Preparation, what: str, function: Callable[[int], None], sizes: list[int], done: Sequence[int]
) -> None:
    """Calls the function for every key, the largest first, so that none of them is waited for alone in the end."""
    todo = sorted(set(range(len(sizes))) - set(done), key=lambda key: -sizes[key])
    unit = {"unit": "B", "unit_scale": True} if max(sizes) > 1 else {}
    with tqdm(desc=what, total=sum(sizes), initial=sum(sizes[key] for key in done), **unit) as bar:
        try:
            futures = {pool.submit(function, key): key for key in todo}
            for future in as_completed(futures):
                future.result()
                bar.update(sizes[futures[future]])
        except BrokenProcessPool:
            raise UserError(
                f"a process that prepared {work.folder} was killed, perhaps for want of memory; the same command goes on "
                "where it stopped (fewer processes need less)."
            ) from None
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"the same command goes on with {work.folder}") from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _index(spills: Path, stage: str, key: int) -> Path:
    return spills / f"{stage}-{key:05d}.npy"


def _spill(work: Preparation, spills: Path, stage: Callable, last: str | None, key: int) -> None:
    """Runs a stage for one key; its blocks go into a file, and where each lies into an index, written last."""
    index, end = [], 0
    path = _index(spills, stage.__name__, key)
    with storage.written(path.with_suffix(".blocks")) as partial, open(partial, "wb") as file:
        for name, block in stage(work, key, _blocks(spills, last, key)):
            file.write(block)
            index.append((name, end, end + len(block)))
            end += len(block)
    with storage.written(path) as partial, open(partial, "wb") as file:
        np.save(file, np.array(index, np.int64).reshape(-1, 3))


def _blocks(spills: Path, stage: str | None, key: int) -> Iterator[bytes]:
    """What a stage sent to a key."""
    for path in sorted(spills.glob(f"{stage}-*.npy")) if stage else ():
        index = np.load(path)
        for _, start, stop in index[index[:, 0] == key]:
            yield storage.read_range(str(path.with_suffix(".blocks")), start, stop)


def _write(work: Preparation, spills: Path, last: str | None, shard: int) -> None:
    shards.write_shard(work, shard, _blocks(spills, last, shard))
