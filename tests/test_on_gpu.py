"""The one call for a GPU: it keeps its time, one stage's failure is that stage's alone, and nothing of it needs TensorFlow."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import time
import zipfile
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from benchmarks import attentions, gpu_folder, gpu_stages, on_gpu
from benchmarks.gpu_tables import SECTIONS, tables
from benchmarks.on_gpu import STAGES, Records, Stage, conduct
from benchmarks.sides import Case
from benchmarks.train_step import NO_TIME
from roberta_jax import verify_resume
from roberta_jax.data import counter_hash, masking, order, pipeline
from roberta_jax.data.corpus import PAIRS
from roberta_jax.data.masking import MODES, Masking
from roberta_jax.errors import UserError
from roberta_jax.preparation.config import CorpusConfig
from roberta_jax.preparation.prepare import prepare

ROOT = Path(__file__).parents[1]
STAND_IN = ROOT / "benchmarks" / "stand_in"


@pytest.fixture(scope="module")
def stand_in():
    spec = importlib.util.spec_from_file_location("stand_in_for_tensorflow", STAND_IN / "tensorflow.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# In TensorFlow's place


@pytest.mark.parametrize("rounds", [4, 8, 12])
def test_the_stand_in_permutes_as_tensorflow_does(stand_in, rounds):
    chooser = np.random.default_rng(rounds)
    for bits in (12, 15, 16, 17, 20, 31, 32, 33, 47):
        for last in (2**bits - 2, 2**bits - 1, 2**bits, 2**bits + 1, int(chooser.integers(2**bits, 2 ** (bits + 1)))):
            index = chooser.integers(0, last, 32, endpoint=True)
            for keys in (chooser.integers(0, 2**32, (32, 3), np.uint32), chooser.integers(-(2**62), 2**62, 3)):
                given = {"index": index, "seed": keys, "max_index": np.int64(last), "rounds": rounds}
                wanted = tf.raw_ops.RandomIndexShuffle(**given).numpy()
                found = stand_in.raw_ops.RandomIndexShuffle(**given)
                assert found.dtype == wanted.dtype
                np.testing.assert_array_equal(found, wanted, err_msg=str(given))


@pytest.fixture(scope="module")
def corpora(small_corpus, tmp_path_factory):
    """Rows of sentences and of pairs."""
    folder = tmp_path_factory.mktemp("pairs")
    text = "\n\n".join("\n".join(f"Sentence {i} of text {j} is here." for i in range(9)) for j in range(60))
    (folder / "text.txt").write_text(text)
    recipe = CorpusConfig((str(folder / "text.txt"),), str(small_corpus.folder / "tokenizer"), PAIRS[0], 64, valid_fraction=0.2)
    return small_corpus, prepare(recipe, folder / "corpus", folder / "cache", processes=1)


@pytest.mark.parametrize("mode", MODES)
def test_the_stand_in_makes_the_same_batches_bit_for_bit(stand_in, corpora, monkeypatch, mode):
    monkeypatch.setattr(pipeline, "TOKENS_AT_ONCE", 3_000)  # some batches, and not a hundred
    for corpus in corpora if mode == "roberta" else corpora[:1]:  # pairs are masked as other rows are

        def made(corpus=corpus):
            """Across the end of an epoch, and the last valid rows."""
            train = pipeline.train_batches(corpus, Masking(mode), 23, seed=3, first_step=len(corpus.train) // 23 - 1)
            return [*islice(train, 3), *pipeline.valid_batches(corpus, Masking(mode), 150)]

        wanted = made()
        with monkeypatch.context() as patch:
            for module in (counter_hash, masking, order, pipeline):
                patch.setattr(module, "tf", stand_in)
            found = made()
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted):
            assert one.keys() == other.keys()
            for name in one:
                assert one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes(), name


# The stages' time


def scripted(out: Path, scripts: dict[str, str], limits: dict[str, float], seconds: float) -> tuple[bool, list[dict], float]:
    """Stages that are small programs of Python."""
    stages = [Stage(name, limits[name]) for name in scripts]
    began = time.monotonic()
    done = conduct(
        stages, lambda stage, until: [sys.executable, "-c", scripts[stage.name]], dict(os.environ), out, began + seconds
    )
    return done, Records(out).read(), time.monotonic() - began


def test_a_stage_that_fails_or_hangs_ends_nothing_but_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "GRACE", 0.5)
    marker = tmp_path / "alive"
    child = f"import time, pathlib\nwhile True:\n    pathlib.Path({str(marker)!r}).touch()\n    time.sleep(0.05)"
    hangs = f"""if True:
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        subprocess.Popen([sys.executable, "-c", {child!r}])
        from benchmarks.on_gpu import Records
        from pathlib import Path
        Records(Path({str(tmp_path)!r})).write("hangs", "half", value=1)
        time.sleep(600)"""
    scripts = {"fails": "import sys; print('said'); sys.exit('on purpose')", "hangs": hangs, "fine": "print('reached')"}
    done, records, seconds = scripted(tmp_path, scripts, {"fails": 3, "hangs": 5, "fine": 15}, 23)
    states = {one["stage"]: one["state"] for one in records if one["what"] == "ended"}
    assert states == {"fails": "failed", "hangs": "stopped", "fine": "done"} and not done
    assert seconds < 23
    assert [one["value"] for one in records if one["what"] == "half"] == [1]  # what it had found stays
    log = (tmp_path / "log.txt").read_text()
    assert all(word in log for word in ("said", "on purpose", "reached"))
    marker.unlink()
    time.sleep(0.5)
    assert not marker.exists()  # what the stage had started is gone with it
    text = "\n".join(tables(records))
    assert "| fails | failed |" in text and "| hangs | stopped |" in text and "| fine | done |" in text


def test_unused_time_passes_on_and_what_has_no_limit_takes_what_is_left(tmp_path):
    scripts = dict.fromkeys(("first", "second", "last"), "pass")
    _, records, _ = scripted(tmp_path, scripts, {"first": 60, "second": 30, "last": 0}, 90)
    limits = {one["stage"]: one["limit"] for one in records}
    assert limits["first"] == pytest.approx(60, abs=1)
    assert 80 < limits["second"] < 90 and 70 < limits["last"] < limits["second"]
    _, records, seconds = scripted(tmp_path, {"last": "import time; time.sleep(9)"}, {"last": 0}, 3)
    assert records[-1]["state"] == "no time left" and seconds < 1


def test_the_limits_are_those_of_eight_point_seven_minutes_and_files_stay_small(tmp_path):
    assert sum(stage.limit for stage in STAGES) <= 8.7 * 60 - 2
    assert {stage.name for stage in STAGES} == gpu_stages.STAGES.keys()
    scripted(tmp_path, {"loud": "import sys; sys.stderr.write('word\\n' * 1_000_000 + 'end\\n')"}, {"loud": 60}, 60)
    assert (tmp_path / "log.txt").stat().st_size < 2_000_000
    assert (tmp_path / "log.txt").read_text().endswith("end\n")


# What fails a stage


def run_of(stage: str, folder: Path, seconds: float = 60) -> gpu_stages.Run:
    return gpu_stages.Run(stage, folder, folder, folder, time.monotonic() + seconds, True)


@pytest.mark.parametrize("stage", [gpu_stages.step, gpu_stages.pytorch])
@pytest.mark.parametrize("reason", ["out of memory", NO_TIME])
def test_a_case_that_fails_fails_its_stage_except_for_want_of_time(stage, reason, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_stages, "measure", lambda cases, sides, **_: [{"sides": {sides[0]: {"failed": reason}}}])
    monkeypatch.setattr(gpu_stages, "importlib", SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name)))
    stage(run := run_of(stage.__name__, tmp_path))
    assert set(run.failed) == ({"case"} if reason != NO_TIME else set())
    assert {one["failed"] for one in Records(tmp_path).read()} == {reason}


@pytest.mark.parametrize("broken", ["", "many elements: the kernel is wrong", "bits"])
def test_a_kernel_is_judged_beside_xlas_and_by_its_bits(broken, tmp_path, monkeypatch):
    """By attentions that give ones, a little off in bfloat16."""
    many, noise = gpu_stages.REHEARSAL.many[0], np.random.default_rng(0)

    def made(attention, heads, rate):
        def function(qkv, segments, keys, gradient):
            off = 0 if qkv.dtype == np.float32 else 1e-3
            if attention is not attentions.xla_attention:
                off += (broken.startswith("many") and len(qkv) == many) + (broken == "bits") * noise.uniform(0, 1e-4)
            return (np.full(gradient.shape, 1 + off, np.float32),) * 2

        return function

    monkeypatch.setattr(attentions, "forward_and_backward", made)
    monkeypatch.setattr(gpu_stages, "seconds_of", lambda *_: 1.0)
    gpu_stages.kernel(run := run_of("kernel", tmp_path))
    assert set(run.failed) == {broken} - {""}
    assert sum("elements the" in line for line in tables(Records(tmp_path).read())) == 4


@pytest.mark.parametrize("flag", ["", "--xla_gpu_deterministic_ops=true"])
def test_runs_that_differ_fail_under_the_deterministic_flag_alone(flag, tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text('{"length": 8, "vocabulary": 9}')
    monkeypatch.setattr(gpu_stages, "REHEARSAL", dataclasses.replace(gpu_stages.REHEARSAL, flags=(flag,)))
    ended = SimpleNamespace(poll=lambda: 0, returncode=0)
    monkeypatch.setattr(gpu_stages.subprocess, "Popen", lambda *_, **__: ended)
    monkeypatch.setattr(verify_resume, "differences", lambda *_: ["an array"])
    gpu_stages.bits(run := run_of("bits", tmp_path))
    assert run.failed == (["again", "killed"] if flag else [])
    assert [one["different"] for one in Records(tmp_path).read()] == [1, 1]


def test_the_half_of_the_gradients_for_which_there_was_no_time_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_stages, "sum_tables", lambda *_: None)
    gpu_stages.gradients(run := run_of("gradients", tmp_path, seconds=3))
    assert not run.failed
    assert "- --xla_gpu_deterministic_ops=true: no time left" in tables(Records(tmp_path).read())


# A rehearsal

WITHOUT = """if True:
    import importlib.machinery, sys

    class Refuse:
        \"\"\"These are found in this project's folders and in none of Python's.\"\"\"

        @staticmethod
        def find_spec(name, path=None, target=None):
            if name not in {"tensorflow", "ml_collections", "tensorboardX", "tiktoken", "sentencepiece"}:
                return None
            own = [folder for folder in sys.path if "site-packages" not in folder]
            found = importlib.machinery.PathFinder.find_spec(name, own)
            if found is None:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            return found

    sys.meta_path.insert(0, Refuse)
