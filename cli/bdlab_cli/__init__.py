"""The `bdlab` command: each module parses, calls one library function and prints."""
