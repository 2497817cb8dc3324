"""The trainings of the workbook: each finds its run by its settings, loads it if finished, goes on if broken off."""

import logging
import signal
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from jaxtyping import Float, UInt16
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from tqdm.auto import tqdm

from vq_core.config import Config
from vq_core.data.datamodule import AnimeDataModule, images_of, load_images
from vq_core.data.ingest import PackedImages
from vq_core.training.callbacks import (
    AdvisingBar,
    Checkpoints,
    Pictures,
    RunView,
    Stopped,
    StoppedEarly,
    signals_given_back,
)
from vq_core.training.diagnosis import diagnose
from vq_core.training.kmeans_init import inertia, kmeans
from vq_core.training.prior_module import CodesDataModule, PriorKind, PriorModel
from vq_core.training.ranks import barrier, is_main_process
from vq_core.training.runs import PRIORS, History, Run, RunError, find_run, relevant_settings
from vq_core.training.state import fitting, load_checkpoint, refuse_other_settings, save_array
from vq_core.training.step_module import StepModule
from vq_core.training.vqvae_module import VQVAEModel

View = Callable[[Run, History], RunView]


def run_for(kind: str, config: Config) -> Run:
    """The run folder of a training under this configuration and data, finished or not.

    Raises:
        DataError: the images are not prepared.
    """
    return _run_on(kind, config, load_images(config).fingerprint)


def _run_on(kind: str, config: Config, fingerprint: str) -> Run:
    parent = _parent(kind, config)
    return find_run(kind, config, fingerprint, _run_on(parent, config, fingerprint) if parent else None)


def _parent(kind: str, config: Config) -> str | None:
    """The training whose result another one starts from."""
    if kind in PRIORS:
        return "phase2"
    if kind == "phase2" and config.phase2.start_from == "phase1":
        return "phase1"
    return "kmeans" if kind != "kmeans" and config.quantizer.init == "kmeans" else None


def stages_up_to(kind: str, config: Config) -> list[str]:
    """The trainings that lead to one, in order, itself the last."""
    parent = _parent(kind, config)
    return [*(stages_up_to(parent, config) if parent else []), kind]


def finished(kind: str, config: Config) -> Run:
    """The finished run of a training. Raises `RunError`, naming the notebook to run first, where there is none."""
    run = run_for(kind, config)
    if not run.done:
        notebook = {
            "kmeans": "01_codebook_kmeans_init",
            "phase1": "02_phase1_vqvae",
            "phase2": "03_phase2_vqgan",
            "prior": "04_phase3_prior",
            "masked": "04_phase3_prior",
        }[kind]
        raise RunError(
            f"{run.folder}: no finished {kind} run with these settings; run notebook {notebook} first, with the same "
            f"settings (or: python -m vq_core train {kind} …)"
        )
    return run


