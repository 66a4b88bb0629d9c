"""How often a test repeats what comes by chance: fewer times in CI than in `make test-matrix`."""

from __future__ import annotations

import os

ALL = os.environ.get("BDLAB_TEST_ROUNDS") == "all"


def rounds(in_ci: int, in_matrix: int) -> int:
    """Return `in_matrix` if BDLAB_TEST_ROUNDS is "all", else `in_ci`."""
    return in_matrix if ALL else in_ci
