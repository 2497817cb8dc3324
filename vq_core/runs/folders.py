"""A run's folder: its checkpoints, metrics and pictures, written during training and read afterwards."""

import json
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from vq_core.config import Config, config_from_dict, data_dir
from vq_core.errors import ConfigError, RunError, tell_once
from vq_core.files import owned, written_whole
from vq_core.hub import CONFIG, WEIGHTS, read_config

Phase = Literal["kmeans", "phase1", "phase2", "prior", "masked"]
PHASES: tuple[Phase, ...] = ("kmeans", "phase1", "phase2", "prior", "masked")
PRIORS: tuple[Phase, ...] = ("prior", "masked")  # the phases that model codes
Split = Literal["train", "val"]
PRETRAINED = Path(__file__).parents[1] / "pretrained"  # the exports that come with the workbook


@dataclass(frozen=True)
class Run:
    """One run, identified by its folder."""

    folder: Path

    @property
    def name(self) -> str:
        """Folder name: phase, profile and hash."""
        return self.folder.name

    @property
    def phase(self) -> Phase:
        """The phase in the folder's name. Raises `RunError` if there is none."""
        for phase in PHASES:
            if self.name.split("-")[0] == phase:
                return phase
        raise RunError(f"{self.folder}: is not a run: its name does not start with one of {', '.join(PHASES)}")

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation metric."""
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint from which training resumes."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def results(self) -> Path:
        """The folder for what is computed from the run: codes, samples, edits."""
        return self.folder

    @property
    def done(self) -> bool:
        """Whether training has finished."""
        return (self.folder / "result.json").is_file()

    def result(self) -> dict[str, Any]:
        """The metrics that the run ended with. Raises `RunError` if it has not finished."""
        path = self.folder / "result.json"
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored.pop("crc32", _checksum(stored)) != _checksum(stored):  # up to 0.2 there was none
                raise ValueError
        except FileNotFoundError:
            raise RunError(f"{self.folder}: this run has not finished") from None
        except (ValueError, AttributeError, RecursionError):
            raise RunError(f"{path}: is damaged; delete it, and train the phase again to write it anew") from None
        return {"phase" if key == "kind" else key: value for key, value in stored.items()}  # renamed since 6d1eaf3

    def update_result(self, metrics: dict[str, Any]) -> None:
        """Add metrics to `result.json`."""
        with owned(data_dir() / ".locks" / f"{self.name}-result", "writing its figures", wait=True):
            new = (self.result() if self.done else {}) | metrics
            new["crc32"] = _checksum(json.loads(json.dumps(new)))
            with written_whole(self.folder / "result.json") as file:
                file.write(json.dumps(new, indent=2, ensure_ascii=False).encode())

    def settings(self) -> dict[str, Any]:
        """All settings that the run was started with, as stored. Raises `RunError` if they cannot be read."""
        path, stored = self.folder / "config.yaml", None
        with suppress(OSError, ValueError, yaml.YAMLError):
            stored = yaml.safe_load(path.read_text(encoding="utf-8"))
        if not isinstance(stored, dict):
            raise RunError(f"{path}: is missing or damaged, so the settings of this run are unknown; delete its folder")
        return stored

    def config(self) -> Config:
        """The same under today's keys; keys newer than the run have their neutral values."""
        try:
            return config_from_dict(self.settings())
        except ConfigError as error:
            raise RunError(f"{self.folder / 'config.yaml'}: cannot be used ({error})") from None

    def history(self) -> list[dict[str, Any]]:
        """Logged rows in order: each has `step` and some of the metrics (`train/rec`, `val/psnr` …)."""
        return _read_lines(self.folder / "history.jsonl")

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one logged metric."""
        rows = [row for row in self.history() if name in row]
        return np.array([row["step"] for row in rows]), np.array([row[name] for row in rows])

    def usage(self, split: Split = "train") -> tuple[np.ndarray, np.ndarray]:
        """Steps [t] and uses of each code [t, K]: in training since the previous row, in validation in a whole pass."""
        rows = [row for row in _read_lines(self.folder / "usage.jsonl") if row.get("split", "train") == split]
        return np.array([row["step"] for row in rows]), np.array([row["counts"] for row in rows])

    def begin(self, settings: dict[str, Any], step: int) -> None:
        """Create the folder with its settings; drop rows logged after `step`, which a resumed run will log again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in self.folder.rglob("*.part"):  # by a killed process
            left.unlink()
        with written_whole(self.folder / "config.yaml") as file:
            file.write(yaml.safe_dump(settings, sort_keys=False).encode())
        for path in (self.folder / "history.jsonl", self.folder / "usage.jsonl"):
            if path.is_file():
                kept = [json.dumps(row) + "\n" for row in _read_lines(path) if row["step"] <= step]
                with written_whole(path) as file:
                    file.write("".join(kept).encode())


