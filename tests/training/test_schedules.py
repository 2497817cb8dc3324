"""Learning rate and λ_gan over the steps."""

import math
from itertools import pairwise

import pytest

from vq_core.config import load_config
from vq_core.training.schedules import gan_weight, learning_rate

OPTIM = load_config("full", ["optim.schedule=cosine", "optim.lr_start=1e-6", "optim.lr_end=1e-5"]).optim


def rate(step: int, total: int = 1000, warmup: int = 100) -> float:
    return learning_rate(OPTIM, step, total=total, peak=2e-4, warmup=warmup)


def weight(step: int, start: int = 20, ramp: int = 10) -> float:
    return gan_weight(step, weight=0.1, start=start, ramp=ramp)


def test_learning_rate_at_its_corners() -> None:
    assert rate(0) == 1e-6
    assert rate(50) == pytest.approx((1e-6 + 2e-4) / 2)
    assert rate(100) == 2e-4
    assert rate(550) == pytest.approx((2e-4 + 1e-5) / 2)
    assert rate(325) == pytest.approx(1e-5 + (2e-4 - 1e-5) * (1 + math.sqrt(0.5)) / 2)
    assert rate(1000) == pytest.approx(1e-5, rel=1e-12)
    assert rate(5000) == pytest.approx(1e-5, rel=1e-12)


def test_learning_rate_rises_then_falls_without_a_jump() -> None:
    rates = [rate(step) for step in range(1001)]
    assert all(a < b for a, b in pairwise(rates[:101])) and all(a > b for a, b in pairwise(rates[100:]))
    assert max(abs(a - b) for a, b in pairwise(rates)) < 2.1e-6


def test_learning_rate_without_warm_up_and_with_nothing_else() -> None:
    assert rate(0, warmup=0) == 2e-4
    assert [rate(step, total=10, warmup=10) for step in (0, 10)] == [1e-6, 2e-4]
    assert rate(0, total=0, warmup=0) == 2e-4


def test_gan_weight_is_nothing_then_linear_then_constant() -> None:
    assert [weight(step) for step in range(20)] == [0.0] * 20
    assert [weight(step) for step in range(20, 30)] == pytest.approx([0.01 * n for n in range(1, 11)])
    assert [weight(step) for step in (30, 31, 10_000)] == [0.1] * 3


def test_gan_weight_without_a_ramp_or_a_wait() -> None:
    assert [weight(step, ramp=0) for step in (19, 20)] == [0.0, 0.1]
    assert weight(0, start=0) == pytest.approx(0.01)
