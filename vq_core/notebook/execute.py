"""Executes the notebooks in order, with progress in the terminal, and saves each with its outputs and as HTML."""

import asyncio
import base64
import io
import os
import re
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from PIL import Image
from tqdm.auto import tqdm

from vq_core.config import data_dir

WIDGET = "application/vnd.jupyter.widget-view+json"


class _Client(NotebookClient):
    """Passes on the progress bar of the running cell, or the status line of its live view, to the terminal."""

    bar: tqdm

    def process_message(self, msg: dict[str, Any], cell: NotebookNode, cell_index: int) -> NotebookNode | None:
        text = msg["content"].get("data", {}).get("text/plain", "")
        if msg["msg_type"] == "stream" and "\r" in msg["content"]["text"]:  # a progress bar inside the notebook
            self.bar.set_postfix_str(msg["content"]["text"].split("\r")[-1].strip())
        elif " step " in text:
            self.bar.set_postfix_str(text)
        return super().process_message(msg, cell, cell_index)


def execute_all(notebooks: Path, out: Path, profile: str, only: str | None = None) -> None:
    """Run every notebook (or those whose name contains `only`) and write `NN_name.ipynb` and `.html` to `out`.

    Raises `click.ClickException`: no such notebook, or the first cell that fails, after writing the outputs so far.
    """
    chosen = [path for path in sorted(notebooks.glob("[0-9]*.ipynb")) if only is None or only in path.name]
    if not notebooks.is_dir():
        raise click.ClickException("the notebooks are no part of the installed package: run this in a checkout of it")
    if not chosen:
        raise click.ClickException(f"{notebooks}: no notebook's name contains '{only}'")
    out.mkdir(parents=True, exist_ok=True)
    # Kernels run in the notebooks' folder, so paths relative to the current one must be made absolute.
    os.environ["VQ_PROFILE"] = str(Path(profile).resolve()) if Path(profile).is_file() else profile
    os.environ["VQ_DATA"] = str(data_dir())
    started = time.monotonic()
    for path in chosen:
        _execute(path, out)
    minutes = (time.monotonic() - started) / 60
    click.echo(f"{len(chosen)} notebooks done in {minutes:.1f} min; results and HTML copies: {out}")


def _execute(path: Path, out: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    place = {"metadata": {"path": str(path.parent)}}
    quiet = ["--IPKernelApp.log_level=40"]  # otherwise every start warns that it uses loopback
    client = _Client(notebook, timeout=None, kernel_name="python3", resources=place, extra_arguments=quiet)
    client.store_widget_state = False
    copy = (out / path.name).with_suffix(".html")
    cells = sum(cell.cell_type == "code" for cell in notebook.cells)
    with tqdm(total=cells, desc=path.stem, unit="cell", dynamic_ncols=True) as client.bar:
        client.on_cell_executed = lambda cell, cell_index, execute_reply: client.bar.update()
        client.on_notebook_start = lambda notebook: _interrupt_the_cell(client)
        try:
            client.execute()
        except CellExecutionError as error:
            raise click.ClickException(f"{path.name}: {error.ename}: {error.evalue} (see {copy})") from None
        except (DeadKernelError, AssertionError):  # the latter: at Ctrl-C nbclient ends the kernel, then misses it
            why = "interrupted, or the kernel ran out of memory"
            raise click.ClickException(f"{path.name}: {why}; run it again to resume") from None
        finally:
            _clean(notebook, out / "pictures")
            nbformat.write(notebook, out / path.name)
            copy.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")


def _interrupt_the_cell(client: Any) -> None:
    """Let Ctrl-C interrupt the running cell, so that a training is saved, and not end its kernel, as nbclient would."""
    with suppress(NotImplementedError):  # Windows
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, lambda: asyncio.ensure_future(client.km.interrupt_kernel()))


def _is_progress(out: NotebookNode) -> bool:
    """Whether an output is a progress bar, as text or as a widget."""
    if WIDGET in out.get("data", {}):
        return re.search(r"\d+%\|", out["data"].get("text/plain", "")) is not None
    return out.get("name") == "stderr" and ("\r" in out.text or not out.text.strip())


def _clean(notebook: NotebookNode, folder: Path) -> None:
    """Remove what goes stale (widgets, times, progress bars); compress pictures; alt texts are what one should see.

    Pictures of cells tagged `picture-NAME` are also saved in the folder, as `NAME.png`; the README's come from here.
    """
    folder.mkdir(exist_ok=True)
    notebook.metadata.pop("widgets", None)
    alt = "the answer to the exercise above, drawn"  # what comes after all that one should see
    for cell in reversed(notebook.cells):
        cell.metadata.pop("execution", None)
        names = (tag.removeprefix("picture-") for tag in cell.metadata.get("tags", []) if tag.startswith("picture-"))
        alt = re.sub(r"[*`$]|\n- ", "", cell.source.partition("You should see**")[2]).partition(". ")[0] or alt
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if not _is_progress(out)]
            for out in cell.outputs:
                if WIDGET in out.get("data", {}):
                    out["data"] = {"text/plain": "Something to move and click: run this cell in JupyterLab."}
                elif "image/png" in out.get("data", {}):
                    image: Image.Image = Image.open(io.BytesIO(base64.b64decode(out["data"]["image/png"])))
                    if image.getextrema()[-1] == (255, 255):  # of alpha: opaque
                        image = image.convert("RGB")
                    image.save(packed := io.BytesIO(), format="png", optimize=True)
                    out["data"]["image/png"] = base64.b64encode(packed.getvalue()).decode()
                    out["metadata"].setdefault("image/png", {}).setdefault("alt", " ".join(alt.split()))
                    if name := next(names, ""):
                        (folder / f"{name}.png").write_bytes(packed.getvalue())
