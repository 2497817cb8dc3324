"""What several processes that train one model have to agree on; with one process each function returns its input."""

import torch
import torch.distributed as dist
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor


def world_size() -> int:
    """How many processes train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process is the one that writes files; right before the processes have met, too."""
    return getattr(rank_zero_only, "rank", 0) == 0


def total(values: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The sum over all processes."""
    if world_size() > 1:
        values = values.clone()
        dist.all_reduce(values)
    return values


def together(rows: Float[Tensor, "n *d"]) -> Float[Tensor, "m *d"]:
    """The rows of all processes, one process after the other; each has equally many."""
    if world_size() == 1:
        return rows
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


def from_each(value: object) -> list[object]:
    """One plain value from each process, by rank."""
    values: list[object] = [value]
    if world_size() > 1:
        values = [None] * world_size()
        dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Wait until every process has come here."""
    if world_size() > 1:
        dist.barrier()
