"""Commands that prepare, train and evaluate: ingest, train, evaluate, compare, export, workbook; and doctor."""

import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import psutil

from vq_core.commands import common
from vq_core.config import PROFILES, PROJECT_DIR, Config, data_dir, load_config
from vq_core.errors import DataError, RunError
from vq_core.machine import active_profile, pick_device

group = click.Group()
PACKAGES = ["vq-workbook", "torch", "torchvision", "lightning", "lpips", "numpy", "pillow", "pydantic", "jupyterlab"]


@common.command(group, reads_runs=False)
def ingest(config: Config) -> None:
    """Clean, split and pack the images in data/raw (or draw the built-in avatars)."""
    from vq_core.data.images import prepare_images, raw_dir

    packed = prepare_images(config)
    split = f"{len(packed.train_rows)} train, {len(packed.val_rows)} val"
    click.echo(f"{raw_dir(config)}: {len(packed.kept)} images kept ({split})")
    common.echo({f"of these, converted ({conversion})": count for conversion, count in packed.conversions().items()})
    common.echo({f"set aside, {reason}": count for reason, count in packed.counts().items()})
    click.echo(f"packed in {packed.folder}")


@common.command(group)
@click.argument("phase", type=click.Choice(["kmeans", "phase1", "phase2", "prior", "masked"]))
@click.option("--resume", is_flag=True, help="Resume an interrupted run; an error if there is none.")
def train(config: Config, phase: Any, resume: bool) -> None:
    """Train a phase, resume it if it was interrupted, or report that it is finished.

    With --run NAME: train a phase that follows that run, on its images.
    """
    from vq_core.data.images import prepare_images
    from vq_core.evaluation.report import evaluate_run
    from vq_core.runs import finding, folders
    from vq_core.training import phases, ranks

    try:
        resumed = not resume or finding.run_for(phase, config).last.is_file()
    except DataError:  # not even images
        resumed = False
    if not resumed:
        raise RunError(f"{phase}: nothing to resume; leave out --resume to start the run")
    if config.images is None:
        prepare_images(config)  # each process: whoever comes second waits, and finds them there
    run = phases.train(phase, config)
    if ranks.is_main_process():
        common.echo(run.result() if phase in folders.PRIORS else evaluate_run(run, config))
        click.echo(f"{run.folder}")


