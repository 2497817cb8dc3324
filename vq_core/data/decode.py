"""Decoding of an image file into a square RGB picture, by fixed rules.

The format is recognised by content, never by extension. The rules: the first frame of an animation; rotated as EXIF
says; transparency over white; CMYK, palette and grey converted to RGB; 16-bit samples divided by 257; float samples
multiplied by 255 if they lie within [0, 1], otherwise stretched from their own range; ICC profiles ignored, so that the
numbers in the file are the numbers used. Truncated files are refused, even if half the picture could be shown. Damage
to a complete scan goes unnoticed in formats without a checksum: all but PNG.
"""

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from vq_core.errors import UnusableImage
from vq_core.settings import DataConfig

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
# First bytes of the formats above: a file that starts with them but cannot be opened is damaged, not foreign.
_KNOWN_STARTS = (b"\x89PNG", b"\xff\xd8\xff", b"RIFF", b"BM", b"GIF8", b"II*\0", b"MM\0*")
_FOREIGN = {"EPS": (b"%!PS", b"\xc5\xd0\xd3\xc6"), "PDF": (b"%PDF",), "SVG": (b"<svg", b"<?xml"), "PSD": (b"8BPS",)}
_FOREIGN |= {"JPEG 2000": (b"\0\0\0\x0cjP",), "JPEG XL": (b"\0\0\0\x0cJXL", b"\xff\x0a")}
_FOREIGN |= {"ICO": (b"\0\0\1\0",), "DDS": (b"DDS ",)}
_ARCHIVES = (b"PK\x03\x04", b"7z\xbc\xaf", b"Rar!", b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
LONGEST = 4  # of the longer side over the shorter one: of a strip, the middle would be all that is kept
_SCALING: dict[str, Any] = {"resample": Image.Resampling.LANCZOS, "reducing_gap": 3.0}
_MODES = {"1": "black and white", "L": "grey", "LA": "grey", "La": "grey", "P": "palette", "PA": "palette"}


class Picture(NamedTuple):
    """A prepared picture: square RGB pixels, the original's size (upright), and notes on what was converted."""

    pixels: UInt8[np.ndarray, "size size 3"]
    width: int
    height: int
    notes: tuple[str, ...]


def load_picture(path: Path, config: DataConfig) -> Picture:
    """Read one image file as a square RGB array of side `config.image_size`.

    Raises `UnusableImage`; the reason is "not an image", "unsupported format", "empty file", "truncated", "unreadable",
    "archive", "too small" (shorter side below `config.min_side`), "too long" (a strip) or "too large" (more than
    `config.max_pixels` according to the header, before anything is decoded).
    """
    try:
        # O_NONBLOCK: opening a named pipe would otherwise block before the check below.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise UnusableImage("unreadable", "not a regular file")
            if not status.st_size:
                raise UnusableImage("empty file", "0 bytes")
            return _read(file, config)
    except UnusableImage:
        raise
    except IsADirectoryError:
        raise UnusableImage("unreadable", "a link to a folder; such links are not followed") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnusableImage("too large", "more pixels than the decoder allows") from None
    except Exception as error:  # on damaged files PIL's plugins raise almost anything
        detail = " ".join((getattr(error, "strerror", None) or str(error) or type(error).__name__).split())[:200]
        cut = isinstance(error, EOFError) or "truncated" in detail.lower() or "unexpected end" in detail.lower()
        raise UnusableImage("truncated" if cut else "unreadable", detail) from None


def load_transparency(path: Path, config: DataConfig) -> Bool[np.ndarray, "s s"]:
    """Where an image is more than half transparent, on the square that `load_picture` makes of it."""
    with Image.open(path, formats=FORMATS) as image:
        if not image.has_transparency_data:
            return np.zeros((config.image_size, config.image_size), dtype=bool)
        alpha = ImageOps.exif_transpose(image).convert("RGBA").getchannel("A")
    return np.asarray(to_square(alpha.convert("RGB"), config.square, config.image_size))[..., 0] < 128


def load_mask(path: Path, image: Path, config: DataConfig, grid: int) -> Bool[np.ndarray, "s s"]:
    """Where a mask is opaque and at least half white, on the square that `load_picture` makes of the image.

    A mask of grid × grid pixels marks cells; another is scaled if its shape is the image's, or square. Raises
    `UnusableImage` if it is of another shape, or cannot be read.
    """
    try:
        with Image.open(image, formats=FORMATS) as given:
            width, height = ImageOps.exif_transpose(given).size
        with Image.open(path, formats=FORMATS) as opened:
            layer = ImageOps.exif_transpose(opened).convert("RGBA")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UnusableImage("unreadable", f"{path}: {' '.join(str(error).split())}") from None
    white = Image.alpha_composite(Image.new("RGBA", layer.size, "black"), layer).convert("RGB")
    if layer.size == (grid, grid):
        white = white.resize((config.image_size, config.image_size), Image.Resampling.NEAREST)
    elif abs(layer.width / layer.height - width / height) > 0.02 * width / height and layer.width != layer.height:
        what = f"{layer.width}×{layer.height} is of another shape than the image, {width}×{height}"
        raise UnusableImage("another shape", f"{path}: {what}")
    return np.asarray(to_square(white, config.square, config.image_size)).mean(axis=2) >= 127.5


def to_square(image: Image.Image, mode: Literal["crop", "pad"], size: int) -> Image.Image:
    """Scale an RGB image to a square, antialiased: its central part ("crop"), or all on its border's mean ("pad")."""
    if mode == "crop":
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        return image.crop((left, top, left + side, top + side)).resize((size, size), **_SCALING)
    # Resize before padding: the square around a long strip could be enormous.
    scale = size / max(image.size)
    small = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), **_SCALING)
    pixels = np.asarray(small)
    border = np.concatenate([pixels[0], pixels[-1], pixels[1:-1, 0], pixels[1:-1, -1]])
    canvas = Image.new("RGB", (size, size), tuple(border.mean(0).round().astype(int).tolist()))
    canvas.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return canvas


