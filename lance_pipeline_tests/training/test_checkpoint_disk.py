"""Checkpoints on a full disk."""

import os

import pytest
import torch

from lance_pipeline.storage.full_disk import FullDiskError
from lance_pipeline.training.checkpoint import Checkpoints, exclusive, read_checkpoint


def test_a_full_disk_leaves_the_checkpoint_before(small_disk):
    folder = small_disk("1m")
    with Checkpoints.begun(folder, {}) as checkpoints:
        checkpoints.save({"small": torch.zeros(10)})
        checkpoints.wait()
        checkpoints.save({"large": torch.zeros(1 << 20)})
        with pytest.raises(FullDiskError, match=r"checkpoint\.pt"):
            checkpoints.wait()
    found = read_checkpoint(folder)
    assert found is not None
    assert found.state is not None
    assert found.state["small"].shape == (10,)
    assert sorted(os.listdir(folder)) == ["checkpoint.pt"]


def test_a_full_disk_is_named_before_anything_is_trained(small_disk):
    folder = small_disk("1m")
    (folder / ".lock").touch()
    with pytest.raises(OSError, match="No space left"):
        (folder / "filler").write_bytes(bytes(1 << 21))
    with (
        pytest.raises(FullDiskError),
        exclusive(folder, "flowers/resnet34", on_wait=print),
    ):
        raise AssertionError("nothing names the holder")
