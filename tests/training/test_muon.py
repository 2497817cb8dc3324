"""Muon in batches against torch's, which takes one matrix after another."""

import pytest
import torch
from torch import nn

from vq_core.training.muon import Muon

SHAPES = [(12, 4), (4, 4), (16, 4), (4, 16), (4, 4), (12, 4), (16, 4), (4, 16), (8, 8)]  # one shape once


def trained(kind: type[torch.optim.Optimizer], without: int | None, steps: int = 6) -> tuple[list[nn.Parameter], dict]:
    draw = torch.Generator().manual_seed(0)
    matrices = [nn.Parameter(torch.randn(shape, generator=draw)) for shape in SHAPES]
    optimizer = kind(matrices, lr=0.05, weight_decay=0.1)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 / (step + 1)
        for number, matrix in enumerate(matrices):
            gradient = torch.randn(matrix.shape, generator=draw)
            matrix.grad = None if number == without else gradient
        optimizer.step()
    return matrices, optimizer.state_dict()


@pytest.mark.parametrize("without", [None, 2, 8])
def test_it_moves_every_matrix_as_torchs_does(without: int | None) -> None:
    (ours, state), (theirs, reference) = trained(Muon, without), trained(torch.optim.Muon, without)
    for number, (matrix, other) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(matrix, other, rtol=1e-3, atol=1e-3)  # bf16 inside
        if number != without:
            torch.testing.assert_close(*(s["state"][number]["momentum_buffer"] for s in (state, reference)))
    for ours, theirs in zip(state["param_groups"], reference["param_groups"], strict=True):
        assert ours == {key: theirs[key] for key in ours}


def test_kernels_move_as_their_matrices_do() -> None:
    draw = torch.Generator().manual_seed(0)
    convolutions = [nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 1)]
    convolutions[1].to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    kernels = [layer.weight for layer in convolutions]
    matrices = [nn.Parameter(kernel.detach().clone().flatten(1)) for kernel in kernels]
    ours, theirs = Muon(kernels, 0.05, weight_decay=0.1), torch.optim.Muon(matrices, 0.05, weight_decay=0.1)
    for _ in range(4):
        for kernel, matrix in zip(kernels, matrices, strict=True):
            matrix.grad = torch.randn(matrix.shape, generator=draw)
            kernel.grad = matrix.grad.view_as(kernel).clone()
        ours.step()
        theirs.step()
    for kernel, matrix in zip(kernels, matrices, strict=True):
        torch.testing.assert_close(kernel.flatten(1), matrix, rtol=1e-3, atol=1e-3)  # bf16 inside


def test_it_goes_on_from_the_state_that_torchs_left_in_older_checkpoints() -> None:
    _, state = trained(torch.optim.Muon, None)
    optimizer = Muon([nn.Parameter(torch.zeros(shape)) for shape in SHAPES], 0.05, weight_decay=0.1)
    optimizer.load_state_dict(state)
    optimizer.step()
    assert {tuple(s["momentum_buffer"].shape) for s in optimizer.state_dict()["state"].values()} == set(SHAPES)
