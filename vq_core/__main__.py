"""The command line: all that the notebooks do, without a notebook. `python -m vq_core --help`."""

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Literal

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
        import torch

        from vq_core.training.callbacks import Stopped
        from vq_core.training.losses import MissingWeights
        from vq_core.training.ranks import is_main_process
        from vq_core.training.runs import RunError
        from vq_core.training.state import CheckpointError

        try:
            command(config=config, **options)
        except (RunError, CheckpointError, MissingWeights, FloatingPointError, ValueError, IndexError) as error:
            if isinstance(error, FloatingPointError) and not is_main_process():
                sys.exit(0)  # raised by all alike; a status of one's own would have the others killed
            raise click.ClickException(str(error)) from None
        except torch.cuda.OutOfMemoryError:
            raise click.ClickException("the GPU's memory does not hold so much at once: ask for less") from None
        except OSError as error:  # a full disk, a folder that cannot be written
            where = f"{error.filename}: " if error.filename else ""
            saved = "; what was saved before is still there"
            raise click.ClickException(f"{where}{error.strerror or error}{saved}") from None
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
    for conversion, count in packed.conversions().items():
        click.echo(f"  of these converted, {conversion}: {count}")
    for reason, count in packed.counts().items():
        click.echo(f"  set aside, {reason}: {count}")
    click.echo(f"packed in {packed.folder}")


