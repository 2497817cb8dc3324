"""What all commands share: settings, the choice of a run, and errors reported in one line."""

import errno
import json
import re
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from vq_core.config import Config, load_config
from vq_core.errors import ConfigError, DataError, NotFiniteError, Stopped, UnusableImage, UserError
from vq_core.machine import active_profile, pick_device

if TYPE_CHECKING:
    from torch import Tensor

    from vq_core.models import VQVAE
    from vq_core.runs.folders import Phase, Run

PROFILE = click.option("--profile", help="full, quick, demo, smoke or a YAML file; default: what suits the machine.")
RUN = click.option("--run", help="Use a finished run, given by name or folder, with its settings and images.")
DEBUG = click.option("--debug", is_flag=True, help="Show the traceback of any error.")
_FOLDER = click.Path(file_okay=False, path_type=Path)
OUT = click.option("--out", type=_FOLDER, help="Folder for the pictures; default: the run's.")
_NOT_NAMED = {"profile", "run", "debug", "out", "image", "a", "b", "phase", "settings"}  # they show otherwise
SETTINGS = click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
# Disk errors that a user can cause: no space, no permission, a file in place of a folder, a drive that is gone.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST}
_DISK |= {errno.EIO, errno.ESTALE, errno.ETIMEDOUT}


def command(group: click.Group, reads_runs: bool = True) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function a command: it gets its `config` from `--profile`, `--run` (if `reads_runs`) and `key=value`."""

    def decorate(function: Callable[..., None]) -> click.Command:
        @wraps(function)
        def wrapped(
            settings: tuple[str, ...], debug: bool, profile: str | None, run: str | None = None, **options: Any
        ) -> None:
            with one_line_errors(debug):
                function(config=_config(profile, run, settings), **options)

        made = group.command(context_settings={"show_default": True})(wrapped)
        for add in (PROFILE, RUN, DEBUG, SETTINGS) if reads_runs else (PROFILE, DEBUG, SETTINGS):
            add(made)
        return made

    return decorate


def phase_option(*phases: str) -> Callable[[Any], Any]:
    """`--phase`, one of these; also under its earlier name, `--stage`."""
    return click.option("--phase", "--stage", "phase", type=click.Choice(phases), default="phase2")


def choice(option: str, **values: str) -> Callable[[Any], Any]:
    """An option that is one of these values, by default the first; its help says what each means."""
    meanings = "; ".join(f"{value}: {meaning}" for value, meaning in values.items())
    return click.option(option, type=click.Choice([*values]), default=next(iter(values)), help=f"{meanings}.")


def _config(profile: str | None, run: str | None, settings: tuple[str, ...]) -> Config:
    if run is None:
        return load_config(profile or active_profile(), settings)
    if profile is not None:
        raise click.UsageError("--run comes with its own settings: leave out --profile")
    from vq_core.runs.finding import config_of

    return config_of(run, settings)


@contextmanager
def one_line_errors(debug: bool) -> Iterator[None]:
    """End the program with one line on an error that a user can cause; with the traceback on a bug or if `debug`."""
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, NotFiniteError) or (isinstance(error, Stopped) and error.together):
            from vq_core.training.ranks import is_main_process

            if not is_main_process():
                sys.exit(0)  # all processes raise it; a nonzero status here would get the others killed
        for bar in list(getattr(tqdm, "_instances", ())):
            bar.close()  # which ends its line
        if isinstance(error, click.ClickException) or (debug and not isinstance(error, KeyboardInterrupt)):
            raise
        if isinstance(error, UserError):
            kind = click.UsageError if isinstance(error, ConfigError) else click.ClickException
            raise kind(str(error)) from None
        if type(error).__name__ == "OutOfMemoryError":  # torch's; by name, so that --help need not import torch
            raise click.ClickException("not enough GPU memory for this much at once: ask for less") from None
        if isinstance(error, OSError) and error.errno in _DISK:
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{error.strerror or error}; everything saved so far is still there"
            raise click.ClickException(message) from None
        if isinstance(error, KeyboardInterrupt):
            click.echo(f"\n{str(error) or 'stopped'}", err=True)
            sys.exit(130)
        traceback.print_exception(error)
        fault = "This is a fault of the program: please report it, with what 'python -m vq_core doctor' says"
        click.echo(fault, err=True)
        sys.exit(70)


def echo(metrics: dict[str, Any], digits: str = ".4g") -> None:
    """Print metrics, one per line."""
    for name, value in metrics.items():
        click.echo(f"  {name}: {value:{digits}}" if isinstance(value, float) else f"  {name}: {value}")


def open_images(config: Config, images: list[Path], phase: "Phase") -> "tuple[VQVAE, Tensor, Run]":
    """The autoencoder of a phase, the image files as a batch [b, 3, h, w], and the autoencoder's run."""
    import numpy as np
    import torch

    from vq_core.data.augment import to_float
    from vq_core.data.decode import load_picture
    from vq_core.runs import finding, loading

    run = finding.finished(phase, config)
    model = loading.load_vqvae(run).to(pick_device(config))
    pixels = []
    for image in images:
        try:
            pixels.append(load_picture(image, config.data).pixels)
        except UnusableImage as error:
            raise DataError(f"{image}: {error}") from None
    return model, to_float(torch.from_numpy(np.stack(pixels)).to(model.device)), run


