"""Records of experiments: a table of finished runs."""

from collections.abc import Iterable
from itertools import combinations_with_replacement, product
from operator import attrgetter
from typing import Any

import numpy as np
from scipy.stats import sem, ttest_ind_from_stats

from vq_core.config import Config
from vq_core.errors import UserError
from vq_core.runs.folders import Run, all_runs

SETTINGS = {"K": "model.num_codes", "λ_perc": "loss.perceptual", "λ_gan": "loss.gan", "λ_commit": "loss.commit"}
METRICS = ("steps", "seconds", "psnr", "ssim", "sharpness", "perplexity", "codes_used", "best_bits", "against")
OVER_SEEDS = (*METRICS[2:-1], "frechet_causal_ratio", "frechet_masked_ratio", "fid_causal_ratio", "fid_masked_ratio")


def table(runs: Iterable[Run] | None = None) -> list[dict[str, Any]]:
    """One row per finished run (by default of all): its name, the settings to compare, its metrics.

    If the runs were trained on different images, each row also has the start of its images' fingerprint, because
    metrics on different images are not comparable. A run that cannot be read has a row that says why. Runs that differ
    in their seed alone also share a row of means ± standard errors, and each two such rows have one of differences.
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
    return rows + _over_seeds(read) + damaged


def _over_seeds(read: dict[Run, tuple[Config, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The rows of means and of differences, which are noise unless Welch's t-test finds p ≤ 0.05."""
    groups, rows = dict[Any, dict[int, dict[str, Any]]](), list[dict[str, Any]]()
    for run, (config, result) in read.items():
        kind = (run.phase, result.get("against")), config.model_copy(update={"seed": 0}), result.get("packed_images")
        groups.setdefault(kind, {})[config.seed] = result | {"run": run.name}
    several = [(kind[0], [*group.values()]) for kind, group in groups.items() if len(group) > 1]
    for (what, one), (other, two) in combinations_with_replacement(several, 2):
        same, first, second = one is two, one[0]["run"], two[0]["run"]
        a, b = (
            np.array([[run.get(name) for name in OVER_SEEDS] for run in group], dtype=float) for group in (one, two)
        )
        error, value = (sem(a), a.mean(0)) if same else (np.hypot(sem(a), sem(b)), b.mean(0) - a.mean(0))
        stats = (statistic for x in (a, b) for statistic in (x.mean(0), x.std(0, ddof=1), len(x)))
        noise = ttest_ind_from_stats(*stats, equal_var=False).pvalue > 0.05
        row = {"run": f"{len(one)} seeds of {first}" if same else f"seeds of {second} less those of {first}"}
        for name, v, e, chance in zip(OVER_SEEDS, value, error, noise, strict=True):
            told = f"{v:.4g} ± {e:.2g}" if same else f"{v:+.3g} ± {e:.2g}{' (noise)' if chance and e else ''}"
            row |= {name: told} if np.isfinite(e) else {}
        rows += [row] if what == other else []
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, which notebooks render."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
