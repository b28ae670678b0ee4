"""Torch on one thread, where several threads work already.

``torch.set_num_threads`` would change the number for MKL in all threads of the process. OpenMP keeps a number for each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


def stay_one_thread() -> None:
    """From now on have torch start no threads for what this thread asks of it."""
    # Torch sets the number when a thread first asks for it.
    torch.get_num_threads()
    _openmp().limit(limits=1)


@contextmanager
def one_thread() -> Iterator[None]:
    """Without torch's other threads: on busy cores they take longer to wake up than short work takes."""
    torch.get_num_threads()
    with _openmp().limit(limits=1):
        yield


@cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")
