"""Reading settings: `configs/vqvae_anime.yaml` has every number, smaller profiles are overlays, `key=value` on top.

A mistake raises a one-line `ConfigError` that names the key and the nearest valid one.
"""

import difflib
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vq_core.errors import ConfigError
from vq_core.settings import Config

CONFIG_DIR = Path(__file__).parent / "configs"
_HOME = Path(__file__).parents[1]  # of the checkout; an installed package is beside other packages there
PROJECT_DIR = _HOME if (_HOME / "pyproject.toml").is_file() else Path.cwd()
PROFILES = ("full", "quick", "demo", "smoke")

# Keys renamed since 6d1eaf3: new → old. Both can be read; run names are hashed over the old ones.
RENAMED = {"loss.gan_loss": "loss.gan_kind"}
# Keys added since 6d1eaf3, each with the value that changes nothing. A key at that value changes no run's name, and
# settings stored without the key are read as if they had that value. `train.precision` is older, but not its "auto".
NEUTRAL: dict[str, Any] = {"phase1.start_from": None, "prior.start_from": None, "masked.start_from": None}
NEUTRAL |= {"prior.ema": 0.0, "prior.views": 2, "prior.neighbours": 5, "train.precision": "auto"}
NEUTRAL |= {"masked.network": "bidirectional", "train.compile": "auto", "train.num_nodes": 1, "phase1.muon_lr": 0.0}


def data_dir() -> Path:
    """The data folder: `$VQ_DATA`, or `data/` of the checkout (installed: of the current folder); or `ConfigError`."""
    asked = os.environ.get("VQ_DATA", str(PROJECT_DIR / "data"))
    folder = Path(asked).expanduser().resolve()
    if not asked.strip() or (folder.exists() and not folder.is_dir()):
        holds = "it holds raw, runs and what is made of them"
        raise ConfigError(f"VQ_DATA='{asked}': must be the path of a folder; {holds}")
    return folder


def load_config(profile: str = "full", overrides: Sequence[str] = ()) -> Config:
    """Read a profile, apply overrides, such as `["model.num_codes=512"]` (values in YAML), and validate the result.

    The profile is "full", "quick", "demo", "smoke", or the path of a YAML file to apply on top of the full profile.
    Raises `ConfigError` for an unknown profile or key, a wrong type, a value out of range, or what cannot go together.
    """
    tree = _read_yaml(CONFIG_DIR / "vqvae_anime.yaml")
    path = CONFIG_DIR / f"{profile}.yaml" if profile in PROFILES else Path(profile)
    if path.suffix not in (".yaml", ".yml"):
        known, near = ", ".join(PROFILES), _nearest(profile, PROFILES)
        raise ConfigError(f"profile '{profile}' is neither one of {known} nor a YAML file{near}")
    if profile != "full":
        merge(tree, _read_yaml(path if path.exists() else PROJECT_DIR / profile))
    tree["profile"] = Path(profile).stem
    return override(tree, overrides)


def override(tree: dict[str, Any], overrides: Sequence[str]) -> Config:
    """Apply `key=value` overrides to a nested dictionary of settings and validate it. Raises `ConfigError`."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"override '{text}' is not of the form key=value")
        try:
            nested = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError):  # ValueError: looks like a date but is none
            raise ConfigError(f"{key}: cannot read the value '{value}'") from None
        if isinstance(nested, str):  # YAML 1.1 reads 1e-4 as a string, and only 1.0e-4 as a number
            with suppress(ValueError):
                nested = float(nested)
        for part in reversed(key.strip().split(".")):
            nested = {part: nested}
        merge(tree, renamed(nested))
    return config_from_dict(tree)


def config_from_dict(tree: dict[str, Any]) -> Config:
    """Validate a nested dictionary of all settings, maybe stored by an earlier version. Raises `ConfigError`."""
    tree = renamed(tree)
    tree.pop("sweep", None)  # a group of settings up to 0.2
    for key, neutral in NEUTRAL.items():
        group, name = key.split(".")
        if isinstance(tree.setdefault(group, {}), dict):
            tree[group].setdefault(name, neutral)
    for name in ("run", "images"):
        if name in tree:
            raise ConfigError(f"{name}: is not a setting; select a run with --run, or with config_of in a notebook")
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(_one_line(error)) from None


def renamed(tree: dict[str, Any], to_old: bool = False) -> dict[str, Any]:
    """A copy of nested settings under today's keys or, with `to_old`, under those of 6d1eaf3."""
    names = RENAMED if to_old else {old: new for new, old in RENAMED.items()}
    tree = {group: dict(keys) if isinstance(keys, dict) else keys for group, keys in tree.items()}
    for key, other in names.items():
        (group, name), (other_group, other_name) = key.split("."), other.split(".")
        if isinstance(keys := tree.get(group), dict) and name in keys:
            tree.setdefault(other_group, {})[other_name] = keys.pop(name)
    return tree


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would take the second."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]  # type: ignore[no-untyped-call]
        if twice := [key for key in keys if keys.count(key) > 1]:
            raise yaml.YAMLError(f"line {node.start_mark.line + 1}: '{twice[0]}' is given twice")
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid YAML ({' '.join(str(error).split())})") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: must hold groups of settings, such as 'model:'")
    return renamed(tree)


def merge(base: dict[str, Any], overlay: dict[str, Any]) -> None:
    """Lay nested settings over others, in place."""
    for key, value in overlay.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            merge(base[key], value)
        else:
            base[key] = value


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        groups = {name: getattr(field.annotation, "model_fields", {}) for name, field in Config.model_fields.items()}
        keys = [*groups, *(f"{group}.{name}" for group, names in groups.items() for name in names)]
        return f"{key}: unknown key{_nearest(key, keys)}{more}"
    words = {"tuple_type": "must be a list, such as [8, 16]", "model_type": "must be a group of settings"}
    message = words.get(first["type"], first["msg"].removeprefix("Value error, "))
    shown = yaml.safe_dump(first["input"], default_flow_style=True, width=1e9).removesuffix("\n...\n").strip()
    given = "" if first["type"] in ("missing", "value_error") else f", got {shown}"
    return (f"{key}: " if key else "") + message + given + more


def _nearest(word: str, words: Sequence[str]) -> str:
    group, _, name = word.rpartition(".")
    own, every = ({w.rpartition(".")[2]: w for w in reversed(words) if w.startswith(g)} for g in (f"{group}.", ""))
    found = [names[near] for names in (own, every) for near in difflib.get_close_matches(name, names, 1, cutoff=0.6)]
    found = found or difflib.get_close_matches(word, words, n=1, cutoff=0.5)
    return f"; did you mean '{found[0]}'?" if found else ""
