"""Shoulders, clothes and accessories of an avatar.

Every function takes a `Look` and returns SVG text on a canvas of 256 × 256 units.
"""

import math
from collections.abc import Callable

from vq_core.avatars.parts import (
    Look,
    Tones,
    _plain,
    both,
    lens,
    mirror,
    oval,
    shape,
    stroke,
    taper,
)

SHOULDERS = "M111,212C106,224 70,226 50,238C40,244 34,256 32,270H224C222,256 216,244 206,238C186,226 150,224 145,212Z"


def body(look: Look) -> str:
    """Neck, shoulders and clothes."""
    neck = "M112,180V208C110,222 100,226 92,228L128,262L164,228C156,226 146,222 144,208V180Z"
    skin = shape(SHOULDERS, look.skin.base, look.skin.line, look.line) + shape(neck, look.skin.base)
    skin += stroke("M112,184V208C111,218 106,223 98,226M144,184V208C145,218 150,223 158,226", look.skin.line, look.line)
    shadow = shape("M112,184H144V206C140,216 132,221 124,222C116,220 112,214 112,206Z", look.skin.shade)
    bones = both(taper((96, 235), (110, 234), (122, 241), 0.9, look.skin.line))
    return skin + shadow + bones + CLOTHES[look.attributes["clothes"]](look)


def _cloth(look: Look, d: str, tone: Tones | None = None, more: str = "") -> str:
    tone = tone or look.main
    return shape(d, tone.base, tone.line, look.line, more)


def _folds(look: Look, tone: Tones) -> str:
    return both(
        taper((62, 240), (74, 250), (70, 264), 2.6, tone.shade)
        + taper((84, 240), (90, 250), (88, 262), 1.6, tone.shade)
    )


WHITE = Tones("#fbfafc", "#d9d7e6", "#ffffff", "#6a6580")
METAL = Tones("#c9d0dc", "#8f9bb0", "#f2f6fb", "#4b5468")
GOLD = Tones("#f2c14e", "#c98a2b", "#fdeaa0", "#7a4c17")


def _sailor(look: Look) -> str:
    top = _cloth(
        look,
        "M100,224C80,228 60,232 50,238C40,244 34,256 32,270H224C222,256 216,244 206,238"
        "C196,232 176,228 156,224L128,256Z",
        WHITE,
    )
    collar = (
        "M101,214C92,222 78,226 66,232L70,250C92,248 112,252 124,266L132,266"
        "C144,252 164,248 186,250L190,232C178,226 164,222 155,214L128,252Z"
    )
    stripe = "M72,245C94,243 114,247 126,262M184,245C162,243 142,247 130,262"
    knot = "M128,250C116,240 102,244 104,254C104,264 118,262 128,254C138,262 152,264 152,254C154,244 140,240 128,250Z"
    tails = _cloth(look, "M124,254L110,274H126L128,258L130,274H146L132,254Z", look.accent)
    return (
        top
        + _folds(look, WHITE)
        + _cloth(look, collar)
        + stroke(stripe, "#ffffff", 1.8)
        + tails
        + _cloth(look, knot, look.accent)
        + _cloth(look, "M123,247H133V257H123Z", look.accent)
    )


def _hoodie(look: Look) -> str:
    hood = _cloth(
        look,
        "M104,206C84,204 68,216 66,234C82,246 108,256 128,258C148,256 174,246 190,234"
        "C188,216 172,204 152,206C154,224 142,238 128,240C114,238 102,224 104,206Z",
    )
    top = _cloth(
        look,
        "M84,226C66,230 56,234 50,238C40,244 34,256 32,270H224C222,256 216,244 206,238"
        "C200,234 190,230 172,226L128,250Z",
    )
    inner = shape(
        "M104,208C94,212 92,222 98,232C104,240 116,244 128,245C140,244 152,240 158,232"
        "C164,222 162,212 152,208C154,224 142,238 128,240C114,238 102,224 104,208Z",
        look.main.shade,
    )
    cords = stroke("M114,248V264M142,248V264", look.accent.base, 3)
    return top + _folds(look, look.main) + hood + inner + cords


