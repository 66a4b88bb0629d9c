"""The `bdlab` command: each module parses, calls one library function and prints."""

import os
import signal

if "_BDLAB_COMPLETE" in os.environ:
    # Ctrl-C while the shell asks for completions: end without a word, from the first import on.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
