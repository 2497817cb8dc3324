"""The pieces of an anime portrait, each as a fragment of SVG.

Every part is a function that takes a `Look` (what the person looks like) and returns SVG text on a canvas of 256 × 256
units; the dictionaries at the end of each section map the name of a style to its function or to its table of numbers.
Colours are chosen in OKLCH, where equal steps of lightness look equal, so shade, light and outline can be derived from
one base colour by rule. Lines that should swell and thin out are filled lenses (`taper`) rather than strokes.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Point = tuple[float, float]


class Tones(NamedTuple):
    """One material in four tones, each '#rrggbb'."""

    base: str
    shade: str
    light: str
    line: str


@dataclass(frozen=True)
class Look:
    """Everything needed to draw one avatar."""

    attributes: dict[str, str]
    hair: Tones
    tips: Tones
    skin: Tones
    iris: Tones
    main: Tones
    accent: Tones
    backdrop: Tones
    line: float  # line weight in canvas units
    width: float  # of the face, relative to the usual one
    spread: float  # offset of the eyes, outwards
    height: float  # offset of the eyes, downwards
    gaze: Point
    light: int  # -1: light comes from the left, 1: from the right
    rng: np.random.Generator


def oklch(lightness: float, chroma: float, hue: float) -> str:
    """Colour '#rrggbb' of an OKLCH triple (0..1, 0..0.4, degrees); chroma is reduced until sRGB can show it."""
    lightness = min(max(lightness, 0.0), 1.0)
    for factor in (1.0, 0.85, 0.7, 0.55, 0.4, 0.2, 0.0):
        a = factor * chroma * math.cos(math.radians(hue))
        b = factor * chroma * math.sin(math.radians(hue))
        long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
        medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
        short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
        linear = (
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        )
        if all(-0.002 <= value <= 1.002 for value in linear):
            break
    clipped = [min(max(value, 0.0), 1.0) for value in linear]
    srgb = [12.92 * v if v <= 0.0031308 else 1.055 * v ** (1 / 2.4) - 0.055 for v in clipped]
    return "#" + "".join(f"{round(255 * v):02x}" for v in srgb)


def tones(lightness: float, chroma: float, hue: float, cool: float = 8.0) -> Tones:
    """Base, shade, light and line tone of a material; the shade's hue turns by `cool` degrees towards violet."""
    turn = cool if 120 < hue % 360 < 285 else -cool
    return Tones(
        oklch(lightness, chroma, hue),
        oklch(lightness - 0.06 - 0.09 * lightness, chroma + 0.006, hue + turn),
        oklch(lightness + 0.10 + 0.06 * (1 - lightness), chroma * 0.75, hue - turn / 2),
        oklch(0.13 + 0.27 * lightness, min(0.10, chroma * 0.8 + 0.02), hue + turn),
    )


# Basic shapes ------------------------------------------------------------------------------------------------------


def shape(d: str, fill: str, line: str = "none", width: float = 0.0, more: str = "") -> str:
    """A closed path, filled and outlined."""
    outline = f' stroke="{line}" stroke-width="{width:.2f}" stroke-linejoin="round"' if width else ""
    return f'<path d="{d}" fill="{fill}"{outline} {more}/>'


def stroke(d: str, line: str, width: float, more: str = "") -> str:
    """An open line with round ends."""
    return f'<path d="{d}" fill="none" stroke="{line}" stroke-width="{width:.2f}" stroke-linecap="round" {more}/>'


def oval(x: float, y: float, rx: float, ry: float, fill: str, more: str = "") -> str:
    """A filled ellipse."""
    return f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="{rx:.1f}" ry="{ry:.1f}" fill="{fill}" {more}/>'


