"""All four trainings in a row, as in a script of one's own; leaves what each rank holds. For test_processes.py."""

import sys

import torch
from lightning.pytorch.callbacks import Callback
from small_runs import settings

from vq_core.config import data_dir
from vq_core.training import phases
from vq_core.training.callbacks import Checkpoints


class Hold(Checkpoints):
    """Besides saving: every rank's state at the end."""

    def on_train_end(self, trainer, module):  # type: ignore[no-untyped-def]
        torch.save(module.state_dict(), data_dir() / f"{module.kind}-rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    phases.Checkpoints = Hold  # type: ignore[misc]
    for train in phases.TRAININGS.values():
        train(settings(*sys.argv[1:]), lambda *_: Callback())
