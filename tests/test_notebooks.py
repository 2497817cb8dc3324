"""The notebooks as files: paired, executed, without classes, small, in the form that readers are promised."""

import ast
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import pytest

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
EXPECTED = [
    "00_data_prep",
    "01_codebook_kmeans_init",
    "02_phase1_vqvae",
    "03_phase2_vqgan",
    "04_phase3_prior",
    "05_analysis",
]


def code_cells(path: Path) -> list[Any]:
    return [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code" and c.source.strip()]


def test_the_six_are_there() -> None:
    assert [path.stem for path in NOTEBOOKS] == EXPECTED


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_pair_is_equal(path: Path) -> None:
    """The .py is what jupytext makes of the .ipynb (`make sync` writes it)."""
    command = [sys.executable, "-m", "jupytext", "--to", "py:percent", "--output", "-", path.name]
    made = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, check=True).stdout
    assert made == path.with_suffix(".py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_no_class_and_no_long_function(path: Path) -> None:
    for cell in code_cells(path):
        for node in ast.walk(ast.parse(cell.source)):
            assert not isinstance(node, ast.ClassDef), f"{node.name} belongs in vq_core"
            toy = not isinstance(node, ast.FunctionDef) or (node.end_lineno or 0) - node.lineno < 6
            assert toy, f"{node.name} belongs in vq_core"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_was_run_to_its_end_without_errors(path: Path) -> None:
    """Committed outputs come from one run of the whole notebook, in order."""
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    assert not [out for cell in cells for out in cell.outputs if out.get("name") == "stderr"], "warnings in the outputs"
    shown = [out["data"] for cell in cells for out in cell.outputs if "data" in out]
    pictures = [
        out["metadata"]["image/png"] for cell in cells for out in cell.outputs if "image/png" in out.get("data", {})
    ]
    assert pictures and all(len(picture["alt"]) > 10 for picture in pictures)  # for those who cannot see them
    assert not [data for data in shown if "application/vnd.jupyter.widget-view+json" in data], "progress bars, widgets"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_code_that_is_shown_is_the_code_that_runs(path: Path) -> None:
    """Outputs of `code_of`, which an edit of the function makes stale, occur in the package, but for indentation."""
    files = (file.read_text(encoding="utf-8") for file in (FOLDER.parent / "vq_core").rglob("*.py"))
    everything, shown = "\n".join(line.strip() for file in files for line in file.splitlines()), 0
    for cell in code_cells(path):
        for out in cell.outputs if "code_of(" in cell.source else ():
            for block in "".join(out.data["text/markdown"]).split("```python\n")[1:]:
                code = "\n".join(line.strip() for line in block.partition("\n```")[0].splitlines())
                assert code in everything, code
                shown += 1
    assert shown or "code_of(" not in path.with_suffix(".py").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_checked_cells_have_outputs(path: Path) -> None:
    """nbval silently skips a checked cell that was never run."""
    checked = [cell for cell in code_cells(path) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert checked
    for cell in checked:
        assert "assert" in cell.source and cell.execution_count and cell.outputs


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_reads_well(path: Path) -> None:
    """One config cell; at least as much prose as code; short cells; a small file without widget state."""
    notebook, cells = nbformat.read(path, as_version=4), code_cells(path)
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    lengths = [cell.source.strip().count("\n") + 1 for cell in cells]
    assert prose[0].source.startswith("# ") and len(prose) >= len(cells)
    assert median(lengths) <= 8 and max(lengths) <= 25
    assert sum("parameters" in cell.metadata.get("tags", []) for cell in cells) == 1
    assert "You should see" in " ".join(cell.source for cell in prose)
    assert "widgets" not in notebook.metadata
    assert path.stat().st_size < 2_500_000
