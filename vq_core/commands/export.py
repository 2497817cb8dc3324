"""The command that writes a finished run as a folder to hand on."""

from pathlib import Path
from typing import Any

import click

from vq_core.commands import common

group = click.Group()


@group.command()
@click.argument("run")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to write; it must be new.")
@click.option("--priors", is_flag=True, help="Also the finished priors of the run, with samples.")
@click.option("--licence", default="", help="For the model card, such as mit; without it the card asks for it.")
@click.option("--half", is_flag=True, help="Weights in half precision: half the size.")
@click.option("--onnx", is_flag=True, help="Also encoder.onnx and decoder.onnx, for use without this project.")
@common.DEBUG
def export(run: str, out: Path, priors: bool, licence: str, half: bool, onnx: bool, debug: bool) -> None:
    """Write a finished run as weights, sizes, figures and a model card, to hand on or to put on the Hub.

    Its pictures show eight of your held-out images, and samples as they come.
    """
    with common.one_line_errors(debug):
        import torch

        from vq_core.data.images import images_of
        from vq_core.errors import DataError, RunError
        from vq_core.generation.sampling import draw_many
        from vq_core.machine import pick_device
        from vq_core.runs.export import export_run
        from vq_core.runs.finding import config_of, load_images, run_for
        from vq_core.runs.folders import PRIORS, open_run
        from vq_core.runs.loading import load_vqvae

        named = open_run(run)
        if named.phase not in ("phase1", "phase2"):
            raise RunError(f"{run}: name a run of Phase 1 or 2; its priors come along with --priors")
        config, pictures = config_of(run), dict[str, Any]()
        model = load_vqvae(named).to(pick_device(config))
        its = [run_for(phase, config) for phase in PRIORS if priors and named.phase == "phase2"]
        its = [prior for prior in its if prior.done]
        if priors and not its:
            raise RunError(f"{run}: has no finished prior; train one (python -m vq_core train prior --run {run})")
        try:
            packed = load_images(config)
            x = images_of(packed, packed.val_rows[:8]).to(model.device)
            about = "Held-out images above, their reconstructions below."
            pictures["reconstructions.png"] = (common.sheet(torch.cat([x, model(x)])), about)
        except DataError as error:
            click.echo(f"without reconstructions: {error}")
        for prior in its:
            about = f"Samples of the prior '{prior.phase}', not picked out."
            images = model.decode(draw_many(prior.phase, config, 32))
            pictures[f"samples-{prior.phase}.png"] = (common.sheet(images), about)
        export_run(named, its, out, pictures, licence, half, onnx)
        click.echo(f"{out}")
