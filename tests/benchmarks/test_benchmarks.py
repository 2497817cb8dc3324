"""Benchmarks: two things timed in one run, printed as a ratio. Nothing here asserts a time. `make bench`."""

import multiprocessing
import resource
import time
from collections.abc import Callable
from statistics import median

import torch
from sklearn.cluster import KMeans
from vector_quantize_pytorch import VectorQuantize

from vq_core.config import load_config
from vq_core.generation.sampling import sample_codes
from vq_core.models import CodeTransformer, VectorQuantizerEMA
from vq_core.training.kmeans_init import inertia, kmeans
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


def our_quantizer_step() -> Callable[[], object]:
    """Forward, backward and codebook update of z_e [32, 256, 16, 16] with K = 1024."""
    z = torch.randn(32, 256, 16, 16, requires_grad=True)
    quantizer = VectorQuantizerEMA(1024, 256)

    def step() -> None:
        q = quantizer(z)
        (q.z_q.sum() + 0.25 * q.commit_loss).backward()
        quantizer.step()

    return step


def peer_quantizer_step() -> Callable[[], object]:
    """The same with the peer; every argument is given, its defaults are others."""
    z = torch.randn(32, 256, 16, 16, requires_grad=True)
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

    def step() -> None:
        z_q, _, commit = peer(z)
        (z_q.sum() + commit.sum()).backward()

    return step


def peak_megabytes(prepare: Callable[[], Callable[[], object]]) -> float:
    """How much the peak of a fresh process's memory grows in three steps."""
    step = prepare()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def test_quantizer_against_vector_quantize_pytorch() -> None:
    """Time in turns, so that a machine's moods meet both; memory in a process for each."""
    steps = our_quantizer_step(), peer_quantizer_step()
    times = [[seconds(step, 1) for step in steps] for _ in range(9)]
    mine, theirs = (median(column) for column in zip(*times, strict=True))
    ratio = median(peer / own for own, peer in times)
    print(f"\nquantiser: {mine * 1e3:.0f} ms, vector-quantize-pytorch {theirs * 1e3:.0f} ms: {ratio:.1f} times as fast")
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        own, peer = pool.map(peak_megabytes, [our_quantizer_step, peer_quantizer_step], chunksize=1)
    print(f"quantiser: peak memory {own:.0f} MB, vector-quantize-pytorch {peer:.0f} MB")


def test_kmeans_against_scikit_learn() -> None:
    """65,536 vectors of 256 in 1,024 clusters: points around 2,000 centres of different weight."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2000, 256, generator=generator)
    which = torch.multinomial(torch.rand(2000, generator=generator) ** 2, 65536, replacement=True, generator=generator)
    vectors = centres[which] + 0.7 * torch.randn(65536, 256, generator=generator)
    started = time.perf_counter()
    ours = inertia(vectors, kmeans(vectors, 1024, load_config("demo").kmeans.iterations, 0))
    mine = time.perf_counter() - started
    started = time.perf_counter()
    theirs = KMeans(1024, init="k-means++", n_init=1, random_state=0).fit(vectors.numpy()).inertia_ / len(vectors)
    peer = time.perf_counter() - started
    print(f"\nk-means: {mine:.1f} s, scikit-learn {peer:.1f} s: {peer / mine:.1f} times as fast")
    print(f"k-means: {ours / theirs:.3f} of scikit-learn's inertia")


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
