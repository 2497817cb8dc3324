"""Training of the five phases: each finds its run by its settings, then loads, resumes or starts it."""

from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from vq_core.config import Config, data_dir
from vq_core.data.datamodule import AnimeDataModule, CodesDataModule
from vq_core.data.images import images_of
from vq_core.data.packed import PackedImages
from vq_core.errors import ConfigError, NotFiniteError, RunError
from vq_core.files import load_array, owned, save_array
from vq_core.machine import pick_device, precision_of
from vq_core.models import VQVAE
from vq_core.models.kmeans import inertia, kmeans
from vq_core.runs.checkpoints import fitting, load_checkpoint, load_weights
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished, load_images, nearest, run_for, source_run
from vq_core.runs.folders import PRIORS, Export, History, Phase, Run
from vq_core.runs.loading import load_prior, load_vqvae, weights_of
from vq_core.runs.naming import parent_phase, source_of
from vq_core.training.autoencoder import AutoencoderTraining
from vq_core.training.diagnosis import diagnose
from vq_core.training.fit import ViewMaker, fit
from vq_core.training.plan import plan
from vq_core.training.prior import PriorTraining
from vq_core.training.ranks import barrier, is_main_process
from vq_core.training.steps import StepModule

_Parts = tuple[StepModule, L.LightningDataModule]


def train(phase: Phase, config: Config, view: ViewMaker | None = None) -> Run:
    """Train a phase to its end, resuming it if it was interrupted; a finished run is loaded.

    "kmeans" warms up the autoencoder without quantisation and clusters its latents; "phase1" is the VQ-VAE, "phase2"
    the VQ-GAN, "prior" the causal transformer over its codes, "masked" the one that fills in missing codes.

    `view` makes what displays the training, such as `LiveView`; by default a progress bar. Raises `RunError` if the run
    that the phase starts from is missing, and `Stopped` after Ctrl-C or SIGTERM, with the progress so far saved.
    """
    torch.set_float32_matmul_precision("high")
    run = run_for(phase, config)
    alone = owned(data_dir() / ".locks" / run.name, f"training {run.name}", wait=phase == "kmeans")  # a minute's wait
    with alone if is_main_process() and not run.done else nullcontext():
        if not run.done:
            return _train(phase, config, run, view)
    if view is not None and is_main_process():
        view(run, History(run)).show_finished()  # in a notebook, the picture that its training ended with
    return run


def _train(phase: Phase, config: Config, run: Run, view: ViewMaker | None) -> Run:
    packed, needed = load_images(config).verify(), parent_phase(phase, config)
    parent = finished(needed, config) if needed else None
    seconds = dict[Phase, float]()
    new = is_main_process() and not run.last.is_file() and getattr(view, "advises", True)
    if new and (near := nearest(phase, config)):
        tqdm.write(f"{run.name} is a new run{near}")
    if new and (config.prior if phase in PRIORS else getattr(config, phase)).steps >= 100:
        seconds, line = plan(config, phase)
        tqdm.write(line)
    barrier()
    L.seed_everything(config.seed, verbose=False)
    module, data = (_prior if phase in PRIORS else _autoencoder)(phase, config, packed, parent)
    module.expected = seconds
    fit(run, module, data, view, None if phase in PRIORS else images_of(packed, packed.val_rows[:8]))
    return _finish(run, module, packed, parent)


def _autoencoder(phase: Phase, config: Config, packed: PackedImages, parent: Run | None) -> _Parts:
    """The autoencoder with its initial weights, and its images."""
    assert phase != "prior" and phase != "masked"
    module = AutoencoderTraining(config, phase)
    if (source := source_run(phase, config) or parent) is not None:
        (_start_from_kmeans if source.phase == "kmeans" else _start_from_run)(module, source)
    steps = int(module.steps_before) + module.position.total_steps
    if phase == "phase2" and config.loss.gan and (start := config.loss.gan_start) >= steps:
        raise ConfigError(f"loss.gan_start={start}: Phase 2 ends at step {steps}, before the GAN starts")
    return module, AnimeDataModule(config, packed, module.position)


def _start_from_kmeans(module: AutoencoderTraining, run: Run) -> None:
    """Give a fresh autoencoder the weights of the warm-up and the codebook clustered from its latents."""
    model, weights = module.vqvae, weights_of(load_checkpoint(run.best, ("kmeans",)), "vqvae")
    own = {name: value for name, value in model.state_dict().items() if name.startswith("quantizer.")}
    load_weights(model, weights | own, run.best)
    path = run.folder / "codebook.npy"
    with suppress(RunError, FileNotFoundError):
        codebook = load_array(path)
        if codebook.shape == model.quantizer.codebook.shape and np.isfinite(codebook).all():
            return model.quantizer.set_codebook(torch.from_numpy(codebook))
    raise RunError(f"{path}: is missing or damaged; delete {run.folder.name}, and train kmeans again")