def _read(file: BinaryIO, config: DataConfig) -> Picture:
    image = _open(file)
    width, height = image.size
    if width * height > config.max_pixels:
        raise UnusableImage("too large", f"{width}×{height} is more than {config.max_pixels} pixels")
    if min(width, height) < config.min_side:
        raise UnusableImage("too small", f"{width}×{height}; the shorter side must be at least {config.min_side}")
    if max(width, height) > LONGEST * min(width, height):
        raise UnusableImage("too long", f"{width}×{height}; the longer side may be {LONGEST} times the shorter one")
    image.verify()  # a PNG's checksums; a verified image has to be reopened
    image = _open(file)
    announced = {
        "16-bit rescaled": any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())),  # forgotten by loading
        "first frame": getattr(image, "is_animated", False),
        "turned by EXIF": image.getexif().get(ExifTags.Base.Orientation, 1) != 1,
        "ICC profile ignored": "icc_profile" in image.info,
    }
    image.load()
    rgb, notes = _to_rgb(ImageOps.exif_transpose(image))
    notes = [note for note, true in announced.items() if true] + notes
    return Picture(np.asarray(to_square(rgb, config.square, config.image_size)), rgb.width, rgb.height, tuple(notes))


def _open(file: BinaryIO) -> Image.Image:
    file.seek(0)
    try:
        return Image.open(file, formats=FORMATS)
    except UnidentifiedImageError:
        file.seek(0)
        head = file.read(512)
    if head.startswith(_KNOWN_STARTS):
        raise UnusableImage("unreadable", "the header is damaged")
    if head.startswith(_ARCHIVES) or head[257:262] == b"ustar":
        raise UnusableImage("archive", "its images are not read: unpack it into the folder")
    if head[4:8] == b"ftyp":
        raise UnusableImage("unsupported format", "HEIF, AVIF or a video")
    for name, starts in _FOREIGN.items():
        if head.lstrip(b"\xef\xbb\xbf \r\n\t").startswith(starts):
            raise UnusableImage("unsupported format", f"{name}; supported: {', '.join(FORMATS)}")
    raise UnusableImage("not an image", f"none of {', '.join(FORMATS)}")


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    if image.mode.startswith(("I", "F")):
        white = 65535.0 if image.mode.startswith("I") else 1.0
        values = np.nan_to_num(np.asarray(image, dtype=np.float32), posinf=white, neginf=0.0)
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= white:
            low, high = 0.0, white  # otherwise they are stretched from their own range
        grey = np.rint((values - low) * (255 / max(high - low, 1e-12))).clip(0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB"), ["float rescaled"] if image.mode == "F" else []
    plain = "RGBA" if image.has_transparency_data else "RGB"
    notes = [] if image.mode == plain else [f"{_MODES.get(image.mode, image.mode)} to RGB"]
    if image.has_transparency_data:
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema() != (255, 255):
            notes.append("alpha over white")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    try:
        return image.convert("RGB"), notes
    except ValueError:
        raise UnusableImage("unsupported format", f"colour mode {image.mode}") from None