def fit(run: Run, module: StepModule, data: L.LightningDataModule, view: View | None, pictures: Tensor | None) -> None:
    """Train to the end, going on from the run's last checkpoint if there is one.

    Raises:
        KeyboardInterrupt: after Ctrl-C, an interrupted kernel or SIGTERM; what was reached is saved.
    """
    settings = module.config.model_dump(mode="json")
    if run.last.is_file():
        state = load_checkpoint(run.last, (module.kind,))
        with fitting(run.last):
            theirs, ours = (relevant_settings(run.kind, tree) for tree in (state["config"], settings))
            refuse_other_settings(run.last, theirs, ours)
            module.resume_from(state)
    run.begin(settings, module.steps_done)
    history, checkpoints = History(run), Checkpoints(run)
    painter = Pictures(run, history, pictures) if pictures is not None else None
    shown = [(view or AdvisingBar)(run, history)] if is_main_process() else []
    # The painter first: what it has drawn and counted belongs to the state that is saved after the same step.
    callbacks: list[Callback] = [*([painter] if painter else []), checkpoints, *shown]
    loggers = [history, *_other_loggers(run, module.config)]
    if module.finished:
        return
    trainer = _make_trainer(module.config, callbacks, loggers, run.folder)
    too_large = False
    try:
        with signals_given_back(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")  # there is nothing to load
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # inside Lightning, on torch 2.14
            warnings.filterwarnings("ignore", ".*The number of training batches.*")  # log_every_n_steps is not used
            trainer.fit(module, data)
        barrier()
    except StoppedEarly:
        stop = Stopped if checkpoints.stopped_together else KeyboardInterrupt
        raise stop(
            f"{run.name} stopped at step {module.steps_done} of {module.total_steps}; run it again to go on"
        ) from None
    except FloatingPointError:  # raised by all processes alike
        raise
    except torch.cuda.OutOfMemoryError:
        _end_other_processes(trainer)
        too_large = True
    except BaseException:
        _end_other_processes(trainer)
        raise
    finally:
        if module.config.train.wandb:
            import wandb

            wandb.finish()  # else the next training would be written into the same record
    if too_large:  # said here, where the error with all tensors of the step in its frames is gone
        advice = (
            "set a smaller prior.batch_size"
            if module.kind in PRIORS
            else "set train.accumulate=2 (the effective batch stays, and so does what was reached), or a smaller "
            "train.batch_size"
        )
        raise RunError(f"the GPU's memory does not hold a batch of this size: {advice}")


def _end_other_processes(trainer: L.Trainer) -> None:
    """After an error of the main process alone: those that it has started would wait for it for ever."""
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)


def _other_loggers(run: Run, config: Config) -> list[Any]:
    loggers: list[Any] = [TensorBoardLogger(run.folder, name="tensorboard", version="")]
    if config.train.wandb:
        if find_spec("wandb") is None:
            raise RunError("train.wandb=true needs a package more: pip install wandb (or set train.wandb=false)")
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(name=run.name, id=run.name, save_dir=run.folder, project="vq-workbook"))
    return loggers