@main.command()
@click.argument("stage", type=click.Choice(["kmeans", "phase1", "phase2", "prior", "masked"]))
@click.option("--resume", is_flag=True, help="Go on with an interrupted run; an error where there is none.")
@_shared
def train(config: Any, stage: str, resume: bool) -> None:
    """Train a stage, go on with it if it was interrupted, or say that it is done."""
    from vq_core.data.datamodule import prepare_images
    from vq_core.evaluation.experiments import evaluate_run
    from vq_core.training.phases import TRAININGS, run_for
    from vq_core.training.ranks import is_main_process
    from vq_core.training.runs import PRIORS, RunError

    if is_main_process():
        prepare_images(config)
    if resume and not run_for(stage, config).last.is_file():
        raise RunError(f"{run_for(stage, config).folder}: nothing to resume; leave out --resume to begin")
    run = TRAININGS[stage](config)
    if not is_main_process():
        return
    figures = evaluate_run(run, config) if stage not in PRIORS else run.result()
    for name, value in figures.items():
        click.echo(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")
    click.echo(f"{run.folder}")


@main.command()
@click.option("--stage", type=click.Choice(["kmeans", "phase1", "phase2"]), default="phase2", show_default=True)
@click.option("--lpips", type=click.Choice(["vgg", "squeeze"]), default=None, help="Also LPIPS with this network.")
@click.option(
    "--fid",
    is_flag=True,
    help="Also KID and, of 1,026 held-out images and more, FID: floor, reconstructions, samples (top-p 0.9).",
)
@click.option("--frechet", is_flag=True, help="The same two in SqueezeNet's features: a small download.")
@_shared
def evaluate(config: Any, stage: str, lpips: Any, fid: bool, frechet: bool) -> None:
    """Figures of an autoencoder on all validation images; with --fid, of samples from the causal prior too."""
    import torch

    from vq_core.data.datamodule import load_images
    from vq_core.evaluation.distances import FEW, FID_WANTS, InceptionFeatures, SqueezeFeatures
    from vq_core.evaluation.report import distance_figures, reconstruction_figures
    from vq_core.generation.sampling import sample_codes
    from vq_core.training.losses import PerceptualLoss
    from vq_core.training.phases import finished, pick_device, run_for
    from vq_core.training.vqvae_module import VQVAEModel

    run, packed = finished(stage, config), load_images(config)
    nets = [kind() for kind in [InceptionFeatures] * fid + [SqueezeFeatures] * frechet]
    model = VQVAEModel.load(run.folder).to(pick_device(config))
    figures = reconstruction_figures(model, packed, PerceptualLoss(lpips) if lpips else None)
    if lpips:
        figures = {name.replace("lpips", f"lpips_{lpips}"): value for name, value in figures.items()}
    run.update_result(figures)
    _echo(figures)
    if nets:
        samples, half = None, len(packed.val_rows) // 2
        if stage == "phase2" and half and run_for("prior", config).done:
            prior = _prior("prior", config)
            # In parts: in `full` the cache takes 8 MB for each.
            sizes = [min(256, half - start) for start in range(0, half, 256)]
            parts = [sample_codes(prior, n, top_p=0.9, seed=config.seed + i) for i, n in enumerate(sizes)]
            samples = _decode(model, torch.cat(parts))
        distances = distance_figures(model, packed, nets, samples)
        run.update_result(distances)
        _echo(distances)
        if half < FEW:
            click.echo(
                f"  no Fréchet distance: it needs {FEW} images in each half of the held-out ones, here are {half}"
            )
        elif fid and half < FID_WANTS:
            click.echo(
                f"  FID of {half} images, fewer than {FID_WANTS}, is biased upwards: compare it with "
                "its floor and at equal numbers only; KID is not biased"
            )


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
@click.option(
    "--way",
    type=click.Choice(["causal", "masked", "random"]),
    default="causal",
    show_default=True,
    help="causal: one code after the other; masked: many at once; random: from the codebook, without a prior.",
)
@click.option("--temperature", default=1.0, show_default=True)
@click.option("--top-k", type=int, default=None)
@click.option("--top-p", type=float, default=None)
@click.option("--steps", default=16, show_default=True, help="Passes of the masked way.")
@click.option("--seed", default=0, show_default=True)
@_shared
def sample(config: Any, count: int, way: str, steps: int, seed: int, **drawing: Any) -> None:
    """New avatars, each with the training image that is nearest to it, and a figure of how new they are."""
    from vq_core.data.augment import to_pictures
    from vq_core.data.datamodule import images_of, load_images
    from vq_core.evaluation.memorization import novelty
    from vq_core.evaluation.report import reconstruct_held_out
    from vq_core.generation import sampling
    from vq_core.training.phases import finished, pick_device
    from vq_core.training.vqvae_module import VQVAEModel

    run = finished("phase2", config)
    model = VQVAEModel.load(run.folder).to(pick_device(config))
    if way == "random":
        codes = sampling.random_codes(config.model.num_codes, count, config.grid, seed).to(model.device)
    elif way == "causal":
        run = finished("prior", config)
        codes = sampling.sample_codes(_prior("prior", config), count, seed=seed, **drawing)
    else:
        run = finished("masked", config)
        codes = sampling.fill_codes(_prior("masked", config), count, seed=seed, steps=steps, **drawing)
    images, packed = _decode(model, codes), load_images(config)
    new = novelty(to_pictures(images), packed, to_pictures(reconstruct_held_out(model, packed)))
    name = f"samples-{way}-seed{seed}"
    _save(images_of(packed, new.rows), run.folder / f"{name}-nearest.png", 8)
    click.echo(f"  nearer to a training image than held-out ones are: {new.nearer:.2f} (0.50 for real images)")
    click.echo(f"  nearer than 99 % of held-out ones are: {new.copies:.2f} (0.01 for real images)")
    _save(images, run.folder / f"{name}.png", 8)


@main.command()
@click.argument("a", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("b", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--steps", type=click.IntRange(min=2), default=8, show_default=True)
@click.option(
    "--method",
    type=click.Choice(["blend", "exchange", "likely"]),
    default="blend",
    show_default=True,
    help="blend: latents mixed and quantised anew; exchange: codes taken over in a random order; likely: in the order "
    "that the masked prior finds likely.",
)
@_shared
def interpolate(config: Any, a: Path, b: Path, steps: int, method: str) -> None:
    """From one image to another, in latents or in codes."""
    from vq_core.generation import editing

    model, x, folder = _open(config, [a, b], "phase2")
    codes = model.encode(x)
    if method == "blend":
        frames = editing.blend_latents(model, x[:1], x[1:], steps)
    elif method == "exchange":
        frames = model.decode(editing.exchange_codes(codes[:1], codes[1:], steps, config.seed))
    else:
        frames = model.decode(editing.exchange_likely(_prior("masked", config), codes[:1], codes[1:], steps))
    _save(frames, folder / f"interpolation-{method}-{a.stem}-{b.stem}.png", steps)


@main.command()
@click.argument("image", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--rows", default=None, help="Region: rows of the code grid, first:last; default all.")
@click.option("--columns", default=None, help="Region: columns of the code grid, first:last; default all.")
@click.option(
    "--mask", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="Region: white parts of this image."
)
@click.option(
    "--copy-from", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="The region from this image."
)
@click.option("--code", type=int, help="Fill the region with this code.")
@click.option("--replace", type=(int, int), metavar="OLD NEW", help="One code for another, wherever it stands.")
@click.option("--regenerate", is_flag=True, help="Let the masked prior draw the region anew, given the rest.")
@click.option("--complete", is_flag=True, help="Let it draw what is transparent in the image.")
@click.option("--vary", type=float, metavar="STRENGTH", help="Let it draw so large a share of all codes anew; 0 to 1.")
@click.option("--count", type=click.IntRange(min=1), default=4, show_default=True, help="Proposals of the prior.")
@click.option("--temperature", default=1.0, show_default=True)
@click.option("--top-p", type=float, default=None)
@click.option("--seed", default=0, show_default=True)
@_shared
def edit(
    config: Any,
    image: Path,
    rows: str | None,
    columns: str | None,
    mask: Path | None,
    copy_from: Path | None,
    code: int | None,
    replace: tuple[int, int] | None,
    regenerate: bool,
    complete: bool,
    vary: float | None,
    count: int,
    **drawing: Any,
) -> None:
    """Change the codes of an image, and decode: the image, its reconstruction, and what the edit made of it.

    Give one of --copy-from, --code, --replace, --regenerate, --complete, --vary.
    """
    import torch

    from vq_core.generation import editing
    from vq_core.generation.sampling import fill_codes

    edits = {"copy-from": copy_from, "code": code, "replace": replace, "vary": vary}
    edits |= {"regenerate": regenerate or None, "complete": complete or None}
    chosen = [name for name, value in edits.items() if value is not None]
    if len(chosen) != 1:
        raise click.UsageError("give one of " + ", ".join(f"--{name}" for name in edits))
    (name,) = chosen
    if (rows or columns or mask) and name in ("replace", "vary", "complete"):
        raise click.UsageError(f"--{name} has no region: leave out --rows, --columns, --mask")
    unknown = [
        value for value in (code, *(replace or ())) if value is not None and not 0 <= value < config.model.num_codes
    ]
    if unknown:
        raise click.UsageError(f"--{name} {unknown[0]}: codes are in [0, {config.model.num_codes})")
    cells = _region(config, rows, columns, mask)
    model, x, folder = _open(config, [image, *([copy_from] if copy_from else [])], "phase2")
    codes = model.encode(x)
    before = codes[:1]
    if copy_from:
        after = editing.copy_region(before, codes[1:], cells)
    elif code is not None:
        after = editing.paint(before, cells, code)
    elif replace is not None:
        after = editing.replace_code(before, *replace)
    elif vary is not None:
        after = editing.variations(_prior("masked", config), before, vary, count, **drawing)
    elif regenerate:
        after = fill_codes(_prior("masked", config), count, start=before, keep=~cells, **drawing)
    else:
        missing = torch.from_numpy(_transparent(config, image)).to(x.device)
        after = editing.complete(model, _prior("masked", config), x, missing, count, **drawing)
    # What was torn is no picture to keep pixels of.
    images = model.decode(after) if complete else editing.decode_edited(model, before, after)
    pictures = torch.cat([x, model.decode(before), images])
    _save(pictures, folder / f"edit-{name}-{image.stem}.png", min(8, len(pictures)))


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


def _decode(model: Any, codes: Any) -> Any:
    """Images of many grids of codes, on the CPU: the GPU's memory would not hold all at once."""
    import torch

    return torch.cat([model.decode(part).cpu() for part in codes.split(64)])


def _echo(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        click.echo(f"  {name}: {value:.4f}")


def _prior(kind: Literal["prior", "masked"], config: Any) -> Any:
    """The transformer of a finished prior, on the device that the settings ask for."""
    from vq_core.training.phases import finished, pick_device
    from vq_core.training.prior_module import PriorModel

    return PriorModel.load(finished(kind, config).folder).transformer.to(pick_device(config))


def _region(config: Any, rows: str | None, columns: str | None, mask: Path | None) -> Any:
    """The cells that an edit is about."""
    import torch

    from vq_core.generation import editing

    everything = f"0:{config.grid}"
    cells = editing.region(config.grid, _span("--rows", rows or everything), _span("--columns", columns or everything))
    if mask is None:
        return cells
    white = torch.from_numpy(_square(config, mask).mean(axis=2) > 127)
    cells = cells & editing.cells_of(white, config.grid)
    if not cells.any():
        raise click.UsageError("--mask has nothing white inside --rows and --columns")
    return cells


def _transparent(config: Any, image: Path) -> Any:
    from vq_core.data.decode import load_transparency

    missing = load_transparency(image, config.data)
    if not missing.any():
        raise click.ClickException(f"{image}: nothing in it is transparent, so there is nothing to complete")
    return missing


def _square(config: Any, image: Path) -> Any:
    """An image file as a square of the configured size: uint8 [size, size, 3]."""
    from vq_core.data.decode import UnusableImage, load_picture

    try:
        return load_picture(image, config.data).pixels
    except UnusableImage as error:
        raise click.ClickException(f"{image}: {error}") from None


def _open(config: Any, images: list[Path], stage: str) -> tuple[Any, Any, Path]:
    """The model of a stage, image files as a batch, and the folder for results."""
    import numpy as np
    import torch

    from vq_core.data.augment import to_float
    from vq_core.training.phases import finished, pick_device
    from vq_core.training.vqvae_module import VQVAEModel

    run, device = finished(stage, config), pick_device(config)
    x = to_float(torch.from_numpy(np.stack([_square(config, image) for image in images])).to(device))
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
