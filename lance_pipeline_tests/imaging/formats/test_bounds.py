"""The memory and time of decoding are bounded by a file's size, and large images wait for each other."""

import json
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin, features

from lance_pipeline.imaging import decoding
from lance_pipeline.imaging.decoding import decode_and_use, decode_image
from lance_pipeline.imaging.memory_budget import MemoryBudget
from lance_pipeline.imaging.rejection import UndecodableImageError
from lance_pipeline.loader.augmentation import Augment, key_of
from lance_pipeline.loader.views import Shrunk, random_crop
from lance_pipeline_tests.imaging.formats.encodings import FILES, JPEGS, chunk, gif, photo, png, saved

# Runs in its own process; prints the reason, detail, seconds and additional peak memory for each file.
_MEASURED = """
import json, sys, time
from lance_pipeline.ingest.inspection import inspect_images
def peak():
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
found = {}
inspect_images([open(sys.argv[1], "rb").read()])
for path in sys.argv[2:]:
    data = open(path, "rb").read()
    open("/proc/self/clear_refs", "w").write("5")
    before, began = peak(), time.monotonic()
    image, = inspect_images([data])
    reason = getattr(image, "reason", ""), str(image)
    found[path.rpartition("/")[2]] = *reason, time.monotonic() - began, peak() - before
print(json.dumps(found))
"""
_SIDE = 13_377


def _scans(progressive: bytes, times: int) -> bytes:
    last = progressive.rindex(b"\xff\xda")
    return progressive[:-2] + progressive[last:-2] * times + progressive[-2:]


def _claiming(jpeg: bytes, side: int) -> bytes:
    frame = max(jpeg.find(b"\xff\xc0"), jpeg.find(b"\xff\xc2"))
    return jpeg[: frame + 5] + struct.pack(">HH", side, side) + jpeg[frame + 9 :]


def _overlapping_exif() -> bytes:
    """Thousands of tags that share a value of one megabyte."""
    count, size = 8000, 1 << 20
    entries = b"".join(struct.pack(">HHII", 1000 + number, 7, size, 200_000) for number in range(count))
    return (b"MM\0*\0\0\0\x08" + struct.pack(">H", count) + entries).ljust(200_000, b"\0") + bytes(size)


def _zeros(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(megabytes)) + packer.flush()


def _icon(picture: bytes) -> bytes:
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(picture), 22) + picture


