"""Models built from settings, or loaded from runs and checkpoints: plain torch, ready to use."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vq_core.config import Config, config_from_dict
from vq_core.hub import read_config
from vq_core.models import VQVAE, AnyOrderTransformer, CodeTransformer
from vq_core.runs.checkpoints import fitting, load_checkpoint, load_weights
from vq_core.runs.folders import PRIORS, Export, Phase, Run, open_run

Model = TypeVar("Model", VQVAE, CodeTransformer)
Source = Run | str | Path


def make_vqvae(config: Config, phase: Phase = "phase1") -> VQVAE:
    """A freshly initialised autoencoder; for the phase "kmeans" it does not quantise."""
    size, depth = config.model.model_dump(), len(config.model.channels)
    levels = [depth - (config.data.image_size // side).bit_length() + 1 for side in size.pop("attention_at")]
    size |= config.quantizer.model_dump(include={"decay", "eps", "learning"})
    model = VQVAE(**size, attention_levels=levels, quantize=phase != "kmeans")
    if config.quantizer.init == "normal":
        model.quantizer.set_codebook(0.1 * torch.randn_like(model.quantizer.codebook))
    return model


def make_prior(config: Config, phase: Phase) -> CodeTransformer:
    """A freshly initialised transformer over codes: causal for the phase "prior", not causal for "masked"."""
    size = config.prior.model_dump(include={"dim", "layers", "heads", "dropout", "neighbours"})
    size |= config.model.model_dump(include={"num_codes", "code_dim"}) | {"grid": config.grid}
    if phase == "masked" and config.masked.network == "any_order":
        return AnyOrderTransformer(**size)
    return CodeTransformer(**size, causal=phase == "prior")


def load_vqvae(run_or_checkpoint: Source) -> VQVAE:
    """The autoencoder of a run or an export (itself, its folder, or its name) or of a `.ckpt` file.

    Of a run, its best; on the CPU, in eval mode, frozen. Raises `CheckpointError`: absent, damaged, no autoencoder's.
    """
    return _load(run_or_checkpoint, ("kmeans", "phase1", "phase2"), make_vqvae, "vqvae")


def load_prior(run_or_checkpoint: Source) -> CodeTransformer:
    """The transformer of a prior's run or checkpoint file, loaded as `load_vqvae` loads an autoencoder."""
    return _load(run_or_checkpoint, PRIORS, make_prior, "transformer")


def weights_of(state: dict[str, Any], part: str) -> dict[str, Tensor]:
    """The weights of "vqvae", "adversary" or "transformer" in a checkpoint; averaged, if trained with `prior.ema`."""
    names = [f"{part}."] if part != "transformer" else ["averaged.module.", "transformer."]
    found = [{n.removeprefix(name): w for n, w in state["model"].items() if n.startswith(name)} for name in names]
    return next((weights for weights in found if weights), {})


def _load(source: Source, phases: tuple[Phase, ...], make: Callable[[Config, Phase], Model], part: str) -> Model:
    if not isinstance(source, Run) and Path(source).suffix != ".ckpt":
        source = open_run(str(source))
    if isinstance(source, Export):
        kinds: list[Any] = [VQVAE] if part == "vqvae" else [CodeTransformer, AnyOrderTransformer]
        named = {kind.__name__: kind for kind in kinds}.get(read_config(source.folder)["class"], kinds[0])
        return named.from_pretrained(source.folder).requires_grad_(False)
    path = source.best if isinstance(source, Run) else Path(source)
    state = load_checkpoint(path, phases)
    with fitting(path):
        model = make(config_from_dict(state["config"]), state["phase"])
    load_weights(model, weights_of(state, part), path)
    return model.eval().requires_grad_(False)
