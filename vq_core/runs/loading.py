"""Models built from settings, or loaded from runs and checkpoints: plain torch, ready to use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from vq_core.config import Config, config_from_dict
from vq_core.models import VQVAE, AnyOrderTransformer, CodeTransformer, Decoder, Encoder, VectorQuantizerEMA
from vq_core.runs.checkpoints import fitting, load_checkpoint, load_weights
from vq_core.runs.folders import PRIORS, Phase, Run, open_run

Model = TypeVar("Model", VQVAE, CodeTransformer)


def make_vqvae(config: Config, phase: Phase = "phase1") -> VQVAE:
    """A freshly initialised autoencoder; for the phase "kmeans" it does not quantise."""
    model, quantizer, depth = config.model, config.quantizer, len(config.model.channels)
    inside, dim = model.latent_channels, model.code_dim
    levels = [depth - (config.data.image_size // side).bit_length() + 1 for side in model.attention_at]
    blocks: dict[str, Any] = {"norm": model.norm, "activation": model.activation}
    stages = tuple(depth - 1 - level for level in levels)
    # The order in which these modules draw random numbers is part of every result: do not change it.
    encoder = Encoder(model.channels, model.res_blocks, inside, attention_levels=stages, **blocks)
    blocks |= {"upsample": model.upsample, "attention_levels": tuple(levels)}
    decoder = Decoder(model.decoder_channels, model.res_blocks, inside, **blocks)
    to_codes, from_codes = (nn.Conv2d(*ends, 1) if inside != dim else None for ends in ((inside, dim), (dim, inside)))
    codebook = VectorQuantizerEMA(model.num_codes, dim, quantizer.decay, quantizer.eps, quantizer.learning)
    if quantizer.init == "normal":
        codebook.set_codebook(0.1 * torch.randn(model.num_codes, dim))
    return VQVAE(encoder, codebook, decoder, to_codes, from_codes, quantize=phase != "kmeans")


def make_prior(config: Config, phase: Phase) -> CodeTransformer:
    """A freshly initialised transformer over codes: causal for the phase "prior", not causal for "masked"."""
    model, prior = config.model, config.prior
    size = (prior.dim, prior.layers, prior.heads, prior.dropout)
    more: dict[str, Any] = {"code_dim": model.code_dim, "neighbours": prior.neighbours}
    if phase == "masked" and config.masked.network == "any_order":
        return AnyOrderTransformer(model.num_codes, config.grid, *size, **more)
    return CodeTransformer(model.num_codes, config.grid, *size, causal=phase == "prior", **more)


def load_vqvae(run_or_checkpoint: Run | str | Path) -> VQVAE:
    """The autoencoder of a run (itself, its folder, or its name in `data/runs`) or of a `.ckpt` file.

    Of a run, from its best checkpoint; on the CPU, in eval mode, frozen. Raises `CheckpointError` if there is no such
    file, or it is damaged or not an autoencoder's.
    """
    return _load(run_or_checkpoint, ("kmeans", "phase1", "phase2"), make_vqvae, "vqvae")


def load_prior(run_or_checkpoint: Run | str | Path) -> CodeTransformer:
    """The transformer of a prior's run or checkpoint file, loaded as `load_vqvae` loads an autoencoder."""
    return _load(run_or_checkpoint, PRIORS, make_prior, "transformer")


def weights_of(state: dict[str, Any], part: str) -> dict[str, Tensor]:
    """The weights in a checkpoint of one part of the training module: "vqvae", "adversary" or "transformer".

    Those of a transformer are the averaged ones, if it was trained with `prior.ema`.
    """
    names = [f"{part}."] if part != "transformer" else ["averaged.module.", "transformer."]
    found = [{n.removeprefix(name): w for n, w in state["model"].items() if n.startswith(name)} for name in names]
    return next((weights for weights in found if weights), {})


def _load(
    source: Run | str | Path, phases: tuple[Phase, ...], make: Callable[[Config, Phase], Model], part: str
) -> Model:
    if not isinstance(source, Run) and Path(source).suffix != ".ckpt":
        source = open_run(str(source))
    path = source.best if isinstance(source, Run) else Path(source)
    state = load_checkpoint(path, phases)
    with fitting(path):
        model = make(config_from_dict(state["config"]), state["phase"])
    load_weights(model, weights_of(state, part), path)
    return model.eval().requires_grad_(False)
