"""Everything about the pipeline on one GPU, in one call: ``python -m benchmarks.gpu --help``."""
