"""Which run is meant: by the settings and the images that are there, or by a run named outright."""

from pathlib import Path
from typing import Any

from vq_core.config import Config, override, renamed
from vq_core.data.images import packed_images, packed_with
from vq_core.data.packed import PackedImages
from vq_core.errors import ConfigError, DataError, RunError
from vq_core.runs.checkpoints import settings_that_differ
from vq_core.runs.folders import Phase, Run, all_runs, open_run
from vq_core.runs.naming import parent_phase, phases_up_to, relevant_settings, run_named, source_of, steps_key

_NOTEBOOKS: dict[Phase, str] = {
    "kmeans": "01_codebook_kmeans_init",
    "phase1": "02_phase1_vqvae",
    "phase2": "03_phase2_vqgan",
    "prior": "04_phase3_prior",
    "masked": "04_phase3_prior",
}
# Whose weights each phase can start from.
_SOURCES: dict[Phase, tuple[Phase, ...]] = {
    "phase1": ("phase1", "phase2"),
    "phase2": ("phase1", "phase2"),
    "prior": ("prior",),
    "masked": ("masked",),
}


def config_of(run: str, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """The settings of a finished run. Under them that run is found, its parents, its priors and its images.

    Args:
        run: its name in `data/runs`, or a path.
        overrides: for what comes after it or does not matter to it, such as `train.device=cpu`.

    Raises:
        RunError: no such run.
        ConfigError: an override that would change what the run is.
    """
    named = open_run(run)
    tree = named.config().model_dump(mode="json")
    config = override(tree, overrides)
    for phase in lineage(named):
        different = _differences(phase, named.config(), config)
        if different:
            raise ConfigError(f"{named.name} has its own settings: {', '.join(different)}")
    return config.model_copy(update={"run": str(named.folder)})


def load_images(config: Config) -> PackedImages:
    """The packed images of these settings; under `config_of` those that the run was trained on.

    Raises:
        DataError: there are none, or not any more; says what to do.
    """
    if config.run is None:
        return packed_images(config)
    run = Run(Path(config.run))
    packed = packed_with(run.result()["data"])
    if packed is None:
        raise DataError(
            f"{run.name}: the images that it was trained on are not packed any more, for others have been added or "
            f"removed; start a new run from its weights with {run.phase}.start_from={run.name}"
        )
    return packed


def run_for(phase: Phase, config: Config) -> Run:
    """The run folder of a phase under these settings and images, finished or not.

    Raises:
        DataError: the images are not prepared.
    """
    if config.run is not None:
        return _relative(Run(Path(config.run)), phase, config)
    return _expected(phase, config, load_images(config).fingerprint)


def finished(phase: Phase, config: Config) -> Run:
    """The finished run of a phase.

    Raises:
        RunError: there is none; names the notebook to run first and the finished run that is nearest.
    """
    run = run_for(phase, config)
    if not run.done:
        raise RunError(
            f"{run.folder}: no finished {phase} run with these settings; run notebook {_NOTEBOOKS[phase]} first, with "
            f"the same settings (or: python -m vq_core train {phase} …){_nearest(phase, config)}"
        )
    return run


def parent_of(run: Run) -> Run | None:
    """The run that a finished one came from; None where it began afresh or from a run of its own kind."""
    result = run.result()
    if "parent" in result:
        return Run(run.folder.parent / result["parent"]) if result["parent"] else None
    config = run.config()  # a run of 6d1eaf3, which did not record it: its settings tell the name
    phase = parent_phase(run.phase, config)
    return Run(run.folder.parent / _expected(phase, config, result["data"]).name) if phase else None


def lineage(run: Run) -> dict[Phase, Run]:
    """A finished run and all that it came from, by phase."""
    found: dict[Phase, Run] = {}
    at: Run | None = run
    while at is not None:
        found[at.phase] = at
        at = parent_of(at) if at.done else None
    return found


def shorter_run(run: Run, config: Config, fingerprint: str, parent: Run | None) -> Run | None:
    """The longest finished run that differs from one to come in nothing but fewer steps, to go on from."""
    group, key = steps_key(run.phase)
    settings, found = getattr(config, group), dict[int, Run]()
    for other in all_runs():
        if other.phase == run.phase != "kmeans" and (steps := other.settings()[group][key]) < settings.steps:
            fewer = config.model_copy(update={group: settings.model_copy(update={key: steps})})
            if other.name == run_named(run.phase, fewer, fingerprint, parent).name:
                found[steps] = other
    return found[max(found)] if found else None


def source_run(phase: Phase, config: Config) -> Run | None:
    """The finished run that `start_from` names.

    Raises:
        RunError: no such run, of another kind, or one that has trained on images which are held out now.
    """
    name = source_of(phase, config)
    if name is None:
        return None
    source, key = open_run(name), f"{phase}.start_from={name}"
    if source.phase not in _SOURCES[phase]:
        raise RunError(f"{key}: is a {source.phase} run; {' or '.join(_SOURCES[phase])} is needed")
    theirs = source.config()
    # Which side an image falls on depends on its pixels and the seed; a smaller share holds out fewer of the same.
    same = [("seed", theirs.seed, config.seed)]
    same += [(f"data.{n}", getattr(theirs.data, n), getattr(config.data, n)) for n in ("image_size", "square")]
    different = [f"{n} ({a} there, {b} here)" for n, a, b in same if a != b]
    if theirs.data.val_share < config.data.val_share:
        different.append(f"data.val_share ({theirs.data.val_share} there, {config.data.val_share} here)")
    if different:
        raise RunError(f"{key}: has trained on images that are held out now: {', '.join(different)}; set them as there")
    return source


def _expected(phase: Phase, config: Config, fingerprint: str) -> Run:
    """The run that settings and images lead to."""
    parent = parent_phase(phase, config)
    return run_named(phase, config, fingerprint, _expected(parent, config, fingerprint) if parent else None)


def _relative(run: Run, phase: Phase, config: Config) -> Run:
    """The run of any phase that belongs to a named one: what it came from, or the newest that came from it.

    Where settings of a later phase have been changed, it is the run with those settings instead of the newest.
    """
    own = lineage(run)
    if phase in own:
        return own[phase]
    autoencoder = own.get("phase2") or own.get("phase1") or own["kmeans"]
    later = [r for r in all_runs(run.folder.parent) if r.phase == phase and autoencoder in lineage(r).values()]
    if later and not _differences(phase, run.config(), config):
        return max(later, key=lambda r: r.best.stat().st_mtime)
    parent = parent_phase(phase, config)
    return run_named(phase, config, run.result()["data"], _relative(run, parent, config) if parent else None)


def _differences(phase: Phase, theirs: Config, ours: Config) -> list[str]:
    """The settings that differ, of those that matter to a phase or to one that leads to it."""

    def merged(config: Config) -> dict[str, Any]:
        tree: dict[str, Any] = {}
        for earlier in phases_up_to(phase, config):
            for group, keys in renamed(relevant_settings(earlier, config.model_dump(mode="json"))).items():
                tree[group] = tree.get(group, {}) | keys if isinstance(keys, dict) else keys
        return tree

    return settings_that_differ(merged(theirs), merged(ours))


def _nearest(phase: Phase, config: Config) -> str:
    """What an error says of the finished run that is nearest to what was asked for."""
    packed, found = load_images(config), []
    for run in all_runs():
        if run.phase != phase:
            continue
        result, different = run.result(), _differences(phase, run.config(), config)
        if result["data"] != packed.fingerprint:
            then = f"{result['packed_images']} then, {len(packed.images)} now" if "packed_images" in result else ""
            different.insert(0, f"other images ({then})" if then else "other images")
        found.append((len(different), run.name, different))
    if not found:
        return ""
    _, name, different = min(found)
    more = f" and {len(different) - 4} more" if len(different) > 4 else ""
    why = f"differs in {', '.join(different[:4])}{more}" if different else "comes from another run"
    start = f", or start from it with {phase}.start_from={name}" if phase != "kmeans" else ""
    return f". The nearest finished one is {name}, which {why}: use it with --run {name}{start}"