def lens(start: Point, bend: Point, end: Point, width: float) -> str:
    """Path data of a line from start to end, curved towards bend, thick in the middle and pointed at both ends."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length * width, dx / length * width
    there = f"Q{bend[0] + nx:.1f},{bend[1] + ny:.1f} {end[0]:.1f},{end[1]:.1f}"
    back = f"Q{bend[0] - nx:.1f},{bend[1] - ny:.1f} {start[0]:.1f},{start[1]:.1f}"
    return f"M{start[0]:.1f},{start[1]:.1f}{there}{back}Z"


def taper(start: Point, bend: Point, end: Point, width: float, fill: str, more: str = "") -> str:
    """One filled `lens`."""
    return shape(lens(start, bend, end, width), fill, more=more)


def symmetric(half: str, width: float = 1.0) -> str:
    """Path data of a half contour (absolute M, L, Q, C, from the left to the middle line) and of its mirror image."""
    segments = []
    for letter, numbers in re.findall(r"([MLQC])([^MLQC]+)", half):
        values = [float(v) for v in re.findall(r"-?[\d.]+", numbers)]
        points = [(128 + (x - 128) * width, y) for x, y in zip(values[::2], values[1::2], strict=True)]
        step = {"M": 1, "L": 1, "Q": 2, "C": 3}[letter]
        segments += [(letter, points[k : k + step]) for k in range(0, len(points), step)]
    back = []
    for (letter, points), (_, before) in zip(segments[:0:-1], segments[-2::-1], strict=True):
        back.append((letter, [(256 - x, y) for x, y in [*points[-2::-1], before[-1]]]))
    return "".join(letter + " ".join(f"{x:.1f},{y:.1f}" for x, y in points) for letter, points in segments + back)


def mirror(svg: str) -> str:
    """The fragment with left and right exchanged."""
    return f'<g transform="matrix(-1 0 0 1 256 0)">{svg}</g>'


def both(svg: str) -> str:
    """The fragment and its mirror image."""
    return svg + mirror(svg)


def gradient(name: str, stops: Sequence[tuple[float, str, float]], radial: bool = False, more: str = "") -> str:
    """A gradient of (offset, colour, opacity); linear ones run from top to bottom."""
    kind = "radialGradient" if radial else "linearGradient"
    place = more or ("" if radial else 'x1="0" y1="0" x2="0" y2="1"')
    body = "".join(f'<stop offset="{at}" stop-color="{colour}" stop-opacity="{o}"/>' for at, colour, o in stops)
    return f'<defs><{kind} id="{name}" {place}>{body}</{kind}></defs>'


def clipped(name: str, d: str, svg: str) -> str:
    """The fragment, visible only inside the path d."""
    return f'<defs><clipPath id="{name}"><path d="{d}"/></clipPath></defs><g clip-path="url(#{name})">{svg}</g>'


# Background --------------------------------------------------------------------------------------------------------


def _plain(look: Look) -> str:
    return ""


def _steps(look: Look, count: int) -> list[str]:
    """Colours in equal steps from the light to the shade of the backdrop."""
    first, last = ([int(tone[k : k + 2], 16) for k in (1, 3, 5)] for tone in (look.backdrop.light, look.backdrop.shade))
    rows = np.linspace(first, last, count).round().astype(int)
    return ["#" + "".join(f"{v:02x}" for v in row) for row in rows]


def _vertical(look: Look) -> str:
    return "".join(
        f'<rect y="{4 * k}" width="256" height="5" fill="{colour}"/>' for k, colour in enumerate(_steps(look, 64))
    )


def _radial(look: Look) -> str:
    rings = [oval(128, 110, r, r, c) for r, c in zip(range(180, 40, -20), _steps(look, 7)[::-1], strict=True)]
    return f'<rect width="256" height="256" fill="{look.backdrop.shade}"/>' + "".join(rings[1:])


def _diagonal(look: Look) -> str:
    edge = look.rng.uniform(60, 196)
    d = f"M{edge + 60:.0f},0H256V256H{edge - 60:.0f}Z"
    return shape(d, look.backdrop.shade) if look.light < 0 else mirror(shape(d, look.backdrop.shade))


def _sunburst(look: Look) -> str:
    turn = look.rng.uniform(0, 22.5)
    angles = [math.radians(turn + 22.5 * k) for k in range(16)]
    rays = "".join(
        f"M128,120L{128 + 260 * math.cos(t):.0f},{120 + 260 * math.sin(t):.0f}"
        f"L{128 + 260 * math.cos(t + 0.196):.0f},{120 + 260 * math.sin(t + 0.196):.0f}Z"
        for t in angles
    )
    return shape(rays, look.backdrop.light)


def _dots(look: Look) -> str:
    phase = look.rng.uniform(0, 32, 2)
    spots = [(32 * i + 16 * (j % 2) + phase[0], 16 * j + phase[1]) for i in range(-1, 9) for j in range(-2, 17)]
    return "".join(oval(x, y, 5, 5, look.backdrop.light) for x, y in spots)


def _bokeh(look: Look) -> str:
    spots = look.rng.uniform([-10, -10, 12], [266, 200, 40], (11, 3))
    more = 'fill-opacity=".45"'
    return "".join(oval(x, y, r, r, look.backdrop.light, more) for x, y, r in spots)


def _checks(look: Look) -> str:
    phase = look.rng.uniform(-32, 0)
    squares = "".join(
        f"M{32 * i + phase:.0f},{32 * j + phase:.0f}h32v32h-32Z" for i in range(10) for j in range(10) if (i + j) % 2
    )
    return shape(squares, look.backdrop.light)


BACKGROUNDS: dict[str, Callable[[Look], str]] = {
    "plain": _plain,
    "vertical": _vertical,
    "radial": _radial,
    "diagonal": _diagonal,
    "sunburst": _sunburst,
    "dots": _dots,
    "bokeh": _bokeh,
    "checks": _checks,
}
