"""Memory for batches is reused once nothing uses it, and never before."""

import gc
import pickle
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lance_pipeline.images import Augment, CachePlace, ImageLoader
from lance_pipeline.loader import buffers as buffers_module
from lance_pipeline.loader.buffers import Buffers
from lance_pipeline_tests.loader.loaders import batches, make

# Each is something that a user can keep of a tensor (4, 3), and that its memory must outlive.
KEPT: dict[str, Callable[[torch.Tensor], Any]] = {
    "itself": lambda tensor: tensor,
    "slice": lambda tensor: tensor[1:2],
    "view": lambda tensor: tensor.view(-1)[5:],
    "transposed": lambda tensor: tensor.T,
    "detached": lambda tensor: tensor.detach(),
    "numpy": lambda tensor: tensor.numpy(),
    "numpy of a slice": lambda tensor: tensor[2:].numpy()[0],
    "numpy view": lambda tensor: tensor.numpy().view(np.uint8)[1:],
    "tensor of numpy": lambda tensor: torch.from_numpy(tensor.numpy()[::2]),
    "memoryview": lambda tensor: tensor.numpy().data,
    "storage": lambda tensor: tensor.untyped_storage(),
    "dlpack": np.from_dlpack,
    "iterator": iter,
    "cycle": lambda tensor: _cycle(tensor[3]),
}


def _cycle(value: object) -> list[object]:
    cycle: list[object] = [value]
    cycle.append(cycle)
    return cycle


def leased(buffers: Buffers) -> torch.Tensor:
    return torch.from_numpy(buffers.empty((4, 3), np.float32))


def values_of(kept: Any) -> np.ndarray:
    """The values of a kept part, float32."""
    if isinstance(kept, torch.UntypedStorage):
        return np.frombuffer(bytes(kept), np.float32)
    part = kept[0] if isinstance(kept, list) else kept if hasattr(kept, "shape") else next(kept)
    return np.asarray(part).reshape(-1).view(np.float32)


@pytest.mark.parametrize("kind", KEPT)
@pytest.mark.parametrize("pool_lives", [True, False])
def test_memory_is_reused_only_when_nothing_uses_it(kind, pool_lives):
    buffers = Buffers(48)
    tensor = leased(buffers).fill_(7)
    address, kept = tensor.data_ptr(), KEPT[kind](tensor)
    del tensor
    others = [leased(buffers).fill_(0) for _ in range(3)]
    assert address not in {other.data_ptr() for other in others}
    if pool_lives:
        assert (values_of(kept) == 7).all()
        del kept
        if kind == "cycle":
            assert leased(buffers).data_ptr() != address
            gc.collect()
        assert leased(buffers).data_ptr() == address
    else:
        del buffers, others
        # These would take the memory, had it been freed.
        noise = [np.zeros(12, np.float32) for _ in range(1000)]
        assert address not in {array.ctypes.data for array in noise}
        assert (values_of(kept) == 7).all()


def test_memory_is_freed_with_the_last_of_pool_and_arrays():
    freed = []

    def allocate(nbytes: int) -> np.ndarray:
        array = np.empty(nbytes, np.uint8)
        weakref.finalize(array, freed.append, True)
        return array

    buffers = Buffers(48, allocate)
    tensor = leased(buffers)
    del buffers
    assert not freed
    del tensor
    assert freed


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "keep view", "drop"]), st.integers(0, 9)), max_size=60))
def test_arrays_in_use_never_share_memory(actions):
    buffers, used, value = Buffers(48), [], 0
    most = 0
    for action, place in actions:
        if action == "take" or not used:
            value += 1
            used.append((value, leased(buffers).fill_(value)))
        elif action == "keep view":
            number, tensor = used.pop(place % len(used))
            used.append((number, tensor[..., :1]))
            del tensor
        else:
            used.pop(place % len(used))
        most = max(most, len(used))
        assert all((tensor == number).all() for number, tensor in used)
    assert buffers._allocated <= most


def test_beyond_the_maximum_arrays_get_their_own_memory(monkeypatch):
    monkeypatch.setattr(buffers_module, "_MAX_BUFFERS", 3)
    buffers = Buffers(48)
    kept = [leased(buffers).fill_(number) for number in range(8)]
    assert len({tensor.data_ptr() for tensor in kept}) == 8
    assert [int(tensor[0, 0]) for tensor in kept] == list(range(8))
    assert buffers._allocated == 3


def test_buffers_are_leased_and_returned_by_many_threads():
    buffers, wrong = Buffers(48), []

    def work(number: int) -> None:
        kept = []
        for step in range(2000):
            kept.append(leased(buffers).fill_(number))
            if step % 7 == number % 7:
                wrong.extend(tensor for tensor in kept if not (tensor == number).all())
                kept.clear()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert not wrong
    assert buffers._allocated <= 4 * 8


def _parts(loader: ImageLoader) -> list[Any]:
    """Views of all kinds of the batches of four epochs."""
    kept: list[Any] = []
    for epoch in range(4):
        loader.set_epoch(epoch)
        for number, (images, _) in enumerate(loader):
            kept.append([images, images[1:], images[0, 0], images.numpy()[:, 1], images[2].numpy().data][number % 5])
    return kept


@pytest.mark.parametrize("normalize", [None, ((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))])
@pytest.mark.parametrize("cached", [False, True])
def test_kept_parts_of_batches_never_change(uri, tmp_path, normalize, cached):
    options = {"normalize": normalize, "augment": Augment(padding=2)}
    if cached:
        options["cache"] = CachePlace(str(tmp_path))
    kept = _parts(make(uri, **options))
    copies = [np.asarray(part).copy() for part in kept]
    # Uses the memory of the loader, had it been freed.
    batches(make(uri, **options))
    assert all(np.array_equal(np.asarray(one), copy) for one, copy in zip(kept, copies, strict=True))
    assert pickle.loads(pickle.dumps(kept[0])).equal(kept[0])


def test_memory_is_bounded_when_nothing_is_kept(uri):
    loader = make(uri, threads=2)
    for epoch in range(3):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
    once = (loader._buffers.pixels._allocated, loader._buffers.floats._allocated)
    for epoch in range(10):
        loader.set_epoch(epoch)
        for _ in loader:
            pass
    assert sum(once) < 16
    assert (loader._buffers.pixels._allocated, loader._buffers.floats._allocated) <= tuple(count + 2 for count in once)
