"""Finding runs: by settings and images, or by the name of a run."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from vq_core.config import Config, data_dir, merge, override, renamed
from vq_core.data.images import packed_images, packed_with
from vq_core.data.packed import PackedImages
from vq_core.errors import ConfigError, DataError, RunError, UserError
from vq_core.runs.checkpoints import first_few, settings_that_differ
from vq_core.runs.folders import PRIORS, Export, Phase, Run, all_runs, open_run, run_at
from vq_core.runs.naming import parent_phase, phases_up_to, relevant_settings, run_named, source_of

_NOTEBOOKS = {"kmeans": "01_codebook_kmeans_init", "phase1": "02_phase1_vqvae", "phase2": "03_phase2_vqgan"}
_NOTEBOOKS |= dict.fromkeys(PRIORS, "04_phase3_prior")
# The phases whose weights a phase can start from.
_SOURCES = {"phase1": ("phase1", "phase2"), "phase2": ("phase1", "phase2"), "prior": ("prior",), "masked": ("masked",)}


def config_of(run: str, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The settings of a finished run or export, by name or path; with them, all functions here find what belongs to it.

    Overrides are of later phases, or do not affect the run (`train.device=cpu`). Raises `RunError` if there is no such
    run, `ConfigError` if an override would change it, or its images.
    """
    named = open_run(run)
    theirs = named.config()
    config = override(theirs.model_dump(mode="json"), overrides)
    different = [change for phase in lineage(named) for change in _differences(phase, theirs, config)]
    images = {"data": {"avatars", "near_duplicate_bits", "val_share"}}
    different = different or settings_that_differ(theirs.model_dump(include=images), config.model_dump(include=images))
    if different:
        trained = f"{named.name} was trained with other settings"
        raise ConfigError(f"{trained}: {', '.join(different)}; leave out these overrides")
    return config.model_copy(update={"images": named.result().get("data"), "run": str(named.folder)})


def load_images(config: Config) -> PackedImages:
    """The packed images for these settings or of their run (of an export: one's own, if need be), or a `DataError`."""
    if config.images is None:
        return packed_images(config)
    if (packed := packed_with(config.images)) is not None:
        return packed
    named = run_at(Path(str(config.run)))  # `config_of` sets both
    if isinstance(named, Export):
        return packed_images(config)  # one's own
    key = f"{named.phase}.start_from={named.name}"
    way = "train a new one" if named.phase == "kmeans" else f"start a new run from its weights with {key}"
    why = "the images that it was trained on are no longer packed, because some have been added or removed"
    raise DataError(f"{named.name}: {why}; {way}")


def run_for(phase: Phase, config: Config) -> Run:
    """The run of a phase with these settings, finished or not. Raises `DataError` if the images are not prepared."""
    if config.run is not None:
        return _relative(run_at(Path(config.run)), phase, config)
    return _expected(phase, config, load_images(config).fingerprint)


def finished(phase: Phase, config: Config) -> Run:
    """The finished run of a phase. Raises `RunError`, naming the notebook to run first and the nearest finished run."""
    run = run_for(phase, config)
    if not run.done and config.run is not None and isinstance(run_at(Path(config.run)), Export):
        raise RunError(f"{config.run}: this export has no {phase} (priors are exported with --priors)")
    if not run.done:
        why = f"no finished {phase} run with these settings; run notebook {_NOTEBOOKS[phase]} first, with the same"
        raise RunError(f"{run.folder}: {why} settings (or: python -m vq_core train {phase} …){nearest(phase, config)}")
    return run


def parent_of(run: Run) -> Run | None:
    """The parent of a finished run; None if it started from scratch or from a run named by `start_from`."""
    result = run.result()
    if "parent" in result:
        return Run(run.folder.parent / result["parent"]) if result["parent"] else None
    config = run.config()  # 6d1eaf3 did not record the parent: its name follows from the settings
    phase = parent_phase(run.phase, config)
    return Run(run.folder.parent / _expected(phase, config, result["data"]).name) if phase else None


def lineage(run: Run) -> dict[Phase, Run]:
    """A finished run and all its ancestors, by phase."""
    parent = parent_of(run) if run.done else None
    return {run.phase: run} | (lineage(parent) if parent else {})


