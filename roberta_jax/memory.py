"""How a process gets its memory from the system."""

import os
import platform
import sys

TUNABLE = "GLIBC_TUNABLES"


def use_huge_pages() -> None:
    """Starts this process anew, under the same number, with a glibc that asks for pages of 2 MiB: it reads that only then.

    On a CPU, XLA allocates a step's temporaries anew in each step, and the system hands them over page by page, cleared: in
    pages of 4 KiB, a sixth of the time of base's step. Does nothing where the variable is set already, under another libc, or
    in a process that was not started with these arguments, such as a notebook's.
    """
    arguments = sys.argv[1:]
    its_own = sys.orig_argv[len(sys.orig_argv) - len(arguments) :] == arguments
    if TUNABLE in os.environ or platform.libc_ver()[0] != "glibc" or not its_own:
        return
    environment = os.environ | {TUNABLE: "glibc.malloc.hugetlb=1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
