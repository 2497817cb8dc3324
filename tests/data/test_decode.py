"""Decoding: each damaged or unusual kind of file is made and read."""

import io
import os
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vq_core.config import load_config
from vq_core.data.decode import Picture, load_picture, to_square
from vq_core.errors import UnusableImage
from vq_core.settings import DataConfig

SIZE = 32


def settings(**changes: object) -> DataConfig:
    overrides = {"image_size": SIZE, "min_side": 8} | changes
    return load_config("smoke").data.model_copy(update=overrides)


def noise(height: int = 40, width: int = 40, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def load(tmp_path: Path, data: bytes, name: str = "a.png", **changes: object) -> Picture:
    path = tmp_path / name
    path.write_bytes(data)
    return load_picture(path, settings(**changes))


def refusal(tmp_path: Path, data: bytes, name: str = "a.png", **changes: object) -> UnusableImage:
    with pytest.raises(UnusableImage) as caught:
        load(tmp_path, data, name, **changes)
    assert caught.value.detail and "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_reads_the_allowed_formats_whatever_the_extension(tmp_path: Path, kind: str) -> None:
    picture = load(tmp_path, encoded(Image.new("RGB", (50, 40), (200, 30, 60)), kind), "wrong.xyz")
    assert picture.pixels.shape == (SIZE, SIZE, 3) and picture.pixels.dtype == np.uint8
    assert (picture.width, picture.height) == (50, 40)
    assert np.abs(picture.pixels.astype(int) - [200, 30, 60]).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_refuses_truncated_files(tmp_path: Path, kind: str, share: float) -> None:
    data = encoded(Image.fromarray(noise(120, 120)), kind)
    assert refusal(tmp_path, data[: int(len(data) * share)]).reason in ("truncated", "unreadable")


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_calls_a_truncated_file_truncated(tmp_path: Path, kind: str) -> None:
    data = encoded(Image.fromarray(noise(120, 120)), kind)
    assert refusal(tmp_path, data[: len(data) // 2]).reason == "truncated"


def test_refuses_a_flipped_bit_in_a_png(tmp_path: Path) -> None:
    data = bytearray(encoded(Image.fromarray(noise(120, 120)), "PNG"))
    data[len(data) // 2] ^= 16
    assert refusal(tmp_path, bytes(data)).reason == "unreadable"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text\n" * 20, "not an image"),
        (bytes(range(256)) * 9, "not an image"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n%%EndComments\n", "unsupported format"),
        (b"%PDF-1.7\n", "unsupported format"),
        (b'\n<svg xmlns="http://www.w3.org/2000/svg"/>', "unsupported format"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "unsupported format"),
        (b"\x89PNG\r\n\x1a\n" + bytes(30), "unreadable"),
        (b"\xff\xd8\xff\xe0", "unreadable"),
    ],
)
def test_refuses_what_is_no_allowed_image(tmp_path: Path, data: bytes, reason: str) -> None:
    assert refusal(tmp_path, data).reason == reason


def test_refuses_what_is_no_readable_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    for name in ("missing.png", "loop.png", "pipe.png", "."):
        with pytest.raises(UnusableImage) as caught:
            load_picture(tmp_path / name, settings())
        assert caught.value.reason == "unreadable"


def png(width: int, height: int, bits: int = 8, lines: bytes = b"") -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")]
    packed = [struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


@pytest.mark.parametrize("side", [8_000, 10_000, 100_000])
def test_refuses_huge_dimensions_by_the_header(tmp_path: Path, side: int) -> None:
    assert refusal(tmp_path, png(side, side)).reason == "too large"


def test_refuses_small_images(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (80, 20)), "PNG")
    assert refusal(tmp_path, data, min_side=21).reason == "too small"
    assert load(tmp_path, data, min_side=20).height == 20


def test_refuses_strips_and_archives(tmp_path: Path) -> None:
    for size in ((81, 20), (20, 81)):
        assert refusal(tmp_path, encoded(Image.new("RGB", size), "PNG"), min_side=20).reason == "too long"
    for pack in ("zip", "gztar", "tar", "xztar"):
        (tmp_path / "some").mkdir(exist_ok=True)
        (tmp_path / "some" / "a.png").write_bytes(b"not read")
        packed = Path(shutil.make_archive(str(tmp_path / "packed"), pack, tmp_path / "some"))
        found = refusal(tmp_path, packed.read_bytes())
        assert found.reason == "archive" and "unpack it" in found.detail


def test_lays_alpha_over_white(tmp_path: Path) -> None:
    pixels = np.zeros((40, 40, 4), dtype=np.uint8)
    pixels[:, 20:, 3] = 128
    picture = load(tmp_path, encoded(Image.fromarray(pixels), "PNG"))
    assert picture.pixels[16, 2].tolist() == [255] * 3 and picture.pixels[16, -3].tolist() == [127] * 3
    assert picture.notes == ("alpha over white",)


def test_lays_transparent_palette_entries_over_white(tmp_path: Path) -> None:
    image = Image.new("P", (40, 40), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    picture = load(tmp_path, encoded(image, "PNG", transparency=1))
    assert (picture.pixels == 255).all() and set(picture.notes) == {"palette to RGB", "alpha over white"}


@pytest.mark.parametrize(("mode", "note"), [("CMYK", "CMYK"), ("L", "grey")])
def test_converts_cmyk_and_grey(tmp_path: Path, mode: str, note: str) -> None:
    image = Image.new("RGB", (40, 40), (200, 200, 200)).convert(mode)
    picture = load(tmp_path, encoded(image, "JPEG"))
    assert np.abs(picture.pixels.astype(int) - 200).max() <= 3 and picture.notes == (f"{note} to RGB",)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_rescales_16_bits(tmp_path: Path, kind: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 40).astype(np.uint16), (40, 1))
    picture = load(tmp_path, encoded(Image.fromarray(ramp), kind), image_size=40)
    assert np.abs(picture.pixels[..., 0].astype(float) - ramp / 257).max() <= 0.5
    assert picture.notes == ("16-bit rescaled",)


def test_reads_16_bit_colour(tmp_path: Path) -> None:
    line = b"\0" + struct.pack(">HHH", 200 * 257, 100 * 257, 50 * 257) * 10
    picture = load(tmp_path, png(10, 10, 16, line * 10))
    assert (picture.pixels == [200, 100, 50]).all() and picture.notes == ("16-bit rescaled",)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (900.0, -300.0)])
def test_rescales_floats(tmp_path: Path, scale: float, shift: float) -> None:
    ramp = np.tile(np.linspace(0, 1, 40, dtype=np.float32), (40, 1))
    picture = load(tmp_path, encoded(Image.fromarray(ramp * scale + shift), "TIFF"), image_size=40)
    assert np.abs(picture.pixels[..., 0].astype(float) - ramp * 255).max() <= 0.51
    assert picture.notes == ("float rescaled",)


def test_turns_as_exif_says(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[:, :30] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90° clockwise: the left half comes to the top
    picture = load(tmp_path, encoded(Image.fromarray(pixels), "JPEG", exif=exif))
    assert (picture.width, picture.height) == (40, 60) and picture.notes == ("turned by EXIF",)
    assert picture.pixels[2].mean() > 240 and picture.pixels[-3].mean() < 15


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_takes_the_first_frame(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (40, 40), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if kind == "WEBP" else {}
    picture = load(tmp_path, encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (picture.pixels == [255, 0, 0]).all() and "first frame" in picture.notes


def test_ignores_icc_profiles(tmp_path: Path) -> None:
    data = encoded(Image.new("RGB", (40, 40), (9, 99, 199)), "PNG", icc_profile=b"any profile")
    picture = load(tmp_path, data)
    assert (picture.pixels == [9, 99, 199]).all() and picture.notes == ("ICC profile ignored",)


def test_crop_takes_the_centre_and_pad_keeps_all() -> None:
    pixels = np.full((20, 60, 3), 200, dtype=np.uint8)
    pixels[:, 20:40] = 10
    cropped, padded = (np.asarray(to_square(Image.fromarray(pixels), mode, 60)) for mode in ("crop", "pad"))
    assert cropped.shape == padded.shape == (60, 60, 3)
    assert (cropped == 10).all()
    assert (padded[20:40] == pixels).all()
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]]).mean()
    assert np.abs(padded[:20] - border).max() <= 0.5 and (padded[40:] == padded[0, 0]).all()


def test_pads_long_strips_in_little_memory() -> None:
    assert to_square(Image.new("RGB", (200_000, 8), "red"), "pad", SIZE).size == (SIZE, SIZE)


def test_resizing_is_antialiased() -> None:
    stripes = np.zeros((320, 320, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    assert np.abs(np.asarray(to_square(Image.fromarray(stripes), "crop", SIZE)).astype(float) - 127.5).max() < 8
