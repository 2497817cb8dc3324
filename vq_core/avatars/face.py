"""Face of an avatar: its outline, eyes, brows, mouth, nose and ears.

Every function takes a `Look` and returns SVG text on a canvas of 256 × 256 units.
"""

import re
from collections.abc import Callable

from vq_core.avatars.parts import Look, Point, both, clipped, gradient, lens, oval, shape, symmetric, taper

JAWS = {
    "pointed": "M66,105C66,142 70,158 86,173C99,185 117,196 128,199",
    "soft": "M66,105C65,144 70,163 89,178C102,188 117,195 128,196",
    "round": "M66,105C63,146 69,168 92,182C106,191 118,194 128,194",
    "firm": "M66,105C66,144 69,164 83,176C96,187 113,195 128,195",
}


def face_path(look: Look) -> str:
    """Outline of the face, closed over the top of the skull."""
    right = 128 + 62 * look.width
    jaw = symmetric(JAWS[look.attributes["jaw"]], look.width)
    return f"{jaw}C{right:.1f},30 {256 - right:.1f},30 {256 - right:.1f},105Z"


def face(look: Look) -> str:
    """Face with cheeks and nose, and a shadow on the side away from the light."""
    d = face_path(look)
    lit = f'transform="translate({128 + 5 * look.light} 105) scale(.93 .965) translate(-128 -105)"'
    body = shape(d, look.skin.shade) + shape(d, look.skin.base, more=lit) + shape(d, "none", look.skin.line, look.line)
    nose = taper((127, 164), (126 - 2 * look.light, 169), (129, 170), 1.6, look.skin.line)
    return body + _blush(look) + nose + taper((126, 172), (128, 173.5), (131, 172), 0.8, look.skin.shade)


def _blush(look: Look) -> str:
    kind = look.attributes["blush"]
    if kind == "none":
        return ""
    strength = {"light": 0.42, "rosy": 0.75, "lines": 0.5}[kind]
    x = 128 - 32 * look.width
    soft = gradient("blush", [(0, "#f2607c", strength), (1, "#f2607c", 0)], True)
    cheeks = oval(x, 170, 16, 9.5, "url(#blush)")
    if kind == "lines":
        cheeks += "".join(taper((x + k, 173), (x + k + 2, 169), (x + k + 4, 166), 1.2, "#d8485f") for k in (-9, -2, 5))
    return soft + both(cheeks)


def ears(look: Look) -> str:
    """Elf ears; human ears are hidden by the side locks, and cat ears sit on the hair (see `cat_ears`)."""
    if look.attributes["ears"] != "elf":
        return ""
    x = 128 - 62 * look.width
    d = f"M{x + 4:.1f},130C{x - 8:.1f},122 {x - 26:.1f},116 {x - 40:.1f},116"
    d += f"C{x - 30:.1f},136 {x - 14:.1f},156 {x + 6:.1f},158Z"
    fold = taper((x - 28, 121), (x - 8, 128), (x + 2, 146), 3, look.skin.shade)
    return both(shape(d, look.skin.base, look.skin.line, look.line) + fold)


# Half width, height above and below the centre, inner and outer corner (downwards), place of the peak, wing
EYES = {
    "round": (20.5, 23.0, 20.5, 6.0, 1.0, 0.0, 3.0),
    "almond": (22.0, 20.5, 19.0, 7.0, -3.0, 2.0, 4.0),
    "droopy": (21.0, 21.5, 19.0, 2.0, 7.0, -4.0, 3.0),
    "sharp": (22.5, 18.5, 17.5, 9.0, -7.0, 5.0, 4.5),
}
EYE_SIZES = {"medium": 0.93, "large": 1.01, "huge": 1.09}
LASH = "#2a1c26"


def eyes(look: Look) -> str:
    """Both eyes, lit from the same side."""
    i = look.iris
    svg = gradient("iris", [(0.08, i.line, 1), (0.5, i.base, 1), (1, i.light, 1)])
    size = EYE_SIZES[look.attributes["eye_size"]]
    draw = _happy_eye if look.attributes["eye_shape"] == "happy" else _open_eye
    for side in (-1, 1):
        place = f'transform="translate({128 + side * (33.5 + look.spread):.1f} {146 + look.height:.1f}) scale({size})"'
        svg += f"<g {place}>{draw(look, side)}</g>"
    return svg


def _open_eye(look: Look, side: int) -> str:
    """White, iris, lashes and crease of one eye."""
    w, top, bottom, inner, outer, peak, wing = EYES[look.attributes["eye_shape"]]
    upper = f"C{-w},{-top * 0.55} {peak - w * 0.55},{-top} {peak},{-top}"
    upper += f"C{peak + w * 0.55},{-top} {w * 0.95},{-top * 0.6 + outer * 0.4} {w},{outer}"
    lower = f"C{w * 0.95},{bottom * 0.7} {w * 0.5},{bottom} 0,{bottom}"
    lower += f"C{-w * 0.5},{bottom} {-w * 0.9},{bottom * 0.6} {-w},{inner}"
    white = f"M{-w},{inner}{upper}{lower}Z"
    lash = f"M{-w - 1.5},{inner + 2}C{-w - 1},{-top * 0.75} {peak - w * 0.6},{-top - 5.5} {peak},{-top - 5.5}"
    lash += f"C{peak + w * 0.6},{-top - 5.5} {w},{-top * 0.75 + outer * 0.4} {w + wing},{outer - 5}"
    lash += f"Q{w + 3},{outer + 1} {w - 0.5},{outer + 5}C{w * 0.9},{-top * 0.5 + outer * 0.4}"
    lash += f" {peak + w * 0.55},{-top + 1} {peak},{-top + 1}"
    lash += f"C{peak - w * 0.55},{-top + 1} {-w},{-top * 0.5} {-w - 1.5},{inner + 2}Z"
    white, lash = _turned(white, side), _turned(lash, side)
    shadow = shape(lash, look.iris.line, more='fill-opacity=".35" transform="translate(0 6)"')
    svg = (
        shape(white, "#fffdfd")
        + clipped(f"eye{side}", white, _iris(look, -1.2 * side, top, bottom) + shadow)
        + shape(lash, LASH)
    )
    under = lens((w * 0.97, outer + 6), (w * 0.75, bottom + 1.5), (-w * 0.1, bottom + 0.5), 1.4)
    crease = lens((-w * 0.55, -top - 9), (peak, -top - 14), (w + 1, outer - top * 0.55 - 6), 1.1)
    svg += shape(_turned(under, side), LASH, more='fill-opacity=".8"')
    return svg + shape(_turned(crease, side), look.skin.line, more='fill-opacity=".75"')


