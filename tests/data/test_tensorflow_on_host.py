"""The TensorFlow that is there is used, and what is wrong with it is one sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
IMPORT = """
from roberta_jax.errors import exit_with_sentence
def main():
    import roberta_jax.data.tensorflow_on_host
exit_with_sentence(main)
"""
WORKS = """
class config:
    set_visible_devices = lambda *devices: None
"""
SPEAKS = """
import os
os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\\n")
os.write(2, b"I0000 00:00:1795765906.340416    1069 cudart_stub.cc:31] Could not find cuda drivers on your machine\\n")
os.write(2, b"2026-11-27 07:12:14.915358: E external/cuda_platform.cc:51] failed call to cuInit\\n")
os.write(2, b"somebody else's line\\n")
"""
BROKEN = 'raise ImportError("Traceback of its own\\n\\nundefined symbol: _ZN10tensorflow3foo")'
BOTH = (
    "tensorflow 2.20.0 and tensorflow-cpu 2.21.0 are both installed, over each other's files{}; expected one of them: "
    "pip uninstall -y tensorflow tensorflow-cpu && pip install 'tensorflow>=2.20,<2.22'\n"
)
CANNOT = ", which cannot be imported (undefined symbol: _ZN10tensorflow3foo)"
CASES = {  # the package's text, distributions → exit status, what is said
    "one that works": (WORKS, ["tensorflow 2.20.0"], 0, ""),
    "another one that works": (WORKS, ["tensorflow-cpu 2.20.0"], 0, ""),
    "one that speaks of GPUs that are not there": (SPEAKS + WORKS, ["tensorflow 2.21.0"], 0, "somebody else's line\n"),
    "both, and still it works": (WORKS, ["tensorflow 2.20.0", "tensorflow-cpu 2.21.0"], 0, "! " + BOTH.format("")),
    "both, and broken": (BROKEN, ["tensorflow 2.20.0", "tensorflow_cpu 2.21.0"], 2, "error: " + BOTH.format(CANNOT)),
    "broken": (
        BROKEN, ["tensorflow-cpu 2.21.0"], 2,
        f"error: tensorflow-cpu 2.21.0 is not whole{CANNOT}: "
        "pip install --force-reinstall --no-deps tensorflow-cpu==2.21.0\n",
    ),
    "what another one's removal leaves": (
        "", ["tensorflow 2.21.0"], 2,
        "error: tensorflow 2.21.0 is not whole, which cannot be imported (module 'tensorflow' has no attribute 'config'): "
        "pip install --force-reinstall --no-deps tensorflow==2.21.0\n",
    ),
    "none": (
        None, [], 2,
        "error: TensorFlow is not installed, whose tf.data makes the batches: pip install 'tensorflow>=2.20,<2.22'\n",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_with_tensorflow_is_a_sentence_with_the_command_that_mends_it(case, tmp_path):
    package, distributions, code, expected = CASES[case]
    if package is not None:
        (tmp_path / "tensorflow").mkdir()
        (tmp_path / "tensorflow" / "__init__.py").write_text(package)
    for each in distributions:
        name, version = each.split()
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    # Without site-packages, whose TensorFlow would be found too; the ground needs nothing of it.
    environment = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "TF_CPP_MIN_LOG_LEVEL": "1"}
    done = subprocess.run([sys.executable, "-S", "-c", IMPORT], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (code, expected, "")


def test_tensorflow_says_nothing_of_its_own():
    """It is imported after JAX, which sets the level of such lines, looks for GPUs and makes a batch."""
    code = "import jax; from roberta_jax.data.tensorflow_on_host import tf; next(iter(tf.data.Dataset.range(8).batch(8)))"
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
