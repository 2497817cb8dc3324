"""The typed settings: ranges, and combinations that cannot work."""

import re

import pytest
from pydantic import ValidationError

from vq_core import ConfigError, load_config


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("phase1.lr=.inf", "phase1.lr"),
        ("loss.gan=.nan", "loss.gan"),
        ("model.channels=[0, 256, 256, 256]", "model.channels.0"),
        ("seed=5000000000", "seed"),
        ("discriminator.layers=7", "discriminator.layers=7 is too deep for data.image_size=256"),
    ],
)
def test_what_cannot_work_is_refused_beforehand(override: str, named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)) as caught:
        load_config("full", [override])
    assert "\n" not in str(caught.value)


def test_watching_a_figure_that_is_not_computed() -> None:
    with pytest.raises(ConfigError, match=r"^train\.monitor=val_perceptual needs loss\.perceptual above 0$"):
        load_config("full", ["train.monitor=val_perceptual", "loss.perceptual=0"])


def test_the_priors_batch_is_split_too() -> None:
    with pytest.raises(
        ConfigError, match=r"^prior\.batch_size 30 cannot be split over train\.devices · train\.num_nodes = 4$"
    ):
        load_config("full", ["train.devices=4", "prior.batch_size=30"])


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config().seed = 1  # type: ignore[misc]


def test_a_codebook_larger_than_the_images_can_fill_is_told_of_once(capsys: pytest.CaptureFixture[str]) -> None:
    for codes in (4096, 9001, 9001):
        load_config("full", [f"model.num_codes={codes}"])
    assert capsys.readouterr().out == "model.num_codes=9001 is more than about 10,000 images can fill\n"


def test_a_trunk_that_is_too_deep_for_the_images_is_refused() -> None:
    small = ["data.image_size=16", "data.min_side=8", "discriminator.layers=1", "loss.perceptual_net=random"]
    with pytest.raises(
        ConfigError, match=r"^loss\.perceptual needs images of 17 pixels or more: data\.image_size is 16$"
    ):
        load_config("smoke", [*small, "loss.perceptual=0.5"])
    load_config("smoke", [*small, "loss.perceptual=0"])