"""


@pytest.fixture(scope="module")
def travelling(small_corpus, tmp_path_factory) -> Path:
    """A folder as gpu_folder makes it, with this Python's own packages."""
    folder = tmp_path_factory.mktemp("travelling")
    (folder / "corpus").symlink_to(small_corpus.folder)
    for name in gpu_folder.PACKAGES:
        (installed,) = importlib.util.find_spec(name).submodule_search_locations
        (folder / "packages" / name).mkdir(parents=True)
        with zipfile.ZipFile(folder / "packages" / name / f"{name}.whl", "w") as wheel:
            sites = Path(installed).parent
            for path in [*Path(installed).rglob("*"), *sites.glob(f"{name}.libs/*")]:
                if path.is_file() and "__pycache__" not in path.parts:
                    wheel.write(path, path.relative_to(sites))
    return folder


def rehearse(folder: Path, out: Path, stages: str, minutes: float, site: Path) -> subprocess.CompletedProcess:
    """As on a machine without TensorFlow and the packages that travel."""
    (site / "sitecustomize.py").write_text(WITHOUT)
    environment = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-m", "benchmarks.on_gpu", "--rehearse", f"--out={out}", f"--folder={folder}"]
    command += [f"--stages={stages}", f"--minutes={minutes}"]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def test_a_rehearsal_ends_well_without_tensorflow(travelling, tmp_path):
    """The loader, a whole run of main that is killed and resumed, and what it has learned."""
    done = rehearse(travelling, tmp_path / "out", "environment,pretraining,inference", 8, tmp_path)
    records = Records(tmp_path / "out").read()
    states = {one["stage"]: one["state"] for one in records if one["what"] == "ended" and "state" in one}
    assert states == dict.fromkeys(("environment", "pretraining", "inference"), "done"), done.stdout + done.stderr
    assert done.returncode == 0
    (versions,) = (one for one in records if one["what"] == "versions")
    assert "NumPy" in versions["packages"]["tensorflow"]
    (ended,) = (one for one in records if one["stage"] == "pretraining" and "curve" in one)
    (killed,) = (one for one in records if one["what"] == "killed")
    (resumed,) = (one for one in records if one["what"] == "resumed")
    assert resumed["seconds"] > 0 and resumed["repeated"] == ended["ledger"]["lost"]
    assert 0.6 * ended["steps"] <= killed["after_step"] < ended["reached"] == ended["steps"]
    losses = [line["train/loss"] for line in ended["curve"] if "train/loss" in line]
    assert losses[-1] < losses[0]
    (embedded,) = (one for one in records if one["what"] == "embed")
    assert embedded["model"] == "pretrained here" and embedded["texts_per_second"] > 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert done.stdout.endswith(report) and len(report) < 12_000 and "A rehearsal" in report
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(files) <= 8 and all(path.parent == tmp_path / "out" for path in files)
    with pytest.raises(UserError, match="rehearsal"):
        on_gpu.write_report(tmp_path / "out", tmp_path)


