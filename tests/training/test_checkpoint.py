"""Checkpoints: the newest and the best are kept, another model's are refused, damaged and half-written ones passed over."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from forked import simulated

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.training import checkpoint
from roberta_jax.training.checkpoint import Checkpoints, read_arrays, read_params, saved_steps
from roberta_jax.training.notes import Damaged, Notes, read_notes, sealed


def state_of(step: int) -> dict:
    return {"params": {"kernel": jnp.full((8, 4), step, jnp.float32)}, "step": jnp.int32(step)}


def abstract_of(state: dict):
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)


def test_the_newest_and_the_best_are_kept_and_come_back(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=2, metric="valid/loss")
    for step, loss in ((1, 3.0), (2, 1.0), (3, None), (4, 2.0), (5, 2.5)):
        checkpoints.save(step, state_of(step), None if loss is None else {"valid/loss": loss})
    checkpoints.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 4, 5]
    again = Checkpoints(tmp_path / "checkpoints", newest=2, metric="valid/loss")
    assert again.latest_step() == 5
    for step in (2, 5):
        restored = again.restore(step, abstract_of(state_of(0)))
        jax.tree.map(np.testing.assert_array_equal, restored, state_of(step))
    for step in (6, 7):
        again.save(step, state_of(step), {"valid/loss": 1.5})
    again.close()
    assert sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir()) == [2, 6, 7]  # 2 is the best still


def test_a_saved_state_does_not_see_what_becomes_of_the_donated_one(tmp_path):
    """The next step writes over the state while the checkpoint is still being written."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {"params": {"kernel": jnp.zeros((2048, 2048))}}
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=9, metric="valid/loss")
    for number in range(1, 6):
        state = step(state)
        checkpoints.save(number, state)
    checkpoints._manager.wait_until_finished()
    for number in range(1, 6):
        restored = checkpoints.restore(number, abstract_of(state))
        assert (restored["params"]["kernel"] == number).all()
    checkpoints.close()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"params": {"kernel": jnp.zeros((9, 4))}, "step": jnp.int32(0)},
            r"params/kernel is \(8, 4\), this config's \(9, 4\)",
        ),
        (
            {"params": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}, "step": jnp.int32(0)},
            "params/bias is not there",
        ),
        ({"params": {}, "step": jnp.int32(0)}, "params/kernel is .* this config's not there"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, other, message):
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=1, metric="valid/loss")
    checkpoints.save(1, state_of(1))
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path / "checkpoints", newest=1, metric="valid/loss")
    with pytest.raises(UserError, match=f"checkpoint of another model: its {message}"):
        checkpoints.restore(1, abstract_of(other))
    checkpoints.close()


