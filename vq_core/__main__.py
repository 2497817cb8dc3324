"""The command line: all that the notebooks do, without a notebook. `python -m vq_core --help`."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import click

from vq_core.config import PROJECT_DIR, ConfigError, active_profile, data_dir, load_config


def _shared(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--profile` and `key=value` arguments, and turn our errors into one line and an exit status."""

    @click.option("--profile", default=None, help="full, demo, smoke or a YAML file; default: $VQ_PROFILE, else demo.")
    @click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
    @wraps(command)
    def wrapped(profile: str | None, settings: tuple[str, ...], **options: Any) -> None:
        try:
            config = load_config(profile or active_profile(), settings)
        except ConfigError as error:
            raise click.UsageError(str(error)) from None
        # Imported late: --help and mistakes in settings need not wait for torch.
        from vq_core.data.ingest import DataError
        from vq_core.training.callbacks import Stopped
        from vq_core.training.losses import MissingWeights
        from vq_core.training.ranks import is_main_process
        from vq_core.training.runs import RunError
        from vq_core.training.state import CheckpointError

        try:
            command(config=config, **options)
        except (
            DataError,
            RunError,
            CheckpointError,
            MissingWeights,
            FloatingPointError,
            ValueError,
            IndexError,
        ) as error:
            if isinstance(error, FloatingPointError) and not is_main_process():
                sys.exit(0)  # raised by all alike; a status of one's own would have the others killed
            raise click.ClickException(str(error)) from None
        except KeyboardInterrupt as stop:
            if isinstance(stop, Stopped) and not is_main_process():
                sys.exit(0)
            click.echo(f"\n{stop}" if str(stop) else "\nstopped", err=True)
            sys.exit(130)

    return wrapped


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def main() -> None:
    """VQ-VAE, VQ-GAN and a transformer prior for anime avatars.

    Settings are given as group.key=value, for example: train phase1 --profile full model.num_codes=2048
    """


@main.command()
@_shared
def ingest(config: Any) -> None:
    """Clean, split and pack the images of data/raw (or draw the built-in avatars)."""
    from vq_core.data.datamodule import prepare_images, raw_dir

    packed = prepare_images(config)
    split = f"{len(packed.train_rows)} train, {len(packed.val_rows)} val"
    click.echo(f"{raw_dir(config)}: {len(packed.kept)} images kept ({split})")
    for reason, count in packed.counts().items():
        click.echo(f"  set aside, {reason}: {count}")
    click.echo(f"packed in {packed.folder}")


