"""All trainings in a row, as in a script of one's own; leaves what each rank holds. For test_ranks.py."""

import sys

import torch
from small_runs import settings

from vq_core.config import data_dir
from vq_core.runs.folders import PHASES
from vq_core.training import fit, phases
from vq_core.training.callbacks import Checkpoints, View


class Hold(Checkpoints):
    """Besides saving: every rank's state at the end."""

    def on_train_end(self, trainer, module):  # type: ignore[no-untyped-def]
        torch.save(module.state_dict(), data_dir() / f"{module.phase}-rank{trainer.global_rank}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    fit.Checkpoints = Hold  # type: ignore[misc]
    for phase in PHASES:
        phases.train(phase, settings(*sys.argv[1:]), View)
