"""TensorFlow as it is used here: for tf.data's threads on the host."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib import metadata

from roberta_jax.errors import UserError
from roberta_jax.imports import without
from roberta_jax.output import show

# Distributions that hold the package `tensorflow`, all of them the same files: pip unpacks one over another, and says nothing.
DISTRIBUTIONS = ("tensorflow", "tensorflow-cpu", "tensorflow-gpu", "tensorflow-tpu", "tensorflow-rocm", "tf-nightly")
NEEDED = "tensorflow>=2.20,<2.22"
_ITS_LINE = re.compile(r"WARNING: All log messages before absl|[IWE]\d{4} |\d{4}-\d\d-\d\d \S+: [IWE] ")  # of its C++


def installed() -> dict[str, str]:
    """Distribution → version, of those that are here."""
    found = {}
    for name in DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def fault(found: dict[str, str], why: str = "") -> str:
    """What is wrong with the distributions that are here, and the command that mends it; "" where nothing is known to be.

    Args:
      why: it cannot be imported.
    """
    named = " and ".join(f"{name} {version}" for name, version in found.items())
    cannot = f", which cannot be imported ({why})" if why else ""
    if len(found) > 1:
        mend = f"pip uninstall -y {' '.join(found)} && pip install '{NEEDED}'"
        return f"{named} are both installed, over each other's files{cannot}; expected one of them: {mend}"
    if not found and why:
        return f"TensorFlow is not installed, whose tf.data makes the batches: pip install '{NEEDED}'"
    if why:
        ((name, version),) = found.items()
        return f"{named} is not whole{cannot}: pip install --force-reinstall --no-deps {name}=={version}"
    return ""


@contextmanager
def _without_its_lines() -> Iterator[None]:
    """What TensorFlow's C++ says at its start of GPUs that are not there, which in 2.21 no level silences, is left out."""
    with tempfile.TemporaryFile() as said:
        sys.stderr.flush()
        before = os.dup(2)
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            said.seek(0)
            lines = said.read().decode(errors="replace").splitlines()
            if others := [line for line in lines if not _ITS_LINE.match(line)]:
                show("\n".join(others), sys.stderr)


# Where nobody asked for another level (JAX makes it 1): TensorFlow reads it once, and would report that there is no GPU.
_level = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3" if _level == "1" else _level
try:
    # Keras brings scikit-learn and matplotlib; `tf.keras` is there all the same, if used.
    with without("keras"), _without_its_lines() if _level == "1" else nullcontext():
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")  # the accelerators are JAX's
except Exception as error:  # a symbol that is missing, a file, a folder that is empty: each raises something else
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    raise UserError(fault(installed(), reason)) from None
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2" if _level == "1" else _level  # XLA in JAX reads it too, and its errors matter
if _said := fault(installed()):
    show(f"! {_said}", sys.stderr)
