"""VQ-VAE, VQ-GAN and a transformer prior for anime avatars."""

from vq_core.config import Config, ConfigError, load_config

__all__ = ["Config", "ConfigError", "load_config"]