def _blazer(look: Look) -> str:
    shirt = _cloth(look, "M102,216L84,232L104,270H152L172,232L154,216L128,244Z", WHITE)
    collar = _cloth(look, "M106,208L92,226L112,248L128,240ZM150,208L164,226L144,248L128,240Z", WHITE)
    tie = _cloth(look, "M121,238H135L133,248L142,274H114L123,248Z", look.accent) + _cloth(
        look, "M120,237H136L133,248H123Z", look.accent
    )
    side = _cloth(look, "M92,222C76,228 60,232 50,238C40,244 34,256 32,270H116C108,256 98,240 92,222Z")
    lapel = _cloth(look, "M92,220C84,226 80,230 78,236L86,246L80,250L112,272C106,256 98,240 92,220Z")
    return shirt + tie + collar + both(side + taper((62, 240), (74, 250), (70, 264), 2.6, look.main.shade) + lapel)


def _kimono(look: Look) -> str:
    under = _cloth(look, "M102,212L90,228L128,270L166,228L154,212L128,250Z", WHITE)
    right = _cloth(look, "M158,216C176,228 196,232 206,238C216,244 222,256 224,270H96L150,226Z")
    left = _cloth(look, "M98,216C80,228 60,232 50,238C40,244 34,256 32,270H150L108,228Z")
    band_right = _cloth(look, "M150,210L162,218C156,238 134,258 112,272H92C118,256 144,236 150,210Z", look.accent)
    band_left = _cloth(look, "M106,210L94,218C100,238 122,258 144,272H164C138,256 112,236 106,210Z", look.accent)
    petals = "".join(
        oval(x, y, 5, 5, look.main.light) + oval(x, y, 2, 2, look.accent.base)
        for x, y in ((58, 250), (78, 244), (200, 252), (180, 246), (70, 262))
    )
    return under + right + left + _folds(look, look.main) + petals + band_right + band_left


def _turtleneck(look: Look) -> str:
    top = _cloth(look, SHOULDERS)
    collar = _cloth(look, "M108,198C120,208 136,208 148,198L151,224C138,236 118,236 105,224Z")
    ribs = stroke("M116,206L114,227M124,208V231M132,208V231M140,206L142,227", look.main.shade, 1.6)
    shade = shape("M110,200C120,208 136,208 146,200L148,208C136,216 120,216 108,208Z", look.main.shade)
    return top + _folds(look, look.main) + collar + shade + ribs


def _dress(look: Look) -> str:
    """A dress that leaves the shoulders bare, with a frill around the arms."""
    xs = [40 + 176 * k / 12 for k in range(13)]
    ys = [253 - 9 * ((x - 128) / 92) ** 2 for x in xs]
    frill = f"M{xs[0]:.1f},{ys[0]:.1f}Q128,262 {xs[-1]:.1f},{ys[-1]:.1f}"
    frill += f"Q222,250 {xs[-1] + 2:.1f},{ys[-1] + 12:.1f}"
    ends = list(zip(xs, ys, strict=True))[-2::-1]
    frill += "".join(f"Q{x + 7.5:.1f},{y + 23:.1f} {x:.1f},{y + 13:.1f}" for x, y in ends) + "Q34,250 40,245Z"
    pleats = "".join(lens((x, y + 3), (x - 1, y + 8), (x, y + 13), 1.3) for x, y in ends[:-1])
    top = _cloth(look, "M44,250Q128,262 212,250L216,278H40Z")
    lines = "M104,222L97,252M152,222L159,252"
    straps = stroke(lines, look.main.line, 5.4) + stroke(lines, look.main.base, 3)
    return straps + top + _cloth(look, frill, look.accent) + shape(pleats, look.accent.shade)


def _armour(look: Look) -> str:
    cloth = _cloth(look, SHOULDERS)
    gorget = _cloth(look, "M104,208C116,220 140,220 152,208L158,230C140,246 116,246 98,230Z", METAL)
    plate = _cloth(look, "M88,232C104,246 152,246 168,232L176,274H80Z", METAL)
    gem = _cloth(look, "M128,246L136,256L128,268L120,256Z", look.accent)
    pad = _cloth(look, "M28,262C26,236 50,222 76,228C92,232 92,252 84,270H28Z", METAL) + stroke(
        "M30,256C40,244 64,240 88,250", GOLD.base, 3
    )
    pad += taper((40, 240), (54, 230), (74, 234), 3, METAL.light) + taper(
        (98, 236), (96, 254), (102, 270), 3, METAL.shade
    )
    trim = stroke("M105,211C116,223 140,223 151,211", GOLD.base, 3)
    return cloth + plate + both(pad) + gorget + trim + gem


