"""The console: the pipeline, its proof and its model in a browser."""
