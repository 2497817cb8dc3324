# %% [markdown]
# # 01 · A codebook to start from: k-means on the encoder's output
#
# Warm the autoencoder up without quantisation, collect its latents `z_e`, cluster them: the centres are the first codes.
#
# | needs | makes |
# |---|---|
# | notebook 00 | `data/runs/kmeans-…/codebook.npy` and the warm weights, both loaded by Phase 1 |

# %% [markdown]
# ## Settings
#
# A random codebook lies where no latents are: most codes are never chosen and never learn. That is the commonest way in
# which a VQ-VAE fails (collapse), and it is cheapest to avoid before training starts.

# %%
import numpy as np
import torch
from sklearn.decomposition import PCA

import vq_core
from vq_core.data.augment import to_pictures
from vq_core.data.images import images_of
from vq_core.evaluation.analysis import codebook_fit
from vq_core.machine import pick_device
from vq_core.models import VectorQuantizerEMA
from vq_core.notebook import plots
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
# ## 1. Warm up without quantisation
#
# A few steps of a plain autoencoder are enough to give the latents their shape. The view below is redrawn in place;
# interrupt the kernel and run the cell again, and it goes on. A finished run is loaded.

# %%
run = train("kmeans", config, LiveView)
print(f"{run.name}: {run.result()['steps']} steps")

# %% [markdown]
# **You should see** the loss fall steeply and rough, blurred faces in the lower row (`demo`: 20–22 dB).

# %% [markdown]
# ## 2. Collect latents
#
# One vector per cell of the 16×16 grid and image; of training images only.

# %%
model = vq_core.load_vqvae(run).to(device)
vectors = collect_latents(model, packed, config).cpu()
print(f"{len(vectors)} vectors of {vectors.shape[1]} numbers, spread {vectors.std():.2f}")

# %% [markdown]
# **You should see** tens of thousands of vectors (`smoke`: a thousand).

# %% [markdown]
# ## 3. Three ways to start
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
# The error is the squared distance of a latent to its code; perplexity is the number of codes in use if all were used
# alike.

# %%
from IPython.display import Markdown

table = [
    {"start": name, "error": f.error, "perplexity": f.perplexity, "used": f"{f.used:.0%}"} for name, f in fits.items()
]
Markdown(markdown(table))

# %% [markdown]
# **You should see** k-means with an error several times smaller, nearly all codes in use, and a perplexity above half
# of K. The random starts leave most codes unused.

# %% [markdown]
# ## 4. Usage, code by code
#
# Red: never chosen. Orange: less than a tenth of the mean. The dashed line is the mean.

# %%
plots.usage_histogram({name: fit.counts for name, fit in fits.items()})

# %% [markdown]
# **You should see** two histograms that are a few tall bars in front of nothing, and one broad hill.

# %% [markdown]
# ## 5. Where codes lie among the latents
#
# The first two principal components of `z_e` (grey) and each codebook (red) in the same plane.

# %%
pca = PCA(2).fit(vectors.numpy())
some = pca.transform(vectors[:4000].numpy())
centres = {name: pca.transform(codebook.numpy()) for name, codebook in codebooks.items()}
fig, [axes] = plots.figure(1, len(centres), 3.4 * len(centres), 3.2)
for ax, (name, points) in zip(axes, centres.items(), strict=True):
    ax.scatter(*some.T, s=2, color=plots.GREY, alpha=0.25, lw=0)
    ax.scatter(*points.T, s=9, color=plots.RED, lw=0)
    ax.set(title=name, xlim=np.percentile(some[:, 0], [0.1, 99.9]), ylim=np.percentile(some[:, 1], [0.1, 99.9]))
fig

# %% [markdown]
# **You should see** the k-means codes spread over the grey cloud, dense where it is dense. The random ones sit in a lump
# in its middle.

# %% [markdown]
# ## 6. What the warm-up can draw
#
# Reconstructions without quantisation: the ceiling of so short a training. Phase 1 has to come back to this through a
# 16×16 grid of codes, and then pass it.

# %%
x = images_of(packed, packed.val_rows[:8]).to(device)
plots.rows_of_images({"input": to_pictures(x), "warm-up": to_pictures(model(x))})

# %% [markdown]
# **You should see** recognisable, soft faces (`smoke`: coloured blobs).

# %% [markdown]
# ## Check
#
# k-means has to beat both random starts, and to be what Phase 1 will load.

# %% tags=["nbval-check-output"]
best = fits["k-means"]
assert codebooks["k-means"].shape == (k, dim) and bool(torch.isfinite(codebooks["k-means"]).all())
assert all(best.error < fits[name].error for name in ("Kaiming", "N(0, 0.1)"))
assert best.used > 0.9 and best.perplexity > 0.3 * k
print("codebook: all checks passed")

# %% [markdown]
# Next: [02 · Phase 1, the VQ-VAE](02_phase1_vqvae.ipynb)