def source_run(phase: Phase, config: Config) -> Run | None:
    """The finished run that `start_from` names. Raises `RunError` if its phase or its images rule that out."""
    if (name := source_of(phase, config)) is None:
        return None
    source, key = open_run(name), f"{phase}.start_from={name}"
    if source.phase not in _SOURCES[phase]:
        raise RunError(f"{key}: is a {source.phase} run, but {' or '.join(_SOURCES[phase])} is needed")
    # An image's split depends on its pixels and the seed; a smaller val_share holds out a subset of the same images.
    split: dict[str, Any] = {"seed": True, "data": {"image_size", "square", "val_share"}}
    theirs, ours = (each.model_dump(include=split) for each in (source.config(), config))
    ours["data"]["val_share"] = max(ours["data"]["val_share"], theirs["data"]["val_share"])
    if different := settings_that_differ(theirs, ours):
        raise RunError(f"{key}: was trained on images that are now held out: {', '.join(different)}; use its values")
    return source


def _expected(phase: Phase, config: Config, fingerprint: str) -> Run:
    """The run that settings and images determine."""
    parent = parent_phase(phase, config)
    return run_named(phase, config, fingerprint, _expected(parent, config, fingerprint) if parent else None)


def _relative(run: Run, phase: Phase, config: Config) -> Run:
    """The run of a phase that belongs to a named one: its ancestor, or its newest descendant, if overrides allow it."""
    if isinstance(run, Export):
        home = run_at(run.folder.parent) if run.phase in PRIORS else run
        return home if phase in (home.phase, "phase2") else run_at(home.folder / phase)
    own = lineage(run)
    if phase in own:
        return own[phase]
    needed = parent_phase(phase, config)
    parent = _relative(run, needed, config) if needed else None
    beside = {r for folder in (run.folder.parent, None) for r, _ in _readable(phase, folder)}
    later = [r for r in beside if parent is not None and parent_of(r) == parent and r.best.is_file()]
    if later and not _differences(phase, run.config(), config):
        return max(later, key=lambda r: r.best.stat().st_mtime)
    return run_named(phase, config, run.result()["data"], parent)


def _readable(phase: Phase, folder: Path | None = None) -> Iterator[tuple[Run, Config]]:
    """The finished runs of a phase with their settings; those that are damaged, or newer than this version, are not."""
    for run in all_runs(folder):
        with suppress(UserError):
            if run.phase == phase and "data" in run.result():
                yield run, run.config()


def _differences(phase: Phase, theirs: Config, ours: Config) -> list[str]:
    """The settings that differ among those that matter to a phase or to a phase that leads up to it."""
    trees: tuple[dict[str, Any], dict[str, Any]] = {}, {}
    for tree, config in zip(trees, (theirs, ours), strict=True):
        for earlier in phases_up_to(phase, config):
            merge(tree, renamed(relevant_settings(earlier, config.model_dump(mode="json"))))
    return settings_that_differ(*trees)


def nearest(phase: Phase, config: Config) -> str:
    """The end of a message: the finished run nearest to the settings and how it differs; interrupted ones likewise."""
    try:
        packed = load_images(config)
    except DataError:  # of a run that was named: what is missing is another run, not the images
        return ""
    found: list[tuple[int, str, list[str]]] = []
    for run, theirs in _readable(phase):
        result, different = run.result(), _differences(phase, theirs, config)
        if result["data"] != packed.fingerprint:
            then = f" ({result['packed_images']} then, {len(packed.images)} now)" if "packed_images" in result else ""
            different.insert(0, f"its images{then}")
        found.append((len(different), run.name, different))
    message = ""
    if found:
        _, name, different = min(found)
        why = f"differs in {first_few(different)}" if different else "has another parent"
        fits = phase != "kmeans" and not any(key.startswith(("model.", "seed", "data.")) for key in different)
        start = f", or start from it with {phase}.start_from={name}" if fits else ""
        message = f". The nearest finished run is {name}, which {why}: use it with --run {name}{start}"
    for last in sorted((data_dir() / "runs").glob(f"{phase}-{config.profile}-*/checkpoints/last.ckpt")):
        run = Run(last.parents[1])
        with suppress(UserError):
            if not run.done and (changes := _differences(phase, run.config(), config)):
                message += f". {run.name} was interrupted and differs in {first_few(changes)}: to resume it, set these"
    return message