def test_a_stage_of_a_rehearsal_that_fails_leaves_the_others(travelling, tmp_path):
    """Its corpus is damaged: the loader of the first stage fails, the rest of that and the next do not."""
    folder = tmp_path / "travelling"
    folder.mkdir()
    (folder / "packages").symlink_to(travelling / "packages")
    (folder / "corpus").mkdir()
    (folder / "corpus" / "manifest.json").write_text("{}")
    done = rehearse(folder, tmp_path / "out", "environment,gradients", 4, tmp_path)
    records = Records(tmp_path / "out").read()
    states = {one["stage"]: one["state"] for one in records if one["what"] == "ended"}
    assert states == {"environment": "failed", "gradients": "done"}, done.stdout + done.stderr
    assert done.returncode == 1 and "- loader: UserError: " in done.stdout and "manifest.json: 'key' is None" in done.stdout
    assert any(one["what"] == "product" for one in records)
    sums = [one for one in records if one["what"] == "sum"]
    assert {one["flag"] for one in sums} == {"", "--xla_gpu_deterministic_ops=true"}
    for one in sums:
        assert one["distance"]["mask"] < (0.1 if "bfloat16" in one["way"] else 1e-5)


# What it reads and writes


def test_what_has_to_travel(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(gpu_folder, "take_packages", lambda folder: None)  # which come from an index of packages
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "stories.txt.zst").write_bytes(b"")
    text = "\n\n".join(f"Story {i} begins.\nIt goes on and on.\nIt ends." for i in range(300))
    subprocess.run(
        [sys.executable, "-c", COMPRESS, str(tmp_path / "text" / "stories.txt.zst")], input=text.encode(), check=True
    )
    (tmp_path / "suite").mkdir()
    lines = [json.dumps({"sentence_good": f"good {i}", "sentence_bad": f"bad {i}"}) for i in range(9)]
    (tmp_path / "suite" / "one.jsonl").write_text("\n".join(lines) + "\n")
    given = [f"--out={tmp_path / 'out'}", f"--text={tmp_path / 'text'}", "--sources=stories", "--vocabulary=300", "--length=32"]
    monkeypatch.setattr(sys, "argv", ["gpu_folder", *given, f"--pairs={tmp_path / 'suite'}", "--number=4"])
    gpu_folder.main()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"corpus", "blimp"}
    assert len((tmp_path / "out" / "blimp" / "one.jsonl").read_text().splitlines()) == 4
    assert json.loads((tmp_path / "out" / "corpus" / "manifest.json").read_text())["length"] == 32
    monkeypatch.setattr(gpu_folder, "LARGEST", 1000)
    with pytest.raises(UserError, match="expected 0 at most"):
        gpu_folder.main()