def _tshirt(look: Look) -> str:
    top = _cloth(
        look,
        "M96,225C78,229 60,233 50,238C40,244 34,256 32,270H224C222,256 216,244 206,238"
        "C196,233 178,229 160,225C156,240 144,247 128,247C112,247 100,240 96,225Z",
    )
    hem = stroke("M97,227C101,241 113,247 128,247C143,247 155,241 159,227", look.accent.base, 4)
    return (
        top
        + _folds(look, look.main)
        + hem
        + stroke("M95,225C99,243 112,250 128,250C144,250 157,243 161,225", look.main.line, 1.5)
    )


CLOTHES: dict[str, Callable[[Look], str]] = {
    "sailor": _sailor,
    "hoodie": _hoodie,
    "blazer": _blazer,
    "kimono": _kimono,
    "turtleneck": _turtleneck,
    "dress": _dress,
    "armour": _armour,
    "tshirt": _tshirt,
}


# Accessories -------------------------------------------------------------------------------------------------------


def glasses(look: Look) -> str:
    """Round or square glasses in front of the eyes."""
    kind = look.attributes["glasses"]
    if kind == "none":
        return ""
    x, y = 128 - (35 + look.spread), 146 + look.height
    frame = f'fill="#ffffff" fill-opacity=".14" stroke="{look.accent.line}" stroke-width="3"'
    if kind == "round":
        lens = f'<ellipse cx="{x:.1f}" cy="{y:.1f}" rx="29" ry="28" {frame}/>'
    else:
        lens = f'<rect x="{x - 29:.1f}" y="{y - 21:.1f}" width="58" height="45" rx="9" {frame}/>'
    shine = taper((x - 18, y + 8), (x - 12, y - 4), (x - 4, y - 14), 2.5, "#ffffff", 'fill-opacity=".55"')
    bridge = stroke(f"M{x + 27:.1f},{y - 3:.1f}Q128,{y - 10:.1f} {229 - x:.1f},{y - 3:.1f}", look.accent.line, 3)
    return both(lens) + shine + f'<g transform="translate({256 - 2 * x:.1f} 0)">{shine}</g>' + bridge


def eye_patch(look: Look) -> str:
    """A patch over one eye, with its strap under the hair."""
    if look.attributes["extra"] != "eye_patch":
        return ""
    patch = "M-25,-20Q0,-27 25,-20C26,8 12,25 0,27C-12,25 -26,8 -25,-20Z"
    svg = shape(patch, "#3a3040", "#1d1622", 2) + taper((-18, -12), (-6, -18), (14, -15), 2, "#6b5f78")
    x, y = 128 + 33.5 + look.spread, 146 + look.height
    strap = stroke(f"M62,84L{x - 14:.1f},{y - 20:.1f}M{x + 22:.1f},{y - 14:.1f}L198,118", "#2b2430", 3)
    return strap + f'<g transform="translate({x:.1f} {y:.1f})">{svg}</g>'


def earrings(look: Look) -> str:
    """Drops on both sides of the jaw, in front of the hair."""
    if look.attributes["extra"] != "earrings":
        return ""
    drop = shape("M62,164L68,175L62,190L56,175Z", look.accent.base, look.accent.line, 1.6)
    return both(drop + oval(62, 162, 3.6, 3.6, GOLD.base, f'stroke="{GOLD.line}" stroke-width="1.4"'))


def choker(look: Look) -> str:
    """A band around the neck with a pendant."""
    if look.attributes["extra"] != "choker":
        return ""
    band = shape("M111,203C120,211 136,211 145,203V211C136,219 120,219 111,211Z", "#2b2430")
    return band + shape("M128,214L134,221L128,229L122,221Z", look.accent.base, look.accent.line, 1.5)


def cat_ears(look: Look) -> str:
    """Cat ears in the colour of the hair, on top of the head."""
    if look.attributes["ears"] != "cat":
        return ""
    outer = shape("M54,74C44,48 42,24 46,8C68,14 92,26 104,44Z", look.hair.base, look.hair.line, look.line)
    inner = shape("M60,64C52,44 50,30 52,19C66,24 82,34 90,44Z", "#f6b3b8") + shape(
        "M62,72C66,60 72,50 78,38C82,50 92,48 100,46L84,70Z", look.hair.base
    )
    return both(outer + inner)


