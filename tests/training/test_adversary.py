"""The discriminator's options against their formulas, written out again in another way."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vq_core.config import load_config
from vq_core.data.batches import Position
from vq_core.training.adversary import Adversary, adaptive_factor, diff_augment, discriminator_loss, generator_loss


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


ALONE = (0, 1)  # the first of one process


def pictures(seed: int = 0, count: int = 3, size: int = 32) -> Tensor:
    return torch.rand(count, 3, size, size, generator=seeded(seed)) * 2 - 1


def adversary(kind: Any = "hinge", **options: Any) -> Adversary:
    torch.manual_seed(0)
    config = load_config("smoke").discriminator
    return Adversary(config.model_copy(update={"channels": 4, "layers": 1} | options), kind, Position(0, 10, 4))


def test_the_plain_loss_is_the_sum_of_nothing_else() -> None:
    terms = adversary().discriminator_terms(pictures(0), pictures(1), ALONE)
    assert set(terms) == {"disc", "disc_total", "disc_real", "disc_fake"} and torch.equal(
        terms["disc"], terms["disc_total"]
    )


def test_the_generators_loss_leaves_the_discriminator_alone() -> None:
    opponent, x_rec = adversary(), pictures(1).requires_grad_()
    opponent.generator_loss(x_rec, ALONE).backward()
    assert x_rec.grad is not None and x_rec.grad.abs().sum() > 0
    assert all(p.grad is None and p.requires_grad for p in opponent.parameters())


def test_r1_is_the_squared_gradient_by_finite_differences() -> None:
    opponent, x = adversary(gradient_penalty=0.2), pictures(0, 2, 8)
    terms = opponent.discriminator_terms(x, pictures(1, 2, 8), ALONE)
    exact, x_exact = copy.deepcopy(opponent.discriminator).double(), x.double()
    gradient = torch.zeros_like(x_exact)
    with torch.no_grad():
        for place in range(x[0].numel()):
            step = torch.zeros_like(x_exact[0]).flatten()
            step[place] = 1e-5
            step = step.view_as(x[0])
            both = [exact(x_exact + sign * step).sum(dim=(1, 2, 3)) for sign in (1, -1)]
            gradient.view(len(x), -1)[:, place] = (both[0] - both[1]) / 2e-5
    assert float(terms["r1"].detach()) == pytest.approx(float(gradient.square().sum() / len(x)), rel=1e-3)
    torch.testing.assert_close(terms["disc_total"], terms["disc"] + 0.1 * terms["r1"])
    terms["disc_total"].backward()
    assert x.grad is None and not x.requires_grad  # the caller's batch is as it was


def test_lecam_pulls_towards_the_others_average() -> None:
    opponent = adversary(lecam=0.3)
    opponent.move_anchors(torch.tensor(2.0), torch.tensor(-4.0), torch.tensor(True))
    torch.testing.assert_close(opponent.anchors, torch.tensor([0.02, -0.04]))
    opponent.anchors.copy_(torch.tensor([0.5, -0.7]))
    x, x_rec = pictures(0), pictures(1)
    real, fake = opponent.discriminator(x), opponent.discriminator(x_rec)
    expected = ((real + 0.7) ** 2).mean() + ((fake - 0.5) ** 2).mean()
    terms = opponent.discriminator_terms(x, x_rec, ALONE)
    torch.testing.assert_close(terms["lecam"], expected)
    torch.testing.assert_close(terms["disc_total"], terms["disc"] + 0.3 * expected)


def test_the_adaptive_factor_is_the_ratio_of_the_gradients() -> None:
    layer = nn.Linear(3, 1, bias=False)
    x = torch.tensor([[1.0, 2.0, 2.0]])  # its norm is 3
    other, gan = layer(x).sum() * 4, layer(x).sum()
    assert float(adaptive_factor(other, gan, layer.weight, 100.0)) == pytest.approx(4, rel=1e-5)
    assert float(adaptive_factor(other, gan, layer.weight, 100.0, scale=2.0**12)) == pytest.approx(4, rel=1e-5)
    assert float(adaptive_factor(other, gan, layer.weight, 2.5)) == 2.5
    assert float(adaptive_factor(other, 0 * gan, layer.weight, 7.0)) == 7.0  # no gradient yet: the cap


def test_augmentation_is_by_the_seed_and_shared_out() -> None:
    x = pictures(0, 4)
    whole = diff_augment(x, seeded(5))
    assert torch.equal(whole, diff_augment(x, seeded(5))) and not torch.equal(whole, diff_augment(x, seeded(6)))
    for rank in (0, 1):
        assert torch.equal(diff_augment(x[rank::2], seeded(5), (rank, 2)), whole[rank::2])


def test_augmentation_blanks_half_a_side_and_shifts_by_an_eighth() -> None:
    position = torch.arange(1.0, 65)
    ramp = (position[:, None] + 1000 * position).expand(200, 3, 64, 64)  # says of each pixel where it came from
    draw = torch.rand(7, 200, 1, 1, 1, generator=seeded(9))
    colours = ramp + (draw[0] - 0.5)
    colours = colours.mean(1, keepdim=True) + (colours - colours.mean(1, keepdim=True)) * 2 * draw[1]
    mean = colours.mean((1, 2, 3), keepdim=True)
    colours = mean + (colours - mean) * (0.5 + draw[2])
    result = diff_augment(ramp, seeded(9))
    shifts, blank = set(), []
    for number in range(200):
        down, right = (int(17 * draw[3 + axis, number]) - 8 for axis in (0, 1))
        moved = torch.zeros(3, 64, 64)
        rows = [r for r in range(64) if 0 <= r + down < 64]
        columns = [c for c in range(64) if 0 <= c + right < 64]
        for row in rows:
            moved[:, row, columns] = colours[number][:, row + down][:, [c + right for c in columns]]
        top, left = (int(64 * draw[5 + axis, number]) - 16 for axis in (0, 1))
        inside = torch.zeros(64, 64, dtype=torch.bool)
        inside[max(top, 0) : top + 32, max(left, 0) : left + 32] = True
        torch.testing.assert_close(result[number], moved * ~inside, atol=0.1, rtol=1e-4)
        shifts.add(down)
        blank.append(int(inside.sum()))
    assert shifts == set(range(-8, 9)) and max(blank) == 32 * 32


def test_augmentation_lets_the_gradient_through() -> None:
    x = pictures().requires_grad_()
    diff_augment(x, seeded(1)).square().sum().backward()
    assert x.grad is not None and (x.grad != 0).float().mean() > 0.4


def logits(*values: float) -> Tensor:
    return torch.tensor(values).view(1, 1, 1, -1)


def test_hinge_by_hand() -> None:
    assert float(generator_loss(logits(0.5, -1.5), "hinge")) == pytest.approx(0.5)
    # real: relu(1 − 2) = 0, relu(1 − 0.5) = 0.5; fake: relu(1 − 3) = 0, relu(1 + 0.5) = 1.5
    assert float(discriminator_loss(logits(2.0, 0.5), logits(-3.0, 0.5), "hinge")) == pytest.approx(0.5)
    assert float(discriminator_loss(logits(0.0), logits(0.0), "hinge")) == 1


def test_non_saturating_by_hand() -> None:
    expected = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    assert float(generator_loss(logits(1.0, -2.0), "non_saturating")) == pytest.approx(expected)
    expected = 0.5 * (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2)))
    assert float(discriminator_loss(logits(1.0), logits(-2.0), "non_saturating")) == pytest.approx(expected)
    assert float(discriminator_loss(logits(0.0), logits(0.0), "non_saturating")) == pytest.approx(math.log(2))


@pytest.mark.parametrize("phase", ["hinge", "non_saturating"])
def test_gradients_pull_the_right_way(phase: Any) -> None:
    real, fake, made = (logits(0.3, -0.4, 0.0).requires_grad_() for _ in range(3))
    discriminator_loss(real, fake, phase).backward()
    generator_loss(made, phase).backward()
    assert real.grad is not None and fake.grad is not None and made.grad is not None
    assert (real.grad < 0).all()  # real images are to be scored higher,
    assert (fake.grad > 0).all()  # generated ones lower;
    assert (made.grad < 0).all()  # the decoder wants them higher


def test_hinge_leaves_what_is_right_by_a_margin() -> None:
    real, fake = logits(1.5).requires_grad_(), logits(-1.5).requires_grad_()
    discriminator_loss(real, fake, "hinge").backward()
    assert real.grad is not None and fake.grad is not None and real.grad.item() == fake.grad.item() == 0
