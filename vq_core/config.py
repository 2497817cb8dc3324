"""The typed settings: one YAML file with every number, smaller profiles as overlays, `key=value` on top.

`load_config("demo", ["model.num_codes=512"])` reads `configs/vqvae_anime.yaml` (the full profile), lays
`configs/demo.yaml` over it, then the overrides, and validates the whole. A mistake is a `ConfigError` of one line
that names the key and the nearest valid one.
"""

import difflib
import os
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

CONFIG_DIR = Path(__file__).parent / "configs"
PROJECT_DIR = Path(__file__).parents[1]
PROFILES = ("full", "demo", "smoke")


Beta = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[int, Field(ge=1)]


class ConfigError(ValueError):
    """A setting that cannot be used; the message is one line that names the key."""


class _Group(BaseModel):
    """Settings are frozen, finite, and refuse keys that they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class DataConfig(_Group):
    """Where images come from and how they are cleaned, split and augmented (what each number means: the YAML)."""

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
    """Sizes of encoder and decoder."""

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
    """How the codebook starts, learns and is kept alive."""

    learning: Literal["ema", "gradient"]
    init: Literal["kmeans", "kaiming", "normal"]
    decay: float = Field(gt=0, lt=1)
    eps: float = Field(gt=0)
    reset_every: int = Field(ge=0)
    reset_below: float = Field(ge=0, lt=1)


class KMeansConfig(_Group):
    """The unquantised warm-up and the clustering of its latents."""

    steps: int = Field(ge=1)
    images: int = Field(ge=1)
    iterations: int = Field(ge=1)
    vectors_per_code: int = Field(ge=1)


class LossConfig(_Group):
    """Weights of the loss terms."""

    rec: float = Field(ge=0)
    l2: float = Field(ge=0)
    vq: float = Field(ge=0)
    commit: float = Field(ge=0)
    perceptual: float = Field(ge=0)
    perceptual_net: Literal["vgg", "squeeze", "random"]
    gan: float = Field(ge=0)
    gan_kind: Literal["hinge", "non_saturating"]
    gan_start: int = Field(ge=0)
    gan_ramp: int = Field(ge=0)
    gan_adaptive: float = Field(ge=0)


class DiscriminatorConfig(_Group):
    """The PatchGAN discriminator and its optimiser."""

    channels: int = Field(ge=1)
    layers: int = Field(ge=1)
    spectral_norm: bool
    gradient_penalty: float = Field(ge=0)
    lecam: float = Field(ge=0)
    augment: bool
    lr: float = Field(gt=0)
    betas: tuple[Beta, Beta]


class OptimConfig(_Group):
    """Optimiser of the autoencoder; learning-rate schedule and clipping of the prior too."""

    name: Literal["adam", "adamw"]
    betas: tuple[Beta, Beta]
    weight_decay: float = Field(ge=0)
    schedule: Literal["cosine", "plateau"]
    warmup_steps: int = Field(ge=0)
    lr_start: float = Field(gt=0)
    lr_end: float = Field(gt=0)
    plateau_patience: int = Field(ge=1)
    clip: float = Field(gt=0)


class PhaseConfig(_Group):
    """Length and learning rate of one phase."""

    steps: int = Field(ge=1)
    lr: float = Field(gt=0)


class Phase2Config(PhaseConfig):
    """Phase 2 also says where it starts."""

    start_from: Literal["phase1", "scratch"]


class TrainConfig(_Group):
    """What all phases share."""

    batch_size: int = Field(ge=1)
    accumulate: int = Field(ge=1)
    precision: Literal["32-true", "bf16-mixed", "16-mixed"]
    device: Literal["auto", "cpu", "cuda"]
    devices: int = Field(ge=1)
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

    @model_validator(mode="after")
    def _batch_splits(self) -> "TrainConfig":
        if self.batch_size % (self.accumulate * self.devices):
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into accumulate={self.accumulate} parts "
                f"on devices={self.devices}"
            )
        return self


class PriorConfig(_Group):
    """The transformer over the code sequences and its training."""

    dim: int = Field(ge=8)
    layers: int = Field(ge=1)
    heads: int = Field(ge=1)
    dropout: float = Field(ge=0, lt=1)
    steps: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    lr: float = Field(gt=0)
    muon_lr: float = Field(gt=0)
    weight_decay: float = Field(ge=0)
    warmup_steps: int = Field(ge=0)
    val_every: int = Field(ge=1)
    patience: int = Field(ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> "PriorConfig":
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} must be a multiple of heads={self.heads}")
        return self


class SweepConfig(_Group):
    """The small sweep of the analysis notebook: short runs that differ in one number each."""

    steps: int = Field(ge=1)
    num_codes: tuple[Annotated[int, Field(ge=2, le=65536)], ...]
    perceptual: tuple[Annotated[float, Field(ge=0)], ...]
    gan: tuple[Annotated[float, Field(ge=0)], ...]


class Config(_Group):
    """All settings of a workbook."""

    profile: str
    seed: int = Field(ge=0, le=2**32 - 1)
    data: DataConfig
    model: ModelConfig
    quantizer: QuantizerConfig
    kmeans: KMeansConfig
    loss: LossConfig
    discriminator: DiscriminatorConfig
    optim: OptimConfig
    phase1: PhaseConfig
    phase2: Phase2Config
    train: TrainConfig
    prior: PriorConfig
    sweep: SweepConfig

    @model_validator(mode="after")
    def _shapes_fit(self) -> "Config":
        model, size = self.model, self.data.image_size
        if len(model.channels) != len(model.decoder_channels):
            raise ValueError("model.decoder_channels must have as many entries as model.channels")
        if size % 2 ** len(model.channels):
            raise ValueError(f"data.image_size {size} is not divisible by 2^{len(model.channels)} (model.channels)")
        if size >> self.discriminator.layers < 3:
            raise ValueError(
                f"discriminator.layers={self.discriminator.layers} is too deep for data.image_size={size}: "
                "nothing is left of the image"
            )
        if self.train.monitor == "val_perceptual" and not self.loss.perceptual:
            raise ValueError("train.monitor=val_perceptual needs loss.perceptual above 0")
        if self.prior.batch_size % self.train.devices:
            raise ValueError(
                f"prior.batch_size {self.prior.batch_size} cannot be split over train.devices={self.train.devices}"
            )
        sizes = [size >> (level + 1) for level in range(len(model.channels))]
        if model.num_codes >= 8192:
            warnings.warn(f"model.num_codes={model.num_codes} is more than some 10,000 images can fill", stacklevel=2)
        for where in model.attention_at:
            if where not in sizes:
                raise ValueError(f"model.attention_at {where} is not one of the feature sizes {sizes}")
        return self

    @property
    def grid(self) -> int:
        """Side of the code grid: 16 for 256×256 and four downsamplings."""
        return self.data.image_size >> len(self.model.channels)


def data_dir() -> Path:
    """The folder of images, runs and results: `$VQ_DATA`, or `data/` of the project."""
    return Path(os.environ.get("VQ_DATA", PROJECT_DIR / "data")).expanduser().resolve()


def active_profile() -> str:
    """The profile that `$VQ_PROFILE` names; `demo` where it is not set."""
    return os.environ.get("VQ_PROFILE", "demo")


def load_config(profile: str = "full", overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a profile, lay `key=value` overrides over it and validate the result.

    Args:
        profile: "full", "demo", "smoke", or the path of a YAML file that is laid over the full profile.
        overrides: such as `["model.num_codes=512", "loss.gan=0.2"]`; values are read as YAML.

    Raises:
        ConfigError: unknown profile or key, wrong type, value out of range, or a combination that cannot work.
    """
    tree = _read_yaml(CONFIG_DIR / "vqvae_anime.yaml")
    if profile != "full":
        _merge(tree, _read_yaml(_overlay_path(profile)))
    tree["profile"] = Path(profile).stem
    for override in overrides:
        key, equals, value = override.partition("=")
        if not equals:
            raise ConfigError(f"override '{override}' is not of the form key=value")
        _merge(tree, _nested(key.strip(), _parse_value(key, value)))
    return config_from_dict(tree)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """Validate a nested dictionary of all settings. Raises `ConfigError`."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def _overlay_path(profile: str) -> Path:
    if profile in PROFILES:
        return CONFIG_DIR / f"{profile}.yaml"
    if Path(profile).suffix in (".yaml", ".yml"):
        return Path(profile) if Path(profile).exists() else PROJECT_DIR / profile
    raise ConfigError(
        f"profile '{profile}' is none of {', '.join(PROFILES)}, nor a YAML file{_nearest(profile, PROFILES)}"
    )


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold groups of settings, such as 'model:'")
    return tree


def _parse_value(key: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: what looks like a date and is none
        raise ConfigError(f"{key}: cannot read the value '{text}'") from None
    if isinstance(value, str):  # YAML 1.1 takes 1e-4 for a string: it wants 1.0e-4
        try:
            return float(value)
        except ValueError:
            pass
    return value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        else:
            base[key] = value


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"{key}: unknown key{_nearest(key, _all_keys(Config))}{more}"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"
    return (f"{key}: " if key else "") + message + given + more


def _all_keys(group: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, field in group.model_fields.items():
        keys.append(prefix + name)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += _all_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _nearest(word: str, words: tuple[str, ...] | list[str]) -> str:
    found = [w for w in words if w.endswith("." + word.rsplit(".", 1)[-1])][:1]  # the right name in a wrong group
    found = found or difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    if not found:  # model.num_code → a key of another group may have the same last part
        last = {w.rsplit(".", 1)[-1]: w for w in words}
        near = difflib.get_close_matches(word.rsplit(".", 1)[-1], last, n=1, cutoff=0.6)
        found = [last[near[0]]] if near else []
    return f"; did you mean '{found[0]}'?" if found else ""
