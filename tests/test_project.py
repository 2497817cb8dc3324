"""The house in order: one list of packages, the layout at the top, and who may import whom."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

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
}
# Lowest first; a module imports from its own floor and from those below.
FLOORS = ("config", "data", "models", "training", "evaluation", "generation", "notebook")
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


def requirement(line: str) -> str:
    """A requirement without blanks, its ranges in order."""
    name, ranges = re.fullmatch(r"([\w.-]+)(.*)", re.sub(r"\s", "", line)).groups()  # type: ignore[union-attr]
    return name.lower().replace("_", "-") + ",".join(sorted(ranges.split(",")))


def test_both_lists_of_packages_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    plain = [entry for entry in environment["dependencies"] if isinstance(entry, str)]
    assert environment["name"] == "VQ"
    assert f"python{project['requires-python']}" in [entry.replace(" ", "") for entry in plain]
    asked = [line for line in pip if not line.startswith(("-", "."))]  # an editable install of the project itself
    assert sorted(map(requirement, asked)) == sorted(map(requirement, project["dependencies"]))


def test_nothing_else_at_the_top() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split("/")[0] for line in listed.splitlines()} <= TOP


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_imports_upwards(path: Path) -> None:
    parts = path.relative_to(ROOT / "vq_core").with_suffix("").parts
    if parts[0] not in FLOORS:
        assert len(parts) == 1  # __init__, __main__ and their like stand above all floors
        return
    below = FLOORS[: FLOORS.index(parts[0]) + 1]
    for name in imports(path):
        if name.startswith("vq_core."):
            metrics = parts[0] == "training" and name.startswith("vq_core.evaluation.metrics.")
            assert metrics or name.split(".")[1] in below, f"{'/'.join(parts)} imports {name}"


@pytest.mark.parametrize("path", sorted((ROOT / "vq_core/models").glob("*.py")), ids=lambda path: path.name)
def test_the_networks_are_plain_torch(path: Path) -> None:
    for name in imports(path):
        assert name.split(".")[0] not in ("lightning", "pytorch_lightning", "yaml", "pydantic")
        assert not name.startswith("vq_core.") or name.startswith("vq_core.models")
