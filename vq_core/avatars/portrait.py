"""One anime portrait, drawn by rule: `draw_avatar(seed, index)`.

First about twenty attributes (hair colour, fringe, eyes, clothes …) are drawn independently from weighted tables,
together with a few continuous numbers (tilt of the head, distance of the eyes, gaze, side of the light). Then `parts`,
`face`, `hair` and `outfit` turn them into layers of SVG, stacked from the background to the hat. Finally resvg renders
the SVG with smooth edges. All randomness comes from `np.random.default_rng([seed, index])`, so an avatar depends only
on its seed and index.
"""

import io
from dataclasses import dataclass

import numpy as np
import resvg_py
from PIL import Image

from vq_core.avatars import face, outfit, parts
from vq_core.avatars import hair as hairdo
from vq_core.avatars.parts import Look, Tones, tones
from vq_core.errors import ArgumentError

Row = tuple[float, float, float, int]

# Lightness, chroma and hue in OKLCH, and the weight with which the colour is drawn
HAIR: dict[str, Row] = {
    "black": (0.32, 0.025, 285, 10),
    "brown": (0.45, 0.065, 50, 12),
    "chestnut": (0.56, 0.10, 42, 8),
    "blonde": (0.87, 0.10, 85, 12),
    "silver": (0.86, 0.018, 280, 10),
    "red": (0.54, 0.17, 27, 7),
    "orange": (0.72, 0.14, 55, 6),
    "pink": (0.80, 0.105, 2, 11),
    "blue": (0.58, 0.12, 255, 9),
    "aqua": (0.80, 0.085, 205, 7),
    "green": (0.64, 0.10, 158, 5),
    "purple": (0.56, 0.12, 303, 8),
}
IRIS: dict[str, Row] = {
    "blue": (0.66, 0.14, 250, 16),
    "aqua": (0.76, 0.12, 205, 10),
    "green": (0.70, 0.15, 150, 13),
    "amber": (0.76, 0.15, 75, 12),
    "brown": (0.52, 0.10, 50, 14),
    "red": (0.58, 0.19, 22, 11),
    "pink": (0.70, 0.16, 355, 9),
    "violet": (0.62, 0.16, 300, 12),
    "grey": (0.66, 0.03, 260, 6),
}
SKIN: dict[str, Row] = {
    "porcelain": (0.95, 0.026, 45, 20),
    "fair": (0.925, 0.036, 55, 26),
    "peach": (0.885, 0.052, 58, 18),
    "tan": (0.79, 0.072, 58, 14),
    "brown": (0.65, 0.080, 54, 12),
    "deep": (0.51, 0.070, 48, 10),
}
CLOTH: dict[str, Row] = {
    "navy": (0.38, 0.075, 268, 14),
    "charcoal": (0.36, 0.012, 290, 10),
    "ivory": (0.94, 0.022, 90, 10),
    "crimson": (0.50, 0.16, 22, 10),
    "rose": (0.78, 0.095, 5, 10),
    "mint": (0.83, 0.075, 170, 8),
    "sky": (0.77, 0.085, 240, 10),
    "lilac": (0.75, 0.085, 300, 9),
    "forest": (0.45, 0.075, 155, 7),
    "mustard": (0.77, 0.125, 82, 7),
}
BACKDROP: dict[str, Row] = {
    "rose": (0.87, 0.055, 5, 12),
    "peach": (0.90, 0.055, 60, 12),
    "lemon": (0.93, 0.065, 100, 9),
    "mint": (0.90, 0.055, 165, 12),
    "sky": (0.87, 0.060, 235, 16),
    "lavender": (0.84, 0.055, 295, 14),
    "pearl": (0.93, 0.008, 280, 10),
    "night": (0.36, 0.070, 275, 9),
}


def _weights(table: dict[str, Row]) -> dict[str, float]:
    return {name: row[3] for name, row in table.items()}


