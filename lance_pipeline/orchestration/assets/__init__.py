"""The assets of one dataset, a file for each step of the graph."""