COMPRESS = """
import sys, pyarrow
with pyarrow.output_stream(sys.argv[1], compression="zstd") as file:
    file.write(sys.stdin.buffer.read())
"""


def test_a_folder_that_is_missing_or_full_is_named(tmp_path):
    with pytest.raises(UserError, match="benchmarks.gpu_folder"):
        on_gpu.measure(list(STAGES), tmp_path, tmp_path / "out", 1, True)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="not empty"):
        on_gpu.measure(list(STAGES), tmp_path, tmp_path, 1, True)
    with pytest.raises(UserError, match="found.jsonl"):
        on_gpu.write_report(tmp_path, tmp_path)


def test_the_page_names_what_has_to_be_installed():
    page = " ".join((ROOT / "docs" / "performance.md").read_text().split())
    first, *rest = on_gpu.REQUIRED
    assert f"`{first}[cuda13] {' '.join(rest).replace('.', '-')}`" in page


@pytest.mark.parametrize("where", ["REQUIRED", "PACKAGES"])
def test_packages_that_are_missing_are_named_before_the_first_stage(where, tmp_path, monkeypatch):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "manifest.json").write_text("{}")
    monkeypatch.setattr(on_gpu, where, (*getattr(on_gpu, where), "no_such_package"))
    with pytest.raises(UserError, match="no_such_package: not installed"):
        on_gpu.measure(list(STAGES), tmp_path, tmp_path / "out", 1, True)
    assert not (tmp_path / "out").exists()


