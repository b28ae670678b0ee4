"""A photo in every supported encoding, written by hand where no library writes it."""

import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, features

Pixels = NDArray[np.uint8]
WIDTH, HEIGHT = 61, 47
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
_ORIENTATION = 0x0112


def photo(width: int = WIDTH, height: int = HEIGHT, seed: int = 0) -> Image.Image:
    """A random image of smooth blotches with a little grain; no pixel is black."""
    rng = np.random.default_rng(seed)
    small = rng.integers(40, 256, (8, 8, 3), np.uint8)
    grain = rng.normal(0, 3, (height, width, 1))
    large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC) + grain
    return Image.fromarray(np.clip(large, 1, 255).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(
    width: int, height: int, depth: int, colour: int, stream: bytes, interlaced: bool = False, *more: bytes
) -> bytes:
    """A PNG with correct checksums and this uncompressed stream of rows; ``more`` are chunks before the rows."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    parts = chunk(b"IHDR", header), *more, chunk(b"IDAT", zlib.compress(stream)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rows(pixels: NDArray[Any], interlaced: bool = False) -> bytes:
    """The uncompressed stream of rows of a PNG."""
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    parts = (pixels[top::down, left::across] for left, top, across, down in passes)
    return b"".join(b"\0" + row.tobytes() for part in parts if part.size for row in part)


def png_pixels() -> dict[tuple[int, int], NDArray[Any]]:
    """The photo's samples as stored in a PNG, by bit depth and colour type."""
    colour = np.asarray(photo())
    grey, alpha = colour[..., 0], colour[..., 1:2]
    deep = colour.astype(">u2") * 257
    return {
        (8, 0): grey,
        (8, 2): colour,
        (8, 3): grey,
        (8, 4): np.dstack([grey, alpha]),
        (8, 6): np.dstack([colour, alpha]),
        (16, 0): deep[..., 0],
        (16, 2): deep,
        (16, 4): deep[..., :2],
        (16, 6): np.dstack([deep, deep[..., :1]]),
    }


PALETTE = chunk(b"PLTE", bytes(value % 255 + 1 for value in range(768)))


def gif(width: int, height: int, pixels: bytes, interlaced: bool = False, transparent: int | None = None) -> bytes:
    """A GIF of 128 greys in 8-bit codes that ends after these pixels."""
    codes = b"".join(b"\x80" + pixels[begin : begin + 100] for begin in range(0, len(pixels), 100)) + b"\x81"
    blocks = b"".join(bytes([len(part)]) + part for part in (codes[at : at + 255] for at in range(0, len(codes), 255)))
    table = b"".join(bytes([255 - value] * 3) for value in range(128))
    control = b"" if transparent is None else b"!\xf9\x04\1\0\0" + bytes([transparent]) + b"\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0x40 * interlaced)
    return (
        b"GIF89a" + struct.pack("<HHBBB", width, height, 0xE6, 0, 0) + table + control + frame + b"\7" + blocks + b"\0;"
    )


def sgi(image: Image.Image) -> bytes:
    """A run-length encoded SGI image, which Pillow reads but does not write."""
    pixels = np.asarray(image).reshape(image.height, image.width, -1)[::-1]
    channels = pixels.shape[2]
    table, packed = struct.Struct(f">{image.height * channels}I"), []
    for values in (pixels[row, :, channel].tobytes() for channel in range(channels) for row in range(image.height)):
        parts = (values[begin : begin + 100] for begin in range(0, len(values), 100))
        packed.append(b"".join(bytes([0x80 | len(part)]) + part for part in parts) + b"\0")
    sizes = [len(one) for one in packed]
    begins = 512 + 2 * table.size + np.cumsum([0, *sizes[:-1]])
    head = struct.pack(
        ">HBBHHHHii", 474, 1, 1, 3 if channels > 1 else 2, image.width, image.height, channels, 0, 255
    ).ljust(512, b"\0")
    return head + table.pack(*begins.tolist()) + table.pack(*sizes) + b"".join(packed)


def plain_netpbm(kind: int, image: Image.Image) -> bytes:
    values = (np.asarray(image) > 99).astype(int) if kind == 1 else np.asarray(image)
    head = f"P{kind}\n{image.width} {image.height}\n" + ("" if kind == 1 else "255\n")
    return (head + " ".join(map(str, values.ravel())) + "\n").encode()


def _rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[_ORIENTATION] = 6
    return exif


def _other_formats() -> dict[str, bytes]:
    image = photo()
    grey, cmyk, bits, palette = (image.convert(mode) for mode in ("L", "CMYK", "1", "P"))
    alpha = image.convert("RGBA")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    files = {
        "GIF": saved(image, "GIF"),
        "GIF in order": saved(image, "GIF", interlace=0),
        "GIF with transparency": saved(palette, "GIF", transparency=3),
        "animated GIF": saved(image, "GIF", save_all=True, append_images=[image.rotate(90)]),
        "TIFF of 16 bits": saved(deep, "TIFF"),
        "TIFF with palette": saved(palette, "TIFF"),
        "TIFF CMYK": saved(cmyk, "TIFF"),
        "TIFF by libtiff": cv2.imencode(".tiff", np.asarray(image))[1].tobytes(),
        "WebP": saved(image, "WEBP"),
        "lossless WebP": saved(image, "WEBP", lossless=True),
        "WebP with alpha": saved(alpha, "WEBP"),
        "animated WebP": saved(image, "WEBP", save_all=True, append_images=[image.rotate(90)]),
        "JPEG 2000": saved(image, "JPEG2000"),
        "codestream": saved(image, "JPEG2000", no_jp2=True),
        "JPEG 2000 in layers": saved(image, "JPEG2000", quality_layers=[40, 10, 1]),
        "JPEG 2000 in tiles": saved(image, "JPEG2000", tile_size=(16, 16)),
        "PPM of 200 levels": b"P6\n61 47\n200\n" + (np.asarray(image) // 2).tobytes(),
        "ICO with PNG": saved(image, "ICO", sizes=[(32, 32)]),
        "ICO with BMP": saved(image, "ICO", sizes=[(32, 32)], bitmap_format="bmp"),
        "ICO with BMP and alpha": saved(alpha, "ICO", sizes=[(32, 32)], bitmap_format="bmp"),
        "SGI of 16 bits": saved(image, "SGI", bpc=2),
        "SGI in runs": sgi(image),
        "grey SGI in runs": sgi(grey),
        "MPO": saved(image, "MPO", save_all=True, append_images=[image.rotate(90)]),
        **{f"plain PBM {kind}": plain_netpbm(kind, grey if kind < 3 else image) for kind in (1, 2, 3)},
    }
    for name in (None, "tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd", "lzma"):
        files[f"TIFF {name}"] = saved(image, "TIFF", compression=name)
    for name in (None, "group3", "group4", "tiff_ccitt", "packbits"):
        files[f"bilevel TIFF {name}"] = saved(bits, "TIFF", compression=name)
    for kind, modes in {
        "BMP": ("RGB", "L", "P", "1", "RGBA"),
        "PPM": ("RGB", "L", "1"),
        "PCX": ("RGB", "L", "P", "1"),
    }.items():
        files |= {f"{kind} {mode}": saved(image.convert(mode), kind) for mode in modes}
    for mode in ("RGB", "L", "P", "RGBA"):
        files[f"TGA {mode}"] = saved(image.convert(mode), "TGA")
        files[f"TGA {mode} in runs"] = saved(image.convert(mode), "TGA", compression="tga_rle")
    for mode in ("RGB", "L", "RGBA"):
        files[f"SGI {mode}"] = saved(image.convert(mode), "SGI")
    if features.check("avif"):
        files |= {"AVIF": saved(image, "AVIF"), "AVIF with alpha": saved(alpha, "AVIF")}
    return files


def _pngs() -> dict[str, bytes]:
    files = {f"PNG {mode}": saved(photo().convert(mode), "PNG") for mode in ("RGB", "L", "P", "1", "RGBA", "LA")}
    for (depth, colour), pixels in png_pixels().items():
        for interlaced in (False, True):
            more = [PALETTE] if colour == 3 else []
            stream = rows(pixels, interlaced)
            name = f"PNG of type {colour}, {depth} bits" + ", Adam7" * interlaced
            files[name] = png(WIDTH, HEIGHT, depth, colour, stream, interlaced, *more)
    return files


def _jpegs() -> dict[str, bytes]:
    image, options = photo(), {"quality": 90}
    return {
        "JPEG": saved(image, "JPEG", **options),
        "progressive JPEG": saved(image, "JPEG", progressive=True, **options),
        "JPEG 4:4:4": saved(image, "JPEG", subsampling=0, **options),
        "JPEG with restarts": saved(image, "JPEG", restart_marker_blocks=2, **options),
        "grey JPEG": saved(image.convert("L"), "JPEG", **options),
        "CMYK JPEG": saved(image.convert("CMYK"), "JPEG", **options),
        "progressive CMYK JPEG": saved(image.convert("CMYK"), "JPEG", progressive=True, **options),
        "RGB JPEG": saved(image, "JPEG", keep_rgb=True, **options),
        "turned JPEG": saved(image, "JPEG", exif=_rotated(), **options),
        "turned progressive JPEG": saved(image, "JPEG", exif=_rotated(), progressive=True, **options),
    }


JPEGS = _jpegs()
FILES = _other_formats() | _pngs() | JPEGS
