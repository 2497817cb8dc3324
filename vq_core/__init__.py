"""VQ-VAE, VQ-GAN and a transformer prior for anime avatars.

Names are imported on first use, so `from vq_core.models import VQVAE` needs neither pydantic nor Lightning.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vq_core.config import Config, load_config
    from vq_core.errors import ConfigError
    from vq_core.machine import active_profile
    from vq_core.runs.finding import config_of
    from vq_core.runs.loading import load_prior, load_vqvae

_HOME = {"Config": "config", "ConfigError": "errors", "active_profile": "machine", "config_of": "runs.finding"}
_HOME |= {"load_config": "config", "load_prior": "runs.loading", "load_vqvae": "runs.loading"}
__all__ = ["Config", "ConfigError", "active_profile", "config_of", "load_config", "load_prior", "load_vqvae"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("vq-workbook")
        except PackageNotFoundError:
            return "unknown: not installed"
    if name not in _HOME:
        raise AttributeError(f"module 'vq_core' has no attribute '{name}'")
    return getattr(import_module(f"vq_core.{_HOME[name]}"), name)