def _turned(d: str, side: int) -> str:
    """Path data with x negated for the eye on the left (side -1)."""
    return re.sub(r"(-?[\d.]+),(-?[\d.]+)", lambda m: f"{side * float(m[1]):.1f},{float(m[2]):.1f}", d)


def _iris(look: Look, x: float, top: float, bottom: float) -> str:
    x, y = x + look.gaze[0], (bottom - top) / 2 + 0.5 + look.gaze[1]
    rx, ry = 15.8, (top + bottom) / 2 * 0.99
    s = look.light
    svg = oval(x, y, rx, ry, "url(#iris)", f'stroke="{look.iris.line}" stroke-width="2.4"')
    svg += oval(x, y + ry * 0.62, rx * 0.62, ry * 0.24, look.iris.light, 'fill-opacity=".8"')
    svg += oval(x, y - ry * 0.05, 6.3, ry * 0.42, "#1c1220", 'fill-opacity=".88"')
    svg += oval(x + 6.5 * s, y - ry * 0.4, 5.4, 6.6, "#ffffff", f'transform="rotate({20 * s} {x:.1f} {y:.1f})"')
    return svg + oval(x - 6.5 * s, y + ry * 0.42, 2.8, 3.2, "#ffffff", 'fill-opacity=".95"')


def _happy_eye(look: Look, side: int) -> str:
    """A closed, smiling eye."""
    arc = "M-22,9C-17,-11 12,-15 21,4L25,0C16,-21 -15,-19 -22,9Z" + lens((18, 2), (22, 5), (25, 8), 2.0)
    return shape(_turned(arc, side), LASH, LASH, 1)


# Inner end, bend and outer end as offsets from the middle of the brow; thickness
BROWS = {
    "soft": ((-17, 3), (0, -5), (17, 2), 2.3),
    "straight": ((-17, 1), (0, -1), (17, 0), 2.4),
    "arched": ((-17, 4), (4, -10), (18, 4), 2.2),
    "worried": ((-16, -4), (0, -5), (17, 5), 2.2),
    "fierce": ((-17, 6), (4, -4), (18, -4), 2.8),
    "short": ((-9, 0), (0, -2), (8, 1), 3.8),
}


def brows(look: Look) -> str:
    """Both eyebrows in the outline tone of the hair."""
    start, bend, end, width = BROWS[look.attributes["brows"]]
    y = 109 + look.height
    svg = ""
    for side in (-1, 1):
        x = 128 + side * (36 + look.spread)
        ends = [(x + side * px, y + py) for px, py in (start, bend, end)]
        svg += lens(ends[0], ends[1], ends[2], width + 0.3)
    return shape(svg, look.hair.line, more='fill-opacity=".88"')


def mouth(look: Look) -> str:
    """The mouth, small and low in the face."""
    return f'<g transform="translate(128 182) scale(1.15)">{MOUTHS[look.attributes["mouth"]](look)}</g>'


def _open_mouth(d: str, teeth: bool = True) -> Callable[[Look], str]:
    def draw(look: Look) -> str:
        inside = oval(0, 10, 8, 6, "#f08a8f")
        if teeth:
            inside += shape("M-12,-4H12V-0.5Q0,2 -12,-0.5Z", "#ffffff")
        return shape(d, "#8e2b3c") + clipped("mouth", d, inside) + shape(d, "none", look.skin.line, 1.7)

    return draw


def _lines(*curves: tuple[Point, Point, Point, float]) -> Callable[[Look], str]:
    return lambda look: "".join(taper(a, b, c, w, look.skin.line) for a, b, c, w in curves)


MOUTHS: dict[str, Callable[[Look], str]] = {
    "smile": _lines(((-10, -1), (0, 7), (10, -1), 1.5)),
    "open_smile": _open_mouth("M-11,-3Q0,0 11,-3C10,5 5,9 0,9C-5,9 -10,5 -11,-3Z"),
    "grin": _open_mouth("M-8,-2Q0,0 8,-2C7,3 4,5.5 0,5.5C-4,5.5 -7,3 -8,-2Z"),
    "line": _lines(((-7, 0), (0, 1), (7, 0), 1.4)),
    "pout": _lines(((-6, 1), (0, -4), (6, 1), 1.6), ((-2.5, 5), (0, 6), (2.5, 5), 1.0)),
    "cat": _lines(((-10, -1), (-6, 6), (0, 0), 1.4), ((0, 0), (6, 6), (10, -1), 1.4)),
    "frown": _lines(((-8, 3), (0, -4), (8, 3), 1.5)),
    "small_o": _open_mouth("M0,-4C5,-4 5,5 0,5C-5,5 -5,-4 0,-4Z", teeth=False),
}