def _ribbon(look: Look) -> str:
    a = look.accent
    bow = _cloth(look, "M128,34C104,8 82,12 82,30C82,48 104,50 128,38C152,50 174,48 174,30C174,12 152,8 128,34Z", a)
    bow += both(taper((94, 28), (108, 28), (122, 35), 2.4, a.shade)) + _cloth(look, "M119,27H137V44H119Z", a)
    return f'<g transform="rotate({-38 * look.light} 128 112) translate(0 4)">{bow}</g>'


def _clips(look: Look) -> str:
    paint = f'fill="{look.accent.base}" stroke="{look.accent.line}" stroke-width="1.6"'
    bars = "".join(
        f'<rect x="{x}" y="{y}" width="26" height="7" rx="3" {paint} transform="rotate({turn} {x} {y})"/>'
        for x, y, turn in ((64, 92, 34), (62, 106, 18))
    )
    return bars if look.light > 0 else mirror(bars)


def _flower(look: Look) -> str:
    centre = (70.0, 70.0)
    petals = ""
    for k in range(5):
        t = math.radians(72 * k - 90)
        petals += oval(
            centre[0] + 12 * math.cos(t),
            centre[1] + 12 * math.sin(t),
            10,
            10,
            look.accent.base,
            f'stroke="{look.accent.line}" stroke-width="1.8"',
        )
    svg = (
        petals
        + oval(*centre, 11, 11, look.accent.base)
        + oval(*centre, 6.5, 6.5, GOLD.base, f'stroke="{GOLD.line}" stroke-width="1.4"')
    )
    return svg if look.light > 0 else mirror(svg)


def _headphones(look: Look) -> str:
    band = "M50,128C34,64 76,14 128,14C180,14 222,64 206,128"
    arc = (
        stroke(band, look.main.line, 12)
        + stroke(band, look.main.base, 8)
        + stroke("M60,66C74,38 98,24 122,21", look.main.light, 2.5)
    )
    cup = _cloth(look, "M38,116C38,106 62,104 64,114V158C62,168 38,166 38,156Z", look.main) + _cloth(
        look, "M58,118H68V156H58Z", look.accent
    )
    return arc + both(cup + taper((44, 120), (41, 136), (44, 150), 2, look.main.light))


def _headband(look: Look) -> str:
    band = "M50,104C62,62 92,44 128,44C164,44 194,62 206,104L208,92C196,50 166,30 128,30C90,30 60,50 48,92Z"
    return _cloth(look, band, look.accent) + stroke("M70,60C86,44 104,38 122,37", look.accent.light, 2.4)


def _halo(look: Look) -> str:
    ring = 'fill="none" stroke-width="{}" stroke="{}"'
    rims = ((8.5, "#f7d774", 0.45), (5, "#ffe9a3", 1), (1.8, "#ffffff", 1))
    return "".join(f'<ellipse cx="128" cy="17" rx="46" ry="10" opacity="{o}" {ring.format(w, c)}/>' for w, c, o in rims)


def _horns(look: Look) -> str:
    horn = shape("M74,56C52,50 42,30 50,8C56,26 70,30 98,38Z", "#5b4a5e", "#2b2030", look.line)
    pair = both(horn + taper((54, 24), (60, 42), (78, 50), 2, "#8c7890"))
    if look.attributes["ears"] != "cat":
        return pair
    small = 'transform="translate(128 46) scale(.55 .8) translate(-128 -46)"'  # between the ears
    return f"<g {small}>{pair}</g>"


def _beret(look: Look) -> str:
    hat = _cloth(
        look, "M48,78C24,60 40,14 104,6C166,0 220,28 210,66C206,78 196,76 186,70C150,46 104,48 76,74C66,82 56,84 48,78Z"
    )
    stalk = stroke("M128,8C128,2 132,-2 136,-3", look.main.line, 4)
    rim = shape("M52,80C84,40 164,36 200,74C204,78 206,72 206,68C170,26 84,28 46,74Z", look.main.shade)
    svg = stalk + hat + rim + taper((66, 34), (90, 18), (130, 16), 3.5, look.main.light)
    return svg if look.light < 0 else mirror(svg)


HEADWEAR: dict[str, Callable[[Look], str]] = {
    "none": _plain,
    "ribbon": _ribbon,
    "clips": _clips,
    "flower": _flower,
    "headphones": _headphones,
    "headband": _headband,
    "halo": _halo,
    "horns": _horns,
    "beret": _beret,
}