def _make_trainer(config: Config, callbacks: list[Any], loggers: list[Any], folder: Path) -> L.Trainer:
    """The one place where a Trainer is made. Steps, validation, checkpoints and clipping are ours (see StepModule)."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    on_gpu = pick_device(config).type == "cuda"
    size = config.data.image_size
    if size >= 256 and config.train.device == "auto" and not on_gpu:
        raise RunError(
            f"no usable GPU: {size}×{size} images would take weeks on the CPU; use the profile demo (VQ_PROFILE=demo, "
            "--profile demo), or insist with train.device=cpu"
        )
    if config.train.devices > 1 and hasattr(sys, "ps1"):
        raise RunError(
            f"train.devices={config.train.devices}: a notebook cannot start processes; use python -m vq_core"
        )
    if config.train.devices > 1 and not on_gpu and config.model.norm == "batch":
        raise RunError("train.devices above 1 on the CPU: BatchNorm cannot share its figures; set model.norm=group")
    return L.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=config.train.devices,
        # A reset of buffers at every forward pass would wipe out what other ranks have gathered of the codebook's use.
        strategy=DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        if config.train.devices > 1
        else "auto",
        sync_batchnorm=config.train.devices > 1 and on_gpu,
        precision=config.train.precision,
        max_epochs=-1,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=callbacks,
        logger=loggers,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
    )


def _finish(run: Run, module: StepModule, packed: PackedImages, extra: dict[str, Any]) -> Run:
    best = load_checkpoint(run.best, (module.kind,))
    steps, spreads = run.curve(f"val/{module.monitor}_se")
    at_best = {f"best_{module.monitor}_se": float(value) for value in spreads[steps == best["steps_done"]][-1:]}
    run.update_result(
        {
            "kind": run.kind,
            "profile": module.config.profile,
            "data": packed.fingerprint,
            "steps": module.steps_done,
            "best_step": best["steps_done"],
            **({f"best_{module.monitor}": best["best"]} if module.monitor != "latest" else {}),
            **at_best,
            "seconds": round(module.seconds, 1),
            "findings": [str(finding) for finding in diagnose(run.kind, run.history(), module.config, ended=True)],
            "device": torch.cuda.get_device_name() if pick_device(module.config).type == "cuda" else "cpu",
            **extra,
        }
    )
    barrier()  # a run that one process has finished is finished for all
    return run


def pick_device(config: Config) -> torch.device:
    """The device that `train.device` comes to on this machine."""
    wanted = config.train.device
    if wanted == "cuda" and not torch.cuda.is_available():
        raise RunError("train.device=cuda: this machine has no usable GPU; set train.device=auto, or --profile demo")
    if wanted == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    if config.train.devices > torch.cuda.device_count():
        raise RunError(f"train.devices={config.train.devices}, but this machine has {torch.cuda.device_count()} GPUs")
    return torch.device("cuda")


def _begin(kind: str, config: Config) -> tuple[Run, PackedImages]:
    torch.set_float32_matmul_precision("high")
    L.seed_everything(config.seed, verbose=False)
    packed = load_images(config)
    return _run_on(kind, config, packed.fingerprint), packed


def _sample_images(packed: PackedImages) -> Tensor:
    return images_of(packed, packed.val_rows[:8])


def _shown(run: Run, view: View | None) -> Run:
    """A finished run as it is; in a notebook, with the picture that its training would have ended with."""
    if view is not None and is_main_process():
        view(run, History(run)).show_finished()
    return run


def train_kmeans(config: Config, view: View | None = None) -> Run:
    """Warm up the autoencoder without quantisation, then cluster its latents: the codebook that Phase 1 starts from."""
    run, packed = _begin("kmeans", config)
    if run.done:
        return _shown(run, view)
    module = VQVAEModel(config, "kmeans")
    fit(run, module, AnimeDataModule(config, packed), view, _sample_images(packed))
    figures: dict[str, Any] = {}
    if is_main_process():  # the others find the codebook in its file
        vectors = collect_latents(VQVAEModel.load(run.best), packed, config)
        centres = kmeans(vectors, config.model.num_codes, config.kmeans.iterations, config.seed)
        save_array(run.folder / "codebook.npy", centres.numpy())
        figures = {"inertia": inertia(vectors, centres), "vectors": len(vectors)}
    return _finish(run, module, packed, figures)


def train_phase1(config: Config, view: View | None = None) -> Run:
    """Phase 1, the VQ-VAE. Raises `RunError` where its k-means start is missing."""
    run, packed = _begin("phase1", config)
    if run.done:
        return _shown(run, view)
    module = VQVAEModel(config, "phase1")
    if config.quantizer.init == "kmeans":
        start_from_kmeans(module, finished("kmeans", config))
    fit(run, module, AnimeDataModule(config, packed), view, _sample_images(packed))
    return _finish(run, module, packed, {})


def train_phase2(config: Config, view: View | None = None) -> Run:
    """Phase 2, the VQ-GAN: from Phase 1's best checkpoint, or from scratch through both phases in one run."""
    run, packed = _begin("phase2", config)
    if run.done:
        return _shown(run, view)
    module = VQVAEModel(config, "phase2")
    if config.phase2.start_from == "phase1":
        start = finished("phase1", config).best
        state = load_checkpoint(start, ("phase1",))
        with fitting(start):
            module.load_state_dict(module.state_dict() | state["model"])
        module.steps_before.fill_(state["steps_done"])
        module.usage.zero_()  # what Phase 1 has counted since its last picture
    elif config.quantizer.init == "kmeans":
        start_from_kmeans(module, finished("kmeans", config))
    steps = int(module.steps_before) + config.phase2.steps
    if config.loss.gan and config.loss.gan_start >= steps:
        raise RunError(
            f"loss.gan_start={config.loss.gan_start}: Phase 2 ends at step {steps}, its GAN would never start"
        )
    fit(run, module, AnimeDataModule(config, packed), view, _sample_images(packed))
    return _finish(run, module, packed, {})


