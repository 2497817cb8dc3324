"""Writes a finished run, with its priors, as a folder to hand on: weights, sizes, figures, a model card; no pickle."""

import os
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData
from PIL import Image
from torch import Tensor, nn

from vq_core.errors import ConfigError, RunError
from vq_core.hub import WEIGHTS
from vq_core.models import VQVAE
from vq_core.runs.folders import PRIORS, Run
from vq_core.runs.loading import load_prior, load_vqvae

Pictures = Mapping[str, tuple[Image.Image, str]]  # file name → picture, and what it shows


def export_run(
    run: Run, priors: list[Run], out: Path, pictures: Pictures, licence: str, half: bool, onnx: bool
) -> None:
    """Write an autoencoder's run and runs of its priors to a new folder `out`, which appears when all is written.

    `half`: weights in half precision; `onnx`: also `encoder.onnx` and `decoder.onnx`. Raises `RunError` if there is
    something at `out` already, `ConfigError` if packages that ONNX needs are missing.
    """
    if out.exists():
        raise RunError(f"{out}: is there already; choose another folder, or delete it")
    if onnx and not (find_spec("onnx") and find_spec("onnxscript")):
        raise ConfigError("--onnx needs two more packages: pip install onnx onnxscript")
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*.part"):  # by a killed process
        shutil.rmtree(left)
    partial = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        for part in [*priors, run]:
            folder = partial / part.phase if part.phase in PRIORS else partial
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "README.md").write_text(_card(run, priors, out.name, pictures, licence), encoding="utf-8")
            model = load_prior(part) if part.phase in PRIORS else load_vqvae(part)
            if onnx and isinstance(model, VQVAE):
                _write_onnx(model, run.config().data.image_size, folder)
            told = {"phase": part.phase, "settings": _settings(part), "figures": part.result() | {"parent": None}}
            (model.half() if half else model).save_pretrained(folder, config=told)
            (folder / WEIGHTS).chmod(0o644)  # safetensors lets nobody else read it
        for name, (picture, _) in pictures.items():
            picture.save(partial / name)
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _settings(run: Run) -> dict[str, Any]:
    """The run's settings, without folders of the machine that it was made on."""
    tree = run.config().model_dump(mode="json")
    for keys in tree.values():
        if isinstance(keys, dict) and keys.get("start_from"):
            keys["start_from"] = Path(keys["start_from"]).name
    return tree


def _card(run: Run, priors: list[Run], name: str, pictures: Pictures, licence: str) -> str:
    """The model card, in Markdown."""
    config, measured = run.config(), {k: v for k, v in run.result().items() if isinstance(v, float) and k != "seconds"}
    for prior in priors:
        measured |= {f"{prior.phase}_{k}": v for k, v in prior.result().items() if k in ("best_bits", "best_bits_se")}
    values: dict[str, Any] = run.result() | {"name": name, "figures": measured, "size": config.data.image_size}
    values |= {"grid": config.grid, "codes": config.model.num_codes, "priors": [prior.phase for prior in priors]}
    values |= {"pictures": pictures, "licence": licence}
    about = ModelCardData(license=licence or "other", library_name="vq-workbook", tags=["vq-vae"])
    return str(ModelCard.from_template(about, template_path=str(Path(__file__).with_name("card.md")), **values))


class _Encode(nn.Module):
    """Images → codes, in operations that ONNX has."""

    def __init__(self, model: VQVAE) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        z, codebook = self.model.latents(x).permute(0, 2, 3, 1), self.model.quantizer.codebook
        return (z @ codebook.T - 0.5 * codebook.square().sum(1)).argmax(-1)


class _Decode(_Encode):
    """Codes → images, likewise; codes are not checked."""

    def forward(self, indices: Tensor) -> Tensor:
        return self.model.decode_latents(self.model.quantizer.codebook[indices].permute(0, 3, 1, 2))


def _write_onnx(model: VQVAE, size: int, folder: Path) -> None:
    x = torch.zeros(2, 3, size, size)
    how: dict[str, Any] = {"dynamo": True, "dynamic_shapes": ({0: torch.export.Dim("batch")},), "external_data": False}
    for name, way, given in (("encoder", _Encode(model), x), ("decoder", _Decode(model), model.encode(x))):
        torch.onnx.export(way.eval(), (given,), folder / f"{name}.onnx", verbose=False, **how)
