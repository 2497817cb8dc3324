"""A small sweep: short runs that each change one number of the configuration."""

from typing import Any

from vq_core.config import Config, config_from_dict
from vq_core.runs.folders import Phase, Run
from vq_core.runs.naming import phases_up_to, source_of
from vq_core.training.callbacks import SilentBar
from vq_core.training.phases import train


def sweep(config: Config) -> dict[str, Run]:
    """Train all variants, loading those finished: label ("K=64") → run, of Phase 2 with a GAN, else of Phase 1."""
    variants: list[tuple[str, dict[str, dict[str, Any]], Phase]] = [
        ("as configured", {}, "phase1"),
        ("with GAN", {}, "phase2"),
        *((f"K={k}", {"model": {"num_codes": k}}, "phase1") for k in config.sweep.num_codes),
        *((f"λ_perc={w:g}", {"loss": {"perceptual": w}}, "phase1") for w in config.sweep.perceptual),
        *((f"λ_gan={w:g}", {"loss": {"gan": w}}, "phase2") for w in config.sweep.gan),
    ]
    runs = {}
    for label, changes, last in variants:
        changed = _changed(config, changes)
        for phase in phases_up_to(last, changed):
            runs[label] = train(phase, changed, SilentBar)
    return runs


def _changed(config: Config, changes: dict[str, dict[str, Any]]) -> Config:
    """The configuration with shortened phases and the given changes, validated."""
    steps, tree = config.sweep.steps, config.model_dump(mode="json")
    tree["profile"] = f"{config.profile}-sweep"
    tree["phase1"] |= {"steps": steps, "start_from": None}
    tree["phase2"] |= {"steps": steps} | ({"start_from": "phase1"} if source_of("phase2", config) else {})
    tree["kmeans"]["steps"] = max(1, min(config.kmeans.steps, steps // 2))
    tree["train"] |= {"val_every": steps, "val_images": min(256, config.train.val_images)}
    tree["loss"] |= {"gan_start": 0, "gan_ramp": max(1, steps // 4)}
    for group, values in changes.items():
        tree[group] |= values
    if not tree["loss"]["perceptual"]:
        tree["train"]["monitor"] = "val_rec"
    return config_from_dict(tree).model_copy(update={"images": config.images})
