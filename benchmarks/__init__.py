"""Benchmarks, which take minutes; the tests do not run them."""
