"""A static HTML page for each materialization: what it came to, in pictures and tables."""
