"""What is installed is whole and runs anywhere: the sdist, the wheel that is made of it, the command, the version."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest
from forked import simulated
from packaging.version import Version
from test_layering import COMMANDS

import roberta_jax
from roberta_jax.__main__ import COMMANDS as WORDS

ROOT = Path(__file__).parent.parent
BUILD = "import sys, setuptools.build_meta as build; build.build_{}(sys.argv[1])"
FOREIGN = "raise SystemExit('a foreign config was read')\n"


def build(what: str, source: Path, to: Path) -> Path:
    to.mkdir()
    done = subprocess.run([sys.executable, "-c", BUILD.format(what), to], cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (made,) = to.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """The folder of an sdist, unpacked, which is made of what git has."""
    if Version(version("setuptools")) < Version("77"):
        pytest.skip("setuptools here is older than pyproject.toml asks for")
    folder = tmp_path_factory.mktemp("sdist")
    if not (ROOT / ".git").exists():
        pytest.skip("no repository, whose files an sdist would have")
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True)
    with tarfile.open(folder / "tree.tar", "w") as tree:
        for name in filter(None, names.stdout.decode().split("\0")):
            if (ROOT / name).exists():
                tree.add(ROOT / name, name)
    with tarfile.open(folder / "tree.tar") as tree:
        tree.extractall(folder / "tree", filter="data")
    with tarfile.open(build("sdist", folder / "tree", folder / "made")) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = (path for path in folder.glob("roberta_jax-*") if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist, tmp_path_factory) -> Path:
    return build("wheel", sdist, tmp_path_factory.mktemp("wheel") / "made")


@pytest.fixture(scope="module")
def command(wheel, tmp_path_factory) -> Path:
    """`roberta-jax` where pip has put it."""
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", folder, wheel]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin" / "roberta-jax"


def run(command: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = os.environ | simulated(1) | {"PYTHONPATH": str(command.parent.parent)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own wish
    return subprocess.run([command, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)


def test_the_sdist_has_all_that_git_has(sdist):
    def files(folder: Path) -> set[str]:
        return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}

    made = {"PKG-INFO", "setup.cfg"}
    found = {name for name in files(sdist) if not re.match(r"roberta_jax\.egg-info/|build/", name)}
    assert found - made == {
        name for name in files(sdist.parent / "tree") if not re.match(r"roberta_jax\.egg-info/|build/", name)
    }
    assert os.access(sdist / "launch_tpu.sh", os.X_OK)


def test_the_wheel_has_the_package_and_the_configs_and_no_other_name(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = {path.relative_to(ROOT).as_posix() for path in (ROOT / "roberta_jax").rglob("*.py")}
    configs = {f"roberta_jax/{path.relative_to(ROOT).as_posix()}" for path in (ROOT / "configs").glob("*.py")}
    assert names == package | configs | {"roberta_jax/py.typed", "roberta_jax/demo.html"} and len(configs) == 6


def test_the_installed_command_trains_in_any_folder_and_says_nothing_of_others(command, documents, tmp_path):
    """Whatever stands in that folder: a `configs`, and a `roberta_jax` too."""
    cwd = tmp_path / "somewhere"
    for name in ("configs/base.py", "configs/__init__.py", "base.py", "roberta_jax/__init__.py"):
        (cwd / name).parent.mkdir(parents=True, exist_ok=True)
        (cwd / name).write_text(FOREIGN)
    (cwd / "text.txt").write_text("\n\n".join(documents[:200]))
    fields = {
        "steps": 2, "optimizer.warmup_steps": 1, "batch_size": 8, "data.source": "text.txt", "data.tokenizer": 300,
        "data.valid_fraction": 0.1, "data.processes": 1,
    }  # fmt: skip
    more = [f"--config.{name}={value}" for name, value in fields.items()]
    done = run(command, "train", "--config=tiny", "--workdir=W", *more, cwd=cwd)
    assert done.returncode == 0 and "step 2: valid/accuracy" in done.stdout, done.stdout + done.stderr
    typed = (cwd / "W" / "command.txt").read_text()
    assert typed.startswith("python -m roberta_jax.main --config=tiny --workdir=W --config.steps=2 ") and "train" not in typed
    # No line of TensorFlow's, Orbax' or JAX's: beside the run's own there is the bar of the preparation alone.
    lines = re.split(r"[\r\n]+", done.stderr.strip())
    assert all(line.startswith("preparing:") for line in lines), done.stderr
    assert not re.search(r"^(WARNING|ERROR|INFO|[IWEF]\d{4}|\d{4}-\d\d-\d\d)|Warning:", done.stdout, re.M), done.stdout
    done = run(command, "train", "--config=configs/tiny.py", "--workdir=V", cwd=cwd)
    assert done.returncode == 2 and "--config=tiny comes with the package" in done.stderr


def test_each_command_is_a_word_of_the_one(tmp_path):
    assert {module for module, _ in WORDS.values()} == COMMANDS

    def said(*words: str) -> subprocess.CompletedProcess:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            [sys.executable, "-m", "roberta_jax", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )

    for word, flag in (("plan", "--topology"), ("train", "--workdir"), ("export", "--out")):
        helped = said(word, "--help")
        assert helped.returncode == 0 and flag in helped.stdout and not helped.stderr, helped
    assert (
        all(f"\n  {word} " in said().stdout for word in WORDS) and said("--version").stdout.strip() == roberta_jax.__version__
    )
    wrong = said("trian")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: there is no command 'trian'; there are train, prepare,")


def test_the_version_is_the_changelogs():
    """One that is released has a heading there; what is not yet released comes after the newest of them."""
    first, *_ = headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    released = [Version(heading) for heading in headings if heading != "Not yet released"]
    ours = Version(roberta_jax.__version__)
    assert released == sorted(released, reverse=True)
    if first == "Not yet released":
        assert ours > released[0] and ours.is_devrelease
    else:
        assert ours == released[0]
    (cited,) = re.findall(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert Version(cited) == released[0]


def test_the_pythons_that_are_named_are_those_that_it_can_be_installed_on():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {name.split(" :: ")[-1] for name in project["classifiers"] if re.search(r":: 3\.\d+$", name)}
    assert project["requires-python"] == ">=3.11,<3.14" and named == {"3.11", "3.12", "3.13"}
