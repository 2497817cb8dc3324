"""Recognises by metrics T1 codebook collapse, T2 unstable GAN, T3 blur, T4 overfitting, and suggests other settings."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vq_core.config import Config
from vq_core.runs.folders import PRIORS, Phase

Rows = Sequence[dict[str, Any]]
# Thresholds that separate healthy runs from runs made to go wrong on purpose (tests/training/test_diagnosis.py).
FEW_CODES = 0.5  # T1: fraction of the codes that validation images use
LOW_PERPLEXITY = 0.2  # T1: perplexity as a fraction of K
WORSE_BY = 1.25  # T2: L_rec over its lowest value so far; a healthy GAN costs up to 1.1
DISCRIMINATOR_WON = 0.15  # T2: its loss over that of a discriminator that cannot tell real from fake
SKIPPED = 0.01  # T2: fraction of the steps since the GAN's start that were not finite, and at least three of them
BLURRED = {"phase1": 0.4, "phase2": 0.7}  # T3: sharpness
TURNED = 1.02  # T4: validation metric over its best, while the training metric keeps falling
GAP = 1.2  # T4: validation metric over the training metric (on augmented images, so if anything the higher of the two)


@dataclass(frozen=True)
class Finding:
    """One problem: its row in the README's table, what the metrics show, and the settings that help."""

    row: str
    shows: str
    switches: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.row}: {self.shows}; try {', '.join(self.switches)}"


def diagnose(phase: Phase, rows: Rows, config: Config, ended: bool = False) -> list[Finding]:
    """The problems in a run, judged by its `history()` so far; `ended`: it is over, even if before its last step."""
    found = [_collapse(phase, rows, config), _unstable_gan(rows, config), _overfitting(phase, rows, config)]
    if phase in BLURRED and not any(found):  # the other problems blur too, and need their own cure first
        found.append(_blur(phase, rows, config, ended))
    return [finding for finding in found if finding is not None]


def _collapse(phase: Phase, rows: Rows, config: Config) -> Finding | None:
    used, perplexity, k = _values(rows, "val/codes_used"), _values(rows, "val/perplexity"), config.model.num_codes
    if not used or (used[-1] >= FEW_CODES and perplexity[-1] >= LOW_PERPLEXITY * k):
        return None
    quantizer = config.quantizer
    switches = [
        "quantizer.init=kmeans" if quantizer.init != "kmeans" else "",
        f"quantizer.reset_every={quantizer.reset_every // 5 or 50}" if quantizer.reset_every not in range(1, 5) else "",
        "loss.commit=0.5" if config.loss.commit < 0.5 else "",
        f"{phase}.lr={getattr(config, phase).lr / 2:g}",
        f"model.num_codes={max(2, k // 2)}",
    ]
    shows = f"codebook collapse: {used[-1]:.0%} of {k} codes used, perplexity {perplexity[-1]:.0f}"
    return Finding("T1", shows, tuple(filter(None, switches)))


def _unstable_gan(rows: Rows, config: Config) -> Finding | None:
    begun = [row for row in rows if "train/disc" in row]
    rec, disc = _smooth(_values(rows, "train/rec")), _smooth(_values(begun, "train/disc"))
    if not disc:
        return None
    skipped = len([row for row in rows if "train/skipped" in row and row["step"] > begun[0]["step"]])
    often = skipped >= max(3, SKIPPED * (begun[-1]["step"] - begun[0]["step"]))
    chance = 1.0 if config.loss.gan_loss == "hinge" else 0.693
    signs = [
        f"L_rec {rec[-1] / min(rec):.2f} times its lowest" if rec[-1] > WORSE_BY * min(rec) else "",
        f"discriminator loss {disc[-1]:.2f}: it has won" if disc[-1] < DISCRIMINATOR_WON * chance else "",
        f"{skipped} steps skipped because they were not finite" if often else "",
    ]
    if not any(signs):
        return None
    # If Phase 1 was longer than gan_start, the GAN starts with Phase 2, and a later start changes nothing.
    before, later = config.phase1.steps if config.phase2.start_from == "phase1" else 0, 2 * config.loss.gan_start
    switches = [
        f"loss.gan={config.loss.gan / 2:g}",
        f"discriminator.lr={config.discriminator.lr / 2:g}",
        "discriminator.spectral_norm=true" if not config.discriminator.spectral_norm else "",
        "discriminator.gradient_penalty=0.01" if not config.discriminator.gradient_penalty else "",
        f"loss.gan_ramp={2 * config.loss.gan_ramp or config.phase2.steps // 2}",
        f"phase1.steps={2 * config.phase1.steps}" if config.phase2.start_from == "phase1" else "",
        f"loss.gan_start={later}" if later > before else "",
    ]
    return Finding("T2", "the GAN is unstable: " + ", ".join(filter(None, signs)), tuple(filter(None, switches)))


