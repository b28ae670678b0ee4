"""Copying batches to a device from page-locked memory, which is not reused before the device has read it."""

import ctypes
import gc
import logging
import time
from contextlib import nullcontext
from itertools import chain

import numpy as np
import pytest
import torch

from lance_pipeline.images import Augment, ImageLoader
from lance_pipeline.loader.buffers import Buffers, PageLocked
from lance_pipeline.loader.devices import _IN_FLIGHT, CopyStream, Upload
from lance_pipeline_tests.loader.loaders import NORMALIZE, assert_same, batches, make

STILL, EPOCHS = Augment(flip=False), range(6)


class LateEvent:
    """An event that completes after a number of queries, or when it is waited for."""

    def __init__(self, copies: list[tuple[int, torch.Tensor]], patience: int) -> None:
        self._copies, self._patience = copies, patience

    def query(self) -> bool:
        self._patience -= 1
        if self._patience < 0:
            self.synchronize()
        return self._patience < 0

    def synchronize(self) -> None:
        while self._copies:
            address, target = self._copies.pop()
            ctypes.memmove(target.data_ptr(), address, target.nbytes)


class LateStream(CopyStream):
    """Like a GPU: reads memory when the event completes, not when the copy is queued, and keeps no reference to it."""

    def __init__(self, patience: int) -> None:
        self._patience, self._queued, self.events = patience, [], []

    def activate(self):
        return nullcontext()

    def copy(self, tensor):
        if tensor.ndim < 4:
            return tensor.clone()
        target = torch.full_like(tensor, 255)
        self._queued.append((tensor.data_ptr(), target))
        return target

    def record(self):
        self.events.append(LateEvent(self._queued, self._patience))
        self._queued = []
        return self.events[-1]

    def wait_for(self, batch, done) -> None:
        pass


def epochs_of(loader: ImageLoader):
    """The batches that the loader's threads assemble, for several epochs."""
    for epoch in EPOCHS:
        loader.set_epoch(epoch)
        yield loader._epoch_batches().of(range(len(loader)))


@pytest.mark.parametrize("patience", [0, 2, 1000])
def test_memory_is_not_reused_before_the_device_has_read_it(uri, patience):
    options = {"normalize": None, "augment": STILL, "threads": 1}
    ahead = chain.from_iterable(epochs_of(make(uri, **options)))
    expected = [(one.images.clone(), one.labels) for one in ahead]
    stream = LateStream(patience)
    upload = Upload(torch.device("cpu"), STILL.operations, None, stream)
    found = list(upload(chain.from_iterable(epochs_of(make(uri, **options)))))
    assert len(stream.events) == len(found) > 10 * _IN_FLIGHT
    assert_same(found, expected)


def test_few_batches_are_kept_for_a_slow_device(uri):
    loader, stream = make(uri, normalize=None, augment=STILL, threads=1), LateStream(10**6)
    batches_ahead = chain.from_iterable(epochs_of(loader))
    upload = Upload(torch.device("cpu"), STILL.operations, None, stream)(batches_ahead)
    for _ in range(30):
        next(upload)
    late = sum(bool(event._copies) for event in stream.events)
    assert late == _IN_FLIGHT
    upload.close()
    assert not any(event._copies for event in stream.events)
    gc.collect()
    # Batches are assembled in pairs: those in flight, a pair being assembled, and a pair being used.
    assert loader._buffers.pixels._allocated <= _IN_FLIGHT + 4


def test_buffers_are_reused_and_allocated_as_configured():
    allocated: list[int] = []

    def allocate(nbytes: int) -> np.ndarray:
        memory = torch.empty(nbytes, dtype=torch.uint8).numpy()
        allocated.append(memory.ctypes.data)
        return memory

    buffers = Buffers(48, allocate)
    for _ in range(3):
        array = buffers.empty((2, 6), np.float32)
        assert array.ctypes.data == allocated[0]
        del array
    arrays = [buffers.empty((48,), np.uint8) for _ in range(2)]
    assert [array.ctypes.data for array in arrays] == allocated
    assert buffers.empty((49,), np.uint8).shape == (49,)
    assert len(allocated) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is page-locked memory")
def test_without_page_locked_memory_there_is_one_warning_and_pageable_memory(caplog):
    buffers = Buffers(12, PageLocked())
    with caplog.at_level(logging.WARNING):
        arrays = [buffers.empty((12,), np.uint8) for _ in range(3)]
    assert len({array.ctypes.data for array in arrays}) == 3
    assert sum("page-locked" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("pause", [0.0, 0.02])
@pytest.mark.cuda
def test_batches_on_the_gpu_equal_those_on_the_cpu(uri, pause):
    options = {"augment": Augment(padding=2), "normalize": NORMALIZE}
    gpu, cpu = make(uri, **options, device="cuda:0"), make(uri, **options)
    for epoch in EPOCHS:
        for loader in (gpu, cpu):
            loader.set_epoch(epoch)
        found = []
        for images, labels in gpu:
            # Delays the computation and the consumer.
            torch.cuda._sleep(20_000_000)
            time.sleep(pause)
            found.append((images.clone(), labels.clone()))
        for (images, labels), (expected, expected_labels) in zip(found, batches(cpu), strict=True):
            torch.testing.assert_close(images.cpu(), expected, rtol=1e-5, atol=1e-5)
            assert labels.tolist() == expected_labels.tolist()


@pytest.mark.cuda
def test_batches_for_the_gpu_are_assembled_in_page_locked_memory(uri, caplog):
    loader = make(uri, device="cuda:0")
    # The loader initialises CUDA first: memory is page-locked for the GPU that the process uses.
    torch.cuda.init()
    torch.zeros(1, device="cuda:0")
    assembled = list(loader._epoch_batches().of(range(len(loader))))
    assert assembled
    assert all(one.images.is_pinned() for one in assembled)
    assert not [record for record in caplog.records if "page-locked" in record.message]
