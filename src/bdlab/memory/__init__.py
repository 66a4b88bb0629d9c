"""Twins of the adapters that keep everything in memory: for tests, and for trying the library out."""