def _tiff(*tags: tuple[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(64)


def _hostile() -> dict[str, bytes]:
    small = photo()
    blank = Image.new("L", (4000, 4000))
    row = b"\0" + bytes(24)
    exif = _overlapping_exif()
    with_exif = chunk(b"eXIf", exif)
    return {
        "png-of-74-bytes": png(1, 170_000_000, 8, 0, bytes(1000)),
        "png-square": png(_SIDE, _SIDE, 8, 2, bytes(1000)),
        "png-of-16-bits": png(_SIDE, _SIDE, 16, 6, bytes(1000)),
        "gif-canvas": FILES["GIF"][:6] + struct.pack("<HH", _SIDE, _SIDE) + FILES["GIF"][10:],
        "jpeg": _claiming(JPEGS["JPEG"], _SIDE),
        "progressive-jpeg": _claiming(JPEGS["progressive JPEG"], _SIDE),
        "cmyk-jpeg": _claiming(JPEGS["CMYK JPEG"], _SIDE),
        "turned-jpeg": _claiming(JPEGS["turned JPEG"], _SIDE),
        "jpeg-of-many-scans": _scans(saved(blank, "JPEG", progressive=True), 2000),
        "cmyk-jpeg-of-many-scans": _scans(saved(blank.convert("CMYK"), "JPEG", progressive=True), 2000),
        "jpeg-of-empty-segments": JPEGS["JPEG"][:2] + b"\xff\xfe\0\2" * 1_000_000 + JPEGS["JPEG"][2:],
        "jpeg-of-junk": JPEGS["JPEG"][:2] + b"\xff\xfe\0\2" + bytes(20_000_000) + JPEGS["JPEG"][2:],
        "jpeg-without-scans": b"\xff\xd8\xff\xfe\0\2" + bytes(20_000_000),
        "ppm-comment": b"P3\n#" + b"a" * 20_000_000 + b"\n1 1 255 1 2 3",
        "ppm-comment-inside": b"P3 1 1 255 #" + b"a" * 40_000_000 + b"\n1 2 3",
        "ppm-of-comments": b"P3 1 1 255 " + b"#\n" * 500_000 + b"1 2",
        "ppm-of-200-levels": b"P6\n4000 3000\n200\n" + bytes(36_000_000),
        "ppm-claim": b"P6 13377 13377 255\n" + bytes(100),
        "bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 60, 0, 0, 54, 40, _SIDE, _SIDE, 1, 24, 0, 0, 0, 0, 0, 0),
        "png-text": png(8, 8, 8, 2, row * 8, False, chunk(b"zTXt", b"k\0\0" + _zeros(64))),
        "png-international-text": png(8, 8, 8, 2, row * 8, False, chunk(b"iTXt", b"k\0\1\0\0\0" + _zeros(64))),
        "png-profile": png(8, 8, 16, 2, (b"\0" + bytes(48)) * 8, False, chunk(b"iCCP", b"k\0\0" + _zeros(64))),
        "png-exif": png(8, 8, 8, 2, row * 8, False, with_exif),
        "webp-exif": saved(small, "WEBP", exif=exif),
        "tiff-tags": exif,
        "icon": _icon(png(2000, 2000, 8, 0, bytes(2001 * 2000))),
        "tiff-tile": _tiff((256, 8), (257, 8), (258, 8), (259, 8), (277, 1), (322, 30_000), (323, 30_000), (324, 8)),
        "tiff-claim": _tiff((256, _SIDE), (257, _SIDE), (258, 8), (259, 5), (273, 8), (277, 1), (278, _SIDE)),
        "webp-claim": b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + struct.pack("<I", 13_000 | 13_000 << 14) + bytes(5),
        "codestream-claim": FILES["codestream"][:8] + struct.pack(">II", _SIDE, _SIDE) + FILES["codestream"][16:],
        "gif-of-blocks": FILES["GIF"][: 13 + 768] + b"!\xfe" + b"\1a" * 5_000_000 + b"\0" + FILES["GIF"][13 + 768 :],
    }


@pytest.fixture(scope="module")
def measured(tmp_path_factory) -> dict[str, tuple[str, str, float, int]]:
    folder = tmp_path_factory.mktemp("hostile")
    files = _hostile()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    (folder / "good").write_bytes(FILES["PNG RGBA"])
    paths = [str(folder / name) for name in ("good", *files)]
    command = [sys.executable, "-c", _MEASURED, *paths]
    child = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300, cwd=Path.cwd())
    return json.loads(child.stdout)


def test_hostile_files_are_rejected_with_figures(measured):
    reasons = {name: (reason, detail) for name, (reason, detail, _, _) in measured.items()}
    assert {name: found for name, found in reasons.items() if not found[0]} == {}
    assert {reason for reason, _ in reasons.values()} <= {"suspicious", "too_large", "truncated", "corrupt"}
    for name in (
        "png-square",
        "gif-canvas",
        "jpeg",
        "icon",
        "jpeg-of-many-scans",
        "png-text",
        "webp-exif",
        "tiff-tile",
    ):
        reason, detail = reasons[name]
        assert reason == "suspicious"
        assert any(character.isdigit() for character in detail)


def test_hostile_files_take_little_memory_and_time(measured):
    assert {name: nbytes for name, (_, _, _, nbytes) in measured.items() if nbytes > 150 << 20} == {}
    assert {name: seconds for name, (_, _, seconds, _) in measured.items() if seconds > 4} == {}


def _blank(width: int, height: int, kind: str, mode: str = "RGB", **options: object) -> bytes:
    return saved(Image.new(mode, (width, height), "white"), kind, **options)


def test_highly_compressed_blank_images_are_accepted():
    blank = {
        "PNG": _blank(4100, 4100, "PNG", "L"),
        "page": _blank(3508, 4961, "TIFF", "1", compression="group4"),
        "GIF": _blank(4100, 4100, "GIF", "P"),
        "WebP": _blank(4100, 4100, "WEBP", lossless=True, method=0),
    }
    if features.check("avif"):
        blank["AVIF"] = _blank(4100, 4100, "AVIF", speed=10)
    for name, data in blank.items():
        assert decode_image(data).pixels.all(), name


def test_large_texts_and_profiles_do_not_affect_the_pixels():
    text = '<x tiff:Orientation="6">' + "<d>a1b2</d>" * 150_000
    image = photo().convert("RGBA")
    expected = decode_image(saved(image.transpose(Image.Transpose.ROTATE_270), "PNG")).pixels
    plain = PngImagePlugin.PngInfo()
    plain.add_itxt("XML:com.adobe.xmp", text, zip=True)
    assert np.array_equal(decode_image(saved(image, "PNG", pnginfo=plain)).pixels, expected)
    upright = PngImagePlugin.PngInfo()
    upright.add_text("Comment", "a1b2" * 500_000, zip=True)
    profile = np.random.default_rng(0).integers(0, 9, 3_000_000, np.uint8).tobytes()
    pixels = decode_image(saved(image, "PNG", pnginfo=upright, icc_profile=profile)).pixels
    assert np.array_equal(pixels, decode_image(saved(image, "PNG")).pixels)


def test_the_loader_also_rejects_a_jpeg_of_too_many_scans():
    data = _scans(saved(Image.new("L", (4000, 4000)), "JPEG", progressive=True), 200)
    draw = Augment(resized_crop=(0.1, 1)).draw(key_of(0), np.array([0])).crop[0]
    for read in (Shrunk(64).of, lambda data: random_crop(data, draw, (0.1, 1), 32)):
        with pytest.raises(UndecodableImageError) as caught:
            read(data)
        assert caught.value.reason == "suspicious"


def test_a_gif_of_many_frames_costs_no_more_than_its_first():
    frames = gif(20, 15, bytes(300))
    many = frames[:-1] + frames[frames.index(b",") : -1] * 20_000 + b";"
    began = time.monotonic()
    assert np.array_equal(decode_image(many).pixels, decode_image(frames).pixels)
    assert time.monotonic() - began < 2


def test_large_images_wait_for_each_other_and_small_ones_do_not(monkeypatch):
    monkeypatch.setattr(decoding, "_memory", MemoryBudget(1))
    large, small = _blank(1100, 1000, "PNG", "L"), FILES["PNG RGB"]
    active, most, lock = 0, 0, threading.Lock()

    def note(image: decoding.DecodedImage) -> None:
        nonlocal active, most
        if image.pixels.size < 1 << 20:
            return
        with lock:
            active += 1
            most = max(most, active)
        # A small one is decoded immediately, even if all memory is reserved.
        assert decode_image(small).pixels.size
        time.sleep(0.02)
        with lock:
            active -= 1

    for data in (large, _blank(1100, 1000, "PNG", "RGBA"), _blank(1100, 1000, "WEBP"), _blank(1100, 1000, "JPEG")):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda one: decode_and_use(one, note), [data] * 4))
    assert most == 1


def test_reservations_exceed_the_budget_only_one_at_a_time():
    budget, lock, held, excess = MemoryBudget(100), threading.Lock(), [], []

    def reserve(nbytes: int) -> None:
        with budget.reserve(nbytes):
            with lock:
                held.append(nbytes)
                if sum(held) > 100 and len(held) > 1:
                    excess.append(list(held))
            time.sleep(0.001)
            with lock:
                held.remove(nbytes)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(reserve, np.random.default_rng(0).integers(1, 160, 200).tolist()))
    assert not excess
    with pytest.raises(ZeroDivisionError), budget.reserve(100):
        raise ZeroDivisionError
    with budget.reserve(100):
        pass


def test_running_out_of_memory_rejects_the_image(monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(UndecodableImageError) as caught:
        decode_image(FILES["GIF"])
    assert caught.value.reason == "too_large"
