"""Figures: numbers and pictures in, a matplotlib `Figure` out. Nothing here reads files or trains."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vq_core.models.quantizer_ema import perplexity
from vq_core.runs.folders import Run

BLUE, ORANGE, GREEN, RED, GREY, PURPLE = "#3b6fb6", "#e08a2c", "#3f9b63", "#c8433f", "#8a8f98", "#7d4fb2"
STYLE: dict[Any, Any] = dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False) | {
    "figure.dpi": 80,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "font.size": 9.5,
    "image.interpolation": "auto",
}
WIDEST = 16.0  # inches
_TIGHT: dict[str, Any] = {"layout": "constrained", "w_pad": 0.01, "h_pad": 0.01, "wspace": 0.0, "hspace": 0.0}
_BARE = {"xticks": [], "yticks": [], "frame_on": False}  # axes of which nothing is seen but the picture in them
Pictures = Sequence[np.ndarray] | np.ndarray
Labelled = tuple[str, np.ndarray]  # a label, and counts [K]


def figure(rows: int = 1, columns: int = 1, width: float = 10, height: float = 3, **how: Any) -> tuple[Figure, Any]:
    """An empty figure in the workbook's style and its axes [rows, columns]; sizes in inches; `how`: see `subplots`."""
    with plt.rc_context(STYLE):
        fig, axes = plt.subplots(rows, columns, figsize=(width, height), squeeze=False, layout="constrained", **how)
    plt.close(fig)  # a notebook shows it as a cell's last value; left open, it would be shown twice
    return fig, axes


def png_of(fig: Figure) -> bytes:
    """A figure as PNG bytes, the form in which widgets and the live view display it."""
    fig.savefig(buffer := io.BytesIO(), format="png", dpi=STYLE["figure.dpi"])
    return buffer.getvalue()


def image_grid(pictures: Pictures, columns: int = 8, titles: Sequence[str] | None = None, side: float = 1.1) -> Figure:
    """uint8 pictures [n, h, w, 3] in rows of `columns`, each under its title if there are titles."""
    rows, side = -(-len(pictures) // columns), _side(pictures, side, columns)
    fig, axes = figure(rows, columns, columns * side, rows * (side + (0.22 if titles else 0.0)), subplot_kw=_BARE)
    for ax, picture in zip(axes.flat, pictures, strict=False):
        ax.imshow(picture)
    for ax, title in zip(axes.flat, titles or (), strict=False):
        ax.set_title(title, fontsize=8, fontweight="normal", pad=2)
    fig.set_layout_engine(**_TIGHT)
    return fig


def rows_of_images(rows: Mapping[str, Pictures], side: float = 0.8) -> Figure:
    """One row of pictures per label, the label on its left: input, Phase 1, Phase 2 …"""
    columns = max(len(pictures) for pictures in rows.values())
    side = _side([picture for pictures in rows.values() for picture in pictures], side, columns)
    fig, axes = figure(len(rows), columns, columns * side + 0.9, len(rows) * side, subplot_kw=_BARE)
    for line, (label, pictures) in zip(axes, rows.items(), strict=True):
        for ax, picture in zip(line, pictures, strict=False):
            ax.imshow(picture)
        line[0].set_ylabel(label, rotation=0, ha="right", va="center", fontsize=9)
    fig.set_layout_engine(**_TIGHT)
    return fig


def _side(pictures: Pictures, side: float, columns: int) -> float:
    """The requested side in inches; larger, up to one screen pixel per pixel, as long as a row fits into `WIDEST`."""
    return max(side, min(max(map(len, pictures)) / STYLE["figure.dpi"], WIDEST / columns))


def curves(runs: dict[str, Run], names: dict[str, str], width: float = 10.0) -> Figure:
    """One panel per logged metric (name → title), one line per run."""
    fig, [axes] = figure(1, len(names), width, 2.7)
    for ax, (name, title) in zip(axes, names.items(), strict=True):
        for colour, (label, run) in zip((BLUE, ORANGE, GREEN, RED, GREY), runs.items(), strict=False):
            steps, values = run.curve(name)
            ax.plot(steps, values, color=colour, label=label, lw=1.4, marker="o" if len(steps) < 15 else "", ms=3)
        ax.set(ylabel=title, xlabel="step")
    if len(runs) > 1:
        axes[0].legend()
    return fig


def bars(values: dict[str, float], axis: str, reference: dict[str, float] | None = None) -> Figure:
    """Horizontal bars labelled with their values; a red mark at each bar's reference value, if there are any."""
    fig, [[ax]] = figure(1, 1, 7, 0.6 + 0.27 * len(values))
    ax.bar_label(ax.barh(list(values), list(values.values()), color=BLUE, height=0.7), fmt=" {:.3g}", fontsize=8.5)
    if reference:
        for row, name in enumerate(values):
            ax.plot([reference[name]] * 2, [row - 0.35, row + 0.35], color=RED, lw=2)
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(axis)
    return fig


def draw_usage(
    ax: Axes, counts: np.ndarray, title: str, by_usage: bool = True, log: bool = False, other: Labelled | None = None
) -> None:
    """Draw the usage of every code on `ax`, coloured by kind, with a line for a second codebook to compare with."""
    use = _per_mean(counts, by_usage)
    kinds = {RED: ("dead", use == 0), ORANGE: ("rare", (use > 0) & (use < 0.1)), PURPLE: ("dominant", use > 5)}
    colours = np.select([which for _, which in kinds.values()], [*kinds], BLUE)
    floor = 0.02 if log else 0.02 * use.max()  # keeps the bars of dead codes visible
    x, height = np.arange(len(counts)), np.maximum(use, floor)
    corners = np.stack([[x - 0.5, 0 * x + 1e-3], [x - 0.5, height], [x + 0.5, height], [x + 0.5, 0 * x + 1e-3]])
    ax.add_collection(PolyCollection(list(corners.transpose(2, 0, 1)), facecolors=colours.tolist()))
    ax.axhline(1.0, color=GREY, lw=1, ls="--")
    lines, top, widest = [title, _in_words(counts)], height.max(), len(counts)
    if other is not None:
        label, others = other
        outline = _per_mean(others, by_usage)
        ax.stairs(np.maximum(outline, floor), np.arange(len(outline) + 1) - 0.5, color="#222", lw=1.1, label=label)
        lines.append(f"{label} (line): {_in_words(others)}")
        top, widest = max(top, outline.max()), max(widest, len(others))
    for colour, (kind, which) in kinds.items():
        if which.any():
            ax.bar(0, 0, color=colour, label=f"{which.sum()} {kind}")  # only for the legend
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="upper right" if by_usage else "best")
    ax.set(title="\n".join(lines), ylabel="usage / mean", yscale="log" if log else "linear")
    ax.set(xlim=(-0.5, widest - 0.5), ylim=(0.01, top * 1.5) if log else (0, top * 1.05))
    ax.set_xlabel("codes, most used first" if by_usage else "code")


