"""Shapes in signatures are checked in every test: a wrong one is an error."""

from jaxtyping import install_import_hook

# Not the drawing of avatars: it has no tensors, and hands whole numbers to what is declared as float.
CHECKED = ["models", "training", "evaluation", "generation", "data.augment", "data.batches", "data.datamodule"]
install_import_hook([f"vq_core.{name}" for name in CHECKED], "beartype.beartype")
