"""Records of experiments: a table of finished runs."""

from collections.abc import Iterable
from itertools import combinations_with_replacement, product
from operator import attrgetter
from typing import Any

import numpy as np
from scipy.stats import sem, t

from vq_core.config import Config
from vq_core.errors import UserError
from vq_core.runs.checkpoints import first_few, settings_that_differ
from vq_core.runs.folders import Run, all_runs

SETTINGS = {"K": "model.num_codes", "λ_perc": "loss.perceptual", "λ_gan": "loss.gan", "λ_commit": "loss.commit"}
METRICS = ("steps", "seconds", "psnr", "ssim", "sharpness", "perplexity", "codes_used", "best_bits", "against")
OVER_SEEDS = (*METRICS[2:-1], "frechet_causal_ratio", "frechet_masked_ratio", "fid_causal_ratio", "fid_masked_ratio")


def table(runs: Iterable[Run] | None = None) -> list[dict[str, Any]]:
    """One row per finished run (by default of all): its name, the settings to compare, its metrics.

    If the runs were trained on different images, each row also has the start of its images' fingerprint, because
    metrics on different images are not comparable. A run that cannot be read has a row that says why. Runs that differ
    in their seed alone also share a row of means ± standard errors; with two seeds or more, settings are compared.
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
    """The rows of means and of differences, seed by seed on the same images; marked if a t-test finds p > 0.05."""
    groups, rows = dict[Any, dict[tuple[int, str], dict[str, Any]]](), list[dict[str, Any]]()
    for run, (config, result) in read.items():
        kind = run.phase, result.get("against"), config.model_copy(update={"seed": 0})
        groups.setdefault(kind, {})[config.seed, result.get("data", "")] = result | {"run": run.name}
    for (one, a), (two, b) in combinations_with_replacement(groups.items(), 2):
        which, same = sorted(a.keys() & b.keys()), a is b
        if len({seed for seed, _ in which}) < max(2, len(which)) or one[:2] != two[:2]:  # too few, or other images
            continue
        theirs, others = (np.array([[g[key].get(n) for n in OVER_SEEDS] for key in which], dtype=float) for g in (a, b))
        each = theirs if same else others - theirs  # [seeds, figures]; NaN where a run has none
        different = first_few(settings_that_differ(one[2].model_dump(), two[2].model_dump()))
        less = f" less {a[which[0]]['run']}: {different}" if different else ""
        row: dict[str, Any] = {"run": f"{len(which)} seeds of {b[which[0]]['run']}{less}"}
        for name, mean, error in zip(OVER_SEEDS, each.mean(0).round(9), sem(each).round(9), strict=True):
            chance = not same and error and abs(mean) < error * t.ppf(0.975, len(which) - 1)
            told = f"{mean:{'.4g' if same else '+.3g'}} ± {error:.2g}{' (noise?)' if chance else ''}"
            row |= {name: told} if np.isfinite(error) else {}
        rows.append(row)
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, which notebooks render."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)