def _per_mean(counts: np.ndarray, by_usage: bool) -> np.ndarray:
    use = counts / max(1.0, counts.sum()) * len(counts)
    return use[np.argsort(-counts, kind="stable")] if by_usage else use


def _in_words(counts: np.ndarray) -> str:
    in_use = float(perplexity(torch.from_numpy(np.asarray(counts, dtype=float))))
    return f"{(counts > 0).sum()} of {len(counts)} codes used, perplexity {in_use:.0f}"


def usage_histogram(usages: dict[str, np.ndarray], by_usage: bool = True, width: float = 10.0, **how: Any) -> Figure:
    """Usage histograms side by side: label → counts [K]; `log` and `other` as in `draw_usage`."""
    fig, [axes] = figure(1, len(usages), width, 2.8)
    for ax, (label, counts) in zip(axes, usages.items(), strict=True):
        draw_usage(ax, np.asarray(counts, dtype=float), label, by_usage, **how)
        if len(usages) > 2:
            ax.title.set_fontsize(8.5)
    return fig


def code_card(title: str, decoded: np.ndarray, where: np.ndarray, patches: Pictures) -> Figure:
    """What one code stands for: what it decodes to (uint8 [s, s, 3]), where it occurs, patches that map to it.

    `where` is the fraction of the images that have the code at each position of the grid [h, w]. Of the `patches`, like
    `decoded` three grid cells wide with the code's own cell framed, the first 16 are shown; there may be none.
    """
    fig, [axes] = figure(1, 3, 9, 2.2, width_ratios=(1, 1.25, 4))
    axes[0].imshow(decoded, interpolation="nearest")
    _frame_middle(axes[0], 0, 0, decoded.shape[0])
    fig.colorbar(axes[1].imshow(where, cmap="magma", vmin=0, vmax=max(where.max(), 1e-9)), ax=axes[1])
    if len(patches):
        some = np.stack([*patches[:16]])
        tile = np.pad(some, ((0, 16 - len(some)), (1, 1), (1, 1), (0, 0)), constant_values=255)
        axes[2].imshow(np.vstack([np.hstack(list(tile[:8])), np.hstack(list(tile[8:]))]), interpolation="nearest")
        for number in range(len(some)):
            row, column = divmod(number, 8)
            _frame_middle(axes[2], column * tile.shape[2] + 1, row * tile.shape[1] + 1, some.shape[1])
    names = ("decodes to", "where", "patches that map to it" if len(patches) else "no image uses it")
    for ax, name in zip(axes, names, strict=True):
        ax.set_title(name, fontweight="normal")
        ax.axis("off")
    fig.suptitle(title)
    return fig


def _frame_middle(ax: Axes, x: float, y: float, side: int) -> None:
    """A thin frame around the middle third of a square picture whose top left corner is at (x, y)."""
    place = (x + side / 3 - 0.5, y + side / 3 - 0.5)
    for colour, lw in (("black", 2.2), ("white", 1.0)):  # visible on light and on dark
        ax.add_patch(Rectangle(place, side / 3, side / 3, fill=False, lw=lw, edgecolor=colour))


def atlas(patches: dict[str, list[np.ndarray]], columns: int = 12) -> Figure:
    """One row per code: label → image patches that map to it, three grid cells wide; its own cell is framed."""
    fig = rows_of_images({label: some[:columns] for label, some in patches.items()}, side=0.62)
    for ax in fig.axes:
        for shown in ax.get_images():
            _frame_middle(ax, 0, 0, shown.get_size()[0])
    return fig
