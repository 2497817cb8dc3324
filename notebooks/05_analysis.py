# %% [markdown]
# # 05 · Analysis: what the codes know
#
# See what single codes stand for and where they live, what can be read off them, and compare runs.
#
# | needs | makes |
# |---|---|
# | notebooks 00 to 04 | short runs of a sweep under `data/runs/…-sweep-…` |

# %% [markdown]
# ## Settings
#
# This notebook trains nothing but the short runs of its last section.

# %%
import numpy as np
from IPython.display import Markdown
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vq_core
from vq_core.avatars.dataset import read_attributes
from vq_core.data.augment import to_pictures
from vq_core.data.images import image_source, images_of, raw_dir
from vq_core.evaluation import analysis, memorization
from vq_core.evaluation.report import evaluate_run
from vq_core.generation.editing import Edit, region
from vq_core.generation.sampling import Sampling, random_codes, sample_codes
from vq_core.machine import pick_device
from vq_core.notebook import plots
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished, load_images
from vq_core.runs.records import markdown, table
from vq_core.training.sweep import sweep

# %% [markdown]
# The one cell to edit.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
packed, device = load_images(config), pick_device(config)
autoencoder, prior_run = finished("phase2", config), finished("prior", config)

# %%
model = vq_core.load_vqvae(autoencoder).to(device)
prior = vq_core.load_prior(prior_run).to(device)
codes = extract_codes(autoencoder, config)
k, grid = config.model.num_codes, config.grid

# %% [markdown]
# ## 1. All runs
#
# One row per finished run on this disk; `python -m vq_core compare` prints the same.

# %%
Markdown(markdown(table()))

# %% [markdown]
# **You should see** one row per phase, and one for every experiment of yours.

# %% [markdown]
# ## 2. An atlas of codes
#
# For the most used codes: patches of images that map to them (framed), with a margin of one cell around.

# %%
counts = np.bincount(codes.ravel(), minlength=k)
busiest = np.argsort(-counts)[:10]
patches = {
    f"code {c} ({counts[c] / codes.size:.1%})": analysis.code_patches(packed, codes, int(c), 14) for c in busiest
}
plots.atlas(patches, columns=14)

# %% [markdown]
# **You should see** rows of one kind each: plain background of one colour, an edge of hair in one direction, skin …

# %% [markdown]
# The same for codes of average use, which are more particular:

