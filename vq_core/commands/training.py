"""Commands that prepare, train and judge: ingest, train, evaluate, compare, workbook."""

from pathlib import Path
from typing import Any

import click

from vq_core.commands.common import PROFILE, command, decode_in_parts, echo, one_line_errors, prior_of, vqvae_of
from vq_core.config import PROJECT_DIR, Config, active_profile, data_dir, load_config


@click.group()
def group() -> None:
    """Only a list of commands."""


@command(group, reads_runs=False)
def ingest(config: Config) -> None:
    """Clean, split and pack the images of data/raw (or draw the built-in avatars)."""
    from vq_core.data.images import prepare_images, raw_dir

    packed = prepare_images(config)
    split = f"{len(packed.train_rows)} train, {len(packed.val_rows)} val"
    click.echo(f"{raw_dir(config)}: {len(packed.kept)} images kept ({split})")
    for conversion, count in packed.conversions().items():
        click.echo(f"  of these converted, {conversion}: {count}")
    for reason, count in packed.counts().items():
        click.echo(f"  set aside, {reason}: {count}")
    click.echo(f"packed in {packed.folder}")


@command(group)
@click.argument("phase", type=click.Choice(["kmeans", "phase1", "phase2", "prior", "masked"]))
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; an error where there is none.")
def train(config: Config, phase: Any, resume: bool) -> None:
    """Train a phase, go on with it if it was interrupted, or say that it is done.

    With --run NAME: a phase after that run, on its images.
    """
    from vq_core.data.images import prepare_images
    from vq_core.errors import RunError
    from vq_core.evaluation.report import evaluate_run
    from vq_core.runs.finding import run_for
    from vq_core.runs.folders import PRIORS
    from vq_core.training import phases
    from vq_core.training.ranks import is_main_process

    if is_main_process() and config.run is None:
        prepare_images(config)
    if resume and not run_for(phase, config).last.is_file():
        raise RunError(f"{run_for(phase, config).folder}: nothing to resume; leave out --resume to begin")
    run = phases.train(phase, config)
    if not is_main_process():
        return
    echo(evaluate_run(run, config) if phase not in PRIORS else run.result())
    click.echo(f"{run.folder}")


@command(group)
@click.option(
    "--phase",
    "--stage",
    "phase",
    type=click.Choice(["kmeans", "phase1", "phase2"]),
    default="phase2",
    show_default=True,
)
@click.option("--lpips", type=click.Choice(["vgg", "squeeze"]), default=None, help="Also LPIPS with this network.")
@click.option(
    "--fid",
    is_flag=True,
    help="Also KID and, of 1,026 held-out images and more, FID: floor, reconstructions, samples (top-p 0.9).",
)
@click.option("--frechet", is_flag=True, help="The same two in SqueezeNet's features: a small download.")
def evaluate(config: Config, phase: Any, lpips: Any, fid: bool, frechet: bool) -> None:
    """Metrics of an autoencoder on all validation images; with --fid, of samples from the causal prior too."""
    from vq_core.evaluation.distances import FEW, FID_WANTS, InceptionFeatures, SqueezeFeatures
    from vq_core.evaluation.report import distance_metrics, reconstruction_metrics
    from vq_core.models.perceptual import PerceptualLoss
    from vq_core.runs.finding import finished, load_images, run_for

    run, packed = finished(phase, config), load_images(config)
    nets = [kind() for kind in [InceptionFeatures] * fid + [SqueezeFeatures] * frechet]
    model = vqvae_of(run, config)
    metrics = reconstruction_metrics(model, packed, PerceptualLoss(lpips) if lpips else None)
    if lpips:
        metrics = {name.replace("lpips", f"lpips_{lpips}"): value for name, value in metrics.items()}
    run.update_result(metrics)
    echo(metrics)
    if not nets:
        return
    half = len(packed.val_rows) // 2
    with_samples = phase == "phase2" and half and run_for("prior", config).done
    samples = _samples(model, config, half) if with_samples else None
    distances = distance_metrics(model, packed, nets, config.seed, samples)
    run.update_result(distances)
    echo(distances)
    if half < FEW:
        click.echo(f"  no Fréchet distance: it needs {FEW} images in each half of the held-out ones, here are {half}")
    elif fid and half < FID_WANTS:
        click.echo(
            f"  FID of {half} images, fewer than {FID_WANTS}, is biased upwards: compare it with "
            "its floor and at equal numbers only; KID is not biased"
        )


def _samples(model: Any, config: Config, count: int) -> Any:
    """Images drawn from the causal prior, in parts: in `full` the cache takes 8 MB for each."""
    import torch

    from vq_core.generation.sampling import Sampling, sample_codes

    prior, sizes = prior_of("prior", config), [min(256, count - start) for start in range(0, count, 256)]
    parts = [sample_codes(prior, n, Sampling(top_p=0.9, seed=config.seed + i)) for i, n in enumerate(sizes)]
    return decode_in_parts(model, torch.cat(parts))


@command(group, reads_runs=False)
@click.option("--sweep", "run_sweep", is_flag=True, help="First train the short runs of the sweep.")
def compare(config: Config, run_sweep: bool) -> None:
    """A table of all finished runs: settings and metrics."""
    from vq_core.evaluation.report import evaluate_run
    from vq_core.runs.records import markdown, table

    if run_sweep:
        from vq_core.training.sweep import sweep

        for run in sweep(config).values():
            evaluate_run(run, config)
    rows = table()
    click.echo(markdown(rows) if rows else f"no finished runs in {data_dir() / 'runs'}")


@group.command()
@click.option("--profile", default=None, help=PROFILE)
@click.option("--only", default=None, help="Part of a notebook's name, e.g. 03.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Folder of the results; default data/workbook."
)
@click.option("--debug", is_flag=True, help="Show the traceback of any error.")
def workbook(profile: str | None, only: str | None, out: Path | None, debug: bool) -> None:
    """Execute the six notebooks in order; leaves each with its outputs, and as HTML.

    Settings of your own go into a YAML file, given as the profile.
    """
    with one_line_errors(debug):
        from vq_core.notebook.execute import execute_all

        profile = profile or active_profile()
        config = load_config(profile)
        execute_all(PROJECT_DIR / "notebooks", out or data_dir() / "workbook" / config.profile, profile, only)