class Export(Run):
    """An exported network, which is read like a finished run and never written to."""

    done = True  # only finished runs are exported

    @property
    def name(self) -> str:
        return self.folder.name if self.phase not in PRIORS else f"{self.folder.parent.name}-{self.folder.name}"

    @property
    def phase(self) -> Phase:
        return read_config(self.folder)["phase"]

    @property
    def best(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def results(self) -> Path:
        return data_dir() / "exports" / self.name

    def result(self) -> dict[str, Any]:
        return read_config(self.folder)["figures"]

    def update_result(self, metrics: dict[str, Any]) -> None:
        """Does nothing: new figures of an export are told, but not kept."""

    def settings(self) -> dict[str, Any]:
        return read_config(self.folder)["settings"]


def run_at(folder: Path) -> Run:
    """The run or export in a folder."""
    return Export(folder) if (folder / CONFIG).is_file() else Run(folder)


class History:
    """Appends what training logs to the run's files, and keeps it (of usage the last in training) for the live view."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.rows: list[dict[str, Any]] = run.history()
        steps, counts = run.usage()
        self.latest_usage: tuple[int, np.ndarray] | None = (int(steps[-1]), counts[-1]) if len(steps) else None

    def add(self, metrics: dict[str, float], step: int) -> None:
        """Append one row of metrics to `history.jsonl`."""
        row = {"step": step, **{name: float(f"{value:.9g}") for name, value in metrics.items()}}
        self.rows.append(row)
        self._append("history.jsonl", row)

    def add_usage(self, counts: np.ndarray, step: int, split: Split = "train") -> None:
        """Append one usage histogram to `usage.jsonl`."""
        if split == "train":
            self.latest_usage = (step, counts.copy())
        self._append("usage.jsonl", {"step": step, "split": split, "counts": counts.astype(int).tolist()})

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.run.folder / name).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The readable rows of a JSON Lines file; others are counted and told of, but for one cut short at the end."""
    rows: list[dict[str, Any]] = []
    whole = path.read_bytes() if path.is_file() else b""
    lines = whole.splitlines()
    for line in lines:
        with suppress(ValueError):
            row = json.loads(line.decode("utf-8"))
            rows += [row] if isinstance(row, dict) and isinstance(row.get("step"), int) else []
    cut = bool(lines) and not whole.endswith(b"\n")
    if (bad := len(lines) - len(rows)) > cut:
        tell_once(f"{path}: {bad} of {len(lines)} rows cannot be read, and are left out")
    return rows


def _checksum(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def all_runs(folder: Path | None = None) -> list[Run]:
    """All finished runs in a folder (by default `data/runs`), sorted by name."""
    found = [Run(path.parent) for path in sorted((folder or data_dir() / "runs").glob("*/result.json"))]
    return [run for run in found if run.name.split("-")[0] in PHASES]  # not somebody's backup-of-phase1


def open_run(name: str) -> Run:
    """The finished run or export with a name (in `data/runs` or `PRETRAINED`) or at a path. `RunError` if none is."""
    places = (data_dir() / "runs" / name, Path(name).resolve(), PRETRAINED / name)
    run = run_at(next((folder for folder in places if folder.is_dir()), Path(name)))
    if not run.done or run.phase not in PHASES:  # `phase` raises for the name of no run
        known = [other.name for other in all_runs()] + [path.parent.name for path in PRETRAINED.glob(f"*/{CONFIG}")]
        raise RunError(f"{name}: is neither a finished run nor an export; there are: {', '.join(known) or 'none'}")
    return run
