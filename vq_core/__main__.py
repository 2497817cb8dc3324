"""The command line: all that the notebooks do, without a notebook. `python -m vq_core --help`."""

import sys

import click

import vq_core
from vq_core.commands import drawing, training

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 110}


@click.group(context_settings=HELP, commands={**training.group.commands, **drawing.group.commands})
@click.version_option(vq_core.__version__, prog_name="vq_core")
def main() -> None:
    """VQ-VAE, VQ-GAN and a transformer prior for anime avatars.

    Settings are given as group.key=value, for example: train phase1 --profile full model.num_codes=2048
    """


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # of an old console, which lacks "×" and shows "?"
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    main(prog_name="python -m vq_core")
