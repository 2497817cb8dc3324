"""The typed settings: keys of each group, ranges, impossible combinations (the YAML file explains each number)."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vq_core.errors import tell_once

Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class _Group(BaseModel):
    """Settings are frozen and finite, and reject unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Group):
    """Where images come from and how they are cleaned, split and augmented."""

    source: Literal["auto", "raw", "avatars"]
    avatars: int = Field(ge=16)
    image_size: int = Field(ge=16)
    square: Literal["crop", "pad"]
    min_side: int = Field(ge=1)
    max_pixels: int = Field(ge=1)
    near_duplicate_bits: int = Field(ge=0, le=16)
    val_share: float = Field(gt=0, lt=1)
    flip: float = Field(ge=0, le=1)
    brightness: float = Field(ge=0, lt=1)
    contrast: float = Field(ge=0, lt=1)
    saturation: float = Field(ge=0, lt=1)


class ModelConfig(_Group):
    channels: tuple[Positive, ...] = Field(min_length=1)
    decoder_channels: tuple[Positive, ...] = Field(min_length=1)
    res_blocks: int = Field(ge=0)
    latent_channels: int = Field(ge=1)
    code_dim: int = Field(ge=1)
    num_codes: int = Field(ge=2, le=65536)
    norm: Literal["group", "batch"]
    activation: Literal["silu", "relu"]
    upsample: Literal["nearest", "bilinear"]
    attention_at: tuple[int, ...]


class QuantizerConfig(_Group):
    """How the codebook is initialised, learned and kept in use."""

    learning: Literal["ema", "gradient"]
    init: Literal["kmeans", "kaiming", "normal"]
    decay: float = Field(gt=0, lt=1)
    eps: float = Field(gt=0)
    reset_every: int = Field(ge=0)
    reset_below: float = Field(ge=0, lt=1)


class KMeansConfig(_Group):
    steps: int = Field(ge=1)
    images: int = Field(ge=1)
    iterations: int = Field(ge=1)
    vectors_per_code: int = Field(ge=1)


class LossConfig(_Group):
    rec: float = Field(ge=0)
    l2: float = Field(ge=0)
    vq: float = Field(ge=0)
    commit: float = Field(ge=0)
    perceptual: float = Field(ge=0)
    perceptual_net: Literal["vgg", "squeeze", "random"]
    gan: float = Field(ge=0)
    gan_loss: Literal["hinge", "non_saturating"]
    gan_start: int = Field(ge=0)
    gan_ramp: int = Field(ge=0)
    gan_adaptive: float = Field(ge=0)


class DiscriminatorConfig(_Group):
    channels: int = Field(ge=1)
    layers: int = Field(ge=1)
    spectral_norm: bool
    gradient_penalty: float = Field(ge=0)
    lecam: float = Field(ge=0)
    augment: bool
    lr: float = Field(gt=0)
    betas: tuple[Beta, Beta]


class OptimConfig(_Group):
    """Optimiser of the autoencoder; its learning-rate schedule and clipping also apply to the prior."""

    name: Literal["adam", "adamw"]
    betas: tuple[Beta, Beta]
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "plateau"]
    warmup_steps: int = Field(ge=0)
    lr_start: float = Field(gt=0)
    lr_end: float = Field(gt=0)
    plateau_patience: int = Field(ge=1)
    clip: float = Field(gt=0)


class Phase2Config(_Group):
    """Phase 2 starts from "phase1", from "scratch" or from a named run."""

    steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    start_from: str


class Phase1Config(Phase2Config):
    muon_lr: float = Field(ge=0)
    start_from: str | None  # type: ignore[assignment]


