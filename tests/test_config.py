"""Reading the settings: profiles, overlays, overrides, and mistakes that are named."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from vq_core import Config, ConfigError, load_config
from vq_core.config import PROFILES, config_from_dict, data_dir
from vq_core.machine import active_profile, precision_of

# What one person on one 24 GB GPU with about 10,000 avatars is promised.
FULL: dict[str, Any] = {
    "data.image_size": 256,
    "data.val_share": 0.2,
    "data.flip": 0.5,
    "data.brightness": 0.1,
    "data.contrast": 0.1,
    "data.saturation": 0.1,
    "model.channels": (128, 256, 256, 256),
    "model.decoder_channels": (256, 256, 128, 64),
    "model.res_blocks": 2,
    "model.latent_channels": 256,
    "model.code_dim": 256,
    "model.num_codes": 1024,
    "model.attention_at": (),
    "quantizer.learning": "ema",
    "quantizer.init": "kmeans",
    "quantizer.decay": 0.99,
    "quantizer.eps": 1e-5,
    "kmeans.images": 5000,
    "loss.rec": 1.0,
    "loss.l2": 0.0,
    "loss.vq": 1.0,
    "loss.commit": 0.25,
    "loss.perceptual": 0.5,
    "loss.perceptual_net": "vgg",
    "loss.gan": 0.1,
    "loss.gan_loss": "hinge",
    "loss.gan_start": 20_000,
    "loss.gan_ramp": 20_000,
    "discriminator.spectral_norm": False,
    "discriminator.lr": 2e-4,
    "discriminator.betas": (0.5, 0.99),
    "optim.name": "adamw",
    "optim.betas": (0.9, 0.99),
    "optim.weight_decay": 1e-4,
    "optim.schedule": "cosine",
    "optim.warmup_steps": 4000,
    "optim.lr_start": 1e-6,
    "optim.lr_end": 1e-5,
    "optim.clip": 1.0,
    "phase1.steps": 100_000,
    "phase1.lr": 2e-4,
    "phase2.steps": 100_000,
    "phase2.lr": 2e-4,
    "phase2.start_from": "phase1",
    "train.batch_size": 32,
    "train.accumulate": 1,
    "train.precision": "auto",
    "train.monitor": "val_rec",
    "train.checkpoint_every": 10_000,
    "train.wandb": False,
}


def value_at(config: Config, key: str) -> Any:
    group, name = key.split(".")
    return getattr(getattr(config, group), name)


@pytest.mark.parametrize(("key", "value"), FULL.items())
def test_the_full_profiles_numbers(key: str, value: Any) -> None:
    assert value_at(load_config(), key) == value


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_loads_with_a_16_by_16_grid(profile: str) -> None:
    config = load_config(profile)
    assert config.profile == profile and config.grid == 16
    assert config_from_dict(yaml.safe_load(yaml.safe_dump(config.model_dump(mode="json")))) == config


def test_an_overlay_changes_only_what_it_names() -> None:
    full, demo = load_config(), load_config("demo")
    assert demo.model.num_codes != full.model.num_codes
    assert demo.optim.betas == full.optim.betas and demo.loss.commit == full.loss.commit


def test_an_overlay_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "my avatars.yaml"
    path.write_text("model: {num_codes: 2048}\nloss:\n  perceptual: 1.0\nphase1: {lr: 1e-4}\n")
    config = load_config(str(path), ["loss.gan=0.2"])
    assert (config.profile, config.model.num_codes, config.loss.perceptual) == ("my avatars", 2048, 1.0)
    assert config.phase1.lr == 1e-4 and config.phase1.steps == 100_000 and config.loss.gan == 0.2


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("phase1.lr=1e-4", 1e-4),
        ("phase1.lr=2E-3", 2e-3),
        ("optim.betas=[0.8, 0.95]", (0.8, 0.95)),
        ("model.attention_at=[16]", (16,)),
        ("train.wandb=true", True),
        ("quantizer.init=normal", "normal"),
        ("model.num_codes=512", 512),
        (" model.num_codes = 512", 512),
    ],
)
def test_overrides(override: str, value: Any) -> None:
    assert value_at(load_config("full", [override]), override.split("=")[0].strip()) == value


def test_the_last_override_wins() -> None:
    assert load_config("demo", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_code=512", "model.num_code: unknown key; did you mean 'model.num_codes'?"),
        ("modle.num_codes=512", "modle: unknown key; did you mean 'model'?"),
        ("optim.lr=1e-3", "optim.lr: unknown key; did you mean '"),
        ("model.commit=0.5", "model.commit: unknown key; did you mean 'loss.commit'?"),
        ("xyzzy=1", "xyzzy: unknown key"),
        ("model.num_codes=many", "model.num_codes: Input should be a valid integer"),
        ("model.num_codes=1.5", "model.num_codes: Input should be a valid integer"),
        ("model.num_codes=", "model.num_codes: Input should be a valid integer"),
        ("model=3", "model: must be a group of settings, got 3"),
        ("prior.views=0", "prior.views: Input should be greater than or equal to 1"),
        ("prior.neighbours=6", "prior.neighbours: Input should be 1, 5, 13 or 25"),
        ("prior.ema=1", "prior.ema: Input should be less than 1"),
        ("model.num_codes=1", "model.num_codes: Input should be greater than or equal to 2, got 1"),
        ("quantizer.decay=1", "quantizer.decay: Input should be less than 1, got 1"),
        ("loss.gan=-0.1", "loss.gan: Input should be greater than or equal to 0, got -0.1"),
        ("phase1.lr=0", "phase1.lr: Input should be greater than 0, got 0"),
        (
            "train.precision=fp16",
            "train.precision: Input should be 'auto', '32-true', 'bf16-mixed' or '16-mixed', got fp16",
        ),
        ("optim.betas=[0.9]", "optim.betas"),
        ("model.channels=[]", "model.channels"),
        ("train.accumulate=3", "train: batch_size 32 cannot be split into accumulate=3 parts"),
        ("prior.heads=7", "prior: dim 256 must be a multiple of heads=7"),
        ("data.image_size=100", "data.image_size 100 is not divisible by 2^4 (model.channels)"),
        ("model.channels=[64, 64]", "model.decoder_channels must have as many entries as model.channels"),
        ("model.attention_at=[24]", "model.attention_at 24 is not one of the feature sizes [128, 64, 32, 16]"),
        ("seed=2020-13-45", "seed: cannot read the value '2020-13-45'"),
        ("model.num_codes", "override 'model.num_codes' is not of the form key=value"),
        ("model.channels=[1, 2", "model.channels: cannot read the value '[1, 2'"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("full", [override])
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_several_mistakes_are_counted() -> None:
    with pytest.raises(ConfigError, match=r"\(and 1 more\)$"):
        load_config("full", ["model.num_codes=0", "phase1.lr=-1"])


def test_a_missing_key_is_named() -> None:
    tree = load_config().model_dump(mode="json")
    del tree["loss"]["commit"]
    with pytest.raises(ConfigError, match=r"^loss\.commit: Field required$"):
        config_from_dict(tree)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {num_codes: 512", "is not valid YAML"),
        ("model:\n\tnum_codes: 512", "is not valid YAML"),
        ("", "must hold groups of settings"),
        ("- 1\n- 2", "must hold groups of settings"),
        ("model: {num_code: 512}", r"model\.num_code: unknown key; did you mean 'model\.num_codes'"),
        ("model:", "model: must be a group of settings, got null"),
        ("train: {batch_size: 8}\ntrain: {accumulate: 1}", "line 1: 'train' is given twice"),
    ],
)
def test_a_malformed_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(ConfigError, match=r"binary\.yaml: is not valid YAML"):
        load_config(str(tmp_path / "binary.yaml"))
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read \(No such file"):
        load_config(str(tmp_path / "none.yaml"))


def test_an_unknown_profile_is_named_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"profile 'dmeo' is neither one of .*; did you mean 'demo'\?"):
        load_config("dmeo")


def test_the_environment_names_profile_and_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VQ_PROFILE", raising=False)
    monkeypatch.delenv("VQ_DATA", raising=False)
    assert active_profile() == "demo" and data_dir().name == "data"
    monkeypatch.setenv("VQ_PROFILE", "smoke")
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    assert active_profile() == "smoke" and data_dir() == tmp_path.resolve()


@pytest.mark.parametrize(("memory", "profile"), [(8.2e9, "quick"), (25e9, "quick"), (6.4e9, "demo")])
def test_without_a_name_the_profile_suits_the_machine_and_is_told_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], memory: float, profile: str
) -> None:
    card = SimpleNamespace(total_memory=memory)
    monkeypatch.setenv("VQ_PROFILE", "")  # as make exports it
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: card)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: f"card of {memory:g}")
    assert active_profile() == profile == active_profile()
    assert capsys.readouterr().out.count(f"profile {profile} (card of {memory:g}, {memory / 2**30:.0f} GB)") == 1
    assert load_config(profile).profile == profile


def test_more_neighbours_than_the_grid_has_are_refused() -> None:
    small = ["data.image_size=64", "model.channels=[8, 8, 8, 8]", "discriminator.layers=2"]  # a 4×4 grid
    assert load_config("full", [*small, "prior.neighbours=13"]).grid == 4
    with pytest.raises(ConfigError, match=r"prior.neighbours=25 are more than the \d+ codes of the grid"):
        load_config("full", [*small, "prior.neighbours=25"])


@pytest.mark.parametrize(
    ("asked", "able", "gpu", "means"),
    [
        ("auto", "avx512_bf16", False, "bf16-mixed"),
        ("auto", "amx_bf16", False, "bf16-mixed"),
        ("auto", "avx2", False, "32-true"),
        ("auto", "avx2", True, "bf16-mixed"),
        ("32-true", "avx512_bf16", False, "32-true"),
        ("bf16-mixed", "avx512_bf16", False, "bf16-mixed"),
        ("bf16-mixed", "avx2", True, "bf16-mixed"),
    ],
)
def test_precision_suits_the_machine_unless_it_is_given(
    monkeypatch: pytest.MonkeyPatch, asked: str, able: str, gpu: bool, means: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {able: True}, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: int(gpu))
    assert precision_of(load_config("demo", [f"train.precision={asked}"])) == means


def test_bf16_on_a_cpu_that_lacks_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False}, raising=False)
    with pytest.raises(ConfigError, match="bf16-mixed: this CPU lacks"):
        precision_of(load_config("demo", ["train.precision=bf16-mixed", "train.device=cpu"]))