# %% tags=["picture-atlas"]
middle = np.argsort(-counts)[k // 3 : k // 3 + 8]
patches = {f"code {c} ({counts[c] / codes.size:.2%})": analysis.code_patches(packed, codes, int(c), 14) for c in middle}
plots.atlas(patches, columns=14)

# %% [markdown]
# ## 3. The codebook from afar
#
# Every code as a dot, by PCA and by t-SNE. Its colour is the mean of the image cells that map to it.

# %% tags=["picture-codebook"]
codebook = model.quantizer.codebook.cpu().numpy()
tsne = TSNE(init="pca", perplexity=min(30.0, k / 4), random_state=config.seed).fit_transform(codebook)
cells = memorization.cell_means(packed.images[:500], grid).reshape(-1, 3)
colours = np.stack([np.bincount(codes[:500].ravel(), channel, k) for channel in cells.T], axis=1)
colours = colours / np.maximum(np.bincount(codes[:500].ravel(), minlength=k), 1)[:, None] / 255
fig, [axes] = plots.figure(1, 2, 9.2, 4.0)
for ax, name, dots in zip(axes, ("PCA", "t-SNE"), (PCA(2).fit_transform(codebook), tsne), strict=True):
    ax.scatter(*dots.T, s=8 + 60 * np.sqrt(counts / counts.max()), c=colours, lw=0.4, edgecolors="#444")
    ax.set(title=name, xticks=[], yticks=[])
fig

# %% [markdown]
# **You should see** colours grouped: the codebook has ordered itself by what patches look like, though nobody asked it to.
# Large dots are codes that are used often.

# %% [markdown]
# ## 4. Random codes beside samples
#
# The decoder turns any codes into an image. Without a prior the parts are right, but they make no whole.

# %%
noise = model.decode(random_codes(k, 8, grid, config.seed).to(device))
drawn = model.decode(sample_codes(prior, 8, Sampling(seed=7), progress=False))
plots.rows_of_images({"random codes": to_pictures(noise), "from the prior": to_pictures(drawn)})

# %% [markdown]
# **You should see** confetti above, faces below: all that is between them is the prior's knowledge.

# %% [markdown]
# ## 5. Swap a region
#
# The eyes' part of the grid, exchanged between two avatars, both ways.

# %%
x = images_of(packed, packed.val_rows[-2:]).to(device)
eyes = region(grid, (grid * 6 // 16, grid * 11 // 16), (grid * 3 // 16, grid * 13 // 16))
one, two = model.encode(x).split(1)
swapped = [Edit(region=eyes, copy_from=b).apply(a) for a, b in ((one, two), (two, one))]
after = np.concatenate([to_pictures(model.decode(grids)) for grids in swapped])
plots.rows_of_images({"before": to_pictures(x), "eyes swapped": after}, side=1.8)

# %% [markdown]
# **You should see** each face with the other's eyes, in place and with soft seams.

# %% [markdown]
# ## 6. What can be read off the codes
#
# A linear classifier per attribute of the built-in avatars, fitted on training avatars' code vectors and scored on
# held-out ones. The red mark is what always saying the commonest value reaches.

# %%
if image_source(config) == "avatars":
    features = PCA(min(16, codebook.shape[1])).fit_transform(codebook)[codes].reshape(len(codes), -1)
    attributes = read_attributes(raw_dir(config), (entry.file for entry in packed.kept))
    train, val, accuracy, majority = packed.train_rows, packed.val_rows, {}, {}
    reduced = make_pipeline(PCA(min(128, len(train) - 1)), StandardScaler()).fit(features[train]).transform(features)
    for name, values in attributes.items():
        y = np.array(values)
        known, asked = train[y[train] != ""], val[np.isin(y[val], y[train]) & (y[val] != "")]
        if len(set(y[known])) > 1 and len(asked):
            fitted = LogisticRegression(max_iter=200, C=0.1).fit(reduced[known], y[known])
            accuracy[name] = fitted.score(reduced[asked], y[asked])
            majority[name] = DummyClassifier().fit(reduced[known], y[known]).score(reduced[asked], y[asked])
    best_first = dict(sorted(accuracy.items(), key=lambda pair: majority[pair[0]] - pair[1]))
    probe_figure = plots.bars(best_first, "accuracy of linear probes on held-out avatars", majority)
probe_figure if image_source(config) == "avatars" else print("attributes are known of the built-in avatars only")

# %% [markdown]
# **You should see** clothes, hair and the backdrop's pattern read off in most avatars, and small things (brows, blush) no
# better than by guessing: the codes keep what matters for the pixels (`demo`).

# %% [markdown]
# ## 7. A small sweep
#
# Short runs that differ from the configuration in one number each: codebook size, weight of the perceptual term, weight
# of the GAN. They are trained here, once, and are too short to reach their best: compare them with each other only. The
# ones with a GAN go on from the first.

# %%
runs = sweep(config)
for run in runs.values():
    evaluate_run(run, config)
rows = [{"variant": label} | table([run])[0] for label, run in runs.items()]
Markdown(markdown(rows))

# %% [markdown]
# The two figures that pull against each other:

# %%
results = {label: run.result() for label, run in runs.items()}
plots.bars({label: r["psnr"] for label, r in results.items()}, "PSNR [dB]")

# %%
plots.bars({label: r["sharpness"] for label, r in results.items()}, "sharpness (1: as sharp as the input)")

# %% [markdown]
# **You should see** fewer codes cost PSNR, and more GAN buy sharpness for it.

# %% [markdown]
# ## Check
#
# Every run has its figures, and codes decode to what they came from.

# %% tags=["nbval-check-output"]
assert all("psnr" in r for r in results.values())
assert counts.sum() == codes.size
some = list(range(len(codes[:64])))
assert (model.encode(images_of(packed, some).to(device)).cpu().numpy() == codes[some]).mean() > 0.99
print("analysis: all checks passed")

# %% [markdown]
# Back to the [first notebook](00_data_prep.ipynb), with images of your own in `data/raw/`.
