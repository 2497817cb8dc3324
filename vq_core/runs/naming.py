"""A run's name: phase, profile, and a hash of everything that determines what the training computes.

`phase1-demo-1a2b3c4d`: the hash covers every setting that matters to this phase, the images' fingerprint and the parent
run, so that a finished run is found again, and an interrupted one resumed. Updates rename no runs: the hash uses the
keys of 6d1eaf3 (`config.RENAMED`), and a newer key only if it is not at its neutral value (`config.NEUTRAL`).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from vq_core.config import NEUTRAL, Config, data_dir, renamed
from vq_core.runs.folders import PRIORS, Phase, Run

# Settings that do not affect what a run computes, under the keys of 6d1eaf3.
_CLEANING = {"source", "avatars", "min_side", "max_pixels", "near_duplicate_bits", "val_share"}  # in the fingerprint
# How it is computed and logged:
_HABITS = {"compile", "device", "devices", "num_nodes", "accumulate", "bad_steps", "wandb"}
_HABITS |= {"log_every", "image_every", "save_every", "checkpoint_every"}
_GAN = {"gan", "gan_kind", "gan_start", "gan_ramp", "gan_adaptive"}
_NONE: set[str] = set()  # also unequal to every setting's value
_COMMON = {"model": _NONE, "optim": _NONE, "data": _CLEANING}
_AUTOENCODER = _COMMON | {"train": _HABITS}
# For each phase the groups that matter, with the keys to ignore in them; other groups affect no name.
_GROUPS: dict[Phase, dict[str, set[str]]] = {
    "kmeans": _AUTOENCODER | {"kmeans": _NONE, "loss": _GAN | {"vq", "commit"}, "phase1": {"steps", "start_from"}},
    "phase1": _AUTOENCODER | {"quantizer": _NONE, "loss": _GAN, "phase1": _NONE},
    "phase2": _AUTOENCODER | {"quantizer": _NONE, "loss": _NONE, "discriminator": _NONE, "phase2": _NONE},
    "prior": _COMMON | {"prior": {"neighbours"}},
    "masked": _COMMON | {"prior": {"start_from"}, "masked": _NONE},
}


def relevant_settings(phase: Phase, tree: dict[str, Any]) -> dict[str, Any]:
    """The settings that determine what a phase computes, as nested plain values under the keys of 6d1eaf3."""
    old = renamed(tree, to_old=True)
    relevant: dict[str, Any] = {"seed": tree["seed"]}
    for group, ignored in _GROUPS[phase].items():
        kept = {key: value for key, value in old[group].items() if key not in ignored}
        kept = {key: value for key, value in kept.items() if NEUTRAL.get(f"{group}.{key}", _NONE) != value}
        if isinstance(kept.get("start_from"), str):  # a run counts by its name, even if it was given as a path
            kept["start_from"] = Path(kept["start_from"]).name
        if kept:
            relevant[group] = kept
    return relevant


def parent_phase(phase: Phase, config: Config) -> Phase | None:
    """The phase of the parent run, whose weights this phase starts from, or whose codes it models."""
    if phase in PRIORS:
        return "prior" if phase == "masked" and config.masked.start_from == "prior" else "phase2"
    if phase == "phase2" and config.phase2.start_from == "phase1":
        return "phase1"
    fresh = phase != "kmeans" and source_of(phase, config) is None
    return "kmeans" if fresh and config.quantizer.init == "kmeans" else None


def phases_up_to(phase: Phase, config: Config) -> list[Phase]:
    """The phases that lead up to a phase, in order, ending with the phase itself."""
    parent = parent_phase(phase, config)
    return [*(phases_up_to(parent, config) if parent else []), phase]


def run_named(phase: Phase, config: Config, fingerprint: str, parent: Run | None) -> Run:
    """The run that these settings, images and parent run determine, whether it exists or not."""
    settings = relevant_settings(phase, config.model_dump(mode="json"))
    relevant = {"fingerprint": fingerprint, "parent": parent.name if parent else None, "settings": settings}
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:8]
    return Run(data_dir() / "runs" / f"{phase}-{config.profile}-{digest}")


def source_of(phase: Phase, config: Config) -> str | None:
    """The run that `start_from` names; None if the phase starts in its usual way."""
    source = getattr(getattr(config, phase), "start_from", None)  # "kmeans" has none
    usual = {"phase2": ("phase1", "scratch"), "masked": ("prior",)}
    return None if source in usual.get(phase, ()) else source