@common.command(group)
@common.phase_option("kmeans", "phase1", "phase2")
@click.option("--lpips", type=click.Choice(["vgg", "squeeze"]), help="Also LPIPS, with this network.")
@click.option(
    "--fid",
    is_flag=True,
    help="Also KID, precision, recall and, from 513 images on, FID: of one half of the held-out images, of its "
    "reconstructions, and of as many samples of each prior, against the other half; and copies among the samples.",
)
@click.option("--frechet", is_flag=True, help="The same in SqueezeNet's features (a small download).")
@click.option(
    "--against",
    metavar="[training|held-out|FOLDER]",
    help="Compare with all these images instead: all held-out images, reconstructions, as many samples.",
)
@click.option("--count", type=click.IntRange(4), help="Draw this many samples, often 10000; all sets count whole.")
@click.option("--repeat", type=click.IntRange(2), help="Draw the samples this often: means and spread; whole sets.")
@click.option("--resize", type=click.Choice(["torch-fidelity", "clean-fid"]), help="By whose rule, with --fid.")
def evaluate(
    config: Config, phase: Any, lpips: Any, fid: bool, frechet: bool, against: Any, count: Any, repeat: Any, resize: Any
) -> None:
    """Evaluate an autoencoder on all held-out images; with --frechet or --fid, samples of its priors too."""
    from vq_core.evaluation import distances, report
    from vq_core.generation.sampling import draw_many
    from vq_core.models.perceptual import PerceptualLoss
    from vq_core.runs import finding, loading

    if (against or count or repeat) and not (fid or frechet):
        raise click.UsageError("--against, --count, --repeat: say in which features to compare: --frechet or --fid")
    if against not in (None, "training", "held-out") and not Path(against).is_dir():
        raise click.UsageError(f"--against: folder {against} does not exist; give another, training or held-out")
    if resize and not fid:
        raise click.UsageError("--resize is about Inception: add --fid, or leave it out")
    run, packed = finding.finished(phase, config), finding.load_images(config).verify()
    many = (count or len(packed.val_rows) // (1 if against else 2)) * (repeat or 1)
    priors: dict[str, Any] = {"causal": "prior", "masked": "masked"} if phase == "phase2" and many else {}
    priors = {name: kind for name, kind in priors.items() if finding.run_for(kind, config).done}
    if (count or repeat) and not priors:
        raise click.UsageError("--count and --repeat are for samples: train prior or masked, or leave them out")
    nets: list[Any] = [distances.InceptionFeatures(resize or "torch-fidelity")] if fid else []
    nets += [distances.SqueezeFeatures()] if frechet else []
    model = loading.load_vqvae(run).to(pick_device(config))
    found = report.reconstruction_metrics(model, packed, PerceptualLoss(lpips) if lpips else None)
    metrics = {name.replace("lpips", f"lpips_{lpips}"): value for name, value in found.items()}
    common.echo(metrics, ".4f")
    report.keep(run, metrics)
    if nets:
        samples = {name: draw_many(kind, config, many) for name, kind in priors.items()}
        lines = report.compare_sets(run, config, samples, nets, against, repeat or int(bool(count)))
        click.echo("\n".join(f"  {line}" for line in lines))


@common.command(group, reads_runs=False)
def compare(config: Config) -> None:
    """Print a table of all finished runs: settings and metrics."""
    from vq_core.runs.records import markdown, table

    rows = table()
    click.echo(markdown(rows) if rows else f"no finished runs in {data_dir() / 'runs'}")


@common.command(group, reads_runs=False)
def doctor(config: Config) -> None:
    """Tell what this machine and this installation are, for the report of a fault; no names of your folders."""
    import torch
    from torch.utils.collect_env import get_pretty_env_info

    from vq_core.data.ingest import raw_files
    from vq_core.machine import compiles, precision_of
    from vq_core.runs.folders import all_runs
    from vq_core.training.plan import plan

    folder = data_dir() if data_dir().is_dir() else data_dir().parent
    free, rights = shutil.disk_usage(folder).free, "writable" if os.access(folder, os.W_OK) else "NOT WRITABLE"
    weights = sorted(path.name for path in Path(torch.hub.get_dir(), "checkpoints").glob("*.pth"))
    memory, files = psutil.virtual_memory(), sum(1 for _ in raw_files(data_dir() / "raw"))
    installed = {found.name.lower(): found.version for found in metadata.distributions()}
    click.echo(f"profile {config.profile}: {pick_device(config)}, {precision_of(config)}, compiled: {compiles(config)}")
    click.echo(f"memory: {memory.available / 1e9:.1f} of {memory.total / 1e9:.1f} GB free")
    click.echo(f"data: {free / 1e9:.0f} GB free, {rights}; {files} files in raw")
    click.echo(f"runs: {', '.join(run.name for run in all_runs()) or 'none'}; weights: {', '.join(weights) or 'none'}")
    for each in (config, *(load_config(name) for name in PROFILES if name != config.profile)):
        click.echo(f"{each.profile}: {plan(each)[1]}")
    click.echo(f"packages: {', '.join(f'{name} {installed.get(name)}' for name in PACKAGES)}")
    click.echo(get_pretty_env_info())


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
        from vq_core.generation.sampling import draw_many
        from vq_core.runs import finding, folders, loading
        from vq_core.runs.export import export_run

        named = folders.open_run(run)
        if named.phase not in ("phase1", "phase2"):
            raise RunError(f"{run}: name a run of Phase 1 or 2; its priors come along with --priors")
        config, pictures = finding.config_of(run), dict[str, Any]()
        model = loading.load_vqvae(named).to(pick_device(config))
        kinds = folders.PRIORS if priors and named.phase == "phase2" else ()
        its = [prior for kind in kinds if (prior := finding.run_for(kind, config)).done]
        if priors and not its:
            raise RunError(f"{run}: has no finished prior; train one (python -m vq_core train prior --run {run})")
        try:
            packed = finding.load_images(config)
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


@group.command()
@common.PROFILE
@click.option("--only", help="Only notebooks with this in their name, e.g. 03.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder for the results; default: data/workbook/PROFILE.")
@common.DEBUG
def workbook(profile: str | None, only: str | None, out: Path | None, debug: bool) -> None:
    """Execute the six notebooks in order and save each with its outputs, also as HTML.

    To use your own settings, put them in a YAML file and give it as the profile.
    """
    with common.one_line_errors(debug):
        from vq_core.notebook.execute import execute_all
        from vq_core.training.plan import plan

        config = load_config(profile := profile or active_profile())
        with ProcessPoolExecutor(1, get_context("spawn")) as apart:  # which leaves the GPU free
            click.echo(apart.submit(plan, config).result()[1])
        execute_all(PROJECT_DIR / "notebooks", out or data_dir() / "workbook" / config.profile, profile, only)
