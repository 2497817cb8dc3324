# %% [markdown]
# # 05 · Analysis: what the codes know
#
# See what single codes stand for and what they do not, what can be read off them, and how to compare runs honestly.
#
# | needs | makes |
# |---|---|
# | notebooks 00 to 04 | short runs of a sweep under `data/runs/…-sweep-…` |

# %% [markdown]
# ## Settings
#
# This notebook trains nothing but the short runs of section 6.

# %%
import numpy as np
import torch
from IPython.display import Markdown
from sklearn.decomposition import PCA
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.manifold import TSNE
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import vq_core
from vq_core.avatars.dataset import read_attributes
from vq_core.config import override
from vq_core.data.augment import to_pictures
from vq_core.data.images import image_source, images_of, raw_dir
from vq_core.evaluation import analysis
from vq_core.evaluation.report import evaluate_run
from vq_core.generation.editing import Edit, decode_edited, region
from vq_core.machine import pick_device
from vq_core.models.metrics import psnr

# %%
from vq_core.notebook import plots
from vq_core.notebook.lesson import code_of, pipeline
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished, load_images
from vq_core.runs.naming import phases_up_to
from vq_core.runs.records import markdown, table
from vq_core.training.callbacks import SilentBar
from vq_core.training.phases import train

# %% [markdown]
# The one cell to edit.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
packed, device = load_images(config), pick_device(config)
autoencoder, prior_run = finished("phase2", config), finished("prior", config)

# %% [markdown]
# Everything is trained. What is left is to ask what the two boxes in the middle have learnt.

# %%
pipeline(config, "codebook", "codes")

# %%
model, codes = vq_core.load_vqvae(autoencoder).to(device), extract_codes(autoencoder, config)
k, grid, cell = config.model.num_codes, config.grid, config.data.image_size // config.grid
codebook, counts = model.quantizer.codebook.cpu().numpy(), np.bincount(codes.ravel(), minlength=k)

# %% [markdown]
# ## 1. What a code stands for: an atlas
#
# Nobody named the codes, so the only way to learn what one means is to collect where it is used. For the most used codes,
# below are patches of images that the encoder gave them (framed, with a margin of one cell around).

# %%
busiest = np.argsort(-counts)[:6]
patches = {
    f"code {c} ({counts[c] / codes.size:.1%})": analysis.code_patches(packed, codes, int(c), 14) for c in busiest
}
plots.atlas(patches, columns=14)

# %% [markdown]
# The same for codes of average use, which are more particular:

