"""Hair of an avatar: the fringe from tables of tips and notches, the hair behind the head, tails, buns and braids.

Every function takes a `Look` and returns SVG text on a canvas of 256 × 256 units.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

from vq_core.avatars.parts import (
    Look,
    Point,
    both,
    clipped,
    gradient,
    lens,
    mirror,
    oval,
    shape,
    stroke,
    symmetric,
    taper,
)

CROWN = (128.0, 44.0)

# The lower edge of the fringe from left to right: tip, notch, tip, … tip. A third number bends the neighbouring edges:
# 0 makes a full lock, 1 a hollow one that shows the forehead.
# fmt: off
FRINGES: dict[str, list[tuple[float, ...]]] = {
    "hime": [
        (60, 206), (77, 108), (85, 119), (93, 111), (103, 121), (112, 112), (121, 122), (129, 112), (138, 122),
        (146, 112), (155, 121), (164, 111), (172, 119), (179, 108), (196, 206),
    ],
    "swept_left": [
        (60, 190), (73, 118), (72, 146), (92, 106), (88, 124), (114, 98), (108, 120), (140, 88), (132, 116),
        (166, 74, 0.3), (184, 140), (187, 112), (198, 190),
    ],
    "swept_right": [
        (58, 190), (69, 112), (72, 140), (90, 74, 0.3), (124, 116), (116, 88), (148, 120), (142, 98), (168, 124),
        (164, 106), (184, 146), (183, 118), (196, 190),
    ],
    "centre": [
        (60, 194), (71, 122), (74, 150), (90, 104), (96, 120), (126, 64, 0.55), (160, 120), (166, 104),
        (182, 150), (185, 122), (196, 194),
    ],
    "curtain": [
        (58, 180), (70, 130), (66, 162), (84, 104, 0.6), (82, 138), (128, 58, 1.0), (174, 138), (172, 104, 0.6),
        (190, 162), (186, 130), (198, 180),
    ],
    "m_spiky": [
        (58, 176), (70, 122), (76, 146), (92, 102), (100, 120), (112, 98), (128, 150), (144, 98), (156, 120),
        (164, 102), (180, 146), (186, 122), (198, 176),
    ],
    "between_eyes": [
        (60, 192), (71, 114), (82, 124), (98, 104), (106, 118), (114, 96), (124, 160), (138, 96), (146, 118),
        (158, 104), (172, 126), (185, 114), (196, 192),
    ],
    "asymmetric": [
        (58, 214), (69, 124), (76, 160), (94, 106), (84, 142), (118, 96), (104, 122), (146, 78), (136, 112),
        (168, 68, 0.6), (188, 128), (188, 116), (200, 158),
    ],
    "side_locks": [
        (66, 240), (78, 114), (88, 120), (98, 108), (110, 122), (120, 106), (130, 124), (140, 106), (150, 121),
        (160, 108), (170, 120), (181, 114), (190, 240),
    ],
    "choppy": [
        (50, 168), (66, 134), (64, 152), (80, 112), (78, 130), (94, 104), (98, 122), (110, 100), (114, 126),
        (130, 96), (140, 124), (148, 102), (164, 122), (168, 108), (186, 138), (190, 124), (206, 164),
    ],
    "open": [
        (56, 178), (67, 116, 0.5), (76, 140), (106, 60, 0.85), (117, 116), (126, 60, 0.6), (180, 140),
        (189, 116, 0.5), (200, 178),
    ],
}
# fmt: on


def edge(points: Sequence[tuple[float, ...]]) -> str:
    """Curved SVG segments through notch, tip, notch, … (the pen is already at the first point)."""
    d = ""
    for k, (a, b) in enumerate(pairwise(points)):
        notch, tip = (a, b) if k % 2 == 0 else (b, a)
        hollow = notch[2] if len(notch) > 2 else 0.0
        x = notch[0] + hollow * (tip[0] - notch[0])
        y = notch[1] + (0.62 - 0.4 * hollow) * (tip[1] - notch[1])
        d += f"Q{x:.1f},{y:.1f} {b[0]:.1f},{b[1]:.1f} "
    return d


def fringe_points(look: Look) -> list[tuple[float, ...]]:
    """The fringe of this look, with each tip and notch slightly shifted."""
    table = FRINGES[look.attributes["fringe"]]
    shift = look.rng.normal(0, [1.6, 2.2], (len(table), 2)).clip(-4, 4)
    moved = [(p[0] + dx, p[1] + dy, *p[2:]) for p, (dx, dy) in zip(table, shift, strict=True)]
    return [(52.0, 128.0), *moved, (204.0, 128.0)]


def front_hair(look: Look) -> tuple[str, str]:
    """Fringe with side locks, as (shadow cast on the face, fragment)."""
    points = fringe_points(look)
    top = 23 + look.rng.uniform(-4, 3)
    d = f"M52,128 {edge(points)} C215,66 178,{top:.1f} 128,{top:.1f}C78,{top:.1f} 41,66 52,128Z"
    hair = (
        _tufts(look)
        + shape(d, look.hair.base, look.hair.line, look.line)
        + shape(_dome_shade(look, top), look.hair.shade)
    )
    hair += shape(_strands(look, points), look.hair.shade) + _tint(look, "fringe", d, 124, 212)
    lines = "".join(
        lens((x, y), ((x * 2 + CROWN[0]) / 3, y * 0.6 + 26), ((x + CROWN[0]) / 2, y * 0.45 + 26), 0.9)
        for x, y, *_ in points[2:-2:2]
        if y > 80
    )
    return _cast(look, points), hair + _ring(look, points) + shape(lines, look.hair.line) + _ahoge(look)


def _tufts(look: Look) -> str:
    """Tips that stick out from the head, for the wild styles."""
    if look.attributes["back_hair"] not in ("spiky", "wolf", "flipped"):
        return ""
    d = "M62,70C52,80 42,86 26,86C36,94 46,98 58,96M58,90C50,102 42,110 26,113C36,119 46,121 56,118"
    return both(shape(d, look.hair.base, look.hair.line, look.line))


def _cast(look: Look, points: Sequence[tuple[float, ...]]) -> str:
    """Shadow of the fringe: its own edge, moved down and away from the light."""
    inner = [(p[0] - 3 * look.light, p[1] + 8, *p[2:]) for p in points[2:-2]]
    left, right = 128 - 60 * look.width, 128 + 60 * look.width
    d = f"M{left:.1f},90V140L{inner[0][0]:.1f},{inner[0][1]:.1f} {edge(inner)}"
    d += f"L{right:.1f},140V90C{right:.1f},40 {left:.1f},40 {left:.1f},90Z"
    return shape(d, look.skin.shade)


def _strands(look: Look, points: Sequence[tuple[float, ...]]) -> str:
    """The darker side of every lock, away from the light."""
    d = ""
    for k in range(1, len(points) - 1, 2):
        notch, tip = (points[k + 1] if look.light < 0 else points[k - 1]), points[k]
        hollow = notch[2] if len(notch) > 2 else 0.0
        top = (notch[0] * 0.72 + CROWN[0] * 0.28, notch[1] * 0.5 + 36)
        middle = (0.5 * (notch[0] + tip[0]), 0.5 * (notch[1] + tip[1]) - 4)
        x = notch[0] + hollow * (tip[0] - notch[0])
        y = notch[1] + (0.62 - 0.4 * hollow) * (tip[1] - notch[1])
        d += f"M{top[0]:.1f},{top[1]:.1f} L{notch[0]:.1f},{notch[1]:.1f} Q{x:.1f},{y:.1f} {tip[0]:.1f},{tip[1]:.1f} "
        d += f"Q{middle[0]:.1f},{middle[1]:.1f} {top[0]:.1f},{top[1]:.1f}Z"
    return d


def _dome_shade(look: Look, top: float) -> str:
    """A crescent inside the outline of the skull, on the dark side."""
    at = (lambda x: x) if look.light < 0 else (lambda x: 256 - x)
    rim = f"M{at(201.5)},126C{at(211.5)},68 {at(177)},{top + 1.5:.1f} {at(132)},{top + 1.2:.1f}"
    return rim + f"C{at(166)},40 {at(186)},72 {at(190)},112L{at(194)},150Z"


def _ring(look: Look, points: Sequence[tuple[float, ...]]) -> str:
    """The band of light around the head: an arc with pointed teeth of varying length."""
    parting = min(p[1] for p in points[2:-2:2])
    up = max(0.0, 80 - parting)  # a high parting pushes the band up, off the forehead
    if look.rng.random() < 0.25:  # two plain glints instead
        y = 57 - up
        glints = lens((74, y + 29), (90, y + 5), (120, y), 6.5) + lens((128, y), (140, y), (152, y + 5), 5)
        return shape(glints, look.hair.light) if look.light < 0 else mirror(shape(glints, look.hair.light))
    d = lens((66, 84 - 0.4 * up), (128, 40 - 1.6 * up), (190, 84 - 0.4 * up), 4.5)
    count = 14
    for k in range(count):
        t = -1 + 2 * (k + 0.5) / count
        long = (5 + 13 * look.rng.random()) * (1 - 0.35 * abs(t))
        x, y, lean = 128 + 56 * t, 62 - up + (19 + 0.6 * up) * t * t, 6 * t
        d += lens((x - lean, y - long * 0.6), (x, y), (x + lean, y + long), 8.5)
    return shape(d, look.hair.light)


def _tint(look: Look, name: str, outline: str, top: float, bottom: float) -> str:
    """Second colour of two-tone hair inside an outline: a gradient towards the tips, or one streak in the fringe."""
    kind = look.attributes["hair_tips"]
    if kind == "gradient":
        place = f'gradientUnits="userSpaceOnUse" x1="0" y1="{top}" x2="0" y2="{bottom}"'
        stops = [(0.0, look.tips.base, 0.0), (1.0, look.tips.base, 0.85)]
        return gradient(name, stops, more=place) + shape(outline, f"url(#{name})")
    if kind == "streak" and name == "fringe":
        x = 128 - 34 * look.light
        streak = taper((128 - 10 * look.light, 26), (x, 60), (x - 14 * look.light, 150), 13, look.tips.base)
        return clipped(name, outline, streak)
    return ""


AHOGES = {
    "none": "",
    "single": "M118,32C114,16 126,6 150,12C137,14 131,20 136,32",
    "double": "M110,34C104,21 92,14 76,19C90,21 100,26 104,35M122,32C120,18 134,10 156,16C142,18 136,22 138,33",
    "bolt": "M119,32C116,21 128,19 122,7C138,11 138,19 131,22C136,26 134,28 135,32",
}


def _ahoge(look: Look) -> str:
    d = AHOGES[look.attributes["ahoge"]]
    svg = shape(d, look.hair.base, look.hair.line, look.line) if d else ""
    return svg if look.light < 0 else mirror(svg)


# Half contour of the hair behind the head, from the temple outwards and down to the middle line
BACKS: dict[str, str] = {
    "pixie": "M58,110C44,150 46,174 62,192Q66,186 70,184Q78,204 98,208L128,208",
    "bob": "M58,110C34,150 32,184 46,208Q50,216 62,221Q62,215 64,210Q76,220 96,218L128,216",
    "long_straight": "M58,110C38,150 36,200 30,272L128,272",
    "long_wavy": "M58,110C30,140 26,160 32,176C37,190 16,196 20,216C24,232 8,242 12,272L128,272",
    "spiky": "M58,110C42,130 34,130 22,124C28,142 36,150 41,152C34,162 26,166 14,166C26,176 38,180 45,180"
    "C42,192 38,200 28,208C46,208 58,204 66,198Q70,212 80,216L128,214",
    "wolf": "M58,110C38,140 40,160 32,176C42,174 48,170 50,168C46,186 40,204 24,222C40,221 52,213 58,206"
    "C58,222 54,236 44,250C64,244 78,232 84,216L128,216",
    "flipped": "M58,110C40,144 44,170 44,188C42,204 30,214 14,212C26,222 46,224 58,214"
    "C56,220 52,226 46,230C64,232 80,226 88,214L128,214",
}


def back_hair(look: Look) -> tuple[str, str]:
    """Hair as (behind the body, in front of the shoulders)."""
    style = look.attributes["back_hair"]
    behind, front = EXTRAS[style](look) if style in EXTRAS else ("", "")
    half = BACKS.get(style, BACKS["pixie"])
    cap = symmetric(half) + "C204,56 176,32 128,32C80,32 52,56 58,110Z"
    deep = 'transform="translate(128 116) scale(.8 .985) translate(-128 -116)"'
    hair = shape(cap, look.hair.base, look.hair.line, look.line) + shape(cap, look.hair.shade, more=deep)
    if style.startswith("long"):
        strands = lens((58, 170), (50, 210), (44, 262), 1.1) + lens((68, 180), (62, 220), (64, 266), 1.1)
        hair += both(shape(strands, look.hair.line))
        front += _front_locks(look)
    return behind + hair + _tint(look, "back", cap, 160, 256), front


def _front_locks(look: Look) -> str:
    """Two long locks that fall over the shoulders."""
    d = "M58,160C50,190 56,214 48,272H72C86,240 72,214 72,176Z"
    fold = lens((68, 180), (66, 226), (68, 270), 5)
    if look.attributes["back_hair"] == "long_wavy":
        d = "M58,160C46,182 64,198 52,216C40,234 54,248 44,272H78C88,250 70,240 80,222C90,204 70,196 72,176Z"
        fold = lens((68, 190), (80, 206), (66, 226), 4) + lens((66, 226), (60, 244), (72, 268), 4)
    lock = shape(d, look.hair.base, look.hair.line, look.line) + shape(fold, look.hair.shade)
    return both(lock + _tint(look, "lock", d, 170, 256))


def _tail(look: Look, d: str, strands: Sequence[tuple[Point, Point, Point]], light: tuple[Point, Point, Point]) -> str:
    """A bundle of hair: outline, dark strands and one glint."""
    dark = "".join(lens(*strand, 7) for strand in strands)
    thin = "".join(lens(*strand, 0.9) for strand in strands)
    svg = shape(d, look.hair.base, look.hair.line, look.line) + shape(dark, look.hair.shade)
    return svg + taper(*light, 5, look.hair.light) + shape(thin, look.hair.line) + _tint(look, "tail", d, 130, 236)


def _tie(look: Look, x: float, y: float) -> str:
    return oval(x, y, 7.5, 9, look.accent.base, f'stroke="{look.accent.line}" stroke-width="{look.line:.1f}"')


def _twin_tails(look: Look) -> tuple[str, str]:
    d = (
        "M58,80C34,58 10,76 8,124C6,168 20,190 8,240C26,230 36,212 38,190C42,206 40,218 36,230"
        "C58,204 56,160 54,130C54,112 58,100 64,96Z"
    )
    strands = [((46, 80), (18, 104), (26, 184)), ((52, 92), (36, 124), (42, 190))]
    return both(_tail(look, d, strands, ((18, 104), (12, 124), (13, 146))) + _tie(look, 56, 87)), ""


def _low_twin_tails(look: Look) -> tuple[str, str]:
    d = "M54,196C30,206 16,232 28,274H76C86,246 74,222 63,194Z"
    strands = [((54, 198), (32, 228), (42, 274)), ((60, 198), (64, 226), (58, 274))]
    return "", both(_tail(look, d, strands, ((33, 216), (25, 232), (29, 250))) + _tie(look, 58, 192))


def _ponytail(look: Look) -> tuple[str, str]:
    d = (
        "M158,36C194,10 238,42 242,98C245,150 226,178 242,236C216,226 204,200 204,176C198,190 200,200 198,212"
        "C178,186 200,130 192,92Z"
    )
    strands = [((186, 40), (232, 74), (220, 190)), ((190, 60), (216, 96), (208, 170))]
    svg = _tail(look, d, strands, ((226, 84), (233, 104), (231, 130)))
    return (svg if look.light < 0 else mirror(svg)), ""


def _buns(look: Look) -> tuple[str, str]:
    ring = f'stroke="{look.hair.line}" stroke-width="{look.line:.1f}"'
    bun = oval(62, 50, 27, 26, look.hair.base, ring) + taper((42, 64), (60, 80), (84, 68), 5, look.hair.shade)
    bun += taper((44, 44), (50, 32), (62, 29), 5, look.hair.light)
    return both(bun + stroke("M50,62C42,46 60,30 74,42C82,54 66,66 60,54", look.hair.line, 1.6)), ""


def _braid(look: Look) -> tuple[str, str]:
    """One braid over a shoulder: pairs of leaves that overlap like shingles."""
    svg = ""
    for k in range(6):
        x, y, w = 58 - 7 * math.sin(0.55 * k), 170 + 16 * k, 15 + 3 * math.sin(0.6 * k)
        for side, fill in ((1, look.hair.shade), (-1, look.hair.base)):
            leaf = f"M{x + 2 * side:.1f},{y + 26:.1f}C{x - 5 * side:.1f},{y + 16:.1f} {x - 4 * side:.1f},{y + 4:.1f}"
            leaf += f" {x + 3 * side:.1f},{y - 2:.1f}C{x + side * w:.1f},{y - 3:.1f}"
            leaf += f" {x + side * (w + 4):.1f},{y + 14:.1f} {x + 2 * side:.1f},{y + 26:.1f}Z"
            svg += shape(leaf, fill, look.hair.line, look.line * 0.8)
        svg += taper((x - w + 2, y + 6), (x - w + 3, y + 12), (x - 5, y + 20), 2, look.hair.light)
    return "", svg if look.light < 0 else mirror(svg)


def _drills(look: Look) -> tuple[str, str]:
    """Twin drills: coils that narrow downwards, drawn from the lowest to the highest."""
    svg = ""
    for k in range(6):
        y, w, x = 106 + 23 * k, 28 - 2.6 * k, 38 + 1.5 * k
        d = f"M{x - w:.1f},{y:.1f}C{x - w - 4:.1f},{y + 22:.1f} {x + w:.1f},{y + 38:.1f} {x + w:.1f},{y + 14:.1f}"
        d += f"C{x + w:.1f},{y - 6:.1f} {x - w:.1f},{y - 16:.1f} {x - w:.1f},{y:.1f}Z"
        fold = taper((x - w + 3, y + 7), (x, y + 26), (x + w - 2, y + 19), 4, look.hair.shade)
        glint = taper((x - w * 0.7, y), (x - 6, y + 8), (x + w * 0.3, y + 9), 3, look.hair.light)
        svg = shape(d, look.hair.base, look.hair.line, look.line) + fold + glint + svg
    return both(svg + _tie(look, 52, 98)), ""


EXTRAS: dict[str, Callable[[Look], tuple[str, str]]] = {
    "twin_tails": _twin_tails,
    "low_twin_tails": _low_twin_tails,
    "ponytail": _ponytail,
    "buns": _buns,
    "braid": _braid,
    "drills": _drills,
}
BACK_STYLES = (*BACKS, *EXTRAS)
