"""One training from its run's last checkpoint, if there is one, to its end, by Lightning's Trainer."""

import logging
import signal
import sys
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from vq_core.config import Config, config_from_dict, pick_device
from vq_core.errors import ConfigError, NotFiniteError, RunError, Stopped
from vq_core.runs.checkpoints import fitting, load_checkpoint, refuse_other_settings
from vq_core.runs.folders import PRIORS, History, Run
from vq_core.runs.naming import relevant_settings, steps_key
from vq_core.training.callbacks import (
    Bar,
    Checkpoints,
    HistoryLogger,
    Pictures,
    Showing,
    View,
    signals_given_back,
)
from vq_core.training.ranks import barrier, is_main_process
from vq_core.training.steps import StepModule, StoppedEarly

ViewMaker = Callable[[Run, History], View]


def fit(
    run: Run, module: StepModule, data: L.LightningDataModule, view: ViewMaker | None, pictures: Tensor | None
) -> None:
    """Train to the end, going on from the run's last checkpoint if there is one.

    Raises:
        Stopped: after Ctrl-C, an interrupted kernel or SIGTERM; what was reached is saved.
    """
    settings = module.config.model_dump(mode="json")
    if run.last.is_file():
        resume(run, module, settings)
    if is_main_process():
        run.begin(settings, module.steps_done)
    if module.finished:
        return
    history, checkpoints = History(run), Checkpoints(run)
    # Pictures first: a process that is killed between the two draws them again when it goes on.
    callbacks: list[Callback] = [*([Pictures(run, history, pictures)] if pictures is not None else []), checkpoints]
    if is_main_process():
        callbacks.append(Showing((view or Bar)(run, history)))
    loggers = [HistoryLogger(history), *_other_loggers(run, module.config)]
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
        raise Stopped(
            f"{run.name} stopped at step {module.steps_done} of {module.position.total_steps}; run it again to go on",
            together=checkpoints.stopped_together,
        ) from None
    except NotFiniteError:  # raised by all processes alike
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
            if module.phase in PRIORS
            else "set train.accumulate=2 (the effective batch stays, and so does what was reached), or a smaller "
            "train.batch_size"
        )
        raise RunError(f"the GPU's memory does not hold a batch of this size: {advice}")


def resume(run: Run, module: StepModule, settings: dict[str, Any]) -> None:
    """Put a module into the state of the run's last checkpoint. Raises `CheckpointError` where it does not fit."""
    state = load_checkpoint(run.last, (module.phase,))
    group, key = steps_key(module.phase)
    with fitting(run.last):
        stored = config_from_dict(state["config"]).model_dump(mode="json")
    if stored[group][key] != settings[group][key]:  # the end of a shorter run, to go on from
        stored[group][key] = settings[group][key]
        state["validations_since_best"] = 0
    refuse_other_settings(run.last, relevant_settings(run.phase, stored), relevant_settings(run.phase, settings))
    with fitting(run.last):
        module.resume_from(state)


def _end_other_processes(trainer: L.Trainer) -> None:
    """After an error of the main process alone: those that it has started would wait for it for ever."""
    if trainer.strategy.launcher is not None:
        trainer.strategy.launcher.kill(signal.SIGKILL)


def _other_loggers(run: Run, config: Config) -> list[Any]:
    loggers: list[Any] = [TensorBoardLogger(run.folder, name="tensorboard", version="")]
    if config.train.wandb:
        if find_spec("wandb") is None:
            raise ConfigError("train.wandb=true needs one more package: pip install wandb (or set train.wandb=false)")
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
        raise ConfigError(
            f"no usable GPU: {size}×{size} images would take weeks on the CPU; use the profile demo (VQ_PROFILE=demo, "
            "--profile demo), or insist with train.device=cpu"
        )
    if config.train.devices > 1 and hasattr(sys, "ps1"):
        raise ConfigError(
            f"train.devices={config.train.devices}: a notebook cannot start processes; use python -m vq_core"
        )
    if config.train.devices > 1 and not on_gpu and config.model.norm == "batch":
        raise ConfigError(
            "train.devices above 1 on the CPU: BatchNorm cannot share its statistics; set model.norm=group"
        )
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
