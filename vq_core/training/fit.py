"""Runs one training to its end with Lightning's Trainer, from the run's last checkpoint if there is one."""

import logging
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from tqdm.auto import tqdm

from vq_core.config import Config, config_from_dict
from vq_core.errors import CheckpointError, ConfigError, NotFiniteError, RunError, Stopped, tell_once
from vq_core.machine import pick_device, precision_of
from vq_core.runs.checkpoints import fitting, load_checkpoint, settings_that_differ
from vq_core.runs.folders import PRIORS, History, Run
from vq_core.runs.naming import relevant_settings
from vq_core.training.callbacks import Bar, Checkpoints, HistoryLogger, Pictures, View, signals_given_back
from vq_core.training.plan import Correction
from vq_core.training.ranks import barrier, is_main_process
from vq_core.training.steps import StepModule, StoppedEarly

ViewMaker = Callable[[Run, History], View]


def fit(
    run: Run, module: StepModule, data: L.LightningDataModule, view: ViewMaker | None, pictures: Tensor | None
) -> None:
    """Train to the end, resuming from the run's last checkpoint if there is one.

    Raises `Stopped` after Ctrl-C, a kernel interrupt or SIGTERM; the progress so far is saved.
    """
    settings = module.config.model_dump(mode="json")
    if run.last.is_file():
        _resume(run, module, settings)
    if is_main_process():
        run.begin(settings, module.steps_done)
    if module.finished:
        return
    history, checkpoints = History(run), Checkpoints(run)
    # Pictures first: a process killed between the two draws them again after it has resumed.
    callbacks: list[L.Callback] = [*([Pictures(run, history, pictures)] if pictures is not None else []), checkpoints]
    if is_main_process():
        _check_space(module, run)
        callbacks += [(view or Bar)(run, history), Correction()]
    trainer = _make_trainer(module.config, callbacks, _loggers(run, history, module.config), run.folder)
    try:
        with signals_given_back(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*does not have many workers.*")  # there is nothing to load from disk
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")  # inside Lightning, on torch 2.14
            warnings.filterwarnings("ignore", ".*The number of training batches.*")  # log_every_n_steps is not used
            trainer.fit(module, data)
        return barrier()
    except StoppedEarly:
        how = f"{run.name} stopped at step {module.steps_done} of {module.position.total_steps}; run it again to resume"
        raise Stopped(how, together=checkpoints.stopped_together) from None
    except BaseException as error:
        # The processes that this one has started would wait for it forever, unless all raise the error together.
        if trainer.strategy.launcher is not None and not isinstance(error, NotFiniteError):
            trainer.strategy.launcher.kill(getattr(signal, "SIGKILL", signal.SIGTERM))  # Windows has none
        if not isinstance(error, torch.cuda.OutOfMemoryError):
            raise
    finally:
        if module.config.train.wandb:
            import wandb

            wandb.finish()  # else the next training would be logged to the same wandb run
    # Raised only here, after the CUDA error, whose frames hold all tensors of the step, has been freed.
    accumulate = "train.accumulate=2 (keeps the effective batch and all progress) or a smaller train.batch_size"
    advice = "a smaller prior.batch_size" if module.phase in PRIORS else accumulate
    raise RunError(f"a batch of this size does not fit into the GPU's memory; set {advice}")


def _check_space(module: StepModule, run: Run) -> None:
    """Raise `RunError` if the disk has no room for the checkpoints that a training will keep."""
    needed, free = module.checkpoint_bytes, shutil.disk_usage(run.folder).free
    if needed > free:
        short = f"{run.name} needs {needed / 1e9:.1f} GB for its checkpoints, and {free / 1e9:.1f} GB are free"
        raise RunError(f"{short}: make room, or raise train.checkpoint_every={module.config.train.checkpoint_every}")


def _resume(run: Run, module: StepModule, settings: dict[str, Any]) -> None:
    """Put a module into the state of the run's last checkpoint. Raises `CheckpointError` if that does not fit."""
    state = load_checkpoint(run.last, (module.phase,))
    with fitting(run.last):
        stored = config_from_dict(state["config"]).model_dump(mode="json")
    if different := settings_that_differ(relevant_settings(run.phase, stored), relevant_settings(run.phase, settings)):
        raise CheckpointError(f"{run.last}: was made with different settings: {', '.join(different)}; move it away")
    now = precision_of(module.config)
    if (then := state.get("precision", now)) != now:
        suited = f"{now}, which suits this machine (train.precision=auto)"
        tqdm.write(f"{run.name} was begun in {then} and goes on in {suited}")
    with fitting(run.last):
        module.resume_from(state)


def _loggers(run: Run, history: History, config: Config) -> list[Any]:
    loggers: list[Any] = [HistoryLogger(history)]
    if find_spec("tensorboard") or find_spec("tensorboardX"):
        loggers.append(TensorBoardLogger(run.folder, name="tensorboard", version=""))
    else:
        tell_once("no logs for TensorBoard, which is not installed; the run's own are complete")
    if config.train.wandb:
        if find_spec("wandb") is None:
            raise ConfigError("train.wandb=true needs one more package: pip install wandb (or set train.wandb=false)")
        from lightning.pytorch.loggers import WandbLogger

        loggers.append(WandbLogger(name=run.name, id=run.name, save_dir=run.folder, project="vq-workbook"))
    return loggers


def _make_trainer(config: Config, callbacks: list[Any], loggers: list[Any], folder: Path) -> L.Trainer:
    """The one place that makes a Trainer. Steps, validation, checkpoints and clipping are ours (see `StepModule`)."""
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    on_gpu, size, devices = pick_device(config).type == "cuda", config.data.image_size, config.train.devices
    shared = config.train.processes > 1
    if size >= 256 and config.train.device == "auto" and not on_gpu:
        ways = "use the profile demo (VQ_PROFILE=demo, --profile demo), or insist with train.device=cpu"
        raise ConfigError(f"no usable GPU: {size}×{size} images would take weeks on the CPU; {ways}")
    if shared and hasattr(sys, "ps1"):
        raise ConfigError(f"train.devices={devices}: a notebook cannot start processes; use python -m vq_core")
    if shared and not on_gpu and config.model.norm == "batch":
        raise ConfigError(f"train.devices={devices}: BatchNorm needs GPUs to share statistics; set model.norm=group")
    # Broadcasting buffers at every forward pass would wipe out the codebook usage that the other ranks have gathered.
    strategy: Any = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False) if shared else "auto"
    ours = ("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "use_distributed_sampler")
    how: dict[str, Any] = dict.fromkeys(ours, False) | {"max_epochs": -1, "num_sanity_val_steps": 0}
    how |= {"accelerator": "gpu" if on_gpu else "cpu", "devices": devices, "sync_batchnorm": shared and on_gpu}
    how |= {"num_nodes": config.train.num_nodes, "strategy": strategy, "precision": precision_of(config)}
    return L.Trainer(
        **how, reload_dataloaders_every_n_epochs=1, callbacks=callbacks, logger=loggers, default_root_dir=folder
    )
