"""Benchmarks: two things timed in one run, printed as a ratio. Nothing here asserts a time. `make bench`."""

import gc
import multiprocessing
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from transformers import GPT2Config, GPT2LMHeadModel
from vector_quantize_pytorch import VectorQuantize

from vq_core.config import load_config
from vq_core.data.batches import Position
from vq_core.data.datamodule import AnimeDataModule
from vq_core.data.packed import Entry, PackedImages
from vq_core.generation.sampling import Sampling, fill_codes, sample_codes
from vq_core.models import CodeTransformer, VectorQuantizerEMA
from vq_core.models.kmeans import inertia, kmeans
from vq_core.notebook.editor import CodeEditor
from vq_core.runs.loading import make_prior, make_vqvae
from vq_core.training.autoencoder import AutoencoderTraining


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


def resident(name: str) -> int:
    """This process's memory [bytes] as Linux counts it: `VmRSS` now, `VmHWM` at its highest."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def peak_megabytes(prepare: Callable[[], Callable[[], object]]) -> float:
    """How far a fresh process's memory rises above what it has, prepared, in three steps."""
    step = prepare()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the highest mark starts anew from here
    before = resident("VmRSS")
    for _ in range(3):
        step()
    return (resident("VmHWM") - before) / 1e6


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


def prior_of_22_million() -> CodeTransformer:
    return CodeTransformer(num_codes=1024, grid=16, dim=512, layers=6, heads=8, dropout=0.0).eval()


@torch.no_grad()
def sampling_without_cache(model: CodeTransformer, count: int, positions: range) -> float:
    """Seconds for a whole grid when each code costs a pass over all before it, from some evenly spread positions."""
    codes = torch.randint(model.num_codes, (count, model.length))
    times = []
    for position in positions:
        started = time.perf_counter()
        torch.multinomial(model(codes[:, : position + 1])[:, -1].softmax(-1), 1)
        times.append(time.perf_counter() - started)
    return sum(times) / len(times) * model.length


@pytest.mark.parametrize("count", [1, 8, 64])
def test_sampling_against_no_cache_and_hugging_face(count: int) -> None:
    """256 codes of `count` grids from priors of 22 million parameters, in turns: ours with its cache, and GPT-2 of the
    same size by `generate` with its cache, both from all codes; ours without the cache once."""
    ours, drawing = prior_of_22_million(), Sampling(temperature=1.0, top_p=1.0)
    settings = GPT2Config(vocab_size=1025, n_positions=257, n_embd=512, n_layer=7, n_head=8, bos_token_id=1024)
    peer = GPT2LMHeadModel(settings).eval()
    start = torch.full((count, 1), 1024)
    theirs = {"do_sample": True, "min_new_tokens": 256, "max_new_tokens": 256, "use_cache": True, "top_k": 0}
    theirs |= {"eos_token_id": None, "pad_token_id": 1024}

    def draw() -> None:
        sample_codes(ours, count, drawing, progress=False)

    def generate() -> None:
        peer.generate(start, attention_mask=torch.ones_like(start), **theirs)

    draw(), generate()
    times = []
    for _ in range(9):
        turn = []
        for work in (draw, generate):
            started = time.perf_counter()
            work()
            turn.append(time.perf_counter() - started)
        times.append(turn)
    cached, other = (median(column) for column in zip(*times, strict=True))
    sizes = [sum(p.numel() for p in model.parameters()) / 1e6 for model in (ours, peer)]
    print(f"\n{count} grids, {sizes[0]:.1f} M parameters (GPT-2: {sizes[1]:.1f} M): {cached:.2f} s with the cache")
    print(f"GPT-2's generate: {other:.2f} s, {median(b / a for a, b in times):.2f} times")
    if count < 64:
        plain = sampling_without_cache(ours, count, range(8, 256, 16) if count > 1 else range(2, 256, 4))
        print(f"without the cache: {plain:.1f} s, {plain / cached:.1f} times")


def test_drawing_64_avatars_of_the_demo() -> None:
    """By the drawing defaults, from priors of the demo's size."""
    config = load_config("demo")
    for phase, draw in (("prior", sample_codes), ("masked", fill_codes)):
        prior = make_prior(config, phase).eval()
        print(f"\n64 avatars of the demo, {phase}: {seconds(lambda: draw(prior, 64, progress=False)):.1f} s", end="")  # noqa: B023
    print()


def test_images_per_second_of_the_demo() -> None:
    """Training speed of both phases' autoencoder at the demo's size, against its forward pass alone."""
    training = AutoencoderTraining(load_config("demo"), "phase1")
    model = training.vqvae
    x = torch.rand(16, 3, 64, 64) * 2 - 1

    def step() -> None:
        out = model.reconstruct(x)
        training.weighted(training.autoencoder_terms(x, out)).backward()
        model.zero_grad()
        model.quantizer.step()

    @torch.no_grad()
    def forward() -> None:
        model(x)

    both, alone = seconds(step), seconds(forward)
    print(f"\ndemo: {16 / both:.0f} images/s in training, {16 / alone:.0f} forward only ({both / alone:.1f} to 1)")


def test_streaming_from_the_packed_file(tmp_path: Path) -> None:
    """Images of 256×256 a second that two workers deliver, against indexing memory: at once, and beside a GPU's steps.

    The latter are stood in for by sleep, at 500 images/s, more than an H200 trains.
    """
    images = np.random.default_rng(0).integers(0, 256, (4000, 256, 256, 3), np.uint8)
    np.save(tmp_path / "images.npy", images)
    config = load_config("full")
    entries = tuple(Entry(f"{row}", "kept", row=row, split="train" if row else "val") for row in range(4000))
    packed = PackedImages(tmp_path, images, entries, "", {})
    speeds, last = [], list[torch.Tensor]()
    for wait, streams in product((0, 32 / 500), (False, True)):
        data = AnimeDataModule(config, packed, Position(0, 100, 1000))
        data.trainer = SimpleNamespace(global_rank=0, world_size=1, training=False)  # type: ignore[assignment]
        if streams:
            data.stream()
        started = time.perf_counter()
        for batch in data.train_dataloader():
            x = data.on_after_batch_transfer(batch, 0)
            time.sleep(wait)
        speeds.append(3200 / (time.perf_counter() - started))
        last.append(x)
    assert all(torch.equal(last[0], x) for x in last)
    print(f"\nimages/s of 256×256: {speeds[0]:.0f} from memory, {speeds[1]:.0f} streamed;", end=" ")
    print(f"beside steps of 500 images/s {speeds[2]:.0f} and {speeds[3]:.0f}, a ratio of {speeds[3] / speeds[2]:.3f}")


def test_editor_from_button_to_picture(tmp_path: Path) -> None:
    """The buttons of the code editor at the demo's size, 24 of 256 cells chosen, against decoding one grid."""
    config = load_config("demo")
    model = make_vqvae(config).eval()
    priors = {"causal": make_prior(config, "prior").eval(), "masked": make_prior(config, "masked").eval()}
    cells = np.random.default_rng(0).integers(0, 256, (config.model.num_codes, 12, 12, 3), np.uint8)
    editor = CodeEditor(model, priors, torch.rand(2, 3, 64, 64) * 2 - 1, cells, tmp_path)
    editor.canvas.selected = list(range(100, 124))
    alone = seconds(lambda: model.decode(editor.codes), 9)
    for button in (editor.set, editor.copy, editor.anew, editor.undo, editor.redo):
        took = seconds(button.click, 9)
        print(f"\neditor, {button.description}: {took * 1e3:.0f} ms, {took / alone:.1f} times decoding alone", end="")
    print()
