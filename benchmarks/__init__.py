"""Measurements that take minutes; none of them is run by the tests."""