class TrainConfig(_Group):
    """Settings that all phases share."""

    batch_size: int = Field(ge=1)
    accumulate: int = Field(ge=1)
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"]
    compile: Literal["auto", True, False]
    device: Literal["auto", "cpu", "cuda"]
    devices: int = Field(ge=1)
    num_nodes: int = Field(ge=1)
    val_every: int = Field(ge=1)
    val_images: int = Field(ge=1)
    monitor: Literal["val_rec", "val_perceptual"]
    patience: int = Field(ge=1)
    bad_steps: int = Field(ge=1)
    checkpoint_every: int = Field(ge=1)
    save_every: int = Field(ge=1)
    image_every: int = Field(ge=1)
    log_every: int = Field(ge=1)
    wandb: bool

    @property
    def processes(self) -> int:
        """How many processes share each batch."""
        return self.devices * self.num_nodes


class PriorConfig(_Group):
    dim: int = Field(ge=8)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    neighbours: Literal[1, 5, 13, 25]
    views: int = Field(ge=1)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    muon_lr: float = Field(gt=0)
    ema: float = Field(ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    val_every: int = Field(ge=1)
    patience: int = Field(ge=1)
    start_from: str | None


class MaskedConfig(_Group):
    """Where the masked prior starts: "prior", the causal one's weights, or a named run; the rest is in `prior`."""

    network: Literal["any_order", "bidirectional"]
    start_from: str | None


class Config(_Group):
    """All settings; `run` and `images`, which `config_of` sets, are a named run's folder and images' fingerprint."""

    profile: str = Field(pattern=r"^[^/\\]+$")
    run: str | None = Field(default=None, exclude=True)
    images: str | None = Field(default=None, exclude=True)
    seed: int = Field(ge=0, le=2**32 - 1)
    data: DataConfig
    model: ModelConfig
    quantizer: QuantizerConfig
    kmeans: KMeansConfig
    loss: LossConfig
    discriminator: DiscriminatorConfig
    optim: OptimConfig
    phase1: Phase1Config
    phase2: Phase2Config
    train: TrainConfig
    prior: PriorConfig
    masked: MaskedConfig

    @model_validator(mode="after")
    def _values_fit(self) -> "Config":
        model, size, layers = self.model, self.data.image_size, self.discriminator.layers
        train, prior, processes = self.train, self.prior, self.train.processes
        if train.batch_size % (train.accumulate * processes):
            parts = f"accumulate={train.accumulate} parts on devices={train.devices} of num_nodes={train.num_nodes}"
            raise ValueError(f"train: batch_size {train.batch_size} cannot be split into {parts}")
        if prior.dim % prior.heads:
            raise ValueError(f"prior: dim {prior.dim} must be a multiple of heads={prior.heads}")
        if len(model.channels) != len(model.decoder_channels):
            raise ValueError("model.decoder_channels must have as many entries as model.channels")
        if size % 2 ** len(model.channels):
            raise ValueError(f"data.image_size {size} is not divisible by 2^{len(model.channels)} (model.channels)")
        if size >> layers < 3:
            raise ValueError(f"discriminator.layers={layers} is too deep for data.image_size={size}: nothing is left")
        if self.loss.perceptual and size < 17:
            raise ValueError(f"loss.perceptual needs images of 17 pixels or more: data.image_size is {size}")
        if train.monitor == "val_perceptual" and not self.loss.perceptual:
            raise ValueError("train.monitor=val_perceptual needs loss.perceptual above 0")
        if prior.batch_size % processes:
            over = "train.devices · train.num_nodes"
            raise ValueError(f"prior.batch_size {prior.batch_size} cannot be split over {over} = {processes}")
        if prior.neighbours > (codes := self.grid**2):
            raise ValueError(f"prior.neighbours={prior.neighbours} are more than the {codes} codes of the grid")
        if model.num_codes >= 8192:
            tell_once(f"model.num_codes={model.num_codes} is more than about 10,000 images can fill")
        sizes = [size >> (level + 1) for level in range(len(model.channels))]
        if wrong := [side for side in model.attention_at if side not in sizes]:
            raise ValueError(f"model.attention_at {wrong[0]} is not one of the feature sizes {sizes}")
        return self

    @property
    def grid(self) -> int:
        """Side of the code grid: 16 for 256×256 images and four downsamplings."""
        return self.data.image_size >> len(self.model.channels)
