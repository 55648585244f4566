"""How a process gets its memory from the system."""

import os
import platform
import sys

TUNABLE = "GLIBC_TUNABLES"


def use_huge_pages() -> None:
    """Starts this process anew, under the same number, with a glibc that asks for pages of 2 MiB: it reads that only then.

    On a CPU, XLA allocates a step's temporaries anew in each step, and the system hands them over page by page, cleared: in
    pages of 4 KiB, a sixth of the time of base's step. Does nothing where the variable is set already, or under another libc.
    """
    if TUNABLE in os.environ or platform.libc_ver()[0] != "glibc":
        return
    environment = os.environ | {TUNABLE: "glibc.malloc.hugetlb=1"}
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
