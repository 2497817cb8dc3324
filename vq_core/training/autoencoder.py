"""Training of the autoencoder: unquantised warm-up, Phase 1 (VQ-VAE) and Phase 2 (VQ-GAN)."""

from functools import cached_property, partial
from typing import Literal

import torch
from jaxtyping import Float
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.optim import Optimizer

from vq_core.config import Config
from vq_core.data.batches import Position
from vq_core.models import Reconstruction
from vq_core.models.metrics import gradient_energy, psnr, usage
from vq_core.models.perceptual import PerceptualLoss
from vq_core.models.quantizer_ema import perplexity
from vq_core.runs.loading import make_vqvae
from vq_core.training.adversary import Adversary, adaptive_factor
from vq_core.training.muon import Muon
from vq_core.training.ranks import together, total
from vq_core.training.schedules import gan_weight
from vq_core.training.steps import StepModule

Images = Float[Tensor, "b 3 height width"]


class AutoencoderTraining(StepModule):
    """Trains a `VQVAE`: "kmeans" without quantisation, "phase1" with it, "phase2" also against a discriminator."""

    def __init__(self, config: Config, phase: Literal["kmeans", "phase1", "phase2"]) -> None:
        gan = phase == "phase2"
        settings = config.phase2 if gan else config.phase1
        steps = config.kmeans.steps if phase == "kmeans" else settings.steps
        position = Position(config.seed, steps, config.train.val_every, config.train.accumulate)
        monitor = config.train.monitor.removeprefix("val_")
        if gan:  # L_rec is lowest before the GAN has had any effect: it would pick the blurred state
            monitor = "perceptual" if config.loss.perceptual else "latest"
        warmup, patience = config.optim.warmup_steps, config.train.patience
        super().__init__(config, phase, position, settings.lr, warmup, monitor, patience)
        self.vqvae = make_vqvae(config, phase)
        self.adversary = Adversary(config.discriminator, config.loss.gan_loss, position) if gan else None
        # Steps of the autoencoder before this run; and the earliest step, with those counted in, for the GAN to start.
        self.steps_before: Tensor = nn.Buffer(torch.tensor(0))
        self.gan_from: Tensor = nn.Buffer(torch.tensor(0))
        self._gan_clock = (0, 0)  # the same two as plain numbers, which need no sync with the GPU in every step
        self.usage: Tensor = nn.Buffer(torch.zeros(config.model.num_codes))  # of each code since the last picture
        self.finished_usage = torch.zeros(0)  # of each code between the last two pictures
        self._worst: list[tuple[Tensor, Tensor]] = []
        # Channels last, which the compiler leaves to networks without layers that halve the channels, such as the last.
        self.compile_how = {"options": {"force_layout_optimization": True}}

    def compiled_parts(self) -> list[nn.Module]:
        loss, disc = self.config.loss, self.config.discriminator
        parts: list[nn.Module] = [self.vqvae.encoder, self.vqvae.decoder]
        parts += [self.perceptual] if loss.perceptual else []
        # R1's second derivative does not go through what is compiled.
        parts += [self.adversary.discriminator] if self.adversary and not disc.gradient_penalty else []
        torch._functorch.config.donated_buffer = not loss.gan_adaptive  # which needs the decoder's gradients twice
        return parts

    def training_step(self, x: Images, batch_idx: int) -> None:
        """One batch: the autoencoder's losses and, once the GAN has started, the discriminator's."""
        if self.position.between_steps:  # BatchNorm's statistics move in the forward pass, even if the step is skipped
            self._batch_norms = {name: value.clone() for name, value in self.named_buffers() if "running_" in name}
        out = self.vqvae.reconstruct(x)
        terms = self.autoencoder_terms(x, out)
        loss = self.weighted(terms)
        adversary = self.adversary if self.gan_weight > 0 else None
        if adversary is not None:
            terms["gan"] = adversary.generator_loss(out.x_rec, self.shard)
            terms["gan_weight"] = self.gan_factor(loss, terms["gan"])
            loss = loss + terms["gan_weight"] * terms["gan"]
        self.add_gradient(loss)
        if adversary is not None:
            terms |= adversary.discriminator_terms(x, out.x_rec.detach(), self.shard)
            self.add_gradient(terms["disc_total"])
        self._remember_worst(x, out)
        self.finish_batch({"total": loss} | terms, len(x))

    def autoencoder_terms(self, x: Images, out: Reconstruction) -> dict[str, Tensor]:
        """The unweighted loss terms, except the GAN's."""
        loss = self.config.loss
        terms = {"rec": (out.x_rec - x).abs().mean()}
        if loss.l2:
            terms["l2"] = (out.x_rec - x).square().mean()
        if loss.perceptual:
            terms["perceptual"] = self.perceptual(out.x_rec, x)
        if out.quantized is not None:
            terms["vq"], terms["commit"] = out.quantized.codebook_loss, out.quantized.commit_loss
        return terms

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """Σ λ·term: what is optimised. With an EMA codebook L_vq has no gradient and is left out."""
        weights, by_gradient = self.config.loss.model_dump(), self.vqvae.quantizer.by_gradient
        optimised = {name: term for name, term in terms.items() if name != "vq" or by_gradient}
        return torch.stack([weights[name] * term for name, term in optimised.items()]).sum()

    @property
    def gan_weight(self) -> float:
        """λ_gan at this step, according to the schedule; 0 outside Phase 2."""
        loss = self.config.loss
        if self.adversary is None:
            return 0.0
        before, gan_from = self._gan_clock
        start = max(loss.gan_start, gan_from)
        return gan_weight(before + self.steps_done, weight=loss.gan, start=start, ramp=loss.gan_ramp)

    def gan_factor(self, other: Tensor, gan: Tensor) -> Tensor:
        """λ_gan, times the adaptive factor if `loss.gan_adaptive` asks for it."""
        weight, cap = torch.full((), self.gan_weight, device=self.device), self.config.loss.gan_adaptive
        if not cap:
            return weight
        scale = self.scaler.get_scale() if self.scaler is not None else 1.0
        return weight * adaptive_factor(other, gan, self.vqvae.decoder.last.weight, cap, scale)

    @cached_property
    def perceptual(self) -> PerceptualLoss:
        """The perceptual distance; kept beside the module, and so out of its checkpoints."""
        return PerceptualLoss(self.config.loss.perceptual_net).to(self.device)

    @property
    def settled(self) -> bool:
        """False in Phase 2 until λ_gan has reached its full weight."""
        return self.adversary is None or self.gan_weight >= self.config.loss.gan

    def active_optimizers(self) -> dict[str, LightningOptimizer]:
        """The autoencoder's and, once the GAN has started, the discriminator's."""
        active = super().active_optimizers()
        return {name: each for name, each in active.items() if name != "_discriminator" or self.gan_weight > 0}

    def make_optimizers(self) -> dict[str, Optimizer]:
        """Adam or AdamW; before Phase 2, with `phase1.muon_lr`, Muon for all convolutions but those at the pixels."""
        optim, disc, model = self.config.optim, self.config.discriminator, self.vqvae
        maker = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
        make = partial(maker, fused=self.device.type == "cuda")
        parts = (model.encoder, model.to_codes, model.quantizer, model.from_codes, model.decoder)
        weights = [weight for part in parts for weight in part.parameters()]
        muon_lr = self.config.phase1.muon_lr if self.adversary is None else 0.0
        kernels = [weight for weight in weights if muon_lr and weight.dim() == 4 and 3 not in weight.shape[:2]]
        rest = [weight for weight in weights if all(weight is not kernel for kernel in kernels)]
        made: dict[str, Optimizer] = {"": make(rest, self.peak_lr, betas=optim.betas, weight_decay=optim.weight_decay)}
        made |= {"_muon": Muon(kernels, muon_lr, optim.weight_decay)} if kernels else {}
        if self.adversary is not None:
            made["_discriminator"] = make(self.adversary.parameters(), disc.lr, betas=disc.betas, weight_decay=0.0)
        return made

    def after_update(self, updated: Tensor, means: dict[str, Tensor]) -> None:
        """Move the codebook with the weights; after a skipped step, put BatchNorm's statistics back."""
        quantizer, steps_done = self.vqvae.quantizer, self.steps_done + 1  # including the current step
        updated = updated.to(self.device)
        if self.vqvae.quantize:
            self.usage += quantizer.step(updated)
            if self._worst and bool(updated):
                self._reset_dead_codes()
        self._worst = []
        for name, before in self._batch_norms.items():
            now = self.get_buffer(name)
            now.copy_(torch.where(updated, now, before))
        if self.adversary is not None and self.gan_weight > 0:
            self.adversary.move_anchors(means["disc_real"], means["disc_fake"], updated)
        if steps_done % self.config.train.image_every == 0 or steps_done == self.position.total_steps:
            self.finished_usage = self.usage.clone()
            self.usage.zero_()

    def on_train_start(self) -> None:
        super().on_train_start()
        self._gan_clock = int(self.steps_before), int(self.gan_from)

    def _remember_worst(self, x: Images, out: Reconstruction) -> None:
        """Keep the latents and errors of this batch if its step may reset codes."""
        every = self.config.quantizer.reset_every
        if not (self.vqvae.quantize and every and (self.steps_done + 1) % every == 0):
            return
        size = out.z_e.shape[-1]
        error = nn.functional.adaptive_avg_pool2d((out.x_rec.detach().float() - x).abs().mean(1, keepdim=True), size)
        vectors = out.z_e.detach().float().permute(0, 2, 3, 1).reshape(-1, out.z_e.shape[1])
        self._worst.append((vectors, error.flatten()))

    def _reset_dead_codes(self) -> None:
        """Move dead codes to the latents of the worst-reconstructed patches, identically on every rank."""
        vectors, errors = (together(torch.cat(parts)) for parts in zip(*self._worst, strict=True))
        dead = self.vqvae.quantizer.dead_codes(self.config.quantizer.reset_below).nonzero().flatten()[: len(vectors)]
        # A random choice from four times as many bad patches: the very worst are often similar neighbours.
        worst = errors.topk(min(len(errors), 4 * len(dead))).indices
        seed = hash((self.config.seed, self.steps_done)) % 2**63  # of integers, the same in every process and version
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(worst), generator=generator)[: len(dead)].to(worst.device)
        self.vqvae.quantizer.replace(dead, vectors[worst[chosen]])
        self.record({"train/codes_reset": float(len(dead))}, step=self.steps_done + 1)  # the current step

    def on_validation_epoch_start(self) -> None:
        self._val: dict[str, Tensor] = {}  # sums over the images validated so far
        self.val_usage = torch.zeros(self.config.model.num_codes, device=self.device)  # of each code in this pass

    @torch.compiler.set_stance("force_eager")
    def validation_step(self, x: Images, batch_idx: int) -> None:
        out = self.vqvae.reconstruct(x)
        terms = self.autoencoder_terms(x, out)
        terms |= {"total": self.weighted(terms), "psnr": psnr(out.x_rec.float(), x).mean()}
        terms |= {"energy_rec": gradient_energy(out.x_rec.float()).mean(), "energy": gradient_energy(x).mean()}
        terms["images"] = torch.ones((), device=self.device)
        for name, value in terms.items():
            self._val[name] = self._val.get(name, 0) + value.float() * len(x)
        if out.quantized is not None:
            self.val_usage += usage(out.quantized.indices, self.config.model.num_codes)

    def on_validation_epoch_end(self) -> None:
        sums = dict(zip(self._val, total(torch.stack(list(self._val.values()))).tolist(), strict=True))
        images = sums.pop("images")
        self.val_usage = counts = total(self.val_usage)
        metrics = {name: value / images for name, value in sums.items()}
        energies = metrics.pop("energy_rec"), metrics.pop("energy")
        metrics |= {"sharpness": energies[0] / energies[1]} if energies[1] else {}  # undefined of flat images
        if self.vqvae.quantize:
            metrics["perplexity"] = float(perplexity(counts))
            metrics["codes_used"] = float((counts > 0).float().mean())
        self.finish_validation(metrics)
