"""Augmentation and normalisation of whole batches, as tensor operations on any device.

Random numbers are drawn on the CPU from the given generator, so that a seed gives the same batches
on every device.
"""

import torch
from torch.nn.functional import pad


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Mirror each image of a batch (n, c, h, w) left to right with probability one half."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device)[:, None, None, None], images.flip(-1), images)


def random_pad_crop(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Shift each image of a batch (n, c, h, w) by up to ``padding`` pixels each way, edges mirrored."""
    n, _, height, width = images.shape
    padded = pad(images.float(), (padding,) * 4, mode="reflect").to(images.dtype)
    top, left = torch.randint(0, 2 * padding + 1, (2, n), generator=generator).to(images.device)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, :]
    which = torch.arange(n, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[which, rows, columns].permute(0, 3, 1, 2)


def normalized(images: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """uint8 images (n, c, h, w) as float32, ``(image / 255 - mean) / std`` per channel."""
    scale = 1 / (255 * torch.tensor(std, device=images.device))
    shift = torch.tensor(mean, device=images.device) / torch.tensor(std, device=images.device)
    return images.float() * scale[:, None, None] - shift[:, None, None]