def largest(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_a_bit(folder):
    path = largest(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate_the_largest(folder):
    path = largest(folder)
    os.truncate(path, path.stat().st_size // 2)


def empty(folder):
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def leave_half_written(folder):
    folder.rename(folder.with_name(folder.name + ".orbax-checkpoint-tmp"))


@pytest.mark.parametrize("damage", [flip_a_bit, truncate_the_largest, empty, shutil.rmtree, leave_half_written])
def test_a_damaged_checkpoint_is_passed_over_for_the_newest_whole_one(tmp_path, damage):
    def noise(step):
        return {"params": {"kernel": jax.random.normal(jax.random.key(step), (64, 64))}, "step": jnp.int32(step)}

    checkpoints = Checkpoints(tmp_path, newest=3, metric="")
    for step in (1, 2, 3):
        checkpoints.save(step, noise(step))
    checkpoints.close()
    damage(tmp_path / "3")
    checkpoints, told = Checkpoints(tmp_path, newest=3, metric=""), []
    step, state = checkpoints.restore_newest(abstract_of(noise(0)), lambda *what: told.append(what))
    assert step == 2
    jax.tree.map(np.testing.assert_array_equal, state, noise(2))
    if damage not in (shutil.rmtree, leave_half_written):  # of these nothing is to be seen
        ((step, sentence),) = told
        assert step == 3 and "3 is damaged (" in sentence and (tmp_path / "3.damaged").is_dir()
    checkpoints.save(3, noise(3))  # the step comes again
    checkpoints.close()
    assert Checkpoints(tmp_path, newest=3, metric="").latest_step() == 3


def test_where_no_checkpoint_is_whole_there_is_none(tmp_path):
    checkpoints = Checkpoints(tmp_path, newest=3, metric="")
    checkpoints.save(1, state_of(1))
    checkpoints.close()
    truncate_the_largest(tmp_path / "1")
    checkpoints = Checkpoints(tmp_path, newest=3, metric="")
    assert checkpoints.restore_newest(abstract_of(state_of(0)), lambda *what: None) == (0, None)


def test_a_full_disk_is_a_sentence_and_leaves_the_last_checkpoint_whole(tmp_path):
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system of 3 MB cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        noise = lambda step: {"kernel": jax.random.normal(jax.random.key(step), (2**18,)), "step": jnp.int32(step)}  # noqa: E731
        checkpoints = Checkpoints(tmp_path / "checkpoints", newest=9, metric="")
        with pytest.raises(UserError, match=r"could not be written \(no space left on the disk\); step [23] is whole, and the"):
            for step in range(1, 9):
                checkpoints.save(step, noise(step))
        again = Checkpoints(tmp_path / "checkpoints", newest=9, metric="")
        step, state = again.restore_newest(abstract_of(noise(0)), lambda *what: pytest.fail(what))
        jax.tree.map(np.testing.assert_array_equal, state, noise(step))
        assert step in (2, 3)
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def noise_of(step: int, size: int = 64) -> dict:
    keys = jax.random.split(jax.random.key(step), 2)
    params = {"kernel": jax.random.normal(keys[0], (size, size)), "bias": jnp.zeros(4)}
    return {"params": params, "opt_state": {"mu": jax.random.normal(keys[1], (8, 8))}, "step": jnp.int32(step)}


def save_all(folder: Path, steps, newest: int = 9, metric: str = "valid/loss") -> None:
    checkpoints = Checkpoints(folder, newest, metric)
    for step in steps:
        checkpoints.save(step, noise_of(step), {"valid/loss": 1.0 / step}, memory={"rewinds": step})
    checkpoints.close()


def old_checksum(state: dict) -> np.uint32:
    total = np.uint64(0)
    for leaf in jax.tree.leaves(state):
        total = (total * np.uint64(0x9E3779B1) + np.asarray(leaf).view(np.uint32).sum(dtype=np.uint64)) % np.uint64(2**32)
    return np.uint32(total)


def save_by_an_older_version(folder: Path, steps) -> None:
    """One checksum of all arrays, and metrics alone beside them."""
    options = ocp.CheckpointManagerOptions(best_fn=lambda metrics: metrics["valid/loss"], best_mode="min")
    manager = ocp.CheckpointManager(folder, options=options, item_handlers=ocp.StandardCheckpointHandler())
    for step in steps:
        state = noise_of(step) | {"checksum": jnp.asarray(old_checksum(noise_of(step)))}
        manager.save(step, args=ocp.args.StandardSave(state), metrics={"valid/loss": 1.0 / step})
    manager.close()


SAVERS = pytest.mark.parametrize("save", [save_all, save_by_an_older_version])


@SAVERS
def test_a_checkpoint_of_any_version_is_read_and_resumed_from(tmp_path, save):
    save(tmp_path, (1, 2))
    expected = jax.device_get(noise_of(2))
    jax.tree.map(np.testing.assert_array_equal, read_params(tmp_path, 2), expected["params"])
    np.testing.assert_array_equal(read_arrays(tmp_path, 2)["opt_state/mu"], expected["opt_state"]["mu"])
    checkpoints = Checkpoints(tmp_path, newest=1, metric="valid/loss")
    step, state = checkpoints.restore_newest(abstract_of(noise_of(0)), lambda *what: pytest.fail(str(what)))
    assert step == 2 and checkpoints.notes(1).metrics == {"valid/loss": 1.0} and checkpoints.notes(2).planned
    jax.tree.map(np.testing.assert_array_equal, state, expected)
    checkpoints.save(3, noise_of(3), {"valid/loss": 0.7})
    checkpoints.close()
    assert saved_steps(tmp_path) == [2, 3]  # the best, and the newest


@SAVERS
@pytest.mark.parametrize("read", [read_params, read_arrays])
def test_every_reader_refuses_a_checkpoint_with_one_bit_flipped_and_names_a_whole_one(tmp_path, save, read):
    save(tmp_path, (1, 2, 3))
    flip_a_bit(tmp_path / "3")
    with pytest.raises(
        UserError, match=r"/3 is not a whole checkpoint .*; step 2 is whole, take checkpoint=2 or start the run"
    ):
        read(tmp_path, 3)
    for step in ("1", "2"):
        empty(tmp_path / step)
    with pytest.raises(UserError, match="/3 is not a whole checkpoint .*; no other step is whole"):
        read(tmp_path, 3)


def test_the_array_whose_bits_are_others_is_named_and_alone_in_question(tmp_path):
    """Bits that storage gives back otherwise without an error, as its own checks do not see those that were written wrong."""
    state = noise_of(1)
    checkpoints = Checkpoints(tmp_path, newest=1, metric="")
    args = {"planned": True, "memory": {}}
    other = state | {"opt_state": {"mu": state["opt_state"]["mu"].at[3, 5].multiply(1 + 2**-20)}}
    sums = checkpoint.checksums
    try:
        checkpoint.checksums = lambda _: sums(other)
        checkpoints.save(1, state, **args)
    finally:
        checkpoint.checksums = sums
    checkpoints.close()
    jax.tree.map(np.testing.assert_array_equal, read_params(tmp_path, 1), jax.device_get(state["params"]))
    with pytest.raises(UserError, match="the bits of its opt_state/mu are not those that were saved"):
        read_arrays(tmp_path, 1)
    with pytest.raises(Damaged, match="the bits of its opt_state/mu are not"):
        Checkpoints(tmp_path, newest=1, metric="").restore(1, abstract_of(state))


def remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def make_empty(path: Path) -> None:
    empty(path) if path.is_dir() else path.write_bytes(b"")


def make_the_other_kind(path: Path) -> None:
    is_folder = path.is_dir()
    remove(path)
    path.write_bytes(b"not a folder") if is_folder else path.mkdir()


def make_zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[np.random.default_rng(len(content)).integers(len(content))] ^= 2
    path.write_bytes(content)


@SAVERS
def test_whatever_is_damaged_in_a_checkpoint_a_run_starts_from_what_is_whole(tmp_path, save):
    """Each file and folder of it, missing, empty, of the other kind, and files of zeros, cut and with a bit flipped."""
    save(tmp_path / "whole", (1, 2))
    root, abstract, aside = tmp_path / "whole" / "2", abstract_of(noise_of(0)), 0
    places = [root, *sorted(root.rglob("*"))]
    assert len(places) > 15 and root / "metrics" / "metrics" in places
    if save is save_by_an_older_version:  # the arrays' files are the same
        places = [place for place in places if not place.relative_to(root).as_posix().startswith("default/")]
    for place in places:
        damages = [remove, make_empty, make_the_other_kind, *([] if place.is_dir() else [make_zeros, cut, flip])]
        for damage in damages:
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
            shutil.copytree(tmp_path / "whole", tmp_path / "run")
            damage(tmp_path / "run" / "2" / place.relative_to(root))
            what, told = f"{damage.__name__} {place.relative_to(root)}", []
            checkpoints = Checkpoints(tmp_path / "run", newest=2, metric="valid/loss")
            step, state = checkpoints.restore_newest(abstract, lambda *what, told=told: told.append(what))
            assert step in (1, 2), what
            jax.tree.map(np.testing.assert_array_equal, state, noise_of(step))
            gone = damage is remove and place == root
            assert len(told) == (step == 1 and not gone) and (tmp_path / "run" / "2.damaged").exists() == bool(told), what
            aside += len(told)
            if place.name in ("2", "metrics"):
                checkpoints.save(2, noise_of(2))  # the step comes again
                checkpoints.close()
                assert saved_steps(tmp_path / "run") == [1, 2] or step == 2, what
    assert aside >= len(places)


def test_a_step_that_is_damaged_twice_is_put_aside_twice(tmp_path):
    for name in ("2.damaged", "2.damaged.1"):
        save_all(tmp_path, (1, 2))
        flip_a_bit(tmp_path / "2")
        checkpoints = Checkpoints(tmp_path, newest=9, metric="")
        assert checkpoints.restore_newest(abstract_of(noise_of(0)), lambda *what: None)[0] == 1
        checkpoints.close()
        assert (tmp_path / name).is_dir()
    assert saved_steps(tmp_path) == [1]


def test_notes_with_any_bit_flipped_are_not_believed(tmp_path):
    notes = Notes({"valid/loss": 1.25, "valid/perplexity": float("inf")}, True, {"rewinds": 2, "bits": [[1, 2]]}, "abc")
    path = tmp_path / "1" / "metrics" / "metrics"
    path.parent.mkdir(parents=True)
    whole = json.dumps(sealed(notes)).encode()
    path.write_bytes(whole)
    assert read_notes(tmp_path, 1) == notes
    for bit in range(0, 8 * len(whole), 3):
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            assert read_notes(tmp_path, 1) == notes  # white space
        except Damaged:
            pass


def kept_after(folder: Path, saves, newest: int) -> list[int]:
    """The steps that are there after these saves: (step, loss or None, planned), each by a start of its own."""
    for step, loss, planned in saves:
        checkpoints = Checkpoints(folder, newest, "valid/loss")
        checkpoints.save(step, state_of(step), None if loss is None else {"valid/loss": loss}, planned)
        checkpoints.close()
    return saved_steps(folder)


def test_what_is_not_planned_is_kept_in_no_others_place(tmp_path):
    stops = [(step, None, False) for step in (43, 44, 45)]
    saves = [(10, 0.5, True), (20, 1.0, True), (30, 2.0, True), (40, 3.0, True)]
    for newest in (1, 2):
        planned = [10, 30, 40][2 - newest :] if newest == 2 else [10, 40]
        assert kept_after(tmp_path / str(newest), saves, newest) == planned
        assert kept_after(tmp_path / str(newest), stops, newest) == [*planned, 45]  # of stops the newest
        assert kept_after(tmp_path / str(newest), [(48, 0.1, False)], newest) == [*planned, 48]
        after = kept_after(tmp_path / str(newest), [(50, 2.5, True)], newest)
        assert after == ([10, 40, 50] if newest == 2 else [10, 50])


def test_an_evaluation_that_is_made_up_for_counts_as_one_in_time(tmp_path):
    losses = {10: 2.0, 20: 1.0, 30: 3.0}
    kept_after(tmp_path / "in time", [(step, loss, True) for step, loss in losses.items()], 1)
    for step, loss in losses.items():
        kept_after(tmp_path / "late", [(step, None, True)], 1)
        checkpoints = Checkpoints(tmp_path / "late", 1, "valid/loss")
        checkpoints.add_metrics(step, {"valid/loss": loss})
        checkpoints.close()
    assert saved_steps(tmp_path / "late") == saved_steps(tmp_path / "in time") == [20, 30]
    for step in (20, 30):
        assert read_notes(tmp_path / "late", step).metrics == {"valid/loss": losses[step]}
        again = Checkpoints(tmp_path / "late", 1, "valid/loss").restore(step, abstract_of(state_of(0)))
        jax.tree.map(np.testing.assert_array_equal, again, state_of(step))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, and what makes it read-only and writable again."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a file system of 3 MB cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield tmp_path, lambda how: subprocess.run(["mount", "-o", f"remount,{how}", tmp_path], check=True)
    subprocess.run(["umount", "-l", tmp_path], check=True)


def until_known(checkpoints: Checkpoints) -> bool:
    """What a run that asks at every step is told of a write: whether it failed."""
    end = time.time() + 60
    while checkpoints._writing is not None and time.time() < end:
        if checkpoints.failed():
            return True
        time.sleep(0.01)
    return False


def test_a_write_that_fails_once_is_told_of_at_once_and_tried_again(small_disk, monkeypatch, capfd):
    folder, remount = small_disk
    monkeypatch.setattr(checkpoint, "RETRIES", (0.0, 0.3))
    told: list[str] = []
    checkpoints = Checkpoints(folder / "checkpoints", 9, "", told.append)
    checkpoints.save(1, noise_of(1))
    assert not until_known(checkpoints)
    remount("ro")
    checkpoints.save(2, noise_of(2))
    assert until_known(checkpoints) and not checkpoints.failed() and checkpoints.ready()
    assert "checkpoint 2 could not be written (" in told[-1] and told[-1].endswith("tried again at once")
    remount("rw")
    checkpoints.save(3, noise_of(3))
    assert not until_known(checkpoints)
    assert len(told) == 1 and saved_steps(folder / "checkpoints") == [1, 3]
    remount("ro")
    checkpoints.save(4, noise_of(4))
    assert until_known(checkpoints) and checkpoints.ready()
    checkpoints.save(5, noise_of(5))
    assert until_known(checkpoints) and not checkpoints.ready()  # a pause comes before the next try
    checkpoints.save(6, noise_of(6))
    with pytest.raises(UserError, match="could not be written .*; step 3 is whole, and the same command goes on from it"):
        until_known(checkpoints)
    assert "Traceback" not in "".join(capfd.readouterr())
    remount("rw")
    again = Checkpoints(folder / "checkpoints", 9, "")
    assert again.restore_newest(abstract_of(noise_of(0)), lambda *what: pytest.fail(str(what)))[0] == 3


def test_the_last_checkpoint_of_a_run_is_tried_again_until_it_is_there(small_disk, monkeypatch):
    folder, remount = small_disk
    monkeypatch.setattr(checkpoint, "RETRIES", (0.0, 0.3, 0.3))
    told: list[str] = []

    def report(sentence: str) -> None:
        told.append(sentence)
        if len(told) == 2:
            remount("rw")

    checkpoints = Checkpoints(folder / "checkpoints", 9, "", report)
    remount("ro")
    checkpoints.save(1, noise_of(1), wait=True)
    checkpoints.close()
    assert len(told) == 2 and saved_steps(folder / "checkpoints") == [1]


def test_a_full_disk_is_noticed_behind_the_steps_and_is_a_sentence_alone(small_disk, capfd):
    folder, _ = small_disk
    checkpoints = Checkpoints(folder / "checkpoints", 9, "")
    with pytest.raises(UserError, match=r"could not be written \(no space left on the disk\); step \d is whole, and the same"):
        for step in range(1, 9):
            checkpoints.save(step, noise_of(step, 512))
            until_known(checkpoints)
    assert "".join(capfd.readouterr()) == ""


FAILING = """
import asyncio, subprocess, sys, time
from pathlib import Path
import jax, jax.numpy as jnp
from roberta_jax.errors import exit_with_sentence
from roberta_jax.training.checkpoint import Checkpoints

def main():
    checkpoints = Checkpoints(Path(sys.argv[1], "checkpoints"), 9, "")
    for step in range(1, 9):
        if step in (2, 3):
            subprocess.run(["mount", "-o", "remount," + ("ro" if step == 2 else "rw"), sys.argv[1]], check=True)
        checkpoints.save(step, {"kernel": jax.random.normal(jax.random.key(step), (2**17,)), "step": jnp.int32(step)})
        while checkpoints._writing is not None and not checkpoints.failed():
            time.sleep(0.01)

class Late:  # as TensorStore's threads now and then raise it, where nobody can catch it
    def __del__(self):
        raise RuntimeError("Event loop is closed")

Late()
asyncio.new_event_loop().create_future().set_exception(ValueError("Failed to write"))  # as one of several files' that failed
exit_with_sentence(main)
"""


def test_a_process_whose_writes_fail_ends_at_once_and_says_no_more_than_sentences(small_disk):
    """Threads and callbacks of a write that failed neither hold the process up nor print a traceback."""
    folder, _ = small_disk
    done = subprocess.run([sys.executable, "-c", FAILING, folder], capture_output=True, text=True, timeout=180)
    assert done.returncode == 2 and done.stdout.startswith("checkpoint 2 could not be written (")
    assert done.stdout.count("\n") == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and "no space left on the disk" in done.stderr


ON_TWO_HOSTS = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec

folder, address, host = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
jax.distributed.initialize(address, 2, host)
from roberta_jax.training import checkpoint
from roberta_jax.training.distributed import wait_for_all
from roberta_jax.training.sharding import make_mesh

def state_of(step):
    values = np.random.default_rng(step).normal(size=(2, 5000)).astype(np.float32)
    return {"moments": jax.make_array_from_callback(values.shape, sharding, lambda part: values[part])}

def damage_what_host_1_wrote(folder):
    path = max(folder.glob("default/ocdbt.process_1/d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)

def read_notes(folder, step):
    if step == 3 and host == 1:
        raise checkpoint.Damaged("host 1 alone cannot read it")
    return whole_notes(folder, step)

sharding = NamedSharding(make_mesh(), PartitionSpec("data"))
checkpoints = checkpoint.Checkpoints(folder, 9, "")
for step in (1, 2, 3):
    checkpoints.save(step, state_of(step), wait=True)
wait_for_all("three are saved")
if host == 0:
    damage_what_host_1_wrote(folder / "2")
wait_for_all("one is damaged")
checkpoint.read_notes, whole_notes = read_notes, checkpoint.read_notes
shape = jax.ShapeDtypeStruct((2, 5000), np.float32, sharding=sharding)
step, state = checkpoints.restore_newest({"moments": shape}, lambda step, sentence: print("aside", step))
same = np.array_equal(state["moments"].addressable_data(0), state_of(step)["moments"].addressable_data(0))
print("restored", step, same)
checkpoints.close()
"""


def test_damage_that_one_host_alone_meets_is_damage_for_all(tmp_path):
    """Of arrays that are cut over the hosts each reads its own part alone."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    command = [sys.executable, "-c", ON_TWO_HOSTS, tmp_path / "checkpoints", address]
    hosts = [
        subprocess.Popen([*command, str(i)], env=os.environ | simulated(1), stdout=subprocess.PIPE, text=True) for i in (0, 1)
    ]
    try:
        for host in hosts:
            lines = [line for line in host.communicate(timeout=120)[0].splitlines() if not line.startswith("[Gloo]")]
            assert lines == ["aside 3", "aside 2", "restored 1 True"]
    finally:
        for host in hosts:
            host.kill()
    assert storage.names(tmp_path / "checkpoints") == {"1", "2.damaged", "3.damaged"}