WEIGHTS: dict[str, dict[str, float]] = {
    "background": {
        "plain": 2,
        "vertical": 3,
        "radial": 3,
        "diagonal": 2,
        "sunburst": 1,
        "dots": 1,
        "bokeh": 2,
        "checks": 1,
    },
    "backdrop": _weights(BACKDROP),
    "skin": _weights(SKIN),
    "jaw": {"pointed": 3, "soft": 4, "round": 3, "firm": 2},
    "ears": {"human": 80, "elf": 10, "cat": 10},
    "hair_colour": _weights(HAIR),
    "hair_tips": {"none": 78, "gradient": 15, "streak": 7},
    "fringe": dict.fromkeys(hairdo.FRINGES, 1.0) | {"open": 0.7, "between_eyes": 1.5, "hime": 1.2},
    "back_hair": dict.fromkeys(hairdo.BACK_STYLES, 1.0)
    | {"long_straight": 1.6, "bob": 1.6, "long_wavy": 1.3, "drills": 0.5, "twin_tails": 1.3},
    "ahoge": {"none": 70, "single": 16, "double": 6, "bolt": 8},
    "eye_shape": {"round": 30, "almond": 30, "droopy": 17, "sharp": 17, "happy": 6},
    "eye_size": {"medium": 3, "large": 5, "huge": 3},
    "eye_colour": _weights(IRIS),
    "brows": {"soft": 30, "straight": 20, "arched": 18, "worried": 12, "fierce": 10, "short": 10},
    "mouth": {"smile": 26, "open_smile": 15, "grin": 13, "line": 13, "pout": 8, "cat": 9, "frown": 7, "small_o": 9},
    "blush": {"none": 30, "light": 40, "rosy": 20, "lines": 10},
    "clothes": {
        "sailor": 15,
        "hoodie": 15,
        "blazer": 14,
        "kimono": 11,
        "turtleneck": 12,
        "dress": 12,
        "armour": 7,
        "tshirt": 14,
    },
    "clothes_colour": _weights(CLOTH),
    "glasses": {"none": 85, "round": 8, "square": 7},
    "headwear": {
        "none": 52,
        "ribbon": 9,
        "clips": 9,
        "flower": 6,
        "headphones": 6,
        "headband": 6,
        "halo": 3,
        "horns": 4,
        "beret": 5,
    },
    "extra": {"none": 82, "choker": 9, "earrings": 7, "eye_patch": 2},
}
ATTRIBUTES: dict[str, tuple[str, ...]] = {name: tuple(table) for name, table in WEIGHTS.items()}


def _limits(weights: list[float]) -> np.ndarray:
    """Upper end of each value's interval in [0, 1], except for the last."""
    return np.cumsum(weights)[:-1] / sum(weights)


LIMITS = {name: _limits(list(table.values())) for name, table in WEIGHTS.items()}


@dataclass(frozen=True)
class Avatar:
    """A portrait: image (uint8, size × size × 3, RGB) and the attributes that it was drawn from."""

    image: np.ndarray
    attributes: dict[str, str]


def draw_avatar(seed: int, index: int, size: int = 256) -> Avatar:
    """Draw one avatar.

    The same seed and index (both 0 or more) always give the same picture. The image is uint8, size × size × 3.
    Raises `ArgumentError` when size is below 16.
    """
    if size < 16:
        raise ArgumentError(f"an avatar needs at least 16 pixels per side, got {size}")
    rng = np.random.default_rng([seed, index])
    attributes = draw_attributes(rng)
    svg = _portrait(_look(attributes, rng))
    png = resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, skip_system_fonts=True)
    image = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    return Avatar(image, attributes)


def draw_attributes(rng: np.random.Generator) -> dict[str, str]:
    """One value for each attribute, drawn with its own weights and independently of the others."""
    numbers = rng.random(len(ATTRIBUTES))
    return {
        name: values[int(np.searchsorted(LIMITS[name], number, side="right"))]
        for (name, values), number in zip(ATTRIBUTES.items(), numbers, strict=True)
    }


def _jittered(row: Row, rng: np.random.Generator, spread: float = 1.0) -> tuple[float, float, float]:
    """The colour of a table row, slightly varied."""
    lightness, chroma, hue, _ = row
    dl, dc, dh = rng.normal(0, 1, 3).clip(-2, 2) * spread
    return lightness + 0.018 * dl, chroma * (1 + 0.08 * dc), hue + 4 * dh


