"""Run another program that cannot outlive its parent; a script, never imported.

    python -I -S pdeathsig.py PARENT_PID SIGNAL PROGRAM [ARGUMENT...]

Linux sends SIGNAL (prctl PR_SET_PDEATHSIG) to this process when the thread that started it ends, also after kill -9 of
the parent. That survives exec and a new user namespace. It is set here and not in the parent's `preexec_fn`, which is
unsafe in a process with threads."""

import ctypes
import os
import sys

if __name__ == "__main__":
    parent, signal_number, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None).prctl(1, signal_number, 0, 0, 0)  # PR_SET_PDEATHSIG
    # The parent may have ended before that.
    if os.getppid() != parent:
        sys.exit(125)
    os.execvp(program[0], program)  # noqa: S606 - an argument list, no shell
