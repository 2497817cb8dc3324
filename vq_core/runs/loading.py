"""Models out of settings, and out of runs and checkpoints: plain torch, ready to use."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vq_core.config import Config, config_from_dict
from vq_core.models import VQVAE, CodeTransformer, Decoder, Encoder, VectorQuantizerEMA
from vq_core.runs.checkpoints import fitting, load_checkpoint, load_weights
from vq_core.runs.folders import PRIORS, Phase, Run, open_run


def make_vqvae(config: Config, phase: Phase = "phase1") -> VQVAE:
    """A fresh autoencoder; that of the phase "kmeans" does not quantise."""
    model, quantizer, depth = config.model, config.quantizer, len(config.model.channels)
    inside, dim = model.latent_channels, model.code_dim
    levels = [depth - (config.data.image_size // side).bit_length() + 1 for side in model.attention_at]
    blocks: dict[str, Any] = {"norm": model.norm, "activation": model.activation}
    stages = tuple(depth - 1 - level for level in levels)
    # Random numbers are drawn in this order: another one would make every result another.
    encoder = Encoder(model.channels, model.res_blocks, inside, attention_levels=stages, **blocks)
    blocks |= {"upsample": model.upsample, "attention_levels": tuple(levels)}
    decoder = Decoder(model.decoder_channels, model.res_blocks, inside, **blocks)
    to_codes, from_codes = (nn.Conv2d(*ends, 1) if inside != dim else None for ends in ((inside, dim), (dim, inside)))
    codebook = VectorQuantizerEMA(model.num_codes, dim, quantizer.decay, quantizer.eps, quantizer.learning)
    if quantizer.init == "normal":
        codebook.set_codebook(0.1 * torch.randn(model.num_codes, dim))
    return VQVAE(encoder, codebook, decoder, to_codes, from_codes, quantize=phase != "kmeans")


def make_prior(config: Config, phase: Phase) -> CodeTransformer:
    """A fresh transformer over codes; that of the phase "prior" is causal, that of "masked" is not."""
    model, prior, causal = config.model, config.prior, phase == "prior"
    size = (prior.dim, prior.layers, prior.heads, prior.dropout)
    return CodeTransformer(model.num_codes, config.grid, *size, causal=causal, code_dim=model.code_dim)


def load_vqvae(run_or_checkpoint: Run | str | Path) -> VQVAE:
    """The autoencoder of a run (its best checkpoint) or of a checkpoint file: on the CPU, in eval mode, frozen.

    Args:
        run_or_checkpoint: a run, its folder, its name in `data/runs`, or a `.ckpt` file.

    Raises:
        CheckpointError: no such file, damaged, or not an autoencoder's.
    """
    path, state = _read(run_or_checkpoint, ("kmeans", "phase1", "phase2"))
    with fitting(path):
        model = make_vqvae(config_from_dict(state["config"]), state["phase"])
    load_weights(model, weights_of(state, "vqvae"), path)
    return model.eval().requires_grad_(False)


def load_prior(run_or_checkpoint: Run | str | Path) -> CodeTransformer:
    """The transformer of a prior's run or checkpoint file, as `load_vqvae` loads an autoencoder."""
    path, state = _read(run_or_checkpoint, PRIORS)
    with fitting(path):
        model = make_prior(config_from_dict(state["config"]), state["phase"])
    load_weights(model, weights_of(state, "transformer"), path)
    return model.eval().requires_grad_(False)


def weights_of(state: dict[str, Any], part: str) -> dict[str, Tensor]:
    """Of a checkpoint's weights those of one part of the training module: "vqvae", "adversary", "transformer"."""
    return {name.removeprefix(f"{part}."): w for name, w in state["model"].items() if name.startswith(f"{part}.")}


def _read(run_or_checkpoint: Run | str | Path, phases: tuple[Phase, ...]) -> tuple[Path, dict[str, Any]]:
    if isinstance(run_or_checkpoint, Run):
        path = run_or_checkpoint.best
    elif Path(run_or_checkpoint).suffix == ".ckpt":
        path = Path(run_or_checkpoint)
    else:
        path = open_run(str(run_or_checkpoint)).best
    return path, load_checkpoint(path, phases)
