"""Each notebook in a real JupyterLab in a real browser: run, looked through, and its widgets moved.

Pictures of what was seen go to the folder that VQ_SCREENSHOTS names, where it is set.
"""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from opened import Lab, OpenNotebook, source
from PIL import Image
from playwright.sync_api import Locator, expect

Opener = Callable[[str], OpenNotebook]
NAMES = sorted(path.name for path in (Path(__file__).parents[2] / "notebooks").glob("[0-9]*.ipynb"))


def keep(place: Locator, name: str) -> None:
    if folder := os.environ.get("VQ_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        place.screenshot(path=Path(folder) / f"{name}.png")


def seen(place: Locator) -> bytes:
    """A place's pixels, but for those at its rim, which it may share with what lies next to it."""
    with Image.open(io.BytesIO(place.screenshot())) as picture:
        return picture.convert("RGB").crop((4, 4, picture.width - 4, picture.height - 4)).tobytes()


def changed(place: Locator, before: bytes) -> bytes:
    """The place's picture when it differs from an earlier one and has come to rest."""
    last = b""
    for _ in range(180):  # a busy machine takes its time
        now = seen(place)
        if now == last != before:
            return now
        last = now
        place.page.wait_for_timeout(500)
    raise AssertionError("the picture did not change, or did not come to rest")


def at_rest(place: Locator) -> bytes:
    """The place's picture once it has come to rest."""
    return changed(place, b"")


@pytest.mark.parametrize("name", NAMES)
def test_notebook_runs_and_shows_its_widgets(open_notebook: Opener, name: str) -> None:
    notebook = open_notebook(name)
    notebook.run_all()
    cells = notebook.cells()
    errors = [out for cell in cells for out in cell.get("outputs", []) if out["output_type"] == "error"]
    assert not errors, f"{errors[0]['ename']}: {errors[0]['evalue']}"
    code = [cell for cell in cells if cell["cell_type"] == "code" and source(cell).strip()]
    assert all(cell["execution_count"] for cell in code)
    for number in range(len(cells)):  # outputs are drawn when they come into view
        notebook.show(number)
        assert "Error displaying widget" not in notebook.page.locator(".jp-Notebook").inner_text(), source(
            cells[number]
        )
    assert notebook.complaints == []
    drive = {"02": drive_histogram, "04": drive_notebook_04}.get(name[:2])
    if drive is not None:
        drive(notebook)
    assert notebook.complaints == []


def widget_cell(notebook: OpenNotebook, text: str) -> Locator:
    """The output area of the cell with a text in its code."""
    notebook.go_to(text)
    output = notebook.page.locator(".jp-Notebook-cell.jp-mod-active .jp-Cell-outputArea")
    output.locator(".jupyter-widgets").first.wait_for()
    output.scroll_into_view_if_needed()
    notebook.page.wait_for_timeout(500)
    return output


def click_at(place: Locator, x: float, y: float) -> None:
    """Click at shares of a place's width and height."""
    box = place.bounding_box()
    assert box is not None
    place.click(position={"x": x * box["width"], "y": y * box["height"]})


def drag(place: Locator, *path: tuple[float, float]) -> None:
    """Press the button at the first place (shares of width and height), let it go at the last; as quick as can be."""
    box = place.bounding_box()
    assert box is not None
    for number, (x, y) in enumerate(path):
        place.page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        if number == 0:
            place.page.mouse.down()
    place.page.mouse.up()
    place.page.mouse.move(box["x"] - 10, box["y"] - 10)  # no hint over the picture


def drive_histogram(notebook: OpenNotebook) -> None:
    """The slider changes the histogram; a click on a bar changes the card; the live view is one picture."""
    number = notebook.go_to('train("phase1", config, LiveView)')
    training = notebook.cells()[number]
    assert len([out for out in training["outputs"] if "image/png" in out.get("data", {})]) == 1
    keep(notebook.page.locator(".jp-Notebook-cell.jp-mod-active .jp-Cell-outputArea img"), "live")
    output = widget_cell(notebook, "UsageExplorer(")
    histogram, card = output.locator(".vq-cells"), output.locator("img.widget-image")
    notebook.execute("explorer.step.value = explorer.step.options[0]")
    notebook.execute("explorer.step.value = explorer.step.options[-1]")
    notebook.execute("explorer.histogram.selected = [config.model.num_codes // 3]")  # the bar of a code of average use
    at_rest(histogram), at_rest(card)
    keep(output, "histogram")
    before = seen(histogram)
    output.locator(".noUi-handle").first.focus()
    notebook.page.keyboard.press("Home")
    earlier = changed(histogram, before)
    notebook.page.keyboard.press("End")
    assert changed(histogram, earlier) == before
    output.locator(".widget-play button").first.click()  # at the end: plays from the start
    waiting = 0
    while seen(histogram) == before:
        waiting += 1
        assert waiting < 180, "the play button changes nothing"
    while seen(histogram) != before:  # a frame may take longer than what `at_rest` waits
        waiting += 1
        assert waiting < 500, "it does not play to the end"
        notebook.page.wait_for_timeout(500)
    assert at_rest(histogram) == before
    shown = seen(card)
    click_at(histogram, 0.3, 0.6)
    changed(card, shown)
    output.get_by_role("button", name="by code").click()
    changed(histogram, before)


def drive_notebook_04(notebook: OpenNotebook) -> None:
    """Sampling by another seed; pictures saved; the editor; frames by the slider."""
    output = widget_cell(notebook, '"top_k": w.IntSlider')
    picture, seed = output.locator("img.widget-image"), output.locator("input[type=number]")
    before = seen(picture)
    seed.fill("7")
    seed.press("Enter")
    changed(picture, before)

    for name in ("samples", "completions", "regenerated"):
        output = widget_cell(notebook, f'run.folder / "{name}.png", f"')
        output.get_by_role("button", name="save").click()
        output.get_by_text(re.compile(rf"^saved .*{name}\.png")).wait_for()

    drive_editor(widget_cell(notebook, "CodeEditor("))

    output = widget_cell(notebook, '"frame": w.IntSlider')
    picture = output.locator("img.widget-image")
    before = seen(picture)
    output.locator(".noUi-handle").focus()
    notebook.page.keyboard.press("ArrowRight")
    changed(picture, before)


def drive_editor(output: Locator) -> None:
    """A code set by clicks and undone; another avatar's eyes; drawn anew; files opened, a readable and another one."""
    canvas, atlas = output.locator(".vq-cells").first, output.locator(".vq-cells").last
    output.get_by_text(re.compile(r"^0 cells chosen")).wait_for()
    unchosen = at_rest(canvas)
    click_at(canvas, 0.5, 0.4)
    output.get_by_text(re.compile(r"^1 cell chosen")).wait_for()
    chosen = changed(canvas, unchosen)
    drag(canvas, (0.3, 0.2), (0.7, 0.2))
    output.get_by_text(re.compile(r"^9 cells chosen")).wait_for()
    dragged = changed(canvas, chosen)
    click_at(atlas, 0.1, 0.05)
    expect(output.locator("input[type=number]")).not_to_have_value("0", timeout=60_000)
    output.get_by_role("button", name="set code").click()
    painted = changed(canvas, dragged)
    output.get_by_role("button", name="undo").click()
    assert changed(canvas, painted) == dragged
    output.get_by_role("button", name="redo").click()
    assert changed(canvas, dragged) == painted

    output.locator("select").first.select_option("avatar 2")
    output.get_by_role("button", name="choose none").click()
    output.get_by_text(re.compile(r"^0 cells chosen")).wait_for()
    another = changed(canvas, painted)
    drag(canvas, (0.28, 0.47), (0.72, 0.47), (0.72, 0.53), (0.28, 0.53), (0.28, 0.59), (0.72, 0.59))  # its eyes
    eyes = changed(canvas, another)
    output.get_by_role("button", name="copy from").click()
    output.get_by_text("24 cells copied from avatar 6").wait_for()
    changed(canvas, eyes)
    keep(output, "editor")
    copied = at_rest(canvas)
    output.get_by_role("button", name="draw anew").click()
    output.get_by_text("24 cells drawn anew by the masked prior").wait_for()
    drawn = changed(canvas, copied)

    Image.linear_gradient("L").save(picture := io.BytesIO(), format="png")
    for name, content in (("notes.png", b"no picture"), ("mine.png", picture.getvalue())):
        with output.page.expect_file_chooser() as chooser:
            output.get_by_role("button", name="open a file").click()
        chooser.value.set_files({"name": name, "mimeType": "image/png", "buffer": content})
        output.get_by_text({"notes.png": "notes.png: not an image", "mine.png": "step 0 of 0"}[name]).wait_for()
    changed(canvas, drawn)
    expect(output.locator("select").first.locator("option:checked")).to_have_text("mine.png")


def test_an_interrupted_training_goes_on_when_its_cell_is_run_again(open_notebook: Opener, lab: Lab) -> None:
    """Interrupted while the live view is drawn; afterwards there is one picture, and the run has reached its end."""
    notebook = nbformat.read(lab.folder / "02_phase1_vqvae.ipynb", as_version=4)
    numbers = [n for n, cell in enumerate(notebook.cells) if 'train("phase1", config, LiveView)' in cell.source]
    notebook.cells = notebook.cells[: numbers[0] + 1]
    for cell in notebook.cells:
        if "load_config(vq_core.active_profile(), [])" in cell.source:
            cell.source = cell.source.replace("[])", "['phase1.steps=400'])", 1)
    nbformat.write(notebook, lab.folder / "interrupted.ipynb")
    opened = open_notebook("interrupted.ipynb")
    run = opened.page.evaluate_handle("() => ({done: window.jupyterapp.commands.execute('notebook:run-all-cells')})")
    opened.show(numbers[0])
    live = opened.page.locator(".jp-Notebook-cell.jp-mod-active .jp-Cell-outputArea img")
    live.wait_for()
    opened.page.wait_for_timeout(3000)
    opened.page.evaluate("() => window.jupyterapp.commands.execute('notebook:interrupt-kernel')")
    opened.page.evaluate("run => run.done", run)
    (stopped,) = [out for out in opened.cells()[numbers[0]]["outputs"] if out["output_type"] == "error"]
    assert "run it again to resume" in stopped["evalue"]
    opened.run_all()
    outputs = opened.cells()[numbers[0]]["outputs"]
    assert not [out for out in outputs if out["output_type"] == "error"]
    assert len([out for out in outputs if "image/png" in out.get("data", {})]) == 1
    assert opened.complaints == []
