"""The other player of Phase 2: the discriminator with its losses, and what steadies it on few images."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vq_core.config import DiscriminatorConfig
from vq_core.models import PatchDiscriminator
from vq_core.training.losses import GanKind, discriminator_loss, generator_loss
from vq_core.training.ranks import total, world_size

Images = Float[Tensor, "b 3 h w"]
_ANCHOR_DECAY = 0.99  # of LeCam's moving averages, as in the paper


class Adversary(nn.Module):
    """A discriminator and what it minimises: hinge or non-saturating loss, R1 penalty, LeCam, augmented pictures.

    Args:
        config: its sizes and options.
        kind: of the loss, for both players.
    """

    anchors: Tensor

    def __init__(self, config: DiscriminatorConfig, kind: GanKind) -> None:
        super().__init__()
        self.config, self.kind = config, kind
        self.discriminator = PatchDiscriminator(config.channels, config.layers, config.spectral_norm)
        self.register_buffer("anchors", torch.zeros(2))  # mean logits of real and of reconstructed patches

    def fooling(self, x_rec: Images, seed: int, share: tuple[int, int] = (0, 1)) -> Float[Tensor, ""]:
        """L_gan, what the decoder minimises; the discriminator's parameters get no gradient from it."""
        self.requires_grad_(False)
        loss = generator_loss(self._logits(x_rec, seed, share), self.kind)
        self.requires_grad_(True)
        return loss

    def judging(self, x: Images, x_rec: Images, seed: int, share: tuple[int, int] = (0, 1)) -> dict[str, Tensor]:
        """What the discriminator minimises is `disc_total`; beside it the terms that it is the sum of, and mean logits.

        Args:
            x: real images.
            x_rec: their reconstructions, detached.
            seed: of the augmentation.
            share: this process's rank and the number of processes.
        """
        real, fake = self._logits(x, seed, share), self._logits(x_rec, seed + 1, share)
        terms = {"disc": discriminator_loss(real, fake, self.kind)}
        loss = terms["disc"]
        if self.config.lecam:
            terms["lecam"] = self._lecam(real, fake)
            loss = loss + self.config.lecam * terms["lecam"]
        if self.config.gradient_penalty:
            terms["r1"] = self._gradient_norm(self._seen(x, seed, share))
            loss = loss + 0.5 * self.config.gradient_penalty * terms["r1"]
        return terms | {"disc_total": loss, "disc_real": real.mean(), "disc_fake": fake.mean()}

    @torch.no_grad()
    def remember(self, real: Float[Tensor, ""], fake: Float[Tensor, ""]) -> None:
        """Move LeCam's averages by the mean logits of a step."""
        self.anchors.lerp_(total(torch.stack([real, fake]).float()) / world_size(), 1 - _ANCHOR_DECAY)

    def _logits(self, x: Images, seed: int, share: tuple[int, int]) -> Float[Tensor, "b 1 h2 w2"]:
        return self.discriminator(self._seen(x, seed, share))

    def _seen(self, x: Images, seed: int, share: tuple[int, int]) -> Images:
        return diff_augment(x, seed, share) if self.config.augment else x

    def _lecam(self, real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
        """Keeps both logits near the other's average of before (Tseng et al., arXiv:2104.03310, equation 3).

        The averages start at 0, so that in the first hundred steps it is an L2 penalty on the logits.
        """
        anchor_real, anchor_fake = self.anchors
        return (real.float() - anchor_fake).square().mean() + (fake.float() - anchor_real).square().mean()

    def _gradient_norm(self, x: Images) -> Float[Tensor, ""]:
        """R1: ‖∇D‖² at real images (Mescheder et al., arXiv:1801.04406, equation 9); in fp32, it is a derivative."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.detach().float().requires_grad_()
            (gradient,) = torch.autograd.grad(self.discriminator(x).sum(), x, create_graph=True)
        return gradient.square().sum(dim=(1, 2, 3)).mean()


def adaptive_factor(
    other: Float[Tensor, ""], gan: Float[Tensor, ""], last_layer: Tensor, cap: float, scale: float = 1.0
) -> Float[Tensor, ""]:
    """‖∇ of all other terms‖ / ‖∇ of L_gan‖ at the decoder's last layer over a batch, at most `cap`.

    It makes λ_gan a share of the gradient instead of a weight (Esser et al., arXiv:2012.09841, equation 7; there the
    cap is 10⁴, which lets a discriminator that has no gradient yet explode the sum). `scale` is that of fp16's scaler.
    """
    gradients = [torch.autograd.grad(scale * loss, last_layer, retain_graph=True)[0] for loss in (other, gan)]
    norms = [total(gradient.float()).norm() / (scale * world_size()) for gradient in gradients]
    return (norms[0] / (norms[1] + 1e-6)).clamp(max=cap).detach()


def diff_augment(x: Images, seed: int, share: tuple[int, int] = (0, 1)) -> Images:
    """Colour, translation by up to an eighth, a blank square of half the side; differentiable, by the seed.

    Zhao et al., "Differentiable Augmentation for Data-Efficient GAN Training", arXiv:2006.10738. Of several processes,
    which share a batch, each takes its part of the random numbers.
    """
    (rank, world), size = share, x.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand(7, len(x) * world, 1, 1, 1, generator=generator)[:, rank::world].to(x.device)
    x = x + (draw[0] - 0.5)
    grey = x.mean(1, keepdim=True)
    x = grey + (x - grey) * 2 * draw[1]
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * (0.5 + draw[2])

    places = torch.arange(size, device=x.device)
    reach = size // 8
    shift = ((2 * reach + 1) * draw[3:5, :, 0, 0]).floor().long() - reach  # [2, b, 1]
    down, right = (places + shift + 1).clamp(0, size + 1)  # in the picture with a rim of zeros
    picture = torch.arange(len(x), device=x.device)[:, None, None, None]
    channel = torch.arange(3, device=x.device)[None, :, None, None]
    x = F.pad(x, (1, 1, 1, 1))[picture, channel, down[:, None, :, None], right[:, None, None, :]]

    centre = (size * draw[5:, :, 0, 0]).floor()
    inside = (places + 0.5 - centre).abs() < size / 4
    return x * ~(inside[0][:, None, :, None] & inside[1][:, None, None, :])
