"""Executing notebooks: results and HTML are left, failures name the notebook, progress bars are not kept."""

import base64
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import nbformat
import pytest
from click.testing import CliRunner
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image

from vq_core.__main__ import main
from vq_core.notebook.execute import execute_all

pytestmark = pytest.mark.slow

DRAW = """
import sys
from IPython.display import display
from PIL import Image
sys.stderr.write("\\r 10%\\r100%\\n")
import tqdm.notebook
import ipywidgets
for _ in tqdm.notebook.tqdm(range(2)):
    pass
display(ipywidgets.IntSlider())
print("drawn")
display(Image.new("RGB", (9, 7), "red"))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VQ_PROFILE", "smoke")
    monkeypatch.setenv("VQ_DATA", str(tmp_path / "data"))
    good = new_notebook(cells=[new_code_cell(DRAW, metadata={"tags": ["picture-square"]}), new_code_cell("1 + 1")])
    bad = new_notebook(
        cells=[new_code_cell("raise RuntimeError('run notebook 00_data_prep first')"), new_code_cell("2")]
    )
    nbformat.write(good, tmp_path / "00_good.ipynb")
    nbformat.write(bad, tmp_path / "01_bad.ipynb")
    return tmp_path


def test_results_and_html_are_left(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    execute_all(folder, out, "smoke", only="00")
    first, second = nbformat.read(out / "00_good.ipynb", as_version=4).cells
    kinds = [output.get("name", output.output_type) for output in first.outputs]
    assert kinds == ["display_data", "stdout", "display_data"]  # without the two progress bars
    assert first.outputs[0].data == {"text/plain": "Something to move and click: run this cell in JupyterLab."}
    assert second.outputs[0].data["text/plain"] == "2"
    with Image.open(io.BytesIO(base64.b64decode(first.outputs[2].data["image/png"]))) as picture:
        assert picture.size == (9, 7) and picture.getpixel((0, 0)) == (255, 0, 0)
    assert (out / "pictures" / "square.png").is_file()
    assert "drawn" in (out / "00_good.html").read_text(encoding="utf-8")
    assert str(out) in capsys.readouterr().out.splitlines()[-1]


def test_a_failing_cell_names_the_notebook_and_stops(folder: Path) -> None:
    with pytest.raises(click.ClickException, match=r"01_bad\.ipynb: RuntimeError: run notebook 00_data_prep first"):
        execute_all(folder, folder / "out", "smoke")
    assert nbformat.read(folder / "out" / "01_bad.ipynb", as_version=4).cells[0].outputs[0].output_type == "error"


def test_unknown_notebook(folder: Path) -> None:
    with pytest.raises(click.ClickException, match="no notebook's name contains '99'"):
        execute_all(folder, folder / "out", "smoke", only="99")


def test_ctrl_c_interrupts_the_cell_and_ends_in_one_line(folder: Path) -> None:
    """As in a terminal, to the whole group of processes: the kernel lives on to save what it was doing."""
    wait = "import time\nfrom pathlib import Path\nPath('begun').touch()\n"
    wait += "try:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    Path('saved').touch()\n    raise"
    nbformat.write(new_notebook(cells=[new_code_cell(wait)]), folder / "02_long.ipynb")
    script = f"from pathlib import Path; from vq_core.notebook.execute import execute_all; p = Path({str(folder)!r})\n"
    script += "from vq_core.commands.common import one_line_errors\n"
    script += "with one_line_errors(False):\n    execute_all(p, p / 'out', 'smoke', '02')"
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=-1, stderr=-1, text=True, start_new_session=True
    ) as process:
        until = time.monotonic() + 60
        while not (folder / "begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and (folder / "saved").exists(), said
    assert "02_long.ipynb: KeyboardInterrupt" in said and (folder / "out" / "02_long.html").is_file()
    assert "never retrieved" not in said and "zmq" not in said


def test_a_folder_that_cannot_be_written_to_is_named(folder: Path) -> None:
    (folder / "a file").touch()
    result = CliRunner().invoke(main, ["workbook", "--profile", "smoke", "--out", str(folder / "a file" / "x")])
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert f"{folder / 'a file' / 'x'}: Not a directory" in result.output