@main.command()
@click.argument("stage", type=click.Choice(["kmeans", "phase1", "phase2", "prior"]))
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; an error where there is none.")
@_shared
def train(config: Any, stage: str, resume: bool) -> None:
    """Train a stage, go on with it if it was interrupted, or say that it is done."""
    from vq_core.data.datamodule import prepare_images
    from vq_core.evaluation.experiments import evaluate_run
    from vq_core.training.phases import TRAININGS, run_for
    from vq_core.training.ranks import is_main_process
    from vq_core.training.runs import RunError

    if is_main_process():
        prepare_images(config)
    if resume and not run_for(stage, config).last.is_file():
        raise RunError(f"{run_for(stage, config).folder}: nothing to resume; leave out --resume to begin")
    run = TRAININGS[stage](config)
    if not is_main_process():
        return
    figures = evaluate_run(run, config) if stage != "prior" else run.result()
    for name, value in figures.items():
        click.echo(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
    click.echo(f"{run.folder}")


@main.command()
@click.option("--stage", type=click.Choice(["kmeans", "phase1", "phase2"]), default="phase2", show_default=True)
@click.option("--lpips", type=click.Choice(["vgg", "squeeze"]), default=None, help="Also LPIPS with this network.")
@_shared
def evaluate(config: Any, stage: str, lpips: Any) -> None:
    """Figures of an autoencoder on all validation images."""
    from vq_core.data.datamodule import load_images
    from vq_core.evaluation.report import reconstruction_figures
    from vq_core.training.losses import PerceptualLoss
    from vq_core.training.phases import finished, pick_device
    from vq_core.training.vqvae_module import VQVAEModel

    run = finished(stage, config)
    figures = reconstruction_figures(
        VQVAEModel.load(run.folder).to(pick_device(config)),
        load_images(config),
        PerceptualLoss(lpips) if lpips else None,
    )
    if lpips:
        figures[f"lpips_{lpips}"] = figures.pop("lpips")
    run.update_result(figures)
    for name, value in figures.items():
        click.echo(f"  {name}: {value:.4f}")


@main.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--stage", type=click.Choice(["phase1", "phase2"]), default="phase2", show_default=True)
@_shared
def reconstruct(config: Any, image: Path, stage: str) -> None:
    """An image file beside its reconstruction."""
    import torch

    model, x, folder = _open(config, [image], stage)
    _save(torch.cat([x, model(x)]), folder / f"reconstruction-{image.stem}.png", 2)


@main.command()
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True)
@click.option("--temperature", default=1.0, show_default=True)
@click.option("--top-k", type=int, default=None)
@click.option("--top-p", type=float, default=None)
@click.option("--seed", default=0, show_default=True)
@click.option("--random-codes", is_flag=True, help="Codes drawn at random from the codebook, without the prior.")
@_shared
def sample(
    config: Any, count: int, temperature: float, top_k: int | None, top_p: float | None, seed: int, random_codes: bool
) -> None:
    """New avatars from the prior."""
    from vq_core.generation import sampling
    from vq_core.training.phases import finished, pick_device
    from vq_core.training.prior_module import PriorModel
    from vq_core.training.vqvae_module import VQVAEModel

    device = pick_device(config)
    model = VQVAEModel.load(finished("phase2", config).folder).to(device)
    if random_codes:
        run = finished("phase2", config)
        codes = sampling.random_codes(config.model.num_codes, count, config.grid, seed).to(device)
    else:
        run = finished("prior", config)
        prior = PriorModel.load(run.folder).transformer.to(device)
        codes = sampling.sample_codes(prior, count, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    _save(model.decode(codes), run.folder / f"samples-seed{seed}{'-random' if random_codes else ''}.png", 8)


@main.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--steps", type=click.IntRange(min=2), default=8, show_default=True)
@click.option("--method", type=click.Choice(["blend", "exchange"]), default="blend", show_default=True)
@_shared
def interpolate(config: Any, a: Path, b: Path, steps: int, method: str) -> None:
    """From one image to another: latents blended and re-quantised, or codes exchanged."""
    from vq_core.generation.editing import blend_latents, exchange_codes

    model, x, folder = _open(config, [a, b], "phase2")
    if method == "blend":
        frames = blend_latents(model, x[:1], x[1:], steps)
    else:
        codes = model.encode(x)
        frames = model.decode(exchange_codes(codes[:1], codes[1:], steps, config.seed))
    _save(frames, folder / f"interpolation-{method}-{a.stem}-{b.stem}.png", steps)


@main.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rows", default="0:16", show_default=True, help="Rows of the code grid, first:last.")
@click.option("--columns", default="0:16", show_default=True, help="Columns of the code grid, first:last.")
@click.option(
    "--copy-from", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Region from this image."
)
@click.option("--code", type=int, default=None, help="Fill the region with this code.")
@click.option("--regenerate", type=int, default=None, metavar="N", help="Let the prior draw the region anew, N times.")
@_shared
def edit(
    config: Any, image: Path, rows: str, columns: str, copy_from: Path | None, code: int | None, regenerate: int | None
) -> None:
    """Change a region of an image's codes, and decode. Give one of --copy-from, --code, --regenerate."""
    import torch

    from vq_core.generation import editing
    from vq_core.generation.sampling import sample_codes
    from vq_core.training.phases import finished
    from vq_core.training.prior_module import PriorModel

    if sum(choice is not None for choice in (copy_from, code, regenerate)) != 1:
        raise click.UsageError("give one of --copy-from, --code, --regenerate")
    mask = editing.region(config.grid, _span("--rows", rows), _span("--columns", columns))
    model, x, folder = _open(config, [image, *([copy_from] if copy_from else [])], "phase2")
    codes = model.encode(x)
    if copy_from:
        changed = editing.copy_region(codes[:1], codes[1:], mask)
    elif code is not None:
        changed = editing.paint(codes, mask, code)
    else:
        prior = PriorModel.load(finished("prior", config).folder).transformer.to(x.device)
        changed = sample_codes(prior, regenerate or 0, start=codes, keep=~mask, seed=config.seed)
    pictures = torch.cat([x, model.decode(torch.cat([codes[:1], changed]))])
    _save(pictures, folder / f"edit-{image.stem}.png", len(pictures))


@main.command()
@click.option("--sweep", "run_sweep", is_flag=True, help="First train the short runs of the sweep.")
@_shared
def compare(config: Any, run_sweep: bool) -> None:
    """A table of all finished runs: settings and figures."""
    from vq_core.evaluation.experiments import markdown, sweep, table

    if run_sweep:
        sweep(config)
    rows = table()
    click.echo(markdown(rows) if rows else f"no finished runs in {data_dir() / 'runs'}")


@main.command()
@click.option("--profile", default=None, help="full, demo, smoke or a YAML file; default: $VQ_PROFILE, else demo.")
@click.option("--only", default=None, help="Part of a notebook's name, e.g. 03.")
@click.option(
    "--out", type=click.Path(path_type=Path), default=None, help="Folder of the results; default data/workbook."
)
def workbook(profile: str | None, only: str | None, out: Path | None) -> None:
    """Execute the six notebooks in order; leaves each with its outputs, and as HTML.

    Settings of your own go into a YAML file, given as the profile.
    """
    from vq_core.notebook.execute import execute_all

    profile = profile or active_profile()
    try:
        config = load_config(profile)
    except ConfigError as error:
        raise click.UsageError(str(error)) from None
    execute_all(PROJECT_DIR / "notebooks", out or data_dir() / "workbook" / config.profile, profile, only)


def _open(config: Any, images: list[Path], stage: str) -> tuple[Any, Any, Path]:
    """The model of a stage, image files as a batch, and the folder for results."""
    import numpy as np
    import torch

    from vq_core.data.augment import to_float
    from vq_core.data.decode import UnusableImage, load_picture
    from vq_core.training.phases import finished, pick_device
    from vq_core.training.vqvae_module import VQVAEModel

    run = finished(stage, config)
    squares = []
    for image in images:
        try:
            squares.append(load_picture(image, config.data).pixels)
        except UnusableImage as error:
            raise click.ClickException(f"{image}: {error}") from None
    device = pick_device(config)
    x = to_float(torch.from_numpy(np.stack(squares)).to(device))
    return VQVAEModel.load(run.folder).to(device), x, run.folder


def _save(images: Any, path: Path, columns: int) -> None:
    """Write images [b, 3, h, w] as one PNG and say where."""
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    from vq_core.data.augment import to_uint8

    to_pil_image(make_grid(to_uint8(images).permute(0, 3, 1, 2).cpu(), nrow=columns, padding=2)).save(path)
    click.echo(f"{path}")


def _span(option: str, text: str) -> tuple[int, int]:
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit()):
        raise click.UsageError(f"{option} must be first:last, such as 4:9, got '{text}'")
    return int(first), int(last)


if __name__ == "__main__":
    main(prog_name="python -m vq_core")
