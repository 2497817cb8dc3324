"""What the notebooks teach with."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from vq_core import load_config
from vq_core.models import VectorQuantizerEMA
from vq_core.notebook.lesson import code_of, pipeline, table

BOXES = ["images", "encoder", "latents", "codebook", "codes", "decoder", "reconstructions", "prior", "discriminator"]


def orange(data: bytes) -> int:
    """How many pixels have the colour of a frame."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    return int((abs(pixels - [224, 138, 44]).max(-1) < 10).sum())


@pytest.mark.parametrize("box", BOXES)
def test_each_box_can_be_where_we_are(box: str) -> None:
    config = load_config("demo")
    assert orange(pipeline(config).data) == 0 < orange(pipeline(config, box).data)


def test_the_page_shows_through_and_the_shapes_are_the_profiles() -> None:
    demo, full = (pipeline(load_config(name)) for name in ("demo", "full"))
    assert demo.data != full.data and "z_e" in demo.alt
    alpha = np.asarray(Image.open(io.BytesIO(demo.data)))[..., 3]
    assert alpha[0, 0] == 0 and alpha.max() == 255
    with pytest.raises(ValueError, match="no box 'encoderr'"):
        pipeline(load_config("demo"), "encoderr")


def test_code_is_shown_as_it_stands_in_the_file() -> None:
    shown = code_of(VectorQuantizerEMA.forward, VectorQuantizerEMA.lookup).data
    assert shown.startswith("```python\ndef forward(self") and shown.count("```python") == 2
    assert re.search(r"^    with torch.autocast", shown, re.MULTILINE)


def test_a_table_rounds_numbers_alone() -> None:
    assert table({"psnr": 24.12345, "codes": 512, "of": "a run"}, digits=".2f").data == (
        "| metric | value |\n|---|---|\n| psnr | 24.12 |\n| codes | 512 |\n| of | a run |"
    )
