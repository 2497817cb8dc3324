"""What trainings will take on this machine, told before the first of them: a step of each phase is tried out."""

import shutil
import time
from pathlib import Path
from typing import Any

import lightning as L
import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from tqdm.auto import tqdm

from vq_core.config import Config, data_dir
from vq_core.machine import pick_device, precision_of
from vq_core.models.perceptual import TRUNK_FILES
from vq_core.runs.folders import PRIORS, Phase
from vq_core.runs.naming import phases_up_to
from vq_core.training.autoencoder import AutoencoderTraining
from vq_core.training.prior import PriorTraining, random_orders


def plan(config: Config, first: Phase = "kmeans") -> tuple[dict[Phase, float], str]:
    """Seconds that each phase from `first` on will train, and a line with these, the memory and the disk space needed.

    Without `torch.compile`, and as fast as what else runs here lets it be; nothing of what cannot be tried.
    """
    device, seconds, told, memory, disk = pick_device(config), dict[Phase, float](), list[str](), 0.0, 0.0
    file = TRUNK_FILES.get(config.loss.perceptual_net)  # none for random weights
    if config.loss.perceptual and file and not Path(torch.hub.get_dir(), "checkpoints", file).exists():
        return {}, f"how long it takes here is not known before {file} is downloaded"
    if device.type == "cpu" and config.data.image_size >= 256:
        return {}, "it would take weeks without a GPU"
    own = psutil.Process().memory_info().rss
    where, free = "memory", psutil.virtual_memory().available + own
    if device.type == "cuda":
        where, free, own = "the GPU's memory, with the images more", torch.cuda.mem_get_info()[0], 0
    ends: list[Phase] = ["prior", "masked"] if config.masked.network == "any_order" else ["prior"]  # still trained
    chain = list(dict.fromkeys(phase for end in ends for phase in phases_up_to(end, config)))
    for phase in chain[chain.index(first) :] if first in chain else chain:
        module: Any = (PriorTraining if phase in PRIORS else AutoencoderTraining)(config, phase)  # type: ignore[arg-type]
        try:
            step, needed = _step(module.to(device))
            seconds[phase], memory = step * module.position.total_steps, max(memory, needed)
            told.append(f"{phase} {in_words(seconds[phase])}")
        except torch.cuda.OutOfMemoryError:
            told.append(f"{phase} does not fit into the GPU's memory")
        disk += module.checkpoint_bytes
        del module
        torch.cuda.empty_cache()
    place = next((folder for folder in (data_dir(), *data_dir().parents) if folder.is_dir()), Path())
    line = f"expected here: {in_words(sum(seconds.values()))} of training ({', '.join(told)}), "
    line += f"{(memory + own) / 1e9:.1f} GB of {where} ({free / 1e9:.1f} free), {disk / 1e9:.1f} GB of disk for "
    return seconds, f"{line}checkpoints ({shutil.disk_usage(place).free / 1e9:.0f} free)"


def in_words(seconds: float) -> str:
    """A duration, such as "4.9 min"."""
    sizes = {"days": 86400, "h": 3600, "min": 60}
    unit = next((unit for unit, size in sizes.items() if seconds >= size), "s")
    return f"{seconds / sizes[unit]:.1f} {unit}" if unit in sizes else f"{seconds:.0f} s"


class Correction(L.Callback):
    """After a hundred steps of a phase it tells anew how long this phase and those after it will train."""

    def on_train_batch_end(self, trainer: L.Trainer, module: Any, *batch: Any) -> None:
        position, seconds = module.position, module.expected
        if position.steps_done == 10 and position.between_steps:  # by then all is compiled
            self.since = time.monotonic()
        if position.steps_done == 100 and position.between_steps and module.phase in seconds:
            factor = (time.monotonic() - self.since) / 90 * position.total_steps / seconds[module.phase]
            left = factor * (sum(seconds.values()) - 100 / position.total_steps * seconds[module.phase])
            tqdm.write(f"after 100 steps: {in_words(left)} of training left, {factor:.2g} times what was expected")


def _step(module: Any) -> tuple[float, float]:
    """Seconds and bytes of one training step of one process, the faster of two; on a CPU tried with few images."""
    config, device, kept, took = module.config, module.device, dict[int, int](), list[float]()
    parts, side, prior = module.position.accumulate, config.data.image_size, module.phase in PRIORS
    size = (config.prior if prior else config.train).batch_size // (parts * config.train.processes)
    few = size if device.type == "cuda" else min(size, 4 if side <= 128 else 1)
    x = torch.rand(few, 3, side, side, device=device) * 2 - 1
    codes = torch.randint(config.model.num_codes, (few, config.grid**2), device=device)
    orders = random_orders(few, config.grid, torch.Generator()).to(device) if module.phase == "masked" else None
    low = {"16-mixed": torch.float16, "bf16-mixed": torch.bfloat16}.get(precision_of(config))

    def keep(saved: Tensor) -> Tensor:
        kept[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved.detach()

    for _ in range(3):  # the first, which also loads the perceptual network, does not count
        kept.clear()
        began = time.perf_counter()
        with torch.autocast(device.type, low, low is not None), saved_tensors_hooks(keep, lambda saved: saved):
            if prior:
                losses = [module.bits_per_token(codes, orders).mean()]
            else:
                out = module.vqvae.reconstruct(x)
                losses = [module.weighted(module.autoencoder_terms(x, out))]
            if module.phase == "phase2":
                losses[0] = losses[0] + module.adversary.generator_loss(out.x_rec, (0, 1))
                losses += [module.adversary.discriminator_terms(x, out.x_rec.detach(), (0, 1))["disc_total"]]
        torch.stack(losses).sum().backward()
        losses[0].item()  # which waits for a GPU
        took.append(time.perf_counter() - began)
    fixed = 16 * sum(weight.numel() for weight in module.parameters())  # weights, gradients, two moments
    return min(took[1:]) * parts * size / few, fixed + sum(kept.values()) * size / few