def test_the_report_shows_what_was_recorded(tmp_path):
    records = Records(tmp_path)
    records.write("all", "begun", command="python -m benchmarks.on_gpu --minutes=8.7", date="2026-01-02", rehearsal=False)
    records.write(
        "environment", "versions", machine="16 cores", device="NVIDIA H100 80GB HBM3", driver="580", packages={"jax": "1"}
    )
    records.write("environment", "product", size=8192, flops=791.2e12)
    case = Case("base", 32, 512, 0.1, "bfloat16")
    plan = {"model_flops": 10e12, "matmul_flops": 10e12, "hbm_bytes": 33.5e9, "device_kind": "NVIDIA H100 80GB HBM3"}
    asdict = gpu_stages.asdict(case)
    records.write("step", "case", case=asdict, seconds=[0.02, 0.021, 0.019], prepared=31.0, memory=9e9, plan=plan)
    records.write("pytorch", "case", case=asdict, side="PyTorch SDPA", seconds=[0.03], prepared=2.0, memory=8e9)
    records.write("pytorch", "case", case=asdict, side="PyTorch compile", failed="no time left")
    with open(records.path, "a") as file:
        file.write('{"stage": "bits", "what"\n')  # of a stage that was ended in the midst of a line
    records.write("bits", "compared", flag="", said="as it is", run="killed", different=0, first=[], resumed=True)
    records.write("bits", "compared", flag="", said="as it is", run="again", failed="again: exit status 1")
    records.write("bits", "compared", failed="KeyError: 'step'")
    path = on_gpu.write_report(tmp_path, tmp_path)
    text = path.read_text()
    assert path.name == "gpu-2026-01-02.md" and text.startswith("# On NVIDIA H100 80GB HBM3, 2026-01-02\n")
    assert "791.2 TFLOP/s, 80% of the data sheet's" in text
    # 10 TFLOP at 989 TFLOP/s and 33.5 GB at 3,350 GB/s are 20.1 ms in turn.
    assert "| 20.0 | 819,200 | 50.6% | 20.1 | 0.99 | 31.0 | 9.00 |" in text
    assert "| 30.0 | 546,133 | 1.50 | 2.0 | 8.00 |" in text and "| PyTorch compile | no time left |" in text
    assert "| as it is | killed and resumed | the same |" in text
    assert text.count("again: exit status 1") == 1 and "- compared: KeyError: 'step'" in text
    assert not any("cannot be made" in line for line in tables(records.read()))
    assert not any(any(section([])) for section in SECTIONS.values())
