"""The house in order: one list of packages, the layout at the top, and who may import whom."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # comes with pytest there

ROOT = Path(__file__).parents[1]
TOP = {
    "notebooks",
    "vq_core",
    "data",
    "tests",
    "environment.yml",
    "README.md",
    "README_zh.md",
    "pyproject.toml",
    "Makefile",
    ".ci",
    ".gitignore",
    "LICENSE",
    "CONTRIBUTING.md",
    "BENCHMARKS.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "constraints.txt",
    ".pre-commit-config.yaml",
}
# Lowest first. A module imports from floors below its own, and from its own room; nothing upwards, nothing sideways.
FLOORS = (
    {"errors"},
    {"files", "hub"},
    {"settings"},
    {"config", "models", "avatars"},
    {"machine"},
    {"data"},
    {"runs"},
    {"training", "evaluation", "generation"},
    {"notebook"},
    {"commands"},
    {"__init__"},
    {"__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = sorted((ROOT / "vq_core").rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of all that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{name.name}" for name in node.names}
    return found


def test_there_is_one_list_of_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert environment["name"] == "VQ" and pip == ["-e .[notebooks]"]
    assert plain == [f"python{project['requires-python']}", "pip"] and "notebooks" in project["optional-dependencies"]


def test_exceptions_from_errors_are_dated() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.strip().startswith('"ignore:')]
    assert lines and all(re.search(r"  # 20\d\d-\d\d: ", line) for line in lines)
    assert not [path for path in (ROOT / "tests").rglob("test_*.py") if "mark.filter" + "warnings" in path.read_text()]


def test_every_package_asked_for_is_pinned_at_a_version_that_will_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            pin = Requirement(line)
            (exact,) = pin.specifier
            assert exact.operator == "==" and pin.url is None, line
            pinned[canonicalize_name(pin.name)] = exact.version
    more = project["optional-dependencies"]
    for line in project["dependencies"] + [line for extra in ("notebooks", "onnx", "dev") for line in more[extra]]:
        asked = Requirement(line)
        if asked.name == "vq-workbook":
            continue
        version = pinned[canonicalize_name(asked.name)]
        assert asked.specifier.contains(version), f"{asked} is pinned at {version}"


def test_nothing_else_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in listed.splitlines()} <= TOP


def room(module: str) -> str:
    """The room of a dotted name: "runs" of `vq_core.runs.folders`, "__init__" of what `vq_core` itself offers."""
    name = module.split(".")[1] if "." in module else "__init__"
    return name if name in FLOOR else "__init__"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_imports_upwards(path: Path) -> None:
    own = path.relative_to(ROOT / "vq_core").with_suffix("").parts[0]
    for name in imports(path):
        if name.split(".")[0] == "vq_core" and room(name) != own:
            assert FLOOR[room(name)] < FLOOR[own], f"{path.name} in {own} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_lightning_is_for_training_alone(path: Path) -> None:
    place = path.relative_to(ROOT / "vq_core").with_suffix("").as_posix()
    if not (place.startswith("training/") or place == "data/datamodule"):
        assert not {name.split(".")[0] for name in imports(path)} & {"lightning", "pytorch_lightning"}


@pytest.mark.parametrize("path", sorted((ROOT / "vq_core/models").glob("*.py")), ids=lambda path: path.name)
def test_the_networks_are_plain_torch(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in ("yaml", "pydantic", "pathlib", "json")
        assert not name.startswith("vq_core.") or name.startswith(("vq_core.models", "vq_core.errors", "vq_core.hub"))


def test_a_model_is_used_without_what_trains_it() -> None:
    """In a process of its own: nothing of settings or of Lightning is imported for a VQVAE, nor for --help."""
    script = """
import sys, torch
from vq_core.models import VQVAE, CodeTransformer
model = VQVAE((8, 8), (8, 8), 1, 8, 8, 16).eval()
x = torch.zeros(1, 3, 64, 64)
assert torch.equal(model.decode(model.encode(x)), model(x)), "decode(encode(x)) is the reconstruction"
CodeTransformer(16, 16, 16, 1, 2, code_dim=8)(model.encode(x).flatten(1))
found = {"pydantic", "vq_core.config", "lightning", "lpips", "torchmetrics"} & sys.modules.keys()
assert not found, found
import vq_core.__main__
found = {"lightning", "lpips", "matplotlib"} & sys.modules.keys()
assert not found, found
import vq_core
assert callable(vq_core.load_config) and callable(vq_core.load_vqvae) and callable(vq_core.load_prior)
assert "lightning" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_modules_are_short(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= 350


def test_the_core_stays_small() -> None:
    lines = [path.read_text(encoding="utf-8").count("\n") for path in MODULES if "avatars" not in path.parts]
    assert sum(lines) <= 7_500


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").rglob("*.py")), ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_files_of_tests_are_short(path: Path) -> None:
    assert path.read_text(encoding="utf-8").count("\n") <= 400
