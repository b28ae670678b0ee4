"""Limits torch to one thread where several threads already work.

``torch.set_num_threads`` would change MKL's number for all threads of the process; OpenMP has a number per thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


def limit_to_one_thread() -> None:
    """Make torch start no further threads for the calls of this thread."""
    # Torch sets the number at a thread's first call; after that, the limit stays.
    torch.get_num_threads()
    _openmp().limit(limits=1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on busy cores, waking up others takes longer than short work."""
    torch.get_num_threads()
    with _openmp().limit(limits=1):
        yield


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")
