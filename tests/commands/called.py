"""The command line, as a user types it, with trainings of a few steps."""

from pathlib import Path

from click.testing import CliRunner, Result

from vq_core.__main__ import main

TINY = [
    "data.source=avatars",
    "data.avatars=48",
    "kmeans.steps=3",
    "phase1.steps=4",
    "phase2.steps=4",
    "prior.steps=4",
    "train.val_every=2",
    "prior.val_every=2",
    "train.device=cpu",
]


def call(folder: Path, *words: str) -> Result:
    return CliRunner(env={"VQ_DATA": str(folder), "VQ_PROFILE": "smoke"}).invoke(main, [*words])
