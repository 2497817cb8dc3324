"""Commands that use trained models: reconstruct, sample, interpolate, edit."""

from pathlib import Path
from typing import Any

import click

from vq_core.commands import common
from vq_core.config import Config
from vq_core.generation import PASSES, TEMPERATURE, TOP_P
from vq_core.machine import pick_device

IMAGE = click.Path(exists=True, dir_okay=False, path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)
group = click.Group()


@common.command(group)
@click.argument("image", type=IMAGE)
@common.phase_option("phase1", "phase2")
@common.OUT
def reconstruct(config: Config, image: Path, phase: Any, out: Path | None) -> None:
    """Show an image next to its reconstruction."""
    import torch

    model, x, run = common.open_images(config, [image], phase)
    common.Results(run, out, [image]).save_grid(torch.cat([x, model(x)]), 2)


@common.command(group)
@click.option("--count", type=click.IntRange(min=1), default=16)
@common.choice(
    "--way", causal="in raster order", masked="in the order of edits", random="from the codebook, without a prior"
)
@click.option("--temperature", default=TEMPERATURE)
@click.option("--top-k", type=int)
@click.option("--top-p", default=TOP_P)
@click.option("--passes", "--steps", "passes", default=PASSES, help="Of a bidirectional masked prior.")
@click.option("--seed", type=SEED, default=0)
@common.OUT
def sample(config: Config, count: int, way: str, out: Path | None, **drawing: Any) -> None:
    """Sample new avatars, show the training image nearest to each, and measure how novel they are.

    Each avatar is also written as a PNG of its own, with its codes beside it.
    """
    import torch

    from vq_core.data.images import images_of
    from vq_core.errors import DataError
    from vq_core.evaluation.report import compare_codes
    from vq_core.generation.sampling import Sampling, fill_codes, prior_of, random_codes, sample_codes
    from vq_core.runs import finding, loading

    unused = {"random": ("temperature", "top_k", "top_p", "passes"), "causal": ("passes",)}.get(way, ())
    if idle := [name for name in unused if common.was_given(name)]:
        raise click.UsageError(f"--{idle[0].replace('_', '-')} has no effect with --way {way}: leave it out")
    drawers: dict[str, Any] = {"random": "phase2", "causal": "prior", "masked": "masked"}
    sampling, run = Sampling(**drawing), finding.finished(drawers[way], config)
    autoencoder, results = finding.finished("phase2", config), common.Results(run, out)
    model = loading.load_vqvae(autoencoder).to(pick_device(config))
    if way == "random":
        codes = random_codes(config.model.num_codes, count, config.grid, sampling.seed).to(model.device)
    else:
        codes = (sample_codes if way == "causal" else fill_codes)(prior_of(run.phase, config), count, sampling)
    images = torch.cat([model.decode(part).cpu() for part in codes.split(64)])  # GPU memory would not hold them all
    try:
        packed = finding.load_images(config)
        if packed.fingerprint != run.result()["data"]:
            raise DataError(f"those of {run.name} are not here")
        new = compare_codes(autoencoder, config, packed, {way: codes})[way]
        results.save_grid(images_of(packed, packed.train_rows[new.nearest]), 8, "-nearest")
        nearer = "fraction nearer to a training image than a held-out one"
        click.echo(f"  {nearer}: {new.nearer:.2f} (0.50 for real images)")
        click.echo(f"  fraction nearer than 99 % of held-out images: {new.copies:.2f} (0.01 for real images)")
    except DataError as error:  # of a run that was named, or an export
        click.echo(f"  not compared with training images: {error}")
    results.save_each(images, codes)
    results.save_grid(images, 8)


@common.command(group)
@click.argument("a", type=IMAGE)
@click.argument("b", type=IMAGE)
@common.OUT
@click.option("--steps", type=click.IntRange(min=2), default=8, help="Number of images in the row.")
@common.choice("--method", blend="mix the latents and quantise again", exchange="replace codes in a random order")
def interpolate(config: Config, a: Path, b: Path, steps: int, method: str, out: Path | None) -> None:
    """Interpolate from one image to another, in latents or in codes."""
    from vq_core.generation import editing

    model, x, run = common.open_images(config, [a, b], "phase2")
    results = common.Results(run, out, [a, b])
    if method == "blend":
        frames = editing.blend_latents(model, x[:1], x[1:], steps)
    else:
        one, other = model.encode(x).split(1)
        frames = model.decode(editing.exchange_codes(one, other, steps, config.seed))
    results.save_grid(frames, steps)


