"""`python bound_exec.py PARENT_PID PROGRAM ARGUMENT…`: becomes the program, which the kernel kills when its parent ends, however it ends.

A process of its own, because the call belongs between fork and exec, where a launcher with threads must not run Python.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main() -> None:
    parent, *command = sys.argv[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        sys.exit(f"prctl failed: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != int(parent):  # it died before the kernel knew
        sys.exit("the parent is gone")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