# %% tags=["picture-atlas"]
middle = np.argsort(-counts)[k // 3 : k // 3 + 8]
patches = {f"code {c} ({counts[c] / codes.size:.2%})": analysis.code_patches(packed, codes, int(c), 14) for c in middle}
plots.atlas(patches, columns=14)

# %% [markdown]
# **You should see** above, rows of framed cells that agree in one light shade; below, rows that agree less: a shade, an edge in
# one direction, and often several kinds of patches, as in notebook 02, section 14. Hardly ever a thing with a name: the same
# code serves hair, cloth and background. If the rows above are as mixed as those below, there are too few codes
# (`model.num_codes`), or the training was too short (always so at `smoke`). Rows that are all alike are codes to spare (**T1**).

# %% [markdown]
# ## 2. What a code does not stand for
#
# It is tempting to read the atlas as a dictionary: code 17 *is* light skin. It is not. The decoder makes each pixel from all
# codes within its reach,
#
# $$\hat{x}_{p} = \mathrm{decoder}(e_{s_u} : u \text{ near } p),$$
#
# where $e_{s_u}$ is the codebook vector of the code at cell $u$. So a code means something among its neighbours only, as a
# word does. To see that, one code is written into the same cell of eight avatars.

# %%
code, r = int(middle[0]), grid // 2
own = torch.from_numpy(codes[packed.val_rows[:8]].astype(np.int64)).to(device)
written = own.clone()
written[:, r, r] = code
before, after = (to_pictures(model.decode(grids)) for grids in (own, written))
near = slice((r - 2) * cell, (r + 3) * cell)  # five cells: the changed one in the middle
plots.rows_of_images({"before": before[:, near, near], f"code {code}": after[:, near, near]}, side=1.1)

# %% [markdown]
# **You should see** eight middles that have become more alike (below), but not equal: each fits what is around it. Were they
# equal, the decoder would be a mere table of tiles. How far does one code reach? The mean change of each pixel:

# %%
change = np.abs(after.astype(float) - before).mean(axis=(0, 3))
mine = change[r * cell : (r + 1) * cell, r * cell : (r + 1) * cell].sum() / max(change.sum(), 1e-9)
fig, [[ax]] = plots.figure(1, 1, 4.6, 3.4)
shown = ax.imshow(change, cmap="magma", extent=(0, grid, grid, 0))
ax.set(title=f"{mine:.0%} of the change is in its own cell", xlabel="column", ylabel="row")
fig.colorbar(shown, ax=ax, label="mean change [grey levels]")
fig

# %% [markdown]
# **You should see** a bright spot a few cells wide, with less than half of the change in the code's own cell, and next to
# nothing elsewhere. (Not quite nothing: GroupNorm looks at the whole image.) A spot as wide as the image would mean that the
# decoder mixes everything, as it does with `model.attention_at`, and then editing by regions suffers. An edit therefore keeps
# the pixels beyond the decoder's reach as they were:

# %%
code_of(decode_edited)

# %% [markdown]
# ## 3. The codebook from afar
#
# Training moved each code to the middle of the latents that chose it (notebook 02), and asked nothing of its neighbours.
# Did an order come about? Every code is a dot, put into the plane by PCA (which keeps large distances) and by t-SNE (which
# keeps neighbours). Its colour is the mean of the image cells that map to it.

# %% tags=["picture-codebook"]
tsne = TSNE(init="pca", perplexity=min(30.0, k / 4), random_state=config.seed).fit_transform(codebook)
cell = packed.images.shape[1] // grid
cells = packed.images[:500].reshape(-1, grid, cell, grid, cell, 3).mean(axis=(2, 4)).reshape(-1, 3)
colours = np.stack([np.bincount(codes[:500].ravel(), channel, k) for channel in cells.T], axis=1)
colours = colours / np.maximum(np.bincount(codes[:500].ravel(), minlength=k), 1)[:, None] / 255
fig, [axes] = plots.figure(1, 2, 9.2, 4.0)
for ax, name, dots in zip(axes, ("PCA", "t-SNE"), (PCA(2).fit_transform(codebook), tsne), strict=True):
    ax.scatter(*dots.T, s=8 + 60 * np.sqrt(counts / counts.max()), c=colours, lw=0.4, edgecolors="#444")
    ax.set(title=name, xticks=[], yticks=[], xlabel="first axis (no unit)", ylabel="second axis")
fig

# %% [markdown]
# **You should see** colours grouped: the codebook has ordered itself by what patches look like. Large dots are used often.
# Distances in t-SNE mean little beyond "near". Colours all mixed would mean that codes which look alike are
# far apart, which makes the prior's work harder: train Phase 1 longer (`phase1.steps`).

# %% [markdown]
# ## 4. What and where
#
# A code says *what*, its cell says *where*. Two experiments: the eyes' part of the grid exchanged between two avatars, and
# all codes moved three rows up.

# %%
x = images_of(packed, packed.val_rows[-2:]).to(device)
eyes = region(grid, (grid * 6 // 16, grid * 11 // 16), (grid * 3 // 16, grid * 13 // 16))
one, two = model.encode(x).split(1)
swapped = [Edit(region=eyes, copy_from=b).apply(a) for a, b in ((one, two), (two, one))]
moved = torch.cat([one, two]).roll(-3, dims=1)
rows = {"before": x, "eyes swapped": model.decode(torch.cat(swapped)), "moved up": model.decode(moved)}
plots.rows_of_images({name: to_pictures(images) for name, images in rows.items()}, side=1.8)

# %% [markdown]
# **You should see** the images themselves above, and below them decoded codes: each face with the other's eyes and the skin around them, in place and with soft seams; and whole avatars
# three rows higher, with the top of their hair at the bottom, as `roll` brings back below what leaves above. Codes carry no
# position of their own. Against hard seams, let the masked prior redraw a rim around the region (notebook 04, section 14).

# %% [markdown]
# ## 5. What can be read off the codes
#
# Do codes know that somebody wears glasses? A *probe* finds out: a weak classifier, one straight cut per answer through the
# codes' vectors,
#
# $$\hat{y} = \arg\max_c \; w_c \cdot f + b_c,$$
#
# where $f$ are the vectors of an avatar's 256 codes in a row, shortened by PCA to their directions of largest variance, and
# $w_c, b_c$ are fitted on training avatars for each answer $c$. It is weak on purpose. What a strong network finds, it may have
# worked out itself; what a straight cut finds was there. The red mark is what always saying the commonest answer gets on
# held-out avatars.

# %%
if image_source(config) == "avatars":
    features = PCA(min(16, codebook.shape[1])).fit_transform(codebook)[codes].reshape(len(codes), -1)
    attributes = read_attributes(raw_dir(config), (entry.file for entry in packed.kept))
    fitting, val, accuracy, majority = packed.train_rows, packed.val_rows, {}, {}
    reduced = make_pipeline(PCA(min(128, len(fitting) - 1)), StandardScaler())
    reduced = reduced.fit(features[fitting]).transform(features)
    for name, values in attributes.items():
        y = np.array(values)
        known, asked = fitting[y[fitting] != ""], val[np.isin(y[val], y[fitting]) & (y[val] != "")]
        if len(set(y[known])) > 1 and len(asked):
            fitted = LogisticRegression(max_iter=200, C=0.1).fit(reduced[known], y[known])
            accuracy[name] = fitted.score(reduced[asked], y[asked])
            majority[name] = DummyClassifier().fit(reduced[known], y[known]).score(reduced[asked], y[asked])
    best_first = dict(sorted(accuracy.items(), key=lambda pair: majority[pair[0]] - pair[1]))
    print(f"one standard error of an accuracy: at most {0.5 / len(val) ** 0.5:.1%}")
    probe_figure = plots.bars(best_first, "accuracy of linear probes on held-out avatars", majority)
probe_figure if image_source(config) == "avatars" else print("attributes are known of the built-in avatars only")

# %% [markdown]
# **You should see** clothes, hair and the backdrop's pattern read off in most avatars, and small things (brows, blush) no
# better than by guessing (`demo`): the codes keep what matters for the pixels. A low bar does *not* prove that the codes
# lack something; it may be there, but not along a straight line, or PCA has dropped it. If large things such as hair are not read off either, the
# reconstructions lack them too: **T3**, notebook 02.

# %% [markdown]
# ## 6. A small sweep
#
# Which setting should one change? Short runs, trained here once. Two differ from the first in one number: codebook size, or
# weight of the perceptual term. One change at a time, or nobody knows what helped. The two with a GAN break that rule: as they
# go on from the first, they differ from it in *two* things, a GAN and twice the steps. All are too short to reach their best:
# compare them with each other only.

# %%
steps = max(4, config.phase1.steps // 40)
short = [f"phase1.steps={steps}", f"phase2.steps={steps}", f"kmeans.steps={min(config.kmeans.steps, steps // 2)}"]
short += [f"train.val_every={steps}", "train.val_images=256", "train.monitor=val_rec", "phase1.start_from=null"]
short += ["phase2.start_from=phase1", "loss.gan_start=0", f"loss.gan_ramp={steps // 4}"]
loss, few = config.loss, config.model.num_codes // 8
other, heavier = abs(0.5 - loss.perceptual), round(4 * loss.gan, 2)  # the perceptual term on where it is off, or off
variants = {"as configured": ("phase1", []), "with GAN": ("phase2", [])}
variants |= {
    f"K={few}": ("phase1", [f"model.num_codes={few}"]),
    f"λ_gan={heavier}": ("phase2", [f"loss.gan={heavier}"]),
}
variants |= {f"λ_perc={other}": ("phase1", [f"loss.perceptual={other}"])}

# %%
runs = {}
for label, (last, changes) in variants.items():
    tree = config.model_dump(mode="json") | {"profile": f"{config.profile}-sweep"}
    changed = override(tree, short + changes)
    for phase in phases_up_to(last, changed):
        runs[label] = train(phase, changed, SilentBar)
results = {label: evaluate_run(run, config) for label, run in runs.items()}
Markdown(markdown([{"variant": label} | table([run])[0] for label, run in runs.items()]))

# %%
fig, [[ax]] = plots.figure(1, 1, 7, 3.2)
for (label, result), colour in zip(
    results.items(), 2 * (plots.BLUE, plots.ORANGE, plots.PURPLE, plots.GREY), strict=False
):
    at = result["sharpness"], result["psnr"]
    ax.errorbar(*at, yerr=2 * result["psnr_se"], fmt="o", color=colour, capsize=4)
    ax.annotate(label, at, xytext=(7, 3), textcoords="offset points", fontsize=9)
ax.set(xlabel="sharpness (1: as sharp as the input)", ylabel="PSNR [dB], ± 2 standard errors")
ax.set(title="fidelity against sharpness")
fig

# %% [markdown]
# **You should see** fewer codes cost PSNR, and the heavier GAN buys sharpness for it: down and to the right, the trade of
# notebook 03. (The perceptual term is of random features in `demo`, and buys nothing.) Where bars overlap, this picture
# cannot decide; section 7 compares image by image. A point above *and* right of "as configured" would be simply better. In
# `demo`, "with GAN" is there. That is too good to be true: it had twice the steps.

# %% [markdown]
# ## 7. Comparing two runs honestly
#
# One run has 24.1 dB, another 24.2. Is it better? A mean over $n$ images is known up to its *standard error*,
#
# $$\mathrm{SE} = \frac{\sigma}{\sqrt{n}},$$
#
# where $\sigma$ is the standard deviation over images. The true mean, over all images of the kind, lies within 2 SE of it
# nineteen times out of twenty. But both runs see the *same* images, and an image that is hard for one is hard for the other. So take
# the difference on each image first, $d_i = a_i - b_i$, and the standard error of the $d_i$: the images' own variety drops
# out. In a toy where run B is better by 0.05 dB:

# %%
random = np.random.default_rng(0)
hard = random.normal(24, 1.0, 400)  # how easy each of 400 images is [dB]
a, b = hard + random.normal(0, 0.1, 400), hard + 0.05 + random.normal(0, 0.1, 400)
d, n = b - a, len(hard)
lines = [("each by itself", (a.var(ddof=1) / n + b.var(ddof=1) / n) ** 0.5), ("image by image", d.std(ddof=1) / n**0.5)]
Markdown(
    markdown([{"compared": name, "B − A [dB]": d.mean(), "± SE": se, "in SE": d.mean() / se} for name, se in lines])
)

# %% [markdown]
# **You should see** the same difference twice, less than one SE from nothing in the first row, and five or more in the second. Now two
# runs of the sweep:


# %%
def psnr_of(run):
    net, some = vq_core.load_vqvae(run).to(device), packed.val_rows[:512]
    parts = np.array_split(some, -(-len(some) // 32))
    batches = (images_of(packed, part).to(device) for part in parts)
    return torch.cat([psnr(net(x), x).cpu() for x in batches]).numpy()


a, b = psnr_of(runs["as configured"]), psnr_of(runs["with GAN"])
d, n = b - a, len(a)
fig, [axes] = plots.figure(1, 2, 9, 3.1)
axes[0].scatter(a, b, s=7, color=plots.BLUE, lw=0)
axes[0].axline((a.mean(), a.mean()), slope=1, color=plots.GREY, ls="--")
axes[0].set(title="each image", xlabel="as configured: PSNR [dB]", ylabel="with GAN: PSNR [dB]")
axes[1].hist(d, 30, color=plots.BLUE)
axes[1].axvline(0, color=plots.GREY, ls="--")
axes[1].set(title=f"mean {d.mean():+.3f} ± {d.std(ddof=1) / n**0.5:.3f} dB", ylabel="images")
axes[1].set(xlabel="with GAN − as configured: PSNR [dB]")
fig

# %% [markdown]
# **You should see** a narrow, slanted cloud (hard images are hard for both), and a mean difference many SE from 0 (`demo`).
# A round cloud would mean that the two runs
# fail on different images: look at these.
#
# So a GAN raises PSNR? No. Two things differ, GAN and steps, and no error bar can tell which of them did it. A standard error protects from chance, not from an unfair
# comparison. Nor does it contain the luck of training: the same settings with another seed give another run. In the README's
# table on real faces two seeds are 0.2 dB apart, further than most options. So, before believing in a setting:
#
# - change one thing, and compare at equal numbers of steps and of images;
# - train each side with at least two seeds, and believe it if it wins with each;
# - decide on images that chose nothing: not the setting, not the checkpoint;
# - of twenty things tried, one comes out 2 SE ahead by luck: try the winner again.
#
# All finished runs on this disk, as `python -m vq_core compare` prints them:

# %%
Markdown(markdown(table()))

# %% [markdown]
# **You should see** one row per phase and one for every experiment. A column `data` appears when runs were trained on
# different images: their figures must not be compared.

# %% [markdown]
# ## 8. Where the limits of 10,000 images are
#
# `full` draws 10,000 avatars (`data.avatars`), 8,000 of them for training. Would more help? Ask with fewer: train on an eighth, a quarter, a half of them, and see whether the curve still
# falls. With a prior that takes hours; the counting of notebook 04, each code after its *left neighbour*, does it in seconds.


# %%
def left_bits(grids):
    share = (np.bincount(grids.ravel(), minlength=k) + 0.5) / (grids.size + 0.5 * k)
    pairs = np.zeros((k, k), dtype=np.float32)
    np.add.at(pairs, (grids[:, :, :-1].ravel(), grids[:, :, 1:].ravel()), 1)
    after = (pairs + 200 * share) / (pairs.sum(1, keepdims=True) + 200)
    return -np.log2(after[asked[:, :, :-1], asked[:, :, 1:]]).mean()


# %%
seen, asked = codes[packed.train_rows], codes[packed.val_rows]
sizes = [max(1, len(seen) // part) for part in (8, 4, 2, 1)]
bits = [left_bits(seen[:size]) for size in sizes]
_, learnt = prior_run.curve("train/bits")
fig, [[ax]] = plots.figure(1, 1, 6, 2.9)
ax.plot(sizes, bits, color=plots.BLUE, marker="o", label="left neighbour")
ax.axhline(prior_run.result()["best_bits"], color=plots.ORANGE, label="causal prior, held out")
ax.axhline(np.mean(learnt[-5:]), color=plots.PURPLE, ls="--", label="causal prior, on its training avatars")
ax.set(xscale="log", xlabel="training images", ylabel="bits per token", title="what more images would bring")
ax.legend()
print(f"the last doubling saved {bits[-2] - bits[-1]:.2f} bits per token")
fig

# %% [markdown]
# **You should see** a line that still falls at its right end, by 0.1 bits or more for each doubling: at this number of
# images, images are what is short. The gap between the two lines of the prior says the same (**T4**). A flat end would
# mean that a better model is wanted instead (`prior.dim`, `prior.steps`).
#
# What 10,000 images allow, and what they do not:
#
# | | |
# |---|---|
# | codebook | each code is seen $256\,N/K$ times: about 2,000 times with $N = 8{,}000$ for training and $K = 1024$. With $K = 16{,}384$ it would be 125 on average and far fewer for rare codes, which then die or are learnt by heart |
# | prior | a few million parameters; a larger one is not better, it memorises (`prior` in `vqvae_anime.yaml`) |
# | rare things | what one avatar in 2,000 has was seen four times: it is copied or left out, hence a recall below the precision |
# | figures | 2,000 held-out images give PSNR to some hundredths of a decibel, but a Fréchet distance that is biased: compare it at equal numbers only |
# | the world | other styles, poses and framings are reconstructed badly and never drawn; no setting helps, only images |

# %% [markdown]
# ## 9. What to read next
#
# | if you liked | read |
# |---|---|
# | codebooks (01, 02) | van den Oord et al. 2017, [Neural discrete representation learning](https://arxiv.org/abs/1711.00937): the VQ-VAE. Bengio et al. 2013, [Estimating or propagating gradients through stochastic neurons](https://arxiv.org/abs/1308.3432): straight-through. Mentzer et al. 2023, [Finite scalar quantization](https://arxiv.org/abs/2309.15505): codes without a codebook, so that none can die |
# | sharpness (03) | Esser et al. 2020, [Taming transformers](https://arxiv.org/abs/2012.09841): the VQ-GAN. Isola et al. 2016, [Image-to-image translation](https://arxiv.org/abs/1611.07004): judging patches. Zhang et al. 2018, [The unreasonable effectiveness of deep features](https://arxiv.org/abs/1801.03924): LPIPS. Blau & Michaeli 2017, [The perception-distortion tradeoff](https://arxiv.org/abs/1711.06077): why PSNR must fall |
# | priors (04) | Vaswani et al. 2017, [Attention is all you need](https://arxiv.org/abs/1706.03762). Chang et al. 2022, [MaskGIT](https://arxiv.org/abs/2202.04200). Pannatier et al. 2024, [σ-GPTs](https://arxiv.org/abs/2404.09562): any order. Besnier et al. 2025, [Halton scheduler](https://arxiv.org/abs/2503.17076). Holtzman et al. 2019, [The curious case of neural text degeneration](https://arxiv.org/abs/1904.09751): top-p |
# | judging (04, 05) | Kynkäänniemi et al. 2019, [Improved precision and recall](https://arxiv.org/abs/1904.06991). Bińkowski et al. 2018, [Demystifying MMD GANs](https://arxiv.org/abs/1801.01401): the kernel distance. Carlini et al. 2023, [Extracting training data from diffusion models](https://arxiv.org/abs/2301.13188): copies. Alain & Bengio 2016, [Linear classifier probes](https://arxiv.org/abs/1610.01644) |
# | where it went | Tian et al. 2024, [Visual autoregressive modeling](https://arxiv.org/abs/2404.02905): coarse to fine. Yu et al. 2024, [An image is worth 32 tokens](https://arxiv.org/abs/2406.07550). Li et al. 2024, [Autoregressive image generation without vector quantization](https://arxiv.org/abs/2406.11838). Rombach et al. 2021, [Latent diffusion](https://arxiv.org/abs/2112.10752): the same autoencoder under another prior |

# %% [markdown]
# ## Exercises
#
# **Predict.** Every code of an avatar is exchanged for the code that lies nearest to it in the codebook, then for the one
# that lies farthest. Will you recognise the avatar?

# %% jupyter={"source_hidden": true} tags=["answer"]
vectors = torch.from_numpy(codebook).to(device)
apart = torch.cdist(vectors, vectors)
closest, farthest = (apart + torch.diag(torch.full((k,), torch.inf, device=device))).argmin(1), apart.argmax(1)
assert (apart[range(k), closest] <= apart[range(k), farthest]).all()
exchanged = {"as it is": own, "nearest": closest[own], "farthest": farthest[own]}
plots.rows_of_images({name: to_pictures(model.decode(grids)) for name, grids in exchanged.items()})

# %% [markdown]
# With the nearest codes yes, if paler and rougher (`demo`): neighbours in the codebook look alike, which section 3 showed
# from afar, and which the prior makes use of. With the farthest ones only a mask in black and white is left: seen from
# almost anywhere, the farthest codes are the same few at the ends of the cloud.
#
# **Build.** An error bar without a formula. The *bootstrap* draws $n$ of the $n$ images again and again, with replacement,
# and looks how much the mean varies. Make one for `d`, the differences of section 7, and compare it with the standard
# error. *Hint:* `random.choice` takes a shape; two lines will do.

# %% jupyter={"source_hidden": true} tags=["answer"]
again = random.choice(d, (2000, n)).mean(axis=1)
formula = d.std(ddof=1) / n**0.5
assert 0.7 < again.std() / formula < 1.3
print(f"bootstrap ± {again.std():.4f} dB, formula ± {formula:.4f} dB")
print("95 of 100 means lie between {:+.3f} and {:+.3f} dB".format(*np.quantile(again, [0.025, 0.975])))

# %% [markdown]
# The two agree. The bootstrap also works where there is no formula, as for sharpness or precision.

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
