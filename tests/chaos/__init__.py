"""A storm of faults over the running pipeline, and the accounting at its end. Not part of the product."""