def sheet(images: "Tensor", columns: int = 8) -> Image.Image:
    """Images [b, 3, h, w] in rows, as one picture."""
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    from vq_core.data.augment import to_uint8

    return to_pil_image(make_grid(to_uint8(images).permute(0, 3, 1, 2).cpu(), nrow=columns, padding=2))


def was_given(name: str) -> bool:
    """Whether the user gave an option of the running command, rather than leaving it at its default."""
    return click.get_current_context().get_parameter_source(name) is not ParameterSource.DEFAULT


class Results:
    """Pictures that the running command makes, in the run's folder or `--out`, which is tried before the work begins.

    Their names say what differs: the images, with a few digits of their content, and each option that was given. Each
    PNG says the same in its text, with the run and the seed, but without folders, as pictures are shared.
    """

    def __init__(self, run: "Run", out: Path | None, images: Sequence[Path] = (), drawer: "Run | None" = None) -> None:
        context = click.get_current_context()
        inputs = {path: f"{path.stem}-{sha256(path.read_bytes()).hexdigest()[:6]}" for path in images}
        given = {name: value for name, value in context.params.items() if name not in _NOT_NAMED and was_given(name)}
        shown = {name: inputs.get(value, value) for name, value in given.items()}
        words = [context.info_name or "", *dict.fromkeys(inputs[path] for path in images if path not in given.values())]
        words += [n if v is True else f"{n}={v}" for n, v in shown.items()] + ([drawer.name] if drawer else [])
        words += [sha256(repr(context.params["settings"]).encode()).hexdigest()[:6]] if was_given("settings") else []
        self.folder, self.name = out or run.results, re.sub(r"[^\w.=,-]+", "_", "-".join(words))
        said: dict[str, Any] = {"command": context.info_name, "run": run.name, "prior": drawer and drawer.name}
        said |= {"images": [path.name for path in images], "seed": context.params.get("seed"), "options": shown}
        self.text = PngInfo()
        self.text.add_itxt("vq_core", json.dumps(said, ensure_ascii=False, default=str))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            TemporaryFile(dir=self.folder).close()
        except OSError as error:
            why = f"{self.folder}: cannot be written to ({error.strerror}); choose another folder with --out"
            raise click.ClickException(why) from None

    def save_each(self, images: "Tensor", codes: "Tensor") -> None:
        """Write each image [b, 3, h, w] as a PNG with its codes [b, h, w] beside it, in place of earlier ones."""
        import numpy as np

        from vq_core.data.augment import to_pictures

        folder = self.folder / self.name
        folder.mkdir(exist_ok=True)
        for earlier in [*folder.glob("[0-9]*.png"), *folder.glob("[0-9]*.npy")]:
            earlier.unlink()
        for number, (picture, grid) in enumerate(zip(to_pictures(images), codes.cpu().numpy(), strict=True), 1):
            Image.fromarray(picture).save(folder / f"{number:03d}.png", pnginfo=self.text)
            np.save(folder / f"{number:03d}.npy", grid.astype(np.uint16))
        click.echo(f"{folder}")

    def save_grid(self, images: "Tensor", columns: int, ending: str = "") -> None:
        """Write images [b, 3, h, w] as one PNG and print its path."""
        path = self.folder / f"{self.name}{ending}.png"
        sheet(images, columns).save(path, pnginfo=self.text)
        click.echo(f"{path}")
