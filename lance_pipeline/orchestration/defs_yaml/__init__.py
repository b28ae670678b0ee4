"""What is wrong with a ``defs.yaml``: one line for each mistake, with file, line, key and an example."""
