"""Networks that travel: weights as safetensors and sizes as JSON, in a folder or on the Hugging Face Hub; no pickle."""

import json
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import PyTorchModelHubMixin, snapshot_download
from safetensors import SafetensorError
from safetensors.torch import load_file

from vq_core.errors import CheckpointError

FORMAT = 1  # of config.json
CONFIG, WEIGHTS = "config.json", "model.safetensors"
Self = TypeVar("Self", bound="Portable")


class Portable(PyTorchModelHubMixin, library_name="vq-workbook", tags=["vq-vae", "image-generation"]):
    """Gives a network, whose arguments are plain values, `save_pretrained`, `from_pretrained` and `push_to_hub`."""

    def save_pretrained(self, save_directory: str | Path, *, config: Any = None, **more: Any) -> str | None:
        """Write a folder of weights, sizes and, if there is none, a model card; `config` adds keys to `config.json`."""
        own = {"format": FORMAT, "class": type(self).__name__, "size": self._hub_mixin_config}
        return super().save_pretrained(save_directory, config=own | (config or {}), **more)

    @classmethod
    def from_pretrained(cls: type[Self], folder_or_hub_name: str | Path, subfolder: str = "", **hub: Any) -> Self:  # type: ignore[override]
        """The network that `save_pretrained` or `export` wrote, on the CPU, in eval mode.

        `hub` is for `huggingface_hub.snapshot_download`, such as `revision`. Raises `CheckpointError`, which names the
        file, if there is none, or it is damaged, newer than this version, or another network's.
        """
        folder = Path(folder_or_hub_name)
        if not folder.is_dir():
            try:
                wanted = [str(Path(subfolder, name)) for name in (CONFIG, WEIGHTS)]
                folder = Path(snapshot_download(str(folder_or_hub_name), allow_patterns=wanted, **hub))
            except (OSError, ValueError) as error:
                why = str(error).strip().partition("\n")[0]
                raise CheckpointError(f"{folder}: neither a folder nor to be had from the Hub ({why})") from None
        folder = folder / subfolder
        stored, path = read_config(folder), folder / WEIGHTS
        if stored["class"] != cls.__name__:
            raise CheckpointError(f"{folder / CONFIG}: holds a {stored['class']}, but {cls.__name__} is needed")
        try:
            model: Any = cls(**stored["size"])
            model.load_state_dict(load_file(path))
        except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
            why = " ".join(str(error).split())[:200]
            raise CheckpointError(f"{path}: is missing, damaged or of another size ({why}); export it again") from None
        return model.eval()


def read_config(folder: Path) -> dict[str, Any]:
    """What `config.json` of an exported network says. Raises `CheckpointError` as `from_pretrained` does."""
    path = folder / CONFIG
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        written, _, _ = stored["format"], stored["class"], dict(stored["size"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise CheckpointError(f"{path}: is missing, damaged or no export of this workbook") from None
    if written > FORMAT:
        raise CheckpointError(f"{path}: has format {written}, newer than {FORMAT}; update the workbook")
    return stored
