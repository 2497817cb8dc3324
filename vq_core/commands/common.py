"""What all commands share: settings, the run that is meant, and errors as one line."""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from vq_core.config import Config, active_profile, load_config, pick_device
from vq_core.errors import ConfigError, NotFiniteError, Stopped, UserError

if TYPE_CHECKING:
    from torch import Tensor

    from vq_core.models import VQVAE, CodeTransformer
    from vq_core.runs.folders import Phase, Run

PROFILE = "full, demo, smoke or a YAML file; default: $VQ_PROFILE, else demo."
# What the disk may refuse: no room, no right, a file where a folder should be, a drive that has gone.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EIO}


def command(group: click.Group, reads_runs: bool = True) -> Callable[[Callable[..., None]], click.Command]:
    """A command with `--profile`, `--run`, `--debug` and `key=value` arguments, called with its `config`.

    Args:
        reads_runs: whether it has `--run`.
    """

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def wrapped(
            settings: tuple[str, ...], debug: bool, profile: str | None, run: str | None = None, **options: Any
        ) -> None:
            with one_line_errors(debug):
                function(config=_config(profile, run, settings), **options)

        made = group.command()(wrapped)
        made.params.append(click.Option(["--profile"], help=PROFILE))
        if reads_runs:
            made.params.append(
                click.Option(["--run"], help="A finished run, by name or folder, with its settings and images.")
            )
        made.params.append(click.Option(["--debug"], is_flag=True, help="Show the traceback of any error."))
        made.params.append(click.Argument(["settings"], nargs=-1, metavar="[KEY=VALUE]..."))
        return made

    return decorate


def _config(profile: str | None, run: str | None, settings: tuple[str, ...]) -> Config:
    if run is None:
        return load_config(profile or active_profile(), settings)
    if profile is not None:
        raise click.UsageError("--run brings its own settings: leave out --profile")
    from vq_core.runs.finding import config_of

    return config_of(run, settings)


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """Inside, what a user can cause ends the program with one line; a fault of the program with its traceback."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, NotFiniteError) or (isinstance(error, Stopped) and error.together):
            from vq_core.training.ranks import is_main_process

            if not is_main_process():
                sys.exit(0)  # raised by all processes alike; a status of its own would have the others killed
        if debug:
            raise
        if isinstance(error, ConfigError):
            raise click.UsageError(str(error)) from None
        if isinstance(error, UserError):
            raise click.ClickException(str(error)) from None
        if type(error).__name__ == "OutOfMemoryError":  # torch's; by name, so that --help need not import torch
            raise click.ClickException("the GPU's memory does not hold so much at once: ask for less") from None
        if isinstance(error, OSError) and error.errno in _DISK:
            where = f"{error.filename}: " if error.filename else ""
            saved = "; what was saved before is still there"
            raise click.ClickException(f"{where}{error.strerror or error}{saved}") from None
        if isinstance(error, KeyboardInterrupt):
            click.echo(f"\n{error}" if str(error) else "\nstopped", err=True)
            sys.exit(130)
        raise


def echo(metrics: dict[str, Any]) -> None:
    """Print metrics, one a line."""
    for name, value in metrics.items():
        click.echo(f"  {name}: {value:.4g}" if isinstance(value, float) else f"  {name}: {value}")


def vqvae_of(run: "Run", config: Config) -> "VQVAE":
    """A run's autoencoder, on the device that the settings ask for."""
    from vq_core.runs.loading import load_vqvae

    return load_vqvae(run).to(pick_device(config))


def prior_of(phase: "Phase", config: Config) -> "CodeTransformer":
    """The transformer of a finished prior, on the device that the settings ask for."""
    from vq_core.runs.finding import finished
    from vq_core.runs.loading import load_prior

    return load_prior(finished(phase, config)).to(pick_device(config))


def open_images(config: Config, images: list[Path], phase: "Phase") -> "tuple[VQVAE, Tensor, Path]":
    """The autoencoder of a phase, image files as a batch, and the folder for results."""
    import numpy as np
    import torch

    from vq_core.data.augment import to_float
    from vq_core.runs.finding import finished

    run = finished(phase, config)
    model = vqvae_of(run, config)
    pixels = np.stack([square(config, image) for image in images])
    return model, to_float(torch.from_numpy(pixels).to(model.device)), run.folder


def square(config: Config, image: Path) -> Any:
    """An image file as a square of the configured size: uint8 [size, size, 3]."""
    from vq_core.data.decode import load_picture
    from vq_core.errors import UnusableImage

    try:
        return load_picture(image, config.data).pixels
    except UnusableImage as error:
        raise click.ClickException(f"{image}: {error}") from None


def decode_in_parts(model: "VQVAE", codes: "Tensor") -> "Tensor":
    """Images of many grids of codes, on the CPU: the GPU's memory would not hold all at once."""
    import torch

    return torch.cat([model.decode(part).cpu() for part in codes.split(64)])


def save_grid(images: "Tensor", path: Path, columns: int) -> None:
    """Write images [b, 3, h, w] as one PNG and say where."""
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    from vq_core.data.augment import to_uint8

    to_pil_image(make_grid(to_uint8(images).permute(0, 3, 1, 2).cpu(), nrow=columns, padding=2)).save(path)
    click.echo(f"{path}")
