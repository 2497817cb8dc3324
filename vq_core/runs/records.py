"""Records of experiments: a table of finished runs."""

from collections.abc import Iterable
from itertools import product
from operator import attrgetter
from typing import Any

from vq_core.config import Config
from vq_core.errors import UserError
from vq_core.runs.folders import Run, all_runs

SETTINGS = {"K": "model.num_codes", "λ_perc": "loss.perceptual", "λ_gan": "loss.gan", "λ_commit": "loss.commit"}
METRICS = ("steps", "seconds", "psnr", "ssim", "sharpness", "perplexity", "codes_used", "best_bits", "against")


def table(runs: Iterable[Run] | None = None) -> list[dict[str, Any]]:
    """One row per finished run (by default of all): its name, the settings to compare, its metrics.

    If the runs were trained on different images, each row also has the start of its images' fingerprint, because
    metrics on different images are not comparable. A run that cannot be read has a row that says why.
    """
    rows, damaged = list[dict[str, Any]](), list[dict[str, Any]]()
    read: dict[Run, tuple[Config, dict[str, Any]]] = {}
    for run in all_runs() if runs is None else runs:
        try:
            read[run] = run.config(), run.result()
        except UserError as error:
            damaged.append({"run": run.name, "cannot be read": str(error)})
    several = len({result.get("data") for _, result in read.values()}) > 1
    for run, (config, result) in read.items():
        settings = {label: attrgetter(key)(config) for label, key in SETTINGS.items()}
        if run.phase != "phase2":
            settings.pop("λ_gan")
        settings |= {"data": result.get("data", "")[:6]} if several else {}
        row = {"run": run.name} | settings | {name: result[name] for name in METRICS if result.get(name) is not None}
        for way, net in product(("causal", "masked"), ("frechet", "fid")):
            names = (f"{net}_{way}_ratio", f"{net}_precision_{way}", f"{net}_recall_{way}", f"copies_{way}")
            cells = ["–" if (value := result.get(name)) is None else f"{value:.2f}" for name in names]
            if cells[1] != "–":  # in one column, as the table is wide already
                row[f"{way}: {net} ratio / precision / recall / copies"] = " / ".join(cells)
        rows.append(row)
    return rows + damaged


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, which notebooks render."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
