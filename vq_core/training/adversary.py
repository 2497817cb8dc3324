"""The adversary of Phase 2: the discriminator, the losses on both sides, and what keeps it stable on few images."""

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vq_core.data.batches import Position, Purpose
from vq_core.models import PatchDiscriminator
from vq_core.settings import DiscriminatorConfig
from vq_core.training.ranks import total, world_size

GanLoss = Literal["hinge", "non_saturating"]
Images = Float[Tensor, "b 3 h w"]
Logits = Float[Tensor, "b 1 h w"]
Scalar = Float[Tensor, ""]
_ANCHOR_DECAY = 0.99  # of LeCam's moving averages, as in the paper


class Adversary(nn.Module):
    """A discriminator and its objective: hinge or non-saturating loss, R1 penalty, LeCam, augmented images.

    `position` determines the augmentation's random numbers; `shard` is this process's rank and how many there are.
    """

    def __init__(self, config: DiscriminatorConfig, kind: GanLoss, position: Position) -> None:
        super().__init__()
        self.config, self.kind, self.position = config, kind, position
        self.discriminator = PatchDiscriminator(config.channels, config.layers, config.spectral_norm)
        self.anchors: Tensor = nn.Buffer(torch.zeros(2))  # mean logits of real and of reconstructed patches

    def generator_loss(self, x_rec: Images, shard: tuple[int, int]) -> Scalar:
        """L_gan, which the decoder minimises; the discriminator's parameters get no gradient from it."""
        self.requires_grad_(False)
        seen = self._augmented(x_rec, Purpose.DISCRIMINATOR_REAL, shard)
        loss = generator_loss(self.discriminator(seen), self.kind)
        self.requires_grad_(True)
        return loss

    def discriminator_terms(self, x: Images, x_rec: Images, shard: tuple[int, int]) -> dict[str, Tensor]:
        """`disc_total`, which the discriminator minimises, its terms, and the mean logits; `x_rec` is detached."""
        seen = self._augmented(x, Purpose.DISCRIMINATOR_REAL, shard)
        real = self.discriminator(seen)
        fake = self.discriminator(self._augmented(x_rec, Purpose.DISCRIMINATOR_FAKE, shard))
        terms = {"disc": discriminator_loss(real, fake, self.kind)}
        loss = terms["disc"]
        if self.config.lecam:
            # Pulls each side's logits towards the other's moving average (Tseng et al., arXiv:2104.03310, equation 3).
            # The averages start at 0, so for the first hundred steps this is an L2 penalty on the logits.
            of_real, of_fake = self.anchors
            terms["lecam"] = (real.float() - of_fake).square().mean() + (fake.float() - of_real).square().mean()
            loss = loss + self.config.lecam * terms["lecam"]
        if self.config.gradient_penalty:
            # R1: ‖∇D‖² at real images (Mescheder et al., arXiv:1801.04406, equation 9); in fp32, being a derivative.
            with torch.autocast(x.device.type, enabled=False):
                seen = seen.detach().float().requires_grad_()
                (gradient,) = torch.autograd.grad(self.discriminator(seen).sum(), seen, create_graph=True)
            terms["r1"] = gradient.square().sum(dim=(1, 2, 3)).mean()
            loss = loss + 0.5 * self.config.gradient_penalty * terms["r1"]
        return terms | {"disc_total": loss, "disc_real": real.mean(), "disc_fake": fake.mean()}

    @torch.no_grad()
    def move_anchors(self, real: Scalar, fake: Scalar, updated: Bool[Tensor, ""]) -> None:
        """Update LeCam's moving averages with the mean logits of one step, unless it was skipped."""
        now = total(torch.stack([real, fake]).float()) / world_size()
        self.anchors.lerp_(torch.where(updated, now, self.anchors), 1 - _ANCHOR_DECAY)

    def _augmented(self, x: Images, purpose: Purpose, shard: tuple[int, int]) -> Images:
        return diff_augment(x, self.position.generator(purpose), shard) if self.config.augment else x


def generator_loss(fake_logits: Logits, kind: GanLoss) -> Scalar:
    """L_gan: what the decoder minimises. Hinge (arXiv:1705.02894): −D(x̂); non-saturating: −log σ(D(x̂))."""
    return -fake_logits.mean() if kind == "hinge" else F.softplus(-fake_logits).mean()


def discriminator_loss(real_logits: Logits, fake_logits: Logits, kind: GanLoss) -> Scalar:
    """What the discriminator minimises; 1 (hinge) or log 2 (non-saturating) while it cannot tell real from fake."""
    if kind == "hinge":
        return 0.5 * (F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean())
    return 0.5 * (F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean())


def adaptive_factor(other: Scalar, gan: Scalar, last_layer: Tensor, cap: float, scale: float = 1.0) -> Scalar:
    """‖∇ of all other terms‖ / ‖∇ of L_gan‖ at the decoder's last layer over a batch, at most `cap`.

    It turns λ_gan from a weight into a fraction of the gradient (Esser et al., arXiv:2012.09841, equation 7; their cap
    of 10⁴ lets a discriminator that has no gradient yet blow up the sum). `scale` is that of fp16's scaler.
    """
    gradients = [torch.autograd.grad(scale * loss, last_layer, retain_graph=True)[0] for loss in (other, gan)]
    norms = [total(gradient.float()).norm() / (scale * world_size()) for gradient in gradients]
    return (norms[0] / (norms[1] + 1e-6)).clamp(max=cap).detach()


def diff_augment(x: Images, generator: torch.Generator, shard: tuple[int, int] = (0, 1)) -> Images:
    """Differentiable colour jitter, translation by up to an eighth, and a blank square of half the side.

    Zhao et al., arXiv:2006.10738. Each process draws the random numbers of the whole batch, to use those of its images.
    """
    (rank, world), size = shard, x.shape[-1]
    draw = torch.rand(7, len(x) * world, 1, 1, 1, generator=generator)[:, rank::world].to(x.device, non_blocking=True)
    x = x + (draw[0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * draw[1]
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (0.5 + draw[2])

    places = torch.arange(size, device=x.device)
    reach = size // 8
    shift = ((2 * reach + 1) * draw[3:5, :, 0, 0]).floor().long() - reach  # [2, b, 1]
    down, right = (places + shift + 1).clamp(0, size + 1)  # in the image padded with a border of zeros
    x = F.pad(x, (1, 1, 1, 1)).take_along_dim(down[:, None, :, None], 2).take_along_dim(right[:, None, None, :], 3)

    centre = (size * draw[5:, :, 0, 0]).floor()
    inside = (places + 0.5 - centre).abs() < size / 4
    return x * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])
