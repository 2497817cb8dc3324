"""Communication between the processes that train one model; with a single process, functions return their input."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process is the one that writes files; also valid before the process group exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


def total(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def together(rows: Float[Tensor, "n *d"]) -> Float[Tensor, "m *d"]:
    """The rows of all processes in order of rank; each must have the same number of rows."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def barrier() -> None:
    """Wait until every process has reached this point."""
    if world_size() > 1:
        dist.barrier()
