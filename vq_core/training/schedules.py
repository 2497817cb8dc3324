"""What changes with the step: the learning rate and the weight of the GAN term. Pure functions of the step."""

import math

from vq_core.settings import OptimConfig


def learning_rate(optim: OptimConfig, step: int, *, total: int, peak: float, warmup: int | None = None) -> float:
    """The rate of the main optimiser at a step, before any halving at a plateau.

    Args:
        total: steps of the training.
        peak: rate after the warm-up.
        warmup: steps of the warm-up; by default `optim.warmup_steps`, at most half of all.
    """
    # Before a plateau the rate stays at its peak: a cosine from there to there.
    end = peak if optim.schedule == "plateau" else min(optim.lr_end, peak)
    if warmup is None:
        warmup = min(optim.warmup_steps, total // 2)
    return warmup_cosine(step, total=total, warmup=warmup, start=optim.lr_start, peak=peak, end=end)


def warmup_cosine(step: int, *, total: int, warmup: int, start: float, peak: float, end: float) -> float:
    """Learning rate: linear from `start` to `peak` over `warmup` steps, then a cosine to `end` at step `total`."""
    if step < warmup:
        return start + (peak - start) * step / warmup
    progress = min(1.0, (step - warmup) / max(1, total - warmup))
    return end + (peak - end) * 0.5 * (1 + math.cos(math.pi * progress))


def gan_weight(step: int, *, weight: float, start: int, ramp: int) -> float:
    """λ_gan: 0 before `start`, then linear up to `weight` over `ramp` steps, constant afterwards."""
    if step < start:
        return 0.0
    return weight * min(1.0, (step - start + 1) / max(1, ramp))
