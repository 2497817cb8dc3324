"""Benchmarks: two things timed in one run, printed as a ratio. Nothing here asserts a time. `make bench`."""

import time
from collections.abc import Callable
from statistics import median

import torch
from vector_quantize_pytorch import VectorQuantize

from vq_core.config import load_config
from vq_core.generation.sampling import sample_codes
from vq_core.models import CodeTransformer, VectorQuantizerEMA
from vq_core.training.vqvae_module import VQVAEModel


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Median of some runs after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return median(times)


def test_quantizer_against_vector_quantize_pytorch() -> None:
    """Forward, backward and codebook update of z_e [32, 256, 16, 16] with K = 1024."""
    z = torch.randn(32, 256, 16, 16, requires_grad=True)
    ours = VectorQuantizerEMA(1024, 256)
    peer = VectorQuantize(
        256,
        codebook_size=1024,
        accept_image_fmap=True,
        decay=0.99,
        kmeans_init=False,
        threshold_ema_dead_code=0,
        commitment_weight=0.25,
        rotation_trick=False,
    )

    def our_step() -> None:
        q = ours(z)
        (q.z_q.sum() + 0.25 * q.commit_loss).backward()
        ours.step()

    def peer_step() -> None:
        z_q, _, commit = peer(z)
        (z_q.sum() + commit.sum()).backward()

    mine, theirs = seconds(our_step), seconds(peer_step)
    times = f"{mine * 1e3:.0f} ms, vector-quantize-pytorch {theirs * 1e3:.0f} ms"
    print(f"\nquantiser: {times}: {theirs / mine:.1f} times as fast")


def test_sampling_with_and_without_cache() -> None:
    """Sixteen rows of codes from a prior of the demo's size."""
    config = load_config("demo")
    model = CodeTransformer(
        config.model.num_codes, 16, config.prior.dim, config.prior.layers, config.prior.heads
    ).eval()

    @torch.no_grad()
    def without() -> None:
        codes = torch.zeros(8, 256, dtype=torch.long)
        for position in range(256):
            logits = model(codes[:, : position + 1])[:, -1]
            codes[:, position] = torch.multinomial(logits.softmax(-1), 1)[:, 0]

    cached = seconds(lambda: sample_codes(model, 8, progress=False), 1)
    plain = seconds(without, 1)
    print(f"\n8 samples: {cached:.2f} s with cache, {plain:.2f} s without: {plain / cached:.1f} times as fast")


def test_images_per_second_of_the_demo() -> None:
    """Training speed of both phases' autoencoder at the demo's size, against its forward pass alone."""
    model = VQVAEModel(load_config("demo"))
    x = torch.rand(16, 3, 64, 64) * 2 - 1

    def step() -> None:
        out = model.reconstruct(x)
        model.weighted(model.autoencoder_terms(x, out)).backward()
        model.zero_grad()
        model.quantizer.step()

    @torch.no_grad()
    def forward() -> None:
        model(x)

    both, alone = seconds(step), seconds(forward)
    print(f"\ndemo: {16 / both:.0f} images/s in training, {16 / alone:.0f} forward only ({both / alone:.1f} to 1)")
