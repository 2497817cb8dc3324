"""The autoencoder in training: unquantised warm-up, Phase 1 (VQ-VAE) and Phase 2 (VQ-GAN) are one module."""

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from vq_core.config import Config, config_from_dict
from vq_core.evaluation.metrics import gradient_energy, psnr, usage
from vq_core.models import Decoder, Encoder, Quantized, VectorQuantizerEMA
from vq_core.models.quantizer_ema import perplexity
from vq_core.training.adversary import Adversary, adaptive_factor
from vq_core.training.losses import PerceptualLoss
from vq_core.training.ranks import together, total
from vq_core.training.schedules import gan_weight
from vq_core.training.state import checkpoint_file, fitting, load_checkpoint
from vq_core.training.step_module import StepModule

Phase = Literal["kmeans", "phase1", "phase2"]
Images = Float[Tensor, "b 3 height width"]
Codes = Int64[Tensor, "b h w"]


class Reconstruction(NamedTuple):
    """An image's way through the autoencoder; `quantized` is None while quantisation is off."""

    x_rec: Tensor
    z_e: Tensor
    quantized: Quantized | None


class VQVAEModel(StepModule):
    """Encoder, quantiser and decoder with their losses, and the discriminator of Phase 2.

    x [32, 3, 256, 256] in [−1, 1] → z_e [32, 256, 16, 16] → indices [32, 16, 16] → z_q → x_rec [32, 3, 256, 256].

    The phases differ in two things: "kmeans" trains without quantisation, "phase2" adds the discriminator.
    """

    steps_before: Tensor
    usage: Tensor

    def __init__(self, config: Config, phase: Phase = "phase1") -> None:
        super().__init__(config)
        self.kind = phase
        self.quantize = phase != "kmeans"
        model = config.model
        depth = len(model.channels)
        levels = [depth - (config.data.image_size // size).bit_length() + 1 for size in model.attention_at]
        self.encoder = Encoder(
            model.channels,
            model.res_blocks,
            model.latent_channels,
            attention_levels=tuple(depth - 1 - level for level in levels),
            norm=model.norm,
            activation=model.activation,
        )
        self.decoder = Decoder(
            model.decoder_channels,
            model.res_blocks,
            model.latent_channels,
            upsample=model.upsample,
            attention_levels=tuple(levels),
            norm=model.norm,
            activation=model.activation,
        )
        same = model.latent_channels == model.code_dim
        self.to_codes = nn.Identity() if same else nn.Conv2d(model.latent_channels, model.code_dim, 1)
        self.from_codes = nn.Identity() if same else nn.Conv2d(model.code_dim, model.latent_channels, 1)
        quantizer = config.quantizer
        self.quantizer = VectorQuantizerEMA(
            model.num_codes, model.code_dim, quantizer.decay, quantizer.eps, quantizer.learning
        )
        if quantizer.init == "normal":
            self.quantizer.set_codebook(0.1 * torch.randn(model.num_codes, model.code_dim))
        self.adversary = Adversary(config.discriminator, config.loss.gan_kind) if phase == "phase2" else None
        self._set_up_training(config, phase)

    def _set_up_training(self, config: Config, phase: Phase) -> None:
        settings = config.phase2 if phase == "phase2" else config.phase1
        self.total_steps = config.kmeans.steps if phase == "kmeans" else settings.steps
        self.peak_lr, self.warmup_steps = settings.lr, min(config.optim.warmup_steps, self.total_steps // 2)
        self.monitor = config.train.monitor.removeprefix("val_")
        if phase == "phase2":  # L_rec is lowest before the GAN has done anything: it would choose the blurred state
            self.monitor = "perceptual" if config.loss.perceptual else "latest"
        self.patience, self.accumulate = config.train.patience, config.train.accumulate
        self.val_every = config.train.val_every
        # Steps of Phase 1 that Phase 2 starts from; they count for the GAN's start.
        self.register_buffer("steps_before", torch.tensor(0))
        self.register_buffer("usage", torch.zeros(config.model.num_codes))  # since the last picture
        self._perceptual: PerceptualLoss | None = None
        self._worst: list[tuple[Tensor, Tensor]] = []
        self._running: dict[str, Tensor] = {}
        self._val: dict[str, Tensor] = {}  # sums over the images validated so far
        self.val_usage = torch.zeros(0)  # of the validation images, in the last pass over them

    @classmethod
    def load(cls, run_or_checkpoint: str | Path) -> "VQVAEModel":
        """The model of a run's best checkpoint, or of a given checkpoint file, in eval mode.

        Raises:
            CheckpointError: no such file, damaged, or not an autoencoder's.
        """
        path = checkpoint_file(run_or_checkpoint)
        state = load_checkpoint(path, ("kmeans", "phase1", "phase2"))
        with fitting(path):
            model = cls(config_from_dict(state["config"]), state["kind"])
            model.load_state_dict(state["model"])
        return model.eval().requires_grad_(False)

    # --- use ------------------------------------------------------------------------------------------------------

    def latents(self, x: Images) -> Float[Tensor, "b d h w"]:
        """z_e, before quantisation."""
        return self.to_codes(self.encoder(x))

    def encode(self, x: Images) -> Codes:
        """Images in [−1, 1] → indices."""
        return self.quantizer(self.latents(x)).indices

    def decode(self, indices: Codes) -> Images:
        """Indices → images in [−1, 1]. Raises IndexError for an unknown code."""
        return self.decode_latents(self.quantizer.lookup(indices))

    def decode_latents(self, z: Float[Tensor, "b d h w"]) -> Images:
        """Latents, quantised or not → images in [−1, 1]."""
        return self.decoder(self.from_codes(z))

    def forward(self, x: Images) -> Images:
        """Reconstruction of images in [−1, 1]."""
        return self.reconstruct(x).x_rec

    def reconstruct(self, x: Images) -> Reconstruction:
        """Image, latents and quantisation together."""
        z_e = self.latents(x)
        if not self.quantize:
            return Reconstruction(self.decode_latents(z_e), z_e, None)
        quantized = self.quantizer(z_e)
        return Reconstruction(self.decode_latents(quantized.z_q), z_e, quantized)

    # --- training -------------------------------------------------------------------------------------------------

    @property
    def gan_weight(self) -> float:
        """λ_gan at this step; 0 outside Phase 2."""
        loss = self.config.loss
        if self.adversary is None:
            return 0.0
        start = max(loss.gan_start - int(self.steps_before), 0)
        return gan_weight(self.steps_done, weight=loss.gan, start=start, ramp=loss.gan_ramp)

    @property
    def settled(self) -> bool:
        """False in Phase 2 until λ_gan has its full weight."""
        return self.adversary is None or self.gan_weight >= self.config.loss.gan

    def training_step(self, x: Images, batch_idx: int) -> None:
        """One batch: the autoencoder's losses and, from the GAN's start on, the discriminator's."""
        out = self.reconstruct(x)
        terms = self.autoencoder_terms(x, out)
        loss, gan = self.weighted(terms), self.adversary if self.gan_weight > 0 else None
        if gan is not None:
            share, seed = (self.global_rank, self.trainer.world_size), self.batch_seed(1)
            terms["gan"] = gan.fooling(out.x_rec, seed, share)
            terms["gan_weight"] = self._gan_factor(loss, terms["gan"])
            loss = loss + terms["gan_weight"] * terms["gan"]
        self.manual_backward(loss / self.accumulate)
        if gan is not None:
            terms |= gan.judging(x, out.x_rec.detach(), seed, share)
            self.manual_backward(terms["disc_total"] / self.accumulate)
        self._remember_worst(x, out)
        self.finish_batch({"total": loss} | terms, len(x))

    def _gan_factor(self, other: Tensor, gan: Tensor) -> Tensor:
        """λ_gan by the schedule, times the adaptive factor where it is asked for."""
        weight, cap = torch.tensor(self.gan_weight, device=self.device), self.config.loss.gan_adaptive
        if not cap:
            return weight
        scale = self._scaler.get_scale() if self._scaler is not None else 1.0
        return weight * adaptive_factor(other, gan, self.decoder.last.weight, cap, scale)

    def autoencoder_terms(self, x: Images, out: Reconstruction) -> dict[str, Tensor]:
        """The unweighted terms of the loss, but for the GAN's."""
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
        """Σ λ·term. With an EMA codebook L_vq has no gradient and is left out: the total is what is optimised."""
        weights = self.config.loss.model_dump()
        optimised = {n: t for n, t in terms.items() if n != "vq" or self.quantizer.by_gradient}
        return torch.stack([weights[name] * term for name, term in optimised.items()]).sum()

    def players(self) -> list[tuple[Any, list[nn.Parameter]]]:
        """The autoencoder's optimiser and, once the GAN has begun, the discriminator's."""
        return super().players()[: 2 if self.gan_weight > 0 else 1]

    def after_update(self, updated: bool) -> None:
        """The codebook moves with the weights."""
        if self.quantize and updated:
            self.usage += self.quantizer.step()
            self._reset_dead_codes()
        self.quantizer.forget()
        self._worst = []
        if updated:
            self._keep_running_figures()
        else:
            self.load_state_dict(self._running, strict=False)
        if self.adversary is not None and updated and self.gan_weight > 0:
            real, fake = self._step_sums["disc_real"], self._step_sums["disc_fake"]
            self.adversary.remember(real / self.accumulate, fake / self.accumulate)

    def on_train_start(self) -> None:
        super().on_train_start()
        self._keep_running_figures()

    def _keep_running_figures(self) -> None:
        """BatchNorm's move in the forward pass: after a skipped step they are put back."""
        self._running = {name: value.clone() for name, value in self.named_buffers() if "running_" in name}

    def _remember_worst(self, x: Images, out: Reconstruction) -> None:
        """Keep latents and errors of the step's batches when codes may be reset in this step."""
        every = self.config.quantizer.reset_every
        if not (self.quantize and every and (self.steps_done + 1) % every == 0):
            return
        size = out.z_e.shape[-1]
        error = nn.functional.adaptive_avg_pool2d((out.x_rec.detach().float() - x).abs().mean(1, keepdim=True), size)
        vectors = out.z_e.detach().float().permute(0, 2, 3, 1).reshape(-1, out.z_e.shape[1])
        self._worst.append((vectors, error.flatten()))

    def _reset_dead_codes(self) -> None:
        """Move dead codes to the latents of the patches that were reconstructed worst, alike on every rank."""
        if not self._worst:
            return
        vectors, errors = (together(torch.cat(parts)) for parts in zip(*self._worst, strict=True))
        dead = self.quantizer.dead_codes(self.config.quantizer.reset_below).nonzero().flatten()
        dead = dead[: len(vectors)]
        # Among the four times as many worst patches a random choice: the very worst are often neighbours of one kind.
        worst = errors.topk(min(len(errors), 4 * len(dead))).indices
        generator = torch.Generator().manual_seed(hash((self.config.seed, self.steps_done)) % 2**63)
        chosen = torch.randperm(len(worst), generator=generator)[: len(dead)].to(worst.device)
        self.quantizer.replace(dead, vectors[worst[chosen]])
        self.record({"train/codes_reset": float(len(dead))}, step=self.steps_done + 1)  # the step under way

    # --- validation -----------------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._val, self.val_usage = {}, torch.zeros(self.config.model.num_codes, device=self.device)

    def validation_step(self, x: Images, batch_idx: int) -> None:
        out = self.reconstruct(x)
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
        values = {name: value / images for name, value in sums.items()}
        values["sharpness"] = values.pop("energy_rec") / values.pop("energy")
        if self.quantize:
            values["perplexity"] = float(perplexity(counts))
            values["codes_used"] = float((counts > 0).float().mean())
        self.finish_validation(values)

    # --- optimisers -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Any:
        optim, disc = self.config.optim, self.config.discriminator
        maker = torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam
        fused = {"fused": self.device.type == "cuda"}
        parts = (self.encoder, self.to_codes, self.quantizer, self.from_codes, self.decoder)
        parameters = [parameter for part in parts for parameter in part.parameters()]
        main = maker(parameters, self.peak_lr, betas=optim.betas, weight_decay=optim.weight_decay, **fused)
        optimizers = [main]
        if self.adversary is not None:
            optimizers.append(maker(self.adversary.parameters(), disc.lr, betas=disc.betas, weight_decay=0.0, **fused))
        return optimizers

    @property
    def perceptual(self) -> PerceptualLoss:
        """The perceptual distance; made on first use and kept out of the module's parameters and checkpoints."""
        if self._perceptual is None:
            object.__setattr__(self, "_perceptual", PerceptualLoss(self.config.loss.perceptual_net))
        assert self._perceptual is not None
        return self._perceptual.to(self.device)
