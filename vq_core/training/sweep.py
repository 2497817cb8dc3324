"""The small sweep of experiments: short runs that differ from the configuration in one number each."""

from typing import Any

from vq_core.config import Config, config_from_dict
from vq_core.runs.folders import Phase, Run
from vq_core.runs.naming import phases_up_to
from vq_core.training.callbacks import SilentBar
from vq_core.training.phases import train


def sweep(config: Config) -> dict[str, Run]:
    """Short runs of both phases that differ from the configuration in one number each; finished ones are loaded.

    Returns:
        Label (such as "K=64") → its Phase 1 run, or Phase 2 run where λ_gan was changed.
    """
    runs = {}
    for label, changes, last in _variants(config):
        changed = _changed(config, changes)
        for phase in phases_up_to(last, changed):
            run = train(phase, changed, SilentBar)
        runs[label] = run
    return runs


def _variants(config: Config) -> list[tuple[str, dict[str, dict[str, Any]], Phase]]:
    plain: list[tuple[str, dict[str, dict[str, Any]], Phase]] = [
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