def train_prior(config: Config, view: View | None = None, kind: PriorKind = "prior") -> Run:
    """Phase 3, the causal prior or the masked one, on the codes of Phase 2's best autoencoder."""
    run, packed = _begin(kind, config)
    if run.done:
        return _shown(run, view)
    module = PriorModel(config, kind)
    autoencoder = finished("phase2", config)
    with torch.random.fork_rng(devices=[]):
        module.transformer.set_codebook(VQVAEModel.load(autoencoder.best).quantizer.codebook)
    codes = np.stack([extract_codes(autoencoder, config, flipped=way) for way in (False, config.data.flip > 0)])
    train, val = torch.from_numpy(packed.train_rows), torch.from_numpy(packed.val_rows)
    fit(run, module, CodesDataModule(config, torch.from_numpy(codes.astype(np.int32)), train, val), view, None)
    return _finish(run, module, packed, {"parameters": sum(p.numel() for p in module.parameters())})


def train_masked(config: Config, view: View | None = None) -> Run:
    """The same transformer trained to fill in masked codes: for regions, and for drawing many codes at once."""
    return train_prior(config, view, "masked")


TRAININGS = {
    "kmeans": train_kmeans,
    "phase1": train_phase1,
    "phase2": train_phase2,
    "prior": train_prior,
    "masked": train_masked,
}


def start_from_kmeans(module: VQVAEModel, run: Run) -> None:
    """Give a fresh autoencoder the warm-up's weights and the clustered codebook."""
    weights = load_checkpoint(run.best, ("kmeans",))["model"]
    own = module.state_dict()
    module.load_state_dict(own | {key: value for key, value in weights.items() if not key.startswith("quantizer.")})
    module.quantizer.set_codebook(torch.from_numpy(np.load(run.folder / "codebook.npy")))


@torch.no_grad()
def collect_latents(model: VQVAEModel, packed: PackedImages, config: Config) -> Float[Tensor, "n d"]:
    """z_e of training images as vectors, at most `kmeans.vectors_per_code` for each code, drawn by the seed."""
    rows, device = packed.train_rows[: config.kmeans.images], pick_device(config)
    model = model.to(device)
    parts = [
        model.latents(images_of(packed, part).to(device)).permute(0, 2, 3, 1).reshape(-1, config.model.code_dim)
        for part in np.array_split(rows, max(1, len(rows) // 32))
    ]
    vectors = torch.cat(parts).cpu()
    generator = torch.Generator().manual_seed(config.seed)
    return vectors[
        torch.randperm(len(vectors), generator=generator)[: config.kmeans.vectors_per_code * config.model.num_codes]
    ]


@torch.no_grad()
def extract_codes(run: Run, config: Config, flipped: bool = False) -> UInt16[np.ndarray, "n h w"]:
    """Codes of all packed images (or of their mirror images) by a run's best autoencoder.

    Computed once and kept in `codes.npy` (`codes-flipped.npy`) of the run.
    """
    path = run.folder / ("codes-flipped.npy" if flipped else "codes.npy")
    if is_main_process() and not path.is_file():
        _write_codes(path, run, load_images(config), config, flipped)
    barrier()
    return np.load(path)


def _write_codes(path: Path, run: Run, packed: PackedImages, config: Config, flipped: bool) -> None:
    if packed.fingerprint != run.result()["data"]:
        raise RunError(f"{packed.folder}: holds other images by now than {run.name} was trained on; start again")
    device = pick_device(config)
    with torch.random.fork_rng(devices=[]):  # a training draws the same whether the codes were there or not
        model = VQVAEModel.load(run.best).to(device)
    batches = np.array_split(np.arange(len(packed.images)), -(-len(packed.images) // 64))
    parts = []
    for rows in tqdm(batches, desc="codes of flipped images" if flipped else "codes", unit="batch", leave=False):
        x = images_of(packed, rows).to(device)
        parts.append(model.encode(x.flip(-1) if flipped else x).cpu().numpy())
    save_array(path, np.concatenate(parts).astype(np.uint16))