def _start_from_run(module: AutoencoderTraining, source: Run) -> None:
    """Take over a finished run's autoencoder and, from Phase 2 to Phase 2, its discriminator and λ_gan's progress."""
    if isinstance(source, Export):  # which has no discriminator
        with torch.random.fork_rng(devices=[]):
            load_weights(module.vqvae, load_vqvae(source).state_dict(), source.best)
        module.steps_before.fill_(source.result()["steps"])
        module.gan_from.copy_(module.steps_before)
        return
    state = load_checkpoint(source.best, ("phase1", "phase2"))
    load_weights(module.vqvae, weights_of(state, "vqvae"), source.best)
    steps = state["model"]["steps_before"] + state["steps_done"]
    module.steps_before.copy_(steps)
    if module.adversary is None:
        return
    module.gan_from.copy_(steps)
    loss, gan_from = source.config().loss, state["model"]["gan_from"]
    if state["phase"] == "phase2" and loss.gan and int(steps) > max(loss.gan_start, int(gan_from)):
        load_weights(module.adversary, weights_of(state, "adversary"), source.best)
        module.gan_from.copy_(gan_from)  # so that λ_gan continues where it was


def _prior(phase: Phase, config: Config, packed: PackedImages, parent: Run | None) -> _Parts:
    """The transformer with its initial weights, and the codes of Phase 2's autoencoder."""
    assert (phase == "prior" or phase == "masked") and parent is not None
    module, source, autoencoder = PriorTraining(config, phase), source_run(phase, config), finished("phase2", config)
    with torch.random.fork_rng(devices=[]):
        if source is not None:
            load_weights(module.transformer, load_prior(source).state_dict(), source.best)
        elif parent.phase == "prior":
            causal = weights_of(load_checkpoint(parent.best, ("prior",)), "transformer")
            with fitting(parent.best):
                module.transformer.load_state_dict(module.transformer.weights_from(causal))
        module.transformer.set_codebook(load_vqvae(autoencoder).quantizer.codebook)
    views = [0 if view == 1 and not config.data.flip else view for view in range(config.prior.views)]
    for view in views if is_main_process() else ():
        extract_codes(autoencoder, config, view)
    barrier()  # the other processes read the codes from disk
    codes = np.stack([extract_codes(autoencoder, config, view) for view in views])
    return module, CodesDataModule(config, torch.from_numpy(codes.astype(np.int32)), packed, module.position)


def _cluster(run: Run, packed: PackedImages, config: Config) -> dict[str, Any]:
    """Cluster the warm-up's latents into a codebook, and save it for Phase 1. Returns its metrics."""
    vectors = collect_latents(load_vqvae(run), packed, config)
    centres = kmeans(vectors, config.model.num_codes, config.kmeans.iterations, config.seed)
    save_array(run.folder / "codebook.npy", centres.numpy())
    return {"inertia": inertia(vectors, centres), "vectors": len(vectors)}


@torch.no_grad()
def collect_latents(model: VQVAE, packed: PackedImages, config: Config) -> Float[Tensor, "n d"]:
    """z_e of training images as vectors: a seeded random choice of at most `kmeans.vectors_per_code` for each code."""
    rows, model = packed.train_rows[: config.kmeans.images], model.to(pick_device(config))
    batches = (images_of(packed, part).to(model.device) for part in np.array_split(rows, max(1, len(rows) // 32)))
    latents = torch.cat([model.latents(x) for x in batches])
    vectors = latents.permute(0, 2, 3, 1).reshape(-1, config.model.code_dim).cpu()
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(config.seed))
    return vectors[order[: config.kmeans.vectors_per_code * config.model.num_codes]]


def _finish(run: Run, module: StepModule, packed: PackedImages, parent: Run | None) -> Run:
    """Write `result.json`, which marks the run as finished."""
    if is_main_process():
        if not run.best.is_file():
            raise NotFiniteError(f"{run.name}: val/{module.monitor} was never finite; lower the learning rate")
        best, source = load_checkpoint(run.best, (module.phase,)), source_of(run.phase, module.config)
        steps, spreads = run.curve(f"val/{module.monitor}_se")
        at_best = {f"best_{module.monitor}_se": float(value) for value in spreads[steps == best["steps_done"]][-1:]}
        more = _cluster(run, packed, module.config) if run.phase == "kmeans" else {}
        if run.phase in PRIORS:
            more = {"parameters": sum(p.numel() for p in module.parameters() if p.requires_grad)}
        told: dict[str, Any] = {"phase": run.phase, "profile": module.config.profile, "data": packed.fingerprint}
        home = parent and (parent.name if parent.folder.parent == run.folder.parent else str(parent.folder))
        told |= {"packed_images": len(packed.images), "parent": home}
        told |= {"start_from": Path(source).name} if source else {}
        told |= {"steps": module.steps_done, "best_step": best["steps_done"]}
        told |= {f"best_{module.monitor}": best["best"]} if module.monitor != "latest" else {}
        findings = [str(finding) for finding in diagnose(run.phase, run.history(), module.config, ended=True)]
        told |= at_best | {"seconds": round(module.seconds, 1), "findings": findings}
        device = torch.cuda.get_device_name() if pick_device(module.config).type == "cuda" else "cpu"
        run.update_result(told | {"precision": precision_of(module.config), "device": device} | more)
    barrier()  # from here on the run is finished for every process
    return run
