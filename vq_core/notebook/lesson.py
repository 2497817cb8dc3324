"""What the notebooks teach with: the picture of the whole, the code that runs, tables."""

import inspect
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import matplotlib
import resvg_py
from IPython.display import Image, Markdown

from vq_core.config import Config


def pipeline(config: Config, *here: str) -> Image:
    """The whole as a diagram, with the shapes of these settings; the boxes `here` are framed: where we are.

    The boxes are images, encoder, latents, codebook, codes, decoder, reconstructions, prior, discriminator.
    """
    size, grid, model, bits = config.data.image_size, config.grid, config.model, math.log2(config.model.num_codes)
    shapes: dict[str, Any] = {"size": size, "grid": grid, "cells": grid**2, "raw": 3 * size**2}
    shapes |= {"dim": model.code_dim, "codes": model.num_codes, "bits": bits, "bytes": grid**2 * bits / 8}
    svg = Path(__file__).with_name("pipeline.svg").read_text(encoding="utf-8").format(**shapes)
    for box in here:
        if f'id="{box}"' not in svg:
            raise ValueError(f"the pipeline has no box '{box}'")
        svg = svg.replace(f'id="{box}"', f'id="{box}" stroke="#e08a2c" stroke-width="6"')
    fonts = [f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf" for name in ("DejaVuSans", "DejaVuSans-Bold")]
    png = resvg_py.svg_to_bytes(svg_string=svg, width=2000, skip_system_fonts=True, font_files=fonts)
    steps = "image → encoder → z_e → codebook → codes, z_q → decoder → reconstruction; the prior draws codes"
    return Image(bytes(png), width=1000, alt=f"{steps}; here: {', '.join(here)}")


def code_of(*functions: Callable[..., Any]) -> Markdown:
    """The source of functions, as they run here."""
    return Markdown("\n".join(f"```python\n{dedent(inspect.getsource(each)).strip()}\n```" for each in functions))


def table(rows: Mapping[str, float | str], what: str = "metric", value: str = "value", digits: str = ".3f") -> Markdown:
    """Names and values as a table."""
    cells = {name: f"{x:{digits}}" if isinstance(x, float) else x for name, x in rows.items()}
    return Markdown("\n".join([f"| {what} | {value} |", "|---|---|", *(f"| {n} | {x} |" for n, x in cells.items())]))
