"""The `bdlab` command: thin `commands` over `wiring` (parts put together) and `output` (what is shown)."""

import os
import signal

if "_BDLAB_COMPLETE" in os.environ:
    # Ctrl-C while the shell asks for completions ends silently, from the first import on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
