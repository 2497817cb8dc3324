"""Run folders: where each training leaves its checkpoints, figures and pictures, and how a run is found again.

`data/runs/phase1-demo-1a2b3c4d/` is named by the phase, the profile and a hash of every setting that matters to it,
of the data's fingerprint and of the run that it starts from. The same settings lead to the same folder: a finished
run is loaded, an interrupted one goes on.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

from vq_core.config import Config, data_dir
from vq_core.training.state import written_whole

Split = Literal["train", "val"]
PRIORS = ("prior", "masked")  # kinds of runs that learn codes
_CLEANING = {"source", "avatars", "min_side", "max_pixels", "near_duplicate_bits", "val_share"}  # in the fingerprint
_HABITS = {"device", "devices", "accumulate", "bad_steps", "wandb"}  # how it is computed and kept, not what
_HABITS |= {"log_every", "image_every", "save_every", "checkpoint_every"}
_GAN = {"gan", "gan_kind", "gan_start", "gan_ramp", "gan_adaptive"}
_NONE: set[str] = set()
# Of each kind of run, the groups of settings that decide what it computes, each without the keys that do not; the
# other groups (sweep …) do not change its name.
_GROUPS: dict[str, dict[str, set[str]]] = {
    "kmeans": {
        "model": _NONE,
        "kmeans": _NONE,
        "loss": _GAN | {"vq", "commit"},
        "optim": _NONE,
        "phase1": {"steps"},
        "train": _HABITS,
        "data": _CLEANING,
    },
    "phase1": {
        "model": _NONE,
        "quantizer": _NONE,
        "loss": _GAN,
        "optim": _NONE,
        "phase1": _NONE,
        "train": _HABITS,
        "data": _CLEANING,
    },
    "phase2": {
        "model": _NONE,
        "quantizer": _NONE,
        "loss": _NONE,
        "discriminator": _NONE,
        "optim": _NONE,
        "phase2": _NONE,
        "train": _HABITS,
        "data": _CLEANING,
    },
    "prior": {"model": _NONE, "prior": _NONE, "optim": _NONE, "data": _CLEANING},
}
_GROUPS["masked"] = _GROUPS["prior"]


class RunError(RuntimeError):
    """A run that is missing or cannot be used; the message says what to run first."""


@dataclass(frozen=True)
class Run:
    """One training's folder."""

    folder: Path

    @property
    def name(self) -> str:
        """Folder name: phase, profile and hash."""
        return self.folder.name

    @property
    def kind(self) -> str:
        """Which training: kmeans, phase1, phase2, prior or masked."""
        return self.name.split("-")[0]

    @property
    def best(self) -> Path:
        """The checkpoint with the best validation figure."""
        return self.folder / "checkpoints" / "best.ckpt"

    @property
    def last(self) -> Path:
        """The checkpoint from which training goes on."""
        return self.folder / "checkpoints" / "last.ckpt"

    @property
    def done(self) -> bool:
        """Whether training came to its end."""
        return (self.folder / "result.json").is_file()

    def result(self) -> dict[str, Any]:
        """The figures that the run ended with. Raises `RunError` while it has not ended."""
        try:
            return json.loads((self.folder / "result.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"{self.folder}: this run has not finished") from None

    @rank_zero_only
    def update_result(self, figures: dict[str, Any]) -> None:
        """Add figures to `result.json`."""
        path = self.folder / "result.json"
        known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        with written_whole(path) as file:
            file.write(json.dumps(known | figures, indent=2, ensure_ascii=False).encode())

    def config(self) -> dict[str, Any]:
        """All settings that the run was started with."""
        return yaml.safe_load((self.folder / "config.yaml").read_text(encoding="utf-8"))

    def history(self) -> list[dict[str, Any]]:
        """Logged rows in order: each has `step` and some of the figures (`train/rec`, `val/psnr` …)."""
        return _read_lines(self.folder / "history.jsonl")

    def curve(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Steps and values of one logged figure."""
        rows = [(row["step"], row[name]) for row in self.history() if name in row]
        return np.array([s for s, _ in rows]), np.array([v for _, v in rows])

    def usage(self, split: Split = "train") -> tuple[np.ndarray, np.ndarray]:
        """Steps [t] and how often each code was chosen [t, K].

        In training since the entry before, on the validation images in one pass over all of them.
        """
        rows = [row for row in _read_lines(self.folder / "usage.jsonl") if row.get("split", "train") == split]
        return np.array([row["step"] for row in rows]), np.array([row["counts"] for row in rows])

    @rank_zero_only
    def begin(self, settings: dict[str, Any], step: int) -> None:
        """Make the folder with its settings; drop logged rows later than a step, which a resumed run logs again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        for name in ("history.jsonl", "usage.jsonl"):
            path = self.folder / name
            if path.is_file():
                kept = [json.dumps(row) + "\n" for row in _read_lines(path) if row["step"] <= step]
                with written_whole(path) as file:
                    file.write("".join(kept).encode())


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; a line that an abrupt end cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def relevant_settings(kind: str, tree: dict[str, Any]) -> dict[str, Any]:
    """Of all settings, as nested plain values, those that decide what a kind of run computes."""
    relevant: dict[str, Any] = {"seed": tree["seed"]}
    for group, ignored in _GROUPS[kind].items():
        relevant[group] = {key: value for key, value in tree[group].items() if key not in ignored}
    return relevant


def find_run(kind: str, config: Config, fingerprint: str, parent: Run | None = None) -> Run:
    """The run folder that these settings, data and parent run lead to, whether it exists or not."""
    relevant = {
        "fingerprint": fingerprint,
        "parent": parent.name if parent else None,
        "settings": relevant_settings(kind, config.model_dump(mode="json")),
    }
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]
    return Run(data_dir() / "runs" / f"{kind}-{config.profile}-{digest}")


def all_runs() -> list[Run]:
    """Every finished run on this disk, by name."""
    return [Run(path.parent) for path in sorted((data_dir() / "runs").glob("*/result.json"))]


class History(Logger):
    """Lightning logger that appends each row of figures to `history.jsonl` and keeps them for the live view."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self.rows: list[dict[str, Any]] = run.history()
        steps, counts = run.usage()
        # Step and counts, for the live view.
        self.latest_usage: tuple[int, np.ndarray] | None = (int(steps[-1]), counts[-1]) if len(steps) else None

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.run.name

    @property
    def version(self) -> str:
        """Always empty: a run is one version."""
        return ""

    @rank_zero_only
    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the settings are in `config.yaml`."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Append one row."""
        row = {"step": step or 0, **{name: float(f"{value:.9g}") for name, value in metrics.items()}}
        self.rows.append(row)
        with (self.run.folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    @rank_zero_only
    def log_usage(self, counts: np.ndarray, step: int, split: Split = "train") -> None:
        """Append one usage histogram."""
        if split == "train":
            self.latest_usage = (step, counts.copy())
        with (self.run.folder / "usage.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "split": split, "counts": counts.astype(int).tolist()}) + "\n")
