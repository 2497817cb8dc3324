"""Records of experiments: the table of all runs, and the small sweep that compares settings."""

from collections.abc import Iterable
from typing import Any

from vq_core.config import Config, config_from_dict
from vq_core.data.datamodule import load_images
from vq_core.evaluation.report import reconstruction_figures
from vq_core.training.callbacks import Bar
from vq_core.training.phases import TRAININGS, pick_device, stages_up_to
from vq_core.training.runs import Run, all_runs
from vq_core.training.vqvae_module import VQVAEModel

SETTINGS = {
    "K": ("model", "num_codes"),
    "λ_perc": ("loss", "perceptual"),
    "λ_gan": ("loss", "gan"),
    "λ_commit": ("loss", "commit"),
}
FIGURES = ("steps", "seconds", "psnr", "ssim", "sharpness", "perplexity", "codes_used", "best_bits")


def evaluate_run(run: Run, config: Config) -> dict[str, Any]:
    """Figures of an autoencoder's run on all validation images; computed once, then kept in its `result.json`."""
    if "psnr" not in run.result():
        run.update_result(
            reconstruction_figures(VQVAEModel.load(run.folder).to(pick_device(config)), load_images(config))
        )
    return run.result()


def table(runs: Iterable[Run] | None = None) -> list[dict[str, Any]]:
    """One row per finished run (of all, where none are given): its name, the settings compared, its figures.

    Where they were trained on different images, the start of these images' fingerprint: figures of different ones do
    not compare.
    """
    rows, results = [], {run: run.result() for run in (all_runs() if runs is None else runs)}
    several = len({result.get("data") for result in results.values()}) > 1
    for run, result in results.items():
        config = run.config()
        settings = {label: config[group][key] for label, (group, key) in SETTINGS.items()}
        if run.kind != "phase2":
            settings.pop("λ_gan")
        settings |= {"data": result.get("data", "")[:6]} if several else {}
        rows.append({"run": run.name} | settings | {name: result[name] for name in FIGURES if name in result})
    return rows


def markdown(rows: list[dict[str, Any]]) -> str:
    """A table of rows as Markdown, which notebooks render."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [f"{v:.3g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in columns]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sweep(config: Config) -> dict[str, Run]:
    """Short runs of both phases that differ from the configuration in one number each; finished ones are loaded.

    They are too short to be advised on.

    Returns:
        Label (such as "K=64") → its evaluated Phase 1 run, or Phase 2 run where λ_gan was changed.
    """
    runs = {}
    for label, changes, kind in _variants(config):
        changed = _changed(config, changes)
        for stage in stages_up_to(kind, changed):
            run = TRAININGS[stage](changed, Bar)
        evaluate_run(run, changed)
        runs[label] = run
    return runs


def _variants(config: Config) -> list[tuple[str, dict[str, dict[str, Any]], str]]:
    plain: list[tuple[str, dict[str, dict[str, Any]], str]] = [
        ("as configured", {}, "phase1"),
        ("with GAN", {}, "phase2"),
    ]
    plain += [(f"K={k}", {"model": {"num_codes": k}}, "phase1") for k in config.sweep.num_codes]
    plain += [(f"λ_perc={w:g}", {"loss": {"perceptual": w}}, "phase1") for w in config.sweep.perceptual]
    return plain + [(f"λ_gan={w:g}", {"loss": {"gan": w}}, "phase2") for w in config.sweep.gan]


def _changed(config: Config, changes: dict[str, dict[str, Any]]) -> Config:
    """The configuration with short phases and some numbers changed, validated."""
    steps = config.sweep.steps
    tree = config.model_dump(mode="json")
    tree["profile"] = f"{config.profile}-sweep"
    for phase in ("phase1", "phase2"):
        tree[phase]["steps"] = steps
    tree["kmeans"]["steps"] = max(1, min(config.kmeans.steps, steps // 2))
    tree["train"] |= {"val_every": steps, "val_images": min(256, config.train.val_images)}
    tree["loss"]["gan_start"] = 0
    tree["loss"]["gan_ramp"] = max(1, steps // 4)
    for group, values in changes.items():
        tree[group] |= values
    if not tree["loss"]["perceptual"]:
        tree["train"]["monitor"] = "val_rec"
    return config_from_dict(tree)
