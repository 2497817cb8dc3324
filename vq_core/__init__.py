"""VQ-VAE, VQ-GAN and a transformer prior for anime avatars.

Names are imported when they are first used: `from vq_core.models import VQVAE` needs neither pydantic nor Lightning.
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vq_core.config import Config as Config
    from vq_core.config import active_profile as active_profile
    from vq_core.config import load_config as load_config
    from vq_core.errors import ConfigError as ConfigError
    from vq_core.runs.finding import config_of as config_of
    from vq_core.runs.loading import load_prior as load_prior
    from vq_core.runs.loading import load_vqvae as load_vqvae

_HOME = {
    "Config": "vq_core.config",
    "ConfigError": "vq_core.errors",
    "active_profile": "vq_core.config",
    "config_of": "vq_core.runs.finding",
    "load_config": "vq_core.config",
    "load_prior": "vq_core.runs.loading",
    "load_vqvae": "vq_core.runs.loading",
}
__all__ = ["Config", "ConfigError", "active_profile", "config_of", "load_config", "load_prior", "load_vqvae"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        try:
            return version("vq-workbook")
        except PackageNotFoundError:
            return "unknown: not installed"
    if name not in _HOME:
        raise AttributeError(f"module 'vq_core' has no attribute '{name}'")
    return getattr(import_module(_HOME[name]), name)