def _look(attributes: dict[str, str], rng: np.random.Generator) -> Look:
    """Colours and measures for the given attributes."""
    hair = _jittered(HAIR[attributes["hair_colour"]], rng)
    tip_hue = hair[2] + rng.choice([-70, 60, 150, 200])
    tip_lightness = 0.80 if hair[0] < 0.6 else 0.62
    main = _jittered(CLOTH[attributes["clothes_colour"]], rng)
    iris = _jittered(IRIS[attributes["eye_colour"]], rng)
    return Look(
        attributes=attributes,
        hair=tones(*hair),
        tips=tones(tip_lightness, 0.13, tip_hue),
        skin=_skin(_jittered(SKIN[attributes["skin"]], rng, 0.5)),
        iris=Tones(
            *tones(*iris)[:2],
            parts.oklch(iris[0] + 0.2, iris[1] * 0.75, iris[2]),
            parts.oklch(iris[0] * 0.45, iris[1] * 0.7, iris[2]),
        ),
        main=tones(*main),
        accent=_accent(main, rng),
        backdrop=_backdrop(_jittered(BACKDROP[attributes["backdrop"]], rng), hair[0]),
        line=rng.uniform(1.6, 2.4),
        width=rng.uniform(1.0, 1.06),
        spread=rng.uniform(-1.5, 1.0),
        height=rng.uniform(-2.0, 3.0),
        gaze=(rng.uniform(-3, 3), rng.uniform(-1, 1.5)),
        light=int(rng.choice([-1, 1])),
        rng=rng,
    )


def _skin(colour: tuple[float, float, float]) -> Tones:
    """Skin with a warm shade and a reddish brown line."""
    lightness, chroma, hue = colour
    pale = min(max((lightness - 0.5) / 0.4, 0.0), 1.0)
    return Tones(
        parts.oklch(lightness, chroma, hue),
        parts.oklch(lightness - 0.085, chroma + 0.038 * pale, hue - 8 - 14 * pale),
        parts.oklch(lightness + 0.03, chroma * 0.9, hue),
        parts.oklch(0.18 + 0.30 * lightness, 0.085, 30),
    )


def _accent(main: tuple[float, float, float], rng: np.random.Generator) -> Tones:
    """A second colour for the clothes, opposite or a third around the wheel, often light if the main one is dark."""
    hue = main[2] + float(rng.choice([120, 150, 180, 210, 240]))
    if 95 < hue % 360 < 140:  # olive becomes gold
        hue = 85.0
    bright = 65 < hue % 360 < 130 or (main[0] < 0.6 and rng.random() < 0.5)
    return tones(0.82 if bright else 0.58, 0.13, hue)


def _backdrop(colour: tuple[float, float, float], hair: float) -> Tones:
    """Background tones whose lightness differs clearly from the hair's."""
    lightness, chroma, hue = colour
    if abs(lightness - hair) < 0.11:
        if hair < 0.6:
            lightness, chroma = hair + 0.25, chroma * 1.3
        elif 40 < hue < 130 or chroma < 0.02:  # these would look muddy if darkened
            lightness = 0.965
        else:
            lightness, chroma = hair - 0.15, chroma * 1.45
    return Tones(
        parts.oklch(lightness, chroma, hue),
        parts.oklch(lightness - 0.055, chroma * 1.3, hue + 18),
        parts.oklch(lightness + 0.045, chroma * 0.8, hue - 12),
        parts.oklch(lightness - 0.3, chroma, hue),
    )


def _portrait(look: Look) -> str:
    """All layers of a portrait as one SVG document of 256 × 256 units."""
    rng = look.rng
    tilt = float(np.clip(rng.normal(0, 2.2), -6, 6))
    scale = rng.uniform(0.96, 1.03)
    dx, dy = rng.normal(0, [2.2, 1.5]).clip(-5, 5)
    turn = f"rotate({tilt:.2f} 128 160) translate(128 150) scale({scale:.3f}) translate(-128 -150)"
    pose = f'transform="translate({dx:.2f} {dy - 2:.2f}) {turn}"'
    behind, before = hairdo.back_hair(look)
    cast, hair = hairdo.front_hair(look)
    head = [
        face.ears(look),
        face.face(look),
        cast,
        face.mouth(look),
        face.eyes(look),
        outfit.eye_patch(look),
        hair,
        face.brows(look),
        outfit.earrings(look),
        outfit.cat_ears(look),
        outfit.HEADWEAR[look.attributes["headwear"]](look),
        outfit.glasses(look),
    ]
    layers = [
        f'<rect width="256" height="256" fill="{look.backdrop.base}"/>',
        parts.BACKGROUNDS[look.attributes["background"]](look),
        f"<g {pose}>{behind}</g>",
        f'<g transform="translate({dx / 2:.2f} {dy / 2 - 2:.2f})">{outfit.body(look)}{outfit.choker(look)}</g>',
        f"<g {pose}>{before}{''.join(head)}</g>",
    ]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 256 256">{"".join(layers)}</svg>'
