"""Memory comes in huge pages, from the first line of a command on."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from roberta_jax.memory import TUNABLE

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, sys
from roberta_jax.memory import use_huge_pages
use_huge_pages()
import resource, numpy
faults = -resource.getrusage(resource.RUSAGE_SELF).ru_minflt
numpy.empty(2**26, numpy.uint8).fill(1)
print(os.environ.get("GLIBC_TUNABLES"), *sys.argv[1:], os.getpid(), faults + resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def run(program: str = PROGRAM, **environment: str) -> tuple[list[str], int]:
    """What the program said, and its process' number."""
    clean = {name: value for name, value in os.environ.items() if name != TUNABLE}
    command = [sys.executable, "-c", program, "--flag=a b"]
    process = subprocess.Popen(command, cwd=ROOT, env=clean | environment, stdout=subprocess.PIPE, text=True)
    return process.communicate()[0].split(), process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_a_command_starts_anew_with_huge_pages_its_arguments_and_its_number():
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if not setting.exists() or "[never]" in setting.read_text():
        pytest.skip("the system gives no huge pages")
    said, number = run()
    assert said[:-1] == ["glibc.malloc.hugetlb=1", "--flag=a", "b", str(number)]
    assert int(said[-1]) < 2**26 / 4_096 / 10  # pages of 4 KiB would be 16,384


def test_a_process_that_was_started_for_something_else_goes_on():
    said, number = run(PROGRAM.replace("use_huge_pages()", "sys.argv[1:] = ['--another']; use_huge_pages()", 1))
    assert said[:-1] == ["None", "--another", str(number)]


def test_what_is_set_already_stays():
    said, number = run(GLIBC_TUNABLES="glibc.malloc.check=0")
    assert said[:-1] == ["glibc.malloc.check=0", "--flag=a", "b", str(number)]
