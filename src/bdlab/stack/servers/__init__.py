"""The servers of the local stack: how each program is found, started and stopped."""
