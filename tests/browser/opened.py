"""What the browser tests work with: a running JupyterLab, and a notebook opened in it."""

from dataclasses import dataclass
from pathlib import Path

from playwright.sync_api import Page


@dataclass
class Lab:
    """A JupyterLab under test: its notebooks' folder, and its address."""

    folder: Path
    url: str


@dataclass
class OpenNotebook:
    """One notebook in one browser page."""

    page: Page
    name: str
    complaints: list[str]

    def run_all(self) -> None:
        """Run All Cells, and wait for the last one."""
        self.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")

    def execute(self, code: str) -> None:
        """Run code in the notebook's kernel, as a cell would, and wait for it."""
        script = """async code => {
            const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
            return (await kernel.requestExecute({code}).done).content;
        }"""
        reply = self.page.evaluate(script, code)
        assert reply["status"] == "ok", reply

    def cells(self) -> list[dict]:
        """All cells as the file would have them."""
        script = "() => [...window.jupyterapp.shell.currentWidget.content.model.cells].map(c => c.toJSON())"
        return self.page.evaluate(script)

    def go_to(self, text: str) -> int:
        """Scroll to the code cell that contains a text; its number."""
        (number,) = [n for n, c in enumerate(self.cells()) if c["cell_type"] == "code" and text in source(c)]
        self.show(number)
        return number

    def show(self, number: int) -> None:
        """Scroll to a cell by its number."""
        script = """async n => {
            const notebook = window.jupyterapp.shell.currentWidget.content;
            notebook.activeCellIndex = n;
            await notebook.scrollToItem(n, 'start');
        }"""
        self.page.evaluate(script, number)
        self.page.wait_for_timeout(250)


def source(cell: dict) -> str:
    return "".join(cell["source"])
