"""Shapes in signatures are checked in every test: a wrong one is an error."""

from jaxtyping import install_import_hook

install_import_hook("vq_core", "beartype.beartype")
