# %% [markdown]
# # 01 · A codebook to start from: k-means on the encoder's output
#
# Warm the autoencoder up without quantisation, collect its latents `z_e`, cluster them: the centres are the first
# codes.
#
# | needs | makes |
# |---|---|
# | notebook 00 | `data/runs/kmeans-…/codebook.npy` and the warm weights, both loaded by Phase 1 |

# %% [markdown]
# ## Settings
#
# A codebook has to lie where the latents are. A random one does not: many of its codes serve nothing and never learn.
# That is the commonest way in which a VQ-VAE fails (collapse, T1), and it is cheapest to avoid at the start.

# %%
import numpy as np
import torch
from IPython.display import Markdown
from sklearn.decomposition import PCA

import vq_core
from vq_core.data.augment import to_pictures
from vq_core.data.images import images_of
from vq_core.evaluation.analysis import codebook_fit
from vq_core.machine import pick_device
from vq_core.models import VectorQuantizerEMA
from vq_core.models.kmeans import inertia, kmeans
from vq_core.models.metrics import psnr
from vq_core.models.quantizer_ema import nearest_codes, perplexity
from vq_core.notebook import plots
from vq_core.notebook.lesson import code_of, pipeline, table
from vq_core.notebook.monitor import LiveView
from vq_core.runs.finding import load_images
from vq_core.runs.records import markdown
from vq_core.training.phases import collect_latents, train

# %% [markdown]
# The one cell to edit.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
packed, device = load_images(config), pick_device(config)

# %% [markdown]
# ## Where we are
#
# Encoder and decoder get a first, short training, and the codebook between them its first entries.

# %%
pipeline(config, "encoder", "latents", "codebook")

# %% [markdown]
# ## 1. What a codebook is
#
# The *encoder* is a convolutional network. It shrinks an image $x$ to a grid of $h \times w$ cells and describes each
# cell by a *latent*, a vector of $d$ numbers. All of them together are called $z_e$ (*e* for encoder). Think of a
# latent as the encoder's description of one patch: brown hair, its edge running down to the left.
#
# Such a description is continuous: no two patches have quite the same. To get symbols, the machine keeps a list of $K$
# vectors of the same length, $e_1, \dots, e_K$. **The list is the codebook, and each of its vectors is a code.** It is
# learnt, and it is one and the same for all cells of all images. *Quantisation* replaces every latent $z$ by its
# nearest code:
#
# $$k(z) = \arg\min_{k} \lVert z - e_k \rVert^2, \qquad z_q = e_{k(z)}.$$
#
# Here $k(z)$ is the number of the code, and $z_q$ (*q* for quantised) is the code itself, which the decoder gets in
# place of $z$. Whoever has the codebook needs to store only the number, that is $\log_2 K$ bits per cell; the number is
# often called a code too. What it costs is the *quantisation error*, the mean squared distance over $n$ latents:
#
# $$E = \frac1n \sum_{i=1}^n \lVert z_i - e_{k(z_i)} \rVert^2.$$
#
# By hand, with three codes in the plane:

# %%
codes = torch.tensor([[0.0, 0.0], [4.0, 0.0], [0.0, 4.0]])
z = torch.tensor([[1.0, 0.5], [3.5, 1.0], [1.8, 1.9]])
print("squared distances:", torch.cdist(z, codes).square().numpy().round(2), sep="\n")
print("nearest code of each:", nearest_codes(z, codes).tolist(), f"· error E = {inertia(z, codes):.2f}")

# %% [markdown]
# **You should see** three rows of three distances and the position of the smallest in each row: codes 0, 1, 0.
#
# The real function does the same for thousands of latents at once. In
# $\lVert z - e\rVert^2 = \lVert z\rVert^2 - 2 (z \cdot e - \tfrac12 \lVert e\rVert^2)$ the first term is equal for all
# codes, so the nearest code is the one with the *largest* bracket, and all brackets are one matrix product.

# %%
code_of(nearest_codes)

# %% [markdown]
# ## 2. Points, centres, cells
#
# Where should the codes lie? Wherever $E$ is smallest. Nobody can solve that exactly, but two halves of it are easy. If
# the codes stand still, each point belongs to its nearest code; the region that belongs to a code is its *cell* (not
# one of the grid's cells: this one lies in the space of latents). If the cells stand still, the best place for a code
# is the mean of the points in its cell, since a mean minimises squared distances:
#
# $$e_k \leftarrow \frac{1}{n_k} \sum_{i: k(z_i) = k} z_i,$$
#
# with $n_k$ the number of points in cell $k$. Doing both is one *Lloyd's step*. Neither half can raise $E$, so
# repeating them ends in a valley. That is *k-means*, and each centre is a code.


