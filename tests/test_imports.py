"""What a run imports, and what it leaves alone."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from roberta_jax.imports import without

ROOT = Path(__file__).parent.parent


def test_a_package_is_hidden_within_and_there_afterwards():
    sys.modules.pop("antigravity", None)
    with without("antigravity"), pytest.raises(ImportError):
        importlib.import_module("antigravity")
    assert "antigravity" not in sys.modules and importlib.util.find_spec("antigravity")


def test_a_package_that_is_loaded_stays():
    with without("json"):
        import json
    assert sys.modules["json"] is json


def test_a_run_imports_only_what_it_uses():
    """Of what is installed for other things, and takes seconds: torch, and what Keras brings."""
    unused = "torch keras sklearn matplotlib pandas apache_beam tensorflow_datasets transformers".split()
    code = f"import sys, roberta_jax.pretraining.job; print(*sys.modules.keys() & set({unused}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not done.stdout.split()
