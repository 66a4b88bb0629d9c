"""What a person or a program reads on standard output and standard error."""