# %%
def lloyd(points, centres):
    own = nearest_codes(points, centres)
    sums = torch.zeros_like(centres).index_add_(0, own, points)
    counts = torch.bincount(own, minlength=len(centres))[:, None]
    return torch.where(counts > 0, sums / counts.clamp(min=1), centres)


draw = torch.Generator().manual_seed(0)
middles = torch.tensor([[-2.0, 1.5], [0.5, 2.0], [2.2, 0.2], [0.6, -1.8], [-1.8, -1.2]])
points = middles.repeat_interleave(80, 0) + 0.45 * torch.randn(400, 2, generator=draw)
steps = [torch.randn(5, 2, generator=torch.Generator().manual_seed(3))]
for _ in range(8):
    steps.append(lloyd(points, steps[-1]))

# %% [markdown]
# Dots are the points, crosses the centres, shades their cells. A line shows how far a centre has come since the panel
# before.

# %%
side = torch.linspace(-3.6, 3.6, 200)
plane = torch.cartesian_prod(side, side)
fig, [axes] = plots.figure(1, 4, 12, 3.4, sharey=True)
for ax, n, before in zip(axes, (0, 1, 2, 8), (0, 0, 1, 2), strict=True):
    cells = nearest_codes(plane, steps[n]).view(200, 200).T
    ax.imshow(cells, extent=(-3.6, 3.6, -3.6, 3.6), origin="lower", cmap="Pastel1", vmin=0, vmax=8)
    ax.scatter(*points.T, s=3, color=plots.GREY)
    ax.plot(*torch.stack([steps[before], steps[n]]).permute(2, 0, 1), color="#222", lw=1)
    ax.scatter(*steps[n].T, s=70, marker="X", color=plots.BLUE, edgecolors="white")
    ax.set(
        title=f"step {n}: E = {inertia(points, steps[n]):.2f}",
        xlabel="first number of z",
        xlim=(-3.6, 3.6),
        ylim=(-3.6, 3.6),
    )
axes[0].set_ylabel("second number of z")
fig

# %% [markdown]
# **You should see** $E$ fall from panel to panel until each cluster has a centre of its own. The straight borders
# between cells are where two centres are equally near. Real latents only have more numbers.
#
# Colours are vectors too, of three numbers. Here k-means looks for codebooks of the colours in one image, and each
# pixel is replaced by its nearest code:

