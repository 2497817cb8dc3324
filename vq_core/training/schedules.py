"""Schedules of the learning rate and of the GAN term's weight, as pure functions of the step."""

import math

from vq_core.settings import OptimConfig


def learning_rate(optim: OptimConfig, step: int, *, total: int, peak: float, warmup: int | None = None) -> float:
    """The main optimiser's rate at one of `total` steps, before any plateau; by default with `optim`'s warm-up.

    Linear from `optim.lr_start` to `peak` over `warmup` steps, then a cosine to `optim.lr_end` at step `total`.
    """
    warmup = min(optim.warmup_steps, total // 2) if warmup is None else warmup
    if step < warmup:
        return optim.lr_start + (peak - optim.lr_start) * step / warmup
    # Until a plateau is reached the rate stays at its peak, as a cosine with equal ends.
    end = peak if optim.schedule == "plateau" else min(optim.lr_end, peak)
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def gan_weight(step: int, *, weight: float, start: int, ramp: int) -> float:
    """λ_gan: 0 before `start`, then rising linearly to `weight` over `ramp` steps, then constant."""
    return weight * min(1.0, max(0, step - start + 1) / max(1, ramp))
