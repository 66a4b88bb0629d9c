"""The programs of the local stack, and how each is found, started and stopped."""