def _blur(phase: Phase, rows: Rows, config: Config, ended: bool) -> Finding | None:
    sharpness = [(row["step"], row["val/sharpness"]) for row in rows if "val/sharpness" in row]
    total = getattr(config, phase).steps
    if not sharpness or sharpness[-1][1] >= BLURRED[phase] or not (ended or sharpness[-1][0] >= total):
        return None  # judged only at the end, because every run starts out blurred
    loss, model = config.loss, config.model
    switches = [
        f"loss.gan={2 * loss.gan:g}" if phase == "phase2" else "",
        "loss.perceptual_net=vgg" if loss.perceptual_net == "random" else "",  # random features do not sharpen
        f"loss.perceptual={max(0.5, 2 * loss.perceptual):g}" if loss.perceptual < 1 else "",
        f"model.res_blocks={model.res_blocks + 1}",
        f"model.latent_channels={model.latent_channels * 3 // 2}",
        f"model.num_codes={2 * model.num_codes}",
        f"{phase}.steps={2 * total}",
    ]
    return Finding("T3", f"blur: {sharpness[-1][1]:.2f} of the input's sharpness", tuple(filter(None, switches)))


def _overfitting(phase: Phase, rows: Rows, config: Config) -> Finding | None:
    of_codes = phase in PRIORS
    name, what = ("bits", "bits per token") if of_codes else ("rec", "L_rec")
    val = [(row["step"], row[f"val/{name}"]) for row in rows if f"val/{name}" in row]
    train = _values(rows, f"train/{name}")
    if len(val) < 3 or len(train) < 5:
        return None
    last, now = val[-1][1], median(train[-5:])
    best_at, best = min(val, key=lambda pair: pair[1])
    before = [row[f"train/{name}"] for row in rows if f"train/{name}" in row and row["step"] <= best_at][-5:]
    turned = last > TURNED * best and bool(before) and now < median(before)
    signs = [
        f"validation {what} {last:.3g} after {best:.3g} at step {best_at}, but training still falls" if turned else "",
        f"validation {what} {last:.3g} against {now:.3g} in training" if last > GAP * now else "",
    ]
    if not any(signs):
        return None
    data, patience = config.data, config.prior.patience if of_codes else config.train.patience
    jitter = [f"data.{n}=0.2" for n in ("brightness", "contrast", "saturation") if getattr(data, n) < 0.2]
    since = sum(step > best_at for step, _ in val)
    switches = [
        *(["data.flip=0.5" if not data.flip else "", *jitter] if not of_codes else []),
        f"prior.dropout={config.prior.dropout + 0.1:g}" if of_codes else "",
        f"{'prior' if of_codes else 'train'}.patience={since // 2}" if turned and 2 <= since < patience else "",
        "more images",
    ]
    return Finding("T4", "overfitting: " + ", ".join(filter(None, signs)), tuple(filter(None, switches)))


def _values(rows: Rows, name: str) -> list[float]:
    return [row[name] for row in rows if name in row]


def _smooth(values: list[float]) -> list[float]:
    """Running medians of five values; empty if there are fewer."""
    return [median(values[i - 4 : i + 1]) for i in range(4, len(values))]
