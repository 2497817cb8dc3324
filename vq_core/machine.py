"""What this machine can do, and so what the settings "auto" mean on it."""

import os
from functools import cache
from typing import TYPE_CHECKING, Any

from vq_core.config import Config
from vq_core.errors import ConfigError, tell_once

if TYPE_CHECKING:
    import torch  # elsewhere only where it is asked, so that --help need not wait for it


def active_profile() -> str:
    """The profile that `$VQ_PROFILE` names; without it `quick` with a GPU of 8 GB or more, else `demo`, as is told."""
    import torch

    if named := os.environ.get("VQ_PROFILE"):
        return named
    name, why = "demo", "no usable GPU"
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        name, why = "quick" if memory > 7.5 else "demo", f"{torch.cuda.get_device_name()}, {memory:.0f} GB"
    tell_once(f"profile {name} ({why}); for another set VQ_PROFILE, or --profile in commands")
    return name


def pick_device(config: Config) -> "torch.device":
    """The device that `train.device` means on this machine. Raises `ConfigError` if there is no such device."""
    import torch

    wanted = config.train.device
    gpus = torch.cuda.device_count() if wanted != "cpu" and torch.cuda.is_available() else 0
    if wanted == "cuda" and not gpus:
        raise ConfigError("train.device=cuda: this machine has no usable GPU; set train.device=auto, or --profile demo")
    if gpus and config.train.devices > gpus:
        raise ConfigError(f"train.devices={config.train.devices}, but this machine has {gpus} GPUs")
    return torch.device("cuda" if gpus else "cpu")


def fast_in_bf16(device: "torch.device") -> bool:
    """Whether it multiplies in bf16; a CPU without the instruction would, but many times more slowly than in fp32."""
    import torch

    told: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()  # which torch 2.9 lacks
    return device.type == "cuda" or any(told.get(name) for name in ("avx512_bf16", "amx_bf16"))


def precision_of(config: Config) -> Any:
    """What `train.precision` means here, as Lightning names it. Raises `ConfigError` for bf16 if the CPU lacks it."""
    asked, able = config.train.precision, fast_in_bf16(pick_device(config))
    if asked == "bf16-mixed" and not able:
        raise ConfigError("train.precision=bf16-mixed: this CPU lacks AVX512-BF16 and AMX; set train.precision=auto")
    return asked if asked != "auto" else "bf16-mixed" if able else "32-true"


def compiles(config: Config, steps: int = 10**9) -> bool:
    """Whether so long a training is compiled here; "auto": on a GPU where it pays. `ConfigError` if it cannot be."""
    asked, device = config.train.compile, pick_device(config).type
    if not asked or (asked == "auto" and (device == "cpu" or steps < 1000)):  # which take less time than compiling
        return False
    if (why := _fails_to_compile(device)) and asked is True:
        raise ConfigError(f"train.compile=true: torch.compile does not work here ({why}); set train.compile=auto")
    if why:
        tell_once(f"training without torch.compile, which is slower: it does not work here ({why})")
    return not why


@cache
def _fails_to_compile(device: str) -> str:
    """What is wrong when a trifle is compiled; nothing if all is well. It takes seconds."""
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1)(torch.zeros(8, device=device))
    except Exception as error:  # of many kinds: no Triton, no C compiler, no headers of Python
        return str(error).strip().partition("\n")[0]
    return ""
