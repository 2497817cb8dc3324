"""Records of experiments: a table of finished runs."""

from collections.abc import Iterable
from contextlib import suppress
from itertools import combinations, product
from typing import Any

import numpy as np

from vq_core.errors import UserError
from vq_core.runs.folders import Run, all_runs

SETTINGS = {
    "K": ("model", "num_codes"),
    "λ_perc": ("loss", "perceptual"),
    "λ_gan": ("loss", "gan"),
    "λ_commit": ("loss", "commit"),
}
METRICS = ("steps", "seconds", "psnr", "ssim", "sharpness", "perplexity", "codes_used", "best_bits", "against")
DISTANCES = tuple("_".join(pair) for pair in product(("frechet", "fid"), ("reconstructions", "causal", "masked")))


def table(runs: Iterable[Run] | None = None) -> list[dict[str, Any]]:
    """One row per finished run (by default of all): its name, the settings to compare, its metrics.

    Runs that differ in their seed alone have one more row, of means ± standard errors. If the runs were trained on
    different images, each row also has the start of its images' fingerprint, because metrics on different images are
    not comparable. A run that cannot be read has a row that says why.
    """
    rows: list[dict[str, Any]] = []
    results, stored, damaged = dict[Run, dict[str, Any]](), dict[Run, dict[str, Any]](), list[dict[str, Any]]()
    for run in all_runs() if runs is None else runs:
        try:
            stored[run], results[run] = run.config().model_dump(), run.result()
        except UserError as error:
            damaged.append({"run": run.name, "cannot be read": str(error)})
    several = len({result.get("data") for result in results.values()}) > 1
    for same in [*([run] for run in results), *_by_seed(results)]:
        run, found, mean = same[0], [results[run] for run in same], len(same) > 1
        settings = {label: stored[run][group][key] for label, (group, key) in SETTINGS.items()}
        if run.phase != "phase2":
            settings.pop("λ_gan")
        settings |= {"data": found[0].get("data", "")[:6]} if several and not mean else {}
        row = {"run": f"mean of {len(same)} seeds: {run.name} …" if mean else run.name} | settings
        row |= {name: value for name in METRICS if (value := _cell(found, name, ".3g")) is not None}
        for way, net in product(("causal", "masked"), ("frechet", "fid")):
            names = (f"{net}_{way}_ratio", f"{net}_precision_{way}", f"{net}_recall_{way}", f"copies_{way}")
            values = [_cell(found, name, ".2f") for name in names]
            cells = ["–" if value is None else value if mean else f"{value:.2f}" for value in values]
            if cells[1] != "–":  # in one column, as the table is wide already
                row[f"{way}: {net} ratio / precision / recall / copies"] = " / ".join(cells)
        rows.append(row)
    return rows + damaged


def differences(runs: Iterable[Run] | None = None) -> list[str]:
    """How means over seeds differ between kinds of runs, with standard errors; what is below two errors is noise."""
    lines = []
    for one, two in combinations(_by_seed(all_runs() if runs is None else runs), 2):
        first, second = ([run.result() for run in same] for same in (one, two))
        told = list[str]()
        for name in (*METRICS[2:-1], *DISTANCES) if one[0].phase == two[0].phase else ():
            before, after = _mean(first, name), _mean(second, name)
            if before and after and _mean(first + second, name):
                change, error = after[0] - before[0], float(np.hypot(before[1], after[1]))
                told.append(f"{name} {change:+.3g} ± {error:.2g}{' (noise)' if abs(change) < 2 * error else ''}")
        lines += [f"{two[0].name} … less {one[0].name} …: {', '.join(told)}"] if told else []
    return lines


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, which notebooks render."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _by_seed(runs: Iterable[Run]) -> list[list[Run]]:
    """Runs that are equal in all but the seed and what follows from it: images, their split, parents."""
    groups = dict[str, dict[int, Run]]()
    for run in runs:
        with suppress(UserError):  # what cannot be read has a row of its own
            config, _ = run.config(), run.result()
            alike = config.model_copy(update={"seed": 0}).model_dump_json()
            groups.setdefault(run.phase + alike, {})[config.seed] = run
    return [list(group.values()) for group in groups.values() if len(group) > 1]


def _mean(results: list[dict[str, Any]], name: str) -> tuple[float, float] | None:
    """A metric's mean over runs and its standard error; None if one lacks it, or its figures have other full names."""
    values, figures = ([result.get(key) for result in results] for key in (name, f"{name.split('_')[0]}_figure"))
    if len(set(figures)) > 1 or not all(isinstance(value, int | float) for value in values):
        return None
    numbers = np.array(values, float)
    return float(numbers.mean()), float(numbers.std(ddof=1)) / len(numbers) ** 0.5


def _cell(results: list[dict[str, Any]], name: str, form: str) -> Any:
    """A metric of one run; of several, their mean ± its standard error, in words."""
    if len(results) == 1:
        return results[0].get(name)
    return f"{found[0]:{form}} ± {found[1]:.2g}" if (found := _mean(results, name)) else None
