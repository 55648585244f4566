"""What every test needs: eight simulated CPU devices, the assets, a tokenizer, a small corpus."""

import gc
import importlib.util
import os
import random
import re
import shutil
import signal
import sys
import tempfile
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path

sys.modules["tests.conftest"] = sys.modules[__name__]  # as tests name it who import from it: it is not run twice

os.environ["JAX_PLATFORMS"] = "cpu"
# The tests compile much and compute little: level 0, and XLA's older code for fused loops, which compiles in a third of the
# time and is gone from 0.11 on. Tolerances are the same.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
_CACHE = tempfile.TemporaryDirectory(prefix="roberta_jax_tests")  # goes with the process
os.environ["XDG_CACHE_HOME"] = _CACHE.name
# What is compiled is shared by pytest-xdist's workers, whose parent removes it at the end.
_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_COMPILED = Path(tempfile.gettempdir(), f"roberta_jax_tests_compiled_{os.getppid() if _WORKER else os.getpid()}")
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_COMPILED)
# What one test has compiled, here or in a process of its own, the next one reads: small programs too.
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
os.environ["TFDS_DATA_DIR"] = os.path.join(_CACHE.name, "tensorflow_datasets")

# A shell's job in the background ignores SIGINT, and so would what it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and so does nohup
# Traces make millions of objects that live on: by Python's own thresholds looking through them takes a tenth of the time.
gc.set_threshold(100_000, 50, 100)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

from roberta_jax.data.corpus import Corpus  # noqa: E402
from roberta_jax.model import flops  # noqa: E402
from roberta_jax.preparation import processes  # noqa: E402
from roberta_jax.preparation.config import CorpusConfig  # noqa: E402
from roberta_jax.preparation.prepare import prepare  # noqa: E402
from roberta_jax.preparation.workers import Workers  # noqa: E402
from roberta_jax.tokenization.tokenizer import ByteLevelBPE  # noqa: E402

ROOT = Path(__file__).parents[1]


def pytest_sessionfinish():
    if not _WORKER:
        shutil.rmtree(_COMPILED, ignore_errors=True)


# No time limit on a busy machine, and the same examples every time.
hypothesis.settings.register_profile(
    "tests", deadline=None, derandomize=True, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("tests")


class _WithoutPeer(pytest.Module):
    """Tests of a file that compares with a package that is not there, all of them."""

    def collect(self):
        pytest.skip(
            f"{self.path.name} compares with packages that are not installed: pip install -e '.[test]'", allow_module_level=True
        )


def peers_of(file: Path) -> set[str]:
    """The packages to compare with, of those that an environment may do without, that a file imports."""
    peers = re.findall(r"^(?:import|from) (torch|transformers|reference|seqeval)\b", file.read_text(), re.M)
    return {"torch" if peer == "reference" else peer for peer in peers}  # tests/reference.py


def pytest_pycollect_makemodule(module_path, parent):
    """An environment may do without PyTorch and transformers, as CI's second one does."""
    if not all(importlib.util.find_spec(peer) for peer in peers_of(module_path)):
        return _WithoutPeer.from_parent(parent, path=module_path)
    return None


class _ThisProcess:
    """In the place of one worker: a spawned Python takes seconds to import what then prepares a small corpus in a moment."""

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def submit(self, function, *arguments) -> Future:
        future = Future()
        try:
            future.set_result(function(*arguments))
        except BaseException as error:
            future.set_exception(error)
        return future

    def shutdown(self, **how):
        pass


@pytest.fixture(scope="session", autouse=True)
def _quick_starts():
    """A start of training does not measure this machine's matrix products, which takes half a second of all cores."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(processes, "Workers", lambda number: _ThisProcess() if number == 1 else Workers(number))
        patch.setattr(flops, "best_matmul_flops", lambda dtype: 1e12)
        yield


@pytest.fixture
def one_worker(monkeypatch):
    """For what one worker's process does."""
    monkeypatch.setattr(processes, "Workers", Workers)


def _public(name: str, variable: str) -> Path:
    folder = Path(os.environ.get(variable, ROOT.parent / "shared" / name))
    if not folder.is_dir():
        missing = f"no test {name} in {folder}; {variable} names their folder"
        if os.environ.get("ROBERTA_REQUIRE_ASSETS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return folder


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder of public data that some tests read."""
    return _public("assets", "ROBERTA_TEST_ASSETS")


@pytest.fixture(scope="session")
def minimal_pairs() -> Path:
    """The folder with blimp/, blimp-supplement/ and zorro/."""
    return _public("suites", "ROBERTA_TEST_SUITES")


@pytest.fixture(scope="session")
def cases() -> Path:
    """The folder of inputs as others publish them, with a README that says what is right for each."""
    return _public("cases", "ROBERTA_TEST_CASES")


@pytest.fixture(scope="session")
def roberta_tokenizer(assets) -> ByteLevelBPE:
    return ByteLevelBPE.load(assets / "roberta-vocab")


def _sentence(random: random.Random) -> str:
    who = random.choice(
        ["The old sailor", "A young painter", "My neighbour", "The quiet librarian", "Her brother", "The mayor"]
    )
    does = random.choice(["found", "carried", "painted", "lost", "remembered", "sold", "repaired", "described"])
    what = random.choice(["a wooden boat", "the red lantern", "an unfinished letter", "two silver coins", "the broken clock"])
    where = random.choice(["near the harbour", "in the garden", "behind the station", "under the bridge", "at the market"])
    when = random.choice(["before sunrise", "last winter", "on a rainy Tuesday", "after the concert", "years ago"])
    form = random.choice(["{0} {1} {2} {3} {4}.", "{0} {1} {2} {4}, {3}!", '"{0} {1} {2}?" they asked {3}.'])
    return form.format(who, does, what, where, when)


def english(documents: int, seed: int = 0) -> list[str]:
    """Documents of a few sentences, the same for the same seed."""
    chooser = random.Random(seed)
    return [" ".join(_sentence(chooser) for _ in range(chooser.randint(3, 12))) for _ in range(documents)]


@pytest.fixture(scope="session")
def documents() -> list[str]:
    return english(600)


@pytest.fixture(scope="session")
def small_corpus(documents, tmp_path_factory) -> Corpus:
    """A prepared corpus of the `documents`: rows of 64, a vocabulary of 400, a tenth of it valid."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "text.txt").write_text("\n\n".join(documents))
    recipe = CorpusConfig((str(folder / "text.txt"),), 400, length=64, valid_fraction=0.1)
    return prepare(recipe, folder / "corpus", folder / "cache", processes=1)


@pytest.fixture(scope="session")
def other_corpus(small_corpus, tmp_path_factory):
    """Of other documents, with the same tokenizer."""
    folder = tmp_path_factory.mktemp("other")
    (folder / "text.txt").write_text("\n\n".join(english(300, seed=1)))
    recipe = CorpusConfig((str(folder / "text.txt"),), str(small_corpus.folder / "tokenizer"), length=64, valid_fraction=0.1)
    return prepare(recipe, folder / "corpus", folder / "cache", processes=1)