@common.command(group)
@click.argument("image", type=IMAGE)
@click.option("--rows", help="Region: rows of the code grid, first:last, the last not included; default: all.")
@click.option("--columns", help="Region: columns of the code grid, likewise; default: all.")
@click.option("--mask", type=IMAGE, help="Region: where this image, of any size, is opaque and at least half white.")
@click.option("--copy-from", type=IMAGE, help="Copy the region from this image.")
@click.option("--code", type=int, help="Fill the region with this code.")
@click.option("--replace", type=(int, int), metavar="OLD NEW", help="Replace one code with another wherever it occurs.")
@click.option("--regenerate", is_flag=True, help="Let a prior redraw the region, given the rest.")
@click.option("--complete", is_flag=True, help="Let a prior fill in the transparent part of the image.")
@click.option("--vary", type=float, metavar="FRACTION", help="Let a prior redraw this fraction of all codes; 0 to 1.")
@click.option("--count", type=click.IntRange(min=1), default=4, help="Proposals from the prior.")
@click.option(
    "--way",
    type=click.Choice(["auto", "causal", "masked"]),
    default="auto",
    help="The prior that draws. auto: causal if nothing known comes after the region in raster order, else masked.",
)
@click.option("--temperature", default=TEMPERATURE)
@click.option("--top-p", default=TOP_P)
@click.option("--seed", type=SEED, default=0)
@common.OUT
def edit(config: Config, image: Path, count: int, way: str, out: Path | None, **options: Any) -> None:
    """Edit an image by its codes, and show it with its reconstruction and the edited versions.

    Give one of --copy-from, --code, --replace, --regenerate, --complete, --vary.
    """
    import torch

    from vq_core.data.decode import load_transparency
    from vq_core.generation import editing
    from vq_core.generation.sampling import Sampling, prior_of
    from vq_core.runs.finding import finished

    sampling = Sampling(**{name: options.pop(name) for name in ("temperature", "top_p", "seed")})
    where = {name: options.pop(name) for name in ("rows", "columns", "mask")}
    chosen = [name for name, value in options.items() if value is not None and value is not False]
    if len(chosen) != 1:
        raise click.UsageError("give one of " + ", ".join(f"--{name.replace('_', '-')}" for name in options))
    (name,) = chosen
    if any(where.values()) and name in ("replace", "vary", "complete"):
        raise click.UsageError(f"--{name} takes no region: leave out --rows, --columns, --mask")
    asked = {"code": (options["code"],), "replace": options["replace"]}.get(name, ())
    if unknown := [code for code in asked if not 0 <= code < config.model.num_codes]:
        raise click.UsageError(f"--{name} {unknown[0]}: codes are in [0, {config.model.num_codes})")
    region, donor = None if name in ("replace", "vary") else _region(config, image, **where), options["copy_from"]
    model, x, run = common.open_images(config, [image, *([donor] if donor else [])], "phase2")
    codes, complete = model.encode(x), name == "complete"
    before, drawn = codes[:1], name in ("regenerate", "complete", "vary")
    if complete:
        if not (missing := load_transparency(image, config.data)).any():
            raise click.ClickException(f"{image}: it has no transparent pixels, so there is nothing to complete")
        given, change = editing.completion(model, x, torch.from_numpy(missing))
    else:
        options["copy_from"] = codes[1:]  # the donor's
        given, change = before, editing.Edit(region=region, **{name: options[name]})
    way = change.way if way == "auto" else way
    drawer = finished("prior" if way == "causal" else "masked", config) if drawn else None
    prior = prior_of(drawer.phase, config) if drawer else None
    results = common.Results(run, out, [path for path in (image, donor, where["mask"]) if path], drawer)
    if drawn:
        click.echo(f"drawn by the {way} prior")
    after = change.apply(given, prior, count, sampling)
    # The pixels around a hole in a torn image are not worth keeping.
    images = model.decode(after) if complete else editing.decode_edited(model, before, after)
    pictures = torch.cat([x, model.decode(before), images])
    results.save_grid(pictures, min(8, len(pictures)))


def _region(config: Config, image: Path, rows: str | None, columns: str | None, mask: Path | None) -> Any:
    """The cells to edit, bool [h, w]."""
    import torch

    from vq_core.data.decode import load_mask
    from vq_core.generation import editing

    spans = []
    for option, text in (("--rows", rows), ("--columns", columns)):
        first, colon, last = (text or f"0:{config.grid}").partition(":")
        if not (colon and first.isdigit() and last.isdigit()):
            raise click.UsageError(f"{option} must be first:last, such as 4:9, got '{text}'")
        spans.append((int(first), int(last)))
    cells = editing.region(config.grid, *spans)
    if mask is not None:
        white = torch.from_numpy(load_mask(mask, image, config.data, config.grid))
        marked = editing.cells_of(white, config.grid) if white.any() else torch.zeros_like(cells)
        if not (marked & cells).any() or marked.all():
            which = "all" if marked.all() else "none"
            raise click.UsageError(f"--mask {mask}: chooses {which} of the cells; paint white what is to be edited")
        cells &= marked
    return cells