# %%
pixels = torch.from_numpy(packed.images[0] / np.float32(255)).reshape(-1, 3)
colours = pixels[:: max(1, len(pixels) // 4096)]
books = {k: kmeans(colours, k, iterations=10, seed=0) for k in (2, 4, 16, 64)}
shown = [book[nearest_codes(pixels, book)].view(packed.images[0].shape).numpy() for book in books.values()]
titles = [f"K = {k}: {np.log2(k):.0f} bits, E = {inertia(colours, book):.4f}" for k, book in books.items()]
plots.image_grid([packed.images[0] / 255, *shown], columns=5, titles=["image", *titles], side=2.0)

# %% [markdown]
# **You should see** an image that grows truer with $K$, at one more bit per pixel for each doubling. Ours needs one number
# per *cell*, because its codes are vectors from which a decoder draws a patch.

# %% [markdown]
# ## 3. Perplexity
#
# How many codes does a codebook really use? Counting those that occur at all is too kind: a code used once in a million
# would count in full. Let $p_k$ be the share of latents whose nearest code is $k$. Their entropy $H$ measures how
# evenly the uses are spread, and perplexity turns it into a number of codes:
#
# $$H = -\sum_{k=1}^K p_k \ln p_k, \qquad \text{perplexity} = \exp(H).$$
#
# It answers: *how many codes would be in use if all were used alike?* With $p = [\tfrac12, \tfrac12]$ we have
# $H = \ln 2$, so perplexity 2: two codes share the work. With $p = [1, 0]$ we have $H = 0$, so perplexity 1: one code
# does it all, and its number says nothing.

# %%
usages = {"[1/2, 1/2]": [1, 1], "[1, 0]": [1, 0], "[9/10, 1/10]": [9, 1], "[1/4, 1/4, 1/4, 1/4]": [1, 1, 1, 1]}
table({p: float(perplexity(torch.tensor(n, dtype=torch.float))) for p, n in usages.items()}, "p", "perplexity", ".2f")

# %%
code_of(perplexity)

# %%
p = np.linspace(0, 1, 101)
curve = [float(perplexity(torch.tensor([100 * a, 100 - 100 * a]))) for a in p]
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.plot(p, curve, color=plots.BLUE)
ax.scatter([0.5, 1], [2, 1], color=plots.ORANGE, zorder=3)
ax.annotate("[1/2, 1/2]", (0.5, 2), (0, -16), textcoords="offset points", ha="center")
ax.annotate("[1, 0]", (1, 1), (-8, 2), textcoords="offset points", ha="right")
ax.set(title="Two codes", xlabel="share p of the first code", ylabel="perplexity (codes)")
fig

# %% [markdown]
# **You should see** 2, 1, about 1.4 and 4, and a curve with its top where both codes are used alike.
#
# **Which value is best?** Perplexity lies between 1 (one code does everything) and $K$ (all are used alike). **Above
# $K/2$ a codebook is healthy; from $K/5$ to $K/2$ watch it; below $K/5$, or with more than half of the codes unused, it
# has collapsed (T1).** $K$ itself is not the aim: plain background simply is more common than the corner of an eye.
# Compare perplexity only at the same $K$. And it says nothing about pictures: latents assigned at random would give a
# high one and useless images. Read it together with the error.

# %% [markdown]
# ## 4. Why a random start collapses
#
# A code learns only from the latents that choose it. In Lloyd's step, as in Phase 1, $n_k = 0$ means that code $k$ gets
# nothing and stays where it is. Now put all codes into a small lump and the points around it. From any point, the
# nearest code is one on the lump's rim; those inside are chosen by nobody: *dead codes*. The few that are chosen move
# out to the points and become nearer still. Some of the others come to the rim thereby, but most never do.

# %%
angle, radius = 2 * np.pi * torch.rand(2000, generator=draw), 2 + 0.25 * torch.randn(2000, generator=draw)
ring = torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)
lump = 0.1 * torch.randn(64, 2, generator=draw)
late = lump
for _ in range(20):
    late = lloyd(ring, late)
starts = {"a lump": lump, "the lump after 20 steps": late, "k-means": kmeans(ring, 64, iterations=20, seed=0)}

# %%
fig, [axes] = plots.figure(1, 3, 10.5, 3.7, sharey=True)
for ax, (name, codes) in zip(axes, starts.items(), strict=True):
    fit = codebook_fit(ring, codes)
    ax.scatter(*ring.T, s=2, color=plots.GREY, alpha=0.4, lw=0)
    ax.scatter(*codes[fit.counts == 0].T, s=22, marker="x", color=plots.ORANGE, label="dead")
    ax.scatter(*codes[fit.counts > 0].T, s=22, color=plots.BLUE, label="used")
    ax.set(title=f"{name}: {fit.used * 64:.0f} of 64 used,\nperplexity {fit.perplexity:.1f}, E = {fit.error:.2f}")
    ax.set(xlabel="first number of z", aspect="equal")
axes[0].set_ylabel("second number of z")
axes[0].legend(loc="upper right")
fig

# %% [markdown]
# **You should see** about ten codes chosen from the lump, about fifteen after twenty steps, and all 64 at work with
# k-means. Going on hardly helps: the dead codes get nothing to go by.
#
# So it is the *start* that matters. k-means here begins with *k-means++*: the first centre is one of the points, and
# each further one is drawn from the points with a probability (of a few drawn so, the best is kept)
#
# $$p(z) \propto r(z)^2,$$
#
# where $r(z)$ is the distance from $z$ to the nearest centre so far. So centres begin spread out, on the data. And a
# centre that loses all its points is put onto one that is far from its own centre. Apart from the drawing of the first
# centres this is the whole of it:

# %%
code_of(kmeans)

# %% [markdown]
# ## 5. Warm up without quantisation
#
# k-means needs latents that mean something, and an untrained encoder's do not. So encoder and decoder first train a few
# steps as a plain autoencoder, in which $z_e$ reaches the decoder unchanged. If interrupted, the cell goes on when it is
# run again; a finished run is loaded. *PSNR*, in decibels (dB), grows as the squared error shrinks: ten times less error
# is 10 dB more.

# %%
run = train("kmeans", config, LiveView)
print(f"{run.name}: {run.result()['steps']} steps")

# %% [markdown]
# **You should see** the loss fall steeply and rough, blurred faces in the lower row (`demo`: 22–24 dB). *If it does not
# fall*, the learning rate is off: `phase1.lr`, which the warm-up uses too. *If faces stay a blur*, give it more
# `kmeans.steps`.

# %% [markdown]
# ## 6. Collect latents
#
# One vector per cell of the grid and image, of training images only: what is held out must not shape the codebook
# either.

# %%
model = vq_core.load_vqvae(run).to(device)
vectors = collect_latents(model, packed, config).cpu()
print(f"{len(vectors)} vectors of {vectors.shape[1]} numbers, spread {vectors.std():.2f}")

# %% [markdown]
# **You should see** tens of thousands of vectors (`smoke`: a thousand). *If there are fewer than some thirty per code*,
# centres rest on chance: raise `kmeans.images` or lower `model.num_codes`.

# %% [markdown]
# ## 7. Three ways to start
#
# Kaiming uniform (a common default), N(0, 0.1), and the k-means centres that the run above has stored. Each quantises
# the same latents.

# %%
k, dim = config.model.num_codes, config.model.code_dim
torch.manual_seed(config.seed)
codebooks = {
    "Kaiming": VectorQuantizerEMA(k, dim).codebook.clone(),
    "N(0, 0.1)": 0.1 * torch.randn(k, dim),
    "k-means": torch.from_numpy(np.load(run.folder / "codebook.npy")),
}
fits = {name: codebook_fit(vectors, codebook) for name, codebook in codebooks.items()}

# %% [markdown]
# The *error* is $E$ from section 1, *perplexity* that of section 3, *used* the share of codes that at least one latent
# chose.

# %%
rows = [
    {"start": name, "error": f.error, "perplexity": f.perplexity, "used": f"{f.used:.0%}"} for name, f in fits.items()
]
Markdown(markdown(rows))

# %% [markdown]
# **You should see** k-means with an error several times smaller (`demo`: a third), nearly all codes in use, and a perplexity above $K/2$.
# The random starts leave codes unused (`demo`: an eighth to a fifth) and use the rest unevenly. *If k-means is not clearly
# ahead*, the latents hardly differ: the warm-up was too short (`kmeans.steps`).

# %% [markdown]
# ## 8. Usage, code by code
#
# The histograms behind these perplexities. Red: never chosen. Orange: less than a tenth of the mean (dashed).

# %%
plots.usage_histogram({name: fit.counts for name, fit in fits.items()})

# %% [markdown]
# **You should see** two histograms that are a few tall bars in front of nothing, and one broad hill. *A broad hill with
# a red end* means more codes than the latents can fill: a smaller `model.num_codes` (T1).

# %% [markdown]
# ## 9. Where codes lie among the latents
#
# Are real latents like the ring of section 4? Here is the plane in which they vary most (two principal components, PCA),
# with the latents $z_e$ in grey and each codebook in blue.

# %%
pca = PCA(2).fit(vectors.numpy())
some = pca.transform(vectors[:4000].numpy())
centres = {name: pca.transform(codebook.numpy()) for name, codebook in codebooks.items()}
fig, [axes] = plots.figure(1, len(centres), 3.4 * len(centres), 3.4)
for ax, (name, points) in zip(axes, centres.items(), strict=True):
    ax.scatter(*some.T, s=2, color=plots.GREY, alpha=0.25, lw=0)
    ax.scatter(*points.T, s=9, color=plots.BLUE, lw=0)
    ax.set(title=name, xlim=np.percentile(some[:, 0], [0.1, 99.9]), ylim=np.percentile(some[:, 1], [0.1, 99.9]))
    ax.set(xlabel="first principal component", ylabel="second principal component")
fig

# %% [markdown]
# **You should see** the k-means codes spread over the grey cloud, dense where it is dense. The random ones sit in a
# lump in its middle. *If the k-means codes do so too*, `codebook.npy` is not of this run: delete the run's folder and
# run the notebook again.

# %% [markdown]
# ## 10. What it means for pictures
#
# The warm-up's reconstructions without quantisation are the ceiling of so short a training. Below them each latent is
# replaced by its nearest code, of the k-means codebook and of a random one, before it is decoded. Phase 1 takes over
# the weights and the k-means codebook, so it starts from the third row (`quantizer.init=kmeans`; with `kaiming` or
# `normal` it starts with neither). It has to come back to the second, and then pass it.

# %%
x = images_of(packed, packed.val_rows[:8]).to(device)
with torch.no_grad():
    z_e = model.latents(x).cpu()
flat, rec = z_e.permute(0, 2, 3, 1).reshape(-1, dim), {"warm-up": model(x).detach()}
for name in ("k-means", "Kaiming"):
    z_q = codebooks[name][nearest_codes(flat, codebooks[name])].view(len(x), *z_e.shape[2:], dim).permute(0, 3, 1, 2)
    rec[name] = model.decode_latents(z_q.to(device)).detach()
print(", ".join(f"{name}: {float(psnr(images, x).mean()):.1f} dB" for name, images in rec.items()))
plots.rows_of_images({"input": to_pictures(x)} | {name: to_pictures(images) for name, images in rec.items()})

# %% [markdown]
# **You should see** recognisable, soft faces (`smoke`: coloured blobs), nearly as good with k-means codes, and washed
# out or broken with random ones. *If the k-means row is far worse than the warm-up*, the codebook is too small for these
# images: `model.num_codes`.

# %% [markdown]
# ## When something is off
#
# | what you see | what it is | what to do |
# |---|---|---|
# | with k-means, perplexity below $K/5$, or more than half of the bars red ($K/5$ to $K/2$: watch it) | **T1**: more codes than the latents fill | a smaller `model.num_codes`; more `kmeans.images` |
# | a k-means error near that of the random starts | latents without structure | more `kmeans.steps`; look at the pictures of section 5 |
# | warm-up faces without eyes or mouths | **T3** blur: the encoder is too small or too short trained | more `kmeans.steps`; `model.latent_channels`; `model.res_blocks=3` |
# | values that are not finite | the learning rate is too high | a lower `phase1.lr` |

# %% [markdown]
# ## Exercises
#
# **Predict.** The codebook gets only an eighth of its codes. What happens to the perplexity, to perplexity / $K$, and
# to the error? Guess whether each rises or falls, then open the answer.

# %% jupyter={"source_hidden": true} tags=["answer"]
sample = vectors[:16384]
sizes = {size: codebook_fit(sample, kmeans(sample, size, config.kmeans.iterations, seed=0)) for size in (k // 8, k)}
rows = [
    {"K": n, "perplexity": f.perplexity, "perplexity / K": f.perplexity / n, "error": f.error} for n, f in sizes.items()
]
Markdown(markdown(rows))

# %% [markdown]
# Perplexity falls, because it cannot exceed $K$. Its share of $K$ mostly rises: few codes are easily kept busy. The
# error rises. So a high perplexity / $K$ alone proves nothing; the smallest codebook wins it.
#
# **Build.** Rescue the lump of section 4. Before every Lloyd's step, put each dead code onto a random point of the
# ring. How many codes are in use after 20 steps? *Hint:* `codebook_fit(ring, codes).counts == 0` says which are dead.

# %% jupyter={"source_hidden": true} tags=["answer"]
rescued, draw = lump.clone(), torch.Generator().manual_seed(0)
for _ in range(20):
    dead = torch.from_numpy(codebook_fit(ring, rescued).counts == 0)
    rescued[dead] = ring[torch.randperm(len(ring), generator=draw)[: int(dead.sum())]]
    rescued = lloyd(ring, rescued)
fit = codebook_fit(ring, rescued)
print(f"{fit.used * 64:.0f} of 64 codes used, perplexity {fit.perplexity:.1f}, E = {fit.error:.3f}")
assert fit.used > 0.9

# %% [markdown]
# Practically all codes are back. Phase 1 does the same throughout training (*resets*), as codes can die there later on.
# It moves them not onto random latents but onto those of patches that were reconstructed badly.

# %% [markdown]
# ## Check
#
# k-means has to beat both random starts, not to be collapsed (T1: $K/5$), and to be what Phase 1 will load.

# %% tags=["nbval-check-output"]
best = fits["k-means"]
assert codebooks["k-means"].shape == (k, dim) and bool(torch.isfinite(codebooks["k-means"]).all())
assert all(best.error < fits[name].error for name in ("Kaiming", "N(0, 0.1)"))
assert best.used > 0.9 and best.perplexity > k / 5
print("codebook: all checks passed")

# %% [markdown]
# Next: [02 · Phase 1, the VQ-VAE](02_phase1_vqvae.ipynb)
