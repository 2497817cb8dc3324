"""JupyterLab on loopback and a browser that drives it."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from opened import Lab, OpenNotebook
from playwright.sync_api import Browser, sync_playwright

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
TOKEN = "for-this-test-only"
# Without a sandbox, because tests may run as root in a container; without anything that calls home.
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync"]


def find_browser(own: str) -> str | None:
    """An installed Chromium or Chrome; else the one that `playwright install chromium` has left."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next(filter(None, map(shutil.which, names)), own if Path(own).is_file() else None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        path = find_browser(playwright.chromium.executable_path)
        if path is None:
            pytest.skip("no Chromium or Chrome on this machine (playwright install chromium, or your system's package)")
        running = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield running
        running.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The notebooks' copies in a folder of their own; settings of the user's Jupyter are neither read nor changed."""
    place = tmp_path_factory.mktemp("lab")
    folder = place / "notebooks"
    shutil.copytree(NOTEBOOKS, folder, ignore=shutil.ignore_patterns("*.py", "pictures", ".ipynb_checkpoints"))
    (place / "config" / "labconfig").mkdir(parents=True)
    (place / "config" / "labconfig" / "page_config.json").write_text(
        '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'  # it would ask for news
    )
    environment = os.environ | {
        "VQ_PROFILE": os.environ.get("VQ_PROFILE", "smoke"),
        "VQ_DATA": os.environ.get("VQ_DATA", str(place / "data")),
        "JUPYTER_CONFIG_DIR": str(place / "config"),
        "JUPYTERLAB_WORKSPACES_DIR": str(place / "workspaces"),
        "JUPYTERLAB_SETTINGS_DIR": str(place / "settings"),
    }
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"]
    options += [f"--IdentityProvider.token={TOKEN}", "--no-browser", "--allow-root", "--expose-app-in-browser"]
    log = (place / "jupyter.log").open("w")
    server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log)
    try:
        _wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}", server, place / "jupyter.log")
        yield Lab(folder, f"http://127.0.0.1:{port}/lab")
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def _wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(240):
        assert server.poll() is None, f"JupyterLab ended: {log.read_text()[-2000:]}"
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            time.sleep(0.25)
    raise AssertionError(f"JupyterLab did not answer: {log.read_text()[-2000:]}")


@pytest.fixture
def open_notebook(lab: Lab, browser: Browser):
    """A function that opens a notebook by its file name."""
    context = browser.new_context(viewport={"width": 1500, "height": 1150})

    def open_it(name: str) -> OpenNotebook:
        page, complaints = context.new_page(), []
        page.set_default_timeout(180_000)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" and _ours(m.text) else None)
        page.goto(f"{lab.url}/tree/{name}?token={TOKEN}&reset")
        ready = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        page.wait_for_function(ready)
        page.evaluate("() => window.jupyterapp.commands.execute('application:toggle-left-area')")
        return OpenNotebook(page, name, complaints)

    yield open_it
    context.close()


def _ours(text: str) -> bool:
    """Whether a message in the console is about widgets (and not about, say, a missing icon of the server's)."""
    return re.search(r"widget|cell_picture|model|vq-", text, re.IGNORECASE) is not None
