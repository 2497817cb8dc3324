# %% [markdown]
# # 02 · Phase 1: the VQ-VAE
#
# Train encoder, codebook and decoder together until reconstructions are faithful and every code earns its place.
#
# | needs | makes |
# |---|---|
# | notebooks 00, 01 | `data/runs/phase1-…/`: checkpoints, history, pictures, `result.json` |

# %% [markdown]
# ## Settings
#
# Sections 1 to 6 explain, each with a toy that runs in under a second, what the training from section 7 on does.

# %%
import numpy as np
import torch
from IPython.display import Markdown, display
from matplotlib import colormaps

import vq_core
from vq_core.data.augment import to_pictures
from vq_core.data.images import images_of
from vq_core.evaluation.report import evaluate_run
from vq_core.machine import pick_device
from vq_core.models import VectorQuantizerEMA, metrics, quantizer_ema
from vq_core.notebook import plots
from vq_core.notebook.lesson import code_of, pipeline, table
from vq_core.notebook.monitor import LiveView
from vq_core.notebook.widgets import UsageExplorer, card_of
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import load_images
from vq_core.runs.records import markdown
from vq_core.training.autoencoder import AutoencoderTraining
from vq_core.training.phases import train
from vq_core.training.schedules import learning_rate

# %% [markdown]
# The one cell to edit. To try a number, write it here: `["loss.commit=0.5"]` makes a run of its own
# (up from 0.25, the default). What the warm-up uses too, such as `model`, `data`, `phase1.lr` or `loss.perceptual`, goes
# into notebook 01's cell first; and every later notebook needs the same line to find the run.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
packed, device = load_images(config), pick_device(config)

# %% [markdown]
# Where we are: the codebook of notebook 01 now goes between encoder and decoder, and the three learn together.

# %%
pipeline(config, "encoder", "latents", "codebook", "codes", "decoder")

# %% [markdown]
# ## 1. z_e and z_q
#
# As in notebook 01, each latent of the grid $z_e$ is replaced by its nearest code, and the decoder gets the result:
#
# $$k(i,j) = \arg\min_{k}\; \lVert z_e(i,j) - e_k \rVert^2, \qquad z_q(i,j) = e_{k(i,j)}$$
#
# $i, j$ are row and column, $e_k$ is code number $k$; only the numbers $k(i,j)$, the *indices*, need be kept of an image. A
# toy: a grid of 4×4 latents in two dimensions, and four codes.

# %%
draw = torch.Generator().manual_seed(0)
toy = VectorQuantizerEMA(num_codes=4, code_dim=2)
toy.set_codebook(torch.tensor([[-1.0, -0.6], [-0.5, 0.9], [1.0, 0.6], [0.8, -0.9]]))
z_e = torch.randn(1, 2, 4, 4, generator=draw)
z_q, indices, *_ = toy(z_e)
print(f"z_e {list(z_e.shape)} → indices {list(indices.shape)} → z_q {list(z_q.shape)}")

# %%
fig, [[plane, cells]] = plots.figure(1, 2, 7.5, 3.2)
latents, chosen = z_e[0].flatten(1), z_q[0].flatten(1)
plane.plot(*torch.stack([latents, chosen], 1).unbind(), color=plots.GREY, lw=0.8)
plane.scatter(*latents, color=plots.BLUE, s=14, label="z_e, 16 latents")
plane.scatter(*toy.codebook.T, color=plots.ORANGE, marker="D", s=45, label="4 codes")
plane.set(xlabel="first dimension", ylabel="second dimension", title="each latent goes to its nearest code")
plane.legend(fontsize=8)
shown = cells.imshow(indices[0], cmap="cividis")
cells.grid(False)
cells.set(title="the same as indices", xlabel="column j", ylabel="row i", xticks=range(4), yticks=range(4))
fig.colorbar(shown, ax=cells, label="index k", ticks=range(4))
fig

# %% [markdown]
# **You should see** every blue point tied to the closest orange diamond, and no point that passes one by. The picture on the
# right is all that is kept.
#
# This is the code that runs in training. It does two more things, which the next sections explain: it passes the gradient
# on, and in training it notes which vectors went to which code (`pending_…`).

# %%
code_of(VectorQuantizerEMA.forward)

# %% [markdown]
# ## 2. What an image costs: h·w·log₂K bits
#
# To name one of $K$ codes takes $\log_2 K$ yes-or-no questions, as each halves what is left. An image is $h \cdot w$ choices:
#
# $$\text{bits per image} = h \cdot w \cdot \log_2 K$$
#
# $h, w$: height and width of the grid; $K$: the number of codes. The length of a code's vector is not in it: the codebook
# is stored once, not per image. Doubling $K$ adds only one bit per cell, while doubling the grid's side costs four times as
# many bits. Whatever does not fit through here is lost for every later notebook.

# %%
cells, k = config.grid**2, config.model.num_codes
sizes = {f"{size} codes": float(cells * np.log2(size) / 8) for size in (2, k // 4, k, 4 * k)}
pixels = {f"pixels, {config.data.image_size}×{config.data.image_size}×3": float(packed.images[0].nbytes)}
table(sizes | pixels, what=f"an image as {cells} choices among", value="bytes", digits=",.0f")

# %% [markdown]
# **You should see** a few hundred bytes instead of thousands (`demo`: 288 instead of 12,288). Usage that is not even makes it
# cheaper still: with perplexity $P$ it is as if there were $P$ codes, so $\log_2 P$ bits per cell suffice on average.
# Notebook 04's priors get lower by far.

# %% [markdown]
# ## 3. No gradient through argmin, and what is done about it
#
# The encoder learns by gradient: how does the loss change if $z_e$ moves a little? Not at all, because the nearest code
# stays the same. Until it jumps, when a border is crossed. So the derivative of $\arg\min$ is zero almost everywhere and
# undefined at the borders, and autograd gives none. Without a remedy the encoder would learn nothing from the
# reconstruction.
#
# The remedy is the *straight-through estimator*: forward the code, backward as if nothing had happened.
#
# $$z = z_e + \mathrm{sg}[z_q - z_e], \qquad \frac{\partial L}{\partial z_e} := \frac{\partial L}{\partial z_q}$$
#
# $\mathrm{sg}[\cdot]$ (*stop gradient*, `.detach()` in torch) is the identity forward, and a constant for the gradient. $z$
# has the value of $z_q$, as $z_e$ cancels; but its derivative by $z_e$ is 1. $L$ is the loss.
#
# The toy has one dimension, codes at −1, 0 and 1, and a decoder that would like to get 0.8: $L = (z_q - 0.8)^2$.

# %%
z_e = torch.linspace(-1.5, 1.5, 301, requires_grad=True)
codes = torch.tensor([-1.0, 0.0, 1.0])
z_q = codes[(z_e[:, None] - codes).abs().argmin(1)]
through = z_e + (z_q - z_e).detach()
loss = (through - 0.8).square()
(gradient,) = torch.autograd.grad(loss.sum(), z_e)
print(f"does z_q have a gradient? {z_q.requires_grad}; with straight-through? {through.requires_grad}")

# %%
fig, [[left, right]] = plots.figure(1, 2, 8, 2.7)
left.plot(z_e.detach(), loss.detach(), color=plots.BLUE)
left.set(title="the loss has steps, and no slope", xlabel="z_e", ylabel="L")
right.plot(z_e.detach(), 0 * z_e.detach(), color=plots.GREY, ls="--", label="true: 0 between the jumps")
right.plot(z_e.detach(), gradient, color=plots.ORANGE, label="straight-through")
right.set(title="gradient by autograd", xlabel="z_e", ylabel="∂L / ∂z_e")
right.legend(fontsize=8)
fig

# %% [markdown]
# **You should see** −3.6, −1.6 and 0.4 on the right: the slope $2(z_q - 0.8)$ of the loss *at the code*, lent to all points
# that chose it. Where it is negative, $z_e$ is sent to the right, towards better codes. It is an estimate and no more: at
# code 1 it still says "a little less", and would push $z_e$ over the border to code 0 and back again. The nearer $z_e$ is to
# its code, the truer it is; section 4 has a term for that.
#
# The package computes $\mathrm{sg}[z_q] + (z_e - \mathrm{sg}[z_e])$: the bracket is exactly 0, whereas the sum
# $z_e + (z_q - z_e)$ would round, and the decoder would not quite get the codes. It is the line `through = …` of `forward`,
# shown in section 1.
#
# The same check on the real quantiser: whatever gradient comes back from the decoder arrives at $z_e$ unchanged.

# %%
z_e = torch.randn(1, 2, 4, 4, generator=draw).requires_grad_()
from_decoder = torch.randn(1, 2, 4, 4, generator=draw)
toy(z_e).z_q.backward(from_decoder)
print(f"gradient at z_e equal to the one at z_q: {torch.equal(z_e.grad, from_decoder)}")

# %% [markdown]
# **You should see** `True`.

# %% [markdown]
# ## 4. Three terms, and what happens without each
#
# $$L = \lambda_{rec}\,\lvert x - \hat{x} \rvert \;+\; \lambda_{vq}\,\lVert \mathrm{sg}[z_e] - e \rVert^2 \;+\; \lambda_{commit}\,\lVert z_e - \mathrm{sg}[e] \rVert^2$$
#
# $\hat{x}$ is the reconstruction, $e$ the code that was chosen, the $\lambda$ are weights (`loss.rec`, `loss.vq`,
# `loss.commit`: 1, 1 and 0.25); each term is meant as the mean over all its numbers. But for the $\lambda$ the last two are
# equal; $\mathrm{sg}$ decides who moves.
#
# - **Reconstruction** trains decoder and (straight through) encoder. Only this term knows the picture.
# - **Codebook** draws codes to their latents. Reconstruction cannot move the codes: $\mathrm{sg}$ cuts them off. Something else
#   must. Here it is this term; in the real training it is the moving average of section 5.
# - **Commitment** holds latents near their codes. Reconstruction is judged at $z_q$, so it does not see how far away $z_e$
#   is. It may push the same way in every step, and latents run off faster than codes can follow.
#
# (Where `loss.perceptual` is not 0, $\lambda_{perc}$·LPIPS is added.)
#
# A toy autoencoder in two dimensions: a matrix before, a matrix after, eight codes between.

# %%
x = torch.randn(256, 2, generator=draw) * torch.tensor([1.0, 0.6])
begin = [0.5 * torch.eye(2), 2.0 * torch.eye(2), 0.5 * torch.randn(8, 2, generator=draw)]


def terms_of(encoder, decoder, codebook):
    z_e = x @ encoder
    e = codebook[torch.cdist(z_e, codebook).argmin(1)]
    x_rec = (z_e + (e - z_e).detach()) @ decoder
    vq, commit = (e - z_e.detach()).square().mean(), (z_e - e.detach()).square().mean()
    return torch.stack([(x_rec - x).abs().mean(), vq, commit])


# %%
def trained(weights, steps=300, rate=0.2):
    parts = [part.clone().requires_grad_() for part in begin]
    for _ in range(steps):
        slopes = torch.autograd.grad(terms_of(*parts) @ torch.tensor(weights), parts)
        parts = [(part - rate * slope).detach().requires_grad_() for part, slope in zip(parts, slopes, strict=True)]
    return [part.detach() for part in parts]


weights = {"all three": (1, 1, 0.25), "no reconstruction": (0, 1, 0.25)}
weights |= {"no codebook term": (1, 0, 0.25), "no commitment": (1, 1, 0.0)}
outcome = {name: trained([float(w) for w in three]) for name, three in weights.items()}

# %%
fig, [axes] = plots.figure(1, 4, 11, 2.8, sharex=True, sharey=True)
for ax, (name, parts) in zip(axes, outcome.items(), strict=True):
    ax.scatter(*parts[2].T, s=26, color=plots.ORANGE, marker="D", label="codes")
    ax.scatter(*(x @ parts[0]).T, s=4, color=plots.BLUE, alpha=0.5, label="z_e")
    ax.set(title=name, xlabel="first dimension")
axes[0].set(ylabel="second dimension")
axes[0].legend(fontsize=8, loc="upper left")
fig

# %%
rows = []
for name, parts in outcome.items():
    rec, _, gap = terms_of(*parts).tolist()
    rows.append({"toy": name, "L_rec": rec, "‖z_e − e‖²": gap, "spread of z_e": float((x @ parts[0]).std())})
Markdown(markdown(rows))

# %% [markdown]
# **You should see**
#
# - all three: codes spread evenly among the latents, the lowest `L_rec` or close to it;
# - no reconstruction: the latents shrink to a point, with the codes that they still use. Both other terms are pleased (a
#   distance of nearly 0), and nothing of the data is left;
# - no codebook term: the codes stay where they began, and latents lie around them in vain;
# - no commitment: `L_rec` is no better, but latents and codes have run outwards, several times as far from each other, and go on
#   doing so. The commitment term stops this. Without it the latents run far from their codes. Then the borrowed slope is wrong,
#   and slow codes lose their latents and die. If that happens, raise it: `loss.commit=0.5` (**T1**).
#
# The real step. `autoencoder_terms` makes the terms, `weighted` sums them up, `add_gradient` calls backward.

# %%
code_of(AutoencoderTraining.training_step, AutoencoderTraining.autoencoder_terms, AutoencoderTraining.weighted)

# %% [markdown]
# ## 5. The codebook by moving averages
#
# The codebook term has a solution that needs no gradient: the point with the smallest mean squared distance to some vectors
# is their mean. So let each code be the mean of the latents that chose it, over the last batches, with older ones counting
# less and less. It is notebook 01's k-means, done a little in every step while the latents move:
#
# $$N_k \leftarrow \gamma N_k + (1-\gamma)\, n_k, \qquad m_k \leftarrow \gamma\, m_k + (1-\gamma) \sum_{z_e \to k} z_e, \qquad e_k = \frac{m_k}{\tilde N_k}$$
#
# $n_k$: how many latents of this batch chose code $k$; the sum runs over them. $N_k$, $m_k$: the moving averages of number
# and sum (EMA, *exponential moving average*). $\gamma$: `quantizer.decay`; a latent's weight has halved after
# $\ln 2 / (1-\gamma)$ steps, 69 at 0.99. $\tilde N_k = \frac{N_k + \varepsilon}{N + K\varepsilon} N$ with $N = \sum_k N_k$ is $N_k$,
# smoothed so that no division is by zero.
#
# With `quantizer.learning=ema`, the default, the term $\lambda_{vq}$ is therefore only logged. One update by hand, and by the
# class. Three latents, all nearer to code 0 than to code 1:

# %%
decay, eps, codes = 0.9, 1e-5, torch.tensor([[0.0, 0.0], [4.0, 4.0]])
vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
n, sums = torch.tensor([3.0, 0.0]), torch.stack([vectors.sum(0), torch.zeros(2)])
N = decay * 0.1 + (1 - decay) * n  # a count begins at 0.1 …
m = decay * 0.1 * codes + (1 - decay) * sums  # … and a sum at 0.1 times the code
by_hand = m / ((N + eps) / (N.sum() + 2 * eps) * N.sum())[:, None]

# %%
quantizer = VectorQuantizerEMA(num_codes=2, code_dim=2, decay=decay, eps=eps)
quantizer.set_codebook(codes)
quantizer(vectors.T.reshape(1, 2, 1, 3))
quantizer.step()
print(f"by hand {by_hand.tolist()}\nclass   {quantizer.codebook.tolist()}")
print(f"equal: {torch.allclose(by_hand, quantizer.codebook)}")

# %% [markdown]
# **You should see** `True`. Code 0 has gone most of the way to the mean of its three latents, (⅔, ⅔). Code 1 was chosen by none,
# and is almost where it was: only $\varepsilon$ moves it. Counts begin as low as 0.1 so that a code which nobody chooses soon
# counts as dead.
#
# The real one; `pending_…` is what `forward` has noted since the last step.

# %%
code_of(VectorQuantizerEMA.step)

# %% [markdown]
# What $\gamma$ does: latents at 1 that jump to 2 after 100 steps, as an encoder's do while it learns.

# %%
fig, [[ax]] = plots.figure(1, 1, 7, 2.7)
where = np.repeat([1.0, 2.0], 100)
ax.plot(where, color=plots.GREY, ls="--", label="latents")
for gamma, colour in {0.9: plots.BLUE, 0.99: plots.ORANGE, 0.999: plots.PURPLE}.items():
    count, total, code = 0.1, 0.1 * 0.0, []
    for value in where:
        count, total = gamma * count + (1 - gamma) * 8, gamma * total + (1 - gamma) * 8 * value
        code.append(total / count)
    ax.plot(code, color=colour, label=f"code, decay {gamma}")
ax.set(xlabel="step", ylabel="position", title="a code follows its latents")
ax.legend(fontsize=8)
fig

# %% [markdown]
# **You should see** a quick code, a slow one, and one that does not arrive in 100 steps. A slow code is steadier; if it is too
# slow for the encoder, its latents leave it behind.

# %% [markdown]
# ## 6. Why codes die, and what brings them back
#
# As in notebook 01, section 4, a code that no latent chooses has no mean to move to, and stays where it is. In training this
# befalls good codes too, whose latents have moved away. A moving average never quite gets to zero, so a code is *dead* if it
# is rarer than a small share $\rho$ of the mean (`quantizer.reset_below`):
#
# $$N_k < \rho \cdot \tfrac{1}{K} \textstyle\sum_j N_j$$
#
# The remedy: every `quantizer.reset_every` steps each dead code is put where it is needed most, on a latent of the patches
# that were reconstructed worst.
#
# A toy: three clusters of latents, 16 codes at random, 200 steps. The patch "reconstructed worst" is here the latent farthest
# from its code.

# %%
middles = torch.tensor([[-2.0, 0.0], [1.5, 1.5], [1.5, -1.5]])
start = 3 * torch.randn(16, 2, generator=draw)
ends = {name: VectorQuantizerEMA(16, 2, decay=0.95) for name in ("no resets", "resets every 20 steps")}
for name, quantizer in ends.items():
    quantizer.set_codebook(start)
    for step in range(1, 201):
        z = middles[torch.arange(64) % 3] + 0.5 * torch.randn(64, 2, generator=draw)
        out = quantizer(z.T.reshape(1, 2, 8, 8))
        quantizer.step()
        if name != "no resets" and step % 20 == 0:
            dead = quantizer.dead_codes(below=0.05).nonzero().flatten()
            gaps = (z - quantizer.codebook[out.indices.flatten()]).square().sum(1)
            quantizer.replace(dead, z[gaps.topk(len(dead)).indices])

# %%
fig, [axes] = plots.figure(1, 2, 8.5, 3.2, sharex=True, sharey=True)
for ax, (name, quantizer) in zip(axes, ends.items(), strict=True):
    dead, in_use = quantizer.dead_codes(0.05), quantizer_ema.perplexity(quantizer.ema_counts)
    ax.scatter(*z.T, s=8, color=plots.GREY, label="latents")
    ax.scatter(*quantizer.codebook[~dead].T, color=plots.BLUE, marker="D", s=30, label=f"{int((~dead).sum())} in use")
    ax.scatter(*quantizer.codebook[dead].T, color=plots.ORANGE, marker="x", s=40, label=f"{int(dead.sum())} dead")
    ax.set(title=f"{name}: perplexity {in_use:.1f} of 16", xlabel="first dimension")
    ax.legend(fontsize=8)
axes[0].set(ylabel="second dimension")
fig

# %% [markdown]
# **You should see** crosses left behind between and beside the clusters on the left, and on the right all or nearly all
# codes among the latents, at a higher perplexity.
#
# In the package: who is dead, how a code is moved, and where to.

# %%
code_of(VectorQuantizerEMA.dead_codes, VectorQuantizerEMA.replace, AutoencoderTraining._reset_dead_codes)

# %% [markdown]
# ## 7. The schedule
#
# Now for the real thing. The first steps are small, as large ones would throw the latents off their new codes; the last ones
# are small so that the weights settle.

# %%
total, peak = config.phase1.steps, config.phase1.lr
steps = range(0, total, max(1, total // 200))
rates = [learning_rate(config.optim, step, total=total, peak=peak) for step in steps]
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.plot(steps, rates, color=plots.BLUE)
ax.set(title="learning rate in Phase 1", xlabel="step", ylabel="learning rate")
fig

# %% [markdown]
# **You should see** a short ramp up to `phase1.lr` and a long glide down. A peak that is too high shows as T1 later on.

# %% [markdown]
# ## 8. Train
#
# Loss, PSNR on held-out images, usage of the codes, and the same eight held-out images again and again. For pixels in [−1, 1]
# *PSNR* is $10 \log_{10}(2^2 / \text{mean squared error})$; 3 dB more is half the error. Interrupt the kernel whenever you like:
# the cell goes on from there when run again.
#
# Which way a step goes is up to the optimiser. *AdamW* scales each weight's step by that weight's own recent gradients.
# Where steps are few, as in `demo`, the kernels of all convolutions but the first and the last are moved by *Muon* instead
# (`phase1.muon_lr`): it takes the averaged gradient of a kernel as a matrix and gives all of its directions the same
# length, so that rare ones are learnt as fast as common ones. On 4,000 real faces half the steps then do: 24.9 dB after
# 850 of them, where AdamW comes to 24.1 dB, and to 24.6 after 1,700. `full` has AdamW throughout: its 100,000 steps have
# not been tried with Muon.

# %%
run = train("phase1", config, LiveView)
print(f"{run.name}: best on held-out images at step {run.result()['best_step']}")

# %% [markdown]
# **You should see** PSNR rise to the last steps (`demo`: 24–25 dB on the built-in avatars) and hair, eyes and mouths come into
# place. If it stops early, or at less than 20 dB, look at perplexity first: a codebook that collapses (**T1**) takes
# everything else with it.

# %% [markdown]
# ## 9. Curves
#
# As logged in the run's `history.jsonl` (TensorBoard has them too).

# %%
names = {
    "train/rec": "L_rec (train)",
    "train/commit": "L_commit",
    "val/psnr": "PSNR [dB]",
    "val/perplexity": "perplexity",
}
plots.curves({"phase 1": run}, names)

# %% [markdown]
# **You should see** L_rec falling, PSNR rising, and perplexity high from the first validation on, which is k-means' doing.
# L_commit rises ever more slowly: the latents spread out, as the decoder learns to use the differences between them. An
# L_commit that rises ever *faster* is section 4's runaway: `loss.commit=0.5`. A PSNR that turns down while L_rec still falls is
# overfitting (**T4**).

# %% [markdown]
# ## 10. Held-out images, and what is kept of them
#
# Input, the indices as colours, and what the decoder makes of these. Two similar colours need not be similar codes.

# %%
model = vq_core.load_vqvae(run).to(device)
x = images_of(packed, packed.val_rows[-12:]).to(device)
codes = model.encode(x)
x_rec = model.decode(codes)
as_colours = colormaps["turbo"](codes.cpu().numpy() / config.model.num_codes, bytes=True)[..., :3]
plots.rows_of_images({"input": to_pictures(x), "codes": as_colours, "Phase 1": to_pictures(x_rec)})

# %% [markdown]
# **You should see** the same persons, with colours and pose right and fine strands of hair a little soft. Even a flat
# backdrop takes several numbers, because the encoder looks beyond the cell. Wrong colours or poses would mean that the
# training was too short (`phase1.steps`); softness is the subject of section 12.

# %% [markdown]
# ## 11. Metrics
#
# Over all held-out images. *SSIM* compares local means, contrasts and patterns: 1 is equal. *Sharpness* is the gradient
# energy of the reconstructions over that of the inputs: 1 is as sharp as the input.
#
# $$\text{sharpness} = \frac{\sum \lVert \nabla \hat{x} \rVert^2}{\sum \lVert \nabla x \rVert^2}$$
#
# $\nabla$: the differences of neighbouring pixels. It does not ask whether an edge is in the right place; PSNR does.

# %%
figures = evaluate_run(run, config)
table({name: figures[name] for name in ("psnr", "ssim", "sharpness", "perplexity", "codes_used")})

# %% [markdown]
# **You should see** (`demo`) PSNR of 24–25 dB, sharpness around 0.7 and at least 95 % of the codes in use. Perplexity is
# healthy above $K/2$; from $K/5$ to $K/2$ watch it; below $K/5$, or with fewer than half of the codes used, it is **T1**:
# a smaller `quantizer.reset_every`, `loss.commit=0.5`.

# %% [markdown]
# ## 12. Where is the picture lost?
#
# A blurred reconstruction has two suspects. Either the codes are too coarse: then the decoder does not know better. Or it
# knows, and still draws softly, because that is what its loss rewards. To tell them apart, let the latents pass the
# codebook by: what $z_e$ gives beyond $z_q$ is what quantisation costs.

# %%
latents = model.latents(x)
ways = {"through the codebook, z_q": x_rec, "past it, z_e": model.decode_latents(latents), "input": x}
energy = {name: metrics.gradient_energy(images).sum() for name, images in ways.items()}
rows = [
    {
        "decoded": name,
        "PSNR [dB]": float(metrics.psnr(ways[name], x).mean()),
        "sharpness": float(energy[name] / energy["input"]),
    }
    for name in list(ways)[:2]
]
Markdown(markdown(rows))

# %% [markdown]
# **You should see** (`demo`) 1.5 to 2 dB more without the codebook, but a sharpness that is still far below 1. So quantisation
# costs some fidelity, and most of the *blur* comes from the other suspect, the L1 loss: where a strand may lie in several
# places, the middle of all possibilities costs least. Notebook 03 is about that. (The decoder was never trained on $z_e$, so
# the row is an indication and no bound.)
#
# The rule: up to 2 dB, blame the loss; more than that, the codebook.

# %% [markdown]
# ## 13. The worst
#
# An average hides its failures. Here are the eight worst of all held-out images; the last row is the absolute error, from
# black (none) to white.

# %%
parts = np.array_split(packed.val_rows, -(-len(packed.val_rows) // 32))
real = (images_of(packed, part).to(device) for part in parts)
scores = torch.cat([metrics.psnr(model(some), some).cpu() for some in real])
fig, [[ax]] = plots.figure(1, 1, 6, 2.4)
ax.hist(scores, bins=30, color=plots.BLUE)
ax.set(xlabel="PSNR [dB]", ylabel="held-out images", title=f"from {scores.min():.1f} to {scores.max():.1f} dB")
fig

# %%
x = images_of(packed, packed.val_rows[scores.argsort()[:8].numpy()]).to(device)
x_rec = model(x)
error = (x_rec - x).abs().mean(1, keepdim=True).expand_as(x)
shown = {"input": x, "Phase 1": x_rec, "error × 3": 3 * error - 1}
plots.rows_of_images({name: to_pictures(images) for name, images in shown.items()})

# %% [markdown]
# **You should see** (`demo`) what is thin: spectacles, curls, braids, strands before a backdrop of another colour. A cell is
# four pixels wide, and what is finer must be one of the K codes or is painted over. The worst image is 2–3 dB below
# the mean, and still the same person. Faces that are wrong as a whole would mean too little training, or images of a kind
# that the training set hardly has.

# %% [markdown]
# ## 14. The codebook through training
#
# Each column is one moment, each row one code. Dark rows are codes that nobody chooses.

# %% tags=["picture-usage"]
moments, counts = run.usage()
ordered = counts[:, np.argsort(-counts[-1])] / counts.mean(axis=1, keepdims=True)
fig, [[ax]] = plots.figure(1, 1, 10, 2.8)
shown = ax.imshow(np.log10(ordered.T + 0.01), aspect="auto", extent=(moments[0], moments[-1], len(ordered[0]), 0))
ax.set(xlabel="step", ylabel="codes, most used at the end first")
fig.colorbar(shown, ax=ax, label="log₁₀ of usage / mean")
fig

# %% [markdown]
# **You should see** an even green, early on with some dark rows that light up when a reset gives them a place. Rows that stay
# dark are codes that no reset has saved: **T1**.

# %% [markdown]
# The same as a histogram: drag the slider, or press play. Click on a bar (or type its number) to see what that code
# decodes to, where in the image it occurs, and patches of images that map to it.

# %%
card = card_of(model, packed, extract_codes(run, config))
explorer = UsageExplorer({"phase 1": run}, card)
display(explorer)

# %% [markdown]
# For readers without a kernel, the first and the last entry. Red codes were not used once in it (labelled *dead*), orange ones
# less than a tenth of the mean, purple ones more than five times the mean. Red ones are dead in the sense of section 6 too, if
# they stay red.

# %%
plots.usage_histogram({f"step {moments[0]}": counts[0], f"step {moments[-1]}": counts[-1]})

# %% [markdown]
# **You should see** the hill grow broader and flatter to the right: perplexity rises. And the cards of two codes, the one
# used most, and one of the middle:

# %%
by_use = np.argsort(-counts[-1], kind="stable")
card(int(by_use[0]))

# %% tags=["picture-code"]
card(int(by_use[np.count_nonzero(counts[-1]) // 3]))

# %% [markdown]
# **You should see** (`demo`) cells nearly all of one shade and from few regions for the first, and several kinds for the second. A
# code is no word with one meaning: the encoder looks beyond the cell, the decoder reads the neighbours too. If the first card is
# as mixed as the second, the training was too short, or there are too few codes (`model.num_codes`).

# %% [markdown]
# ## 15. Resets
#
# How many codes section 6's remedy has moved, each time that it looked.

# %%
plots.curves({"phase 1": run}, {"train/codes_reset": "codes reset"}, width=6)

# %% [markdown]
# **You should see** resets at the start, then hardly any. A codebook that needs them to the end is too large for the
# data (a smaller `model.num_codes`), or the latents move faster than codes follow (a lower `phase1.lr`).

# %% [markdown]
# ## When something is off
#
# | what you see | what it is | what to do |
# |---|---|---|
# | perplexity below $K/5$, or more than half of the bars red ($K/5$ to $K/2$: watch it) | **T1** codebook collapse | `loss.commit=0.5`; `quantizer.init=kmeans`; a smaller `model.num_codes`; a lower `phase1.lr`; a smaller `quantizer.reset_every` |
# | reconstructions right but soft | **T3** blur | see below |
# | validation PSNR falls while L_rec still falls | **T4** overfitting | more images; augmentation (`data.brightness=0.2` …); it stops by itself after `train.patience` validations, and the best checkpoint is what is kept |
#
# **Blurred, and what to change first?** Ask in this order. Each change is a line in the settings cell of the notebook named
# (and of all later ones); values are those of `demo` / `full`.
#
# | if | then | now → try | in notebook |
# |---|---|---|---|
# | 1. the codebook is not in use (section 11) | cure **T1** first; nothing else helps before | `loss.commit` 0.25 → 0.5 | 02 |
# | 2. $z_e$ is at most 2 dB better than $z_q$ (section 12) | it is the loss | `loss.gan` 0.012 / 0.1 → double | 03 |
# | | | `loss.perceptual` 0 / 0.5 → 0.5 / 1.0, with LPIPS weights (`loss.perceptual_net=squeeze`) | 01 |
# | 3. $z_e$ is more than 2 dB better | it is the codebook | `model.num_codes` 512 / 1024 → double | 01 |
# | 4. training images are blurred too, and there is time | networks too small, or trained too short | `phase1.steps` 1,200 / 100,000 → double | 02 |
# | | | `model.res_blocks` 1 / 2 → 2 / 3; `model.latent_channels` 32 / 256 → half as many again | 01 |

# %% [markdown]
# ## Exercises
#
# **Predict.** Every fourth code of the trained codebook is carried far away. Then the moving averages go on for 100 steps, on
# latents of held-out images. How many of the lost codes come back without resets, and how many with a reset every 20 steps?

# %% jupyter={"source_hidden": true} tags=["answer"]
z_e = model.latents(images_of(packed, packed.val_rows[:32]).to(device))
vectors, lost, rows = z_e.permute(0, 2, 3, 1).flatten(0, 2), torch.arange(0, k, 4), []
for resets in (False, True):
    quantizer = VectorQuantizerEMA(k, vectors.shape[1], decay=0.9).to(device)
    away = model.quantizer.codebook.clone()
    away[lost] += 100
    quantizer.set_codebook(away)
    for step in range(100):
        out = quantizer(z_e)
        quantizer.step()
        if resets and step % 20 == 19 and step < 99:
            dead = quantizer.dead_codes(0.05).nonzero().flatten()
            gaps = (vectors - quantizer.codebook[out.indices.flatten()]).square().sum(1)
            quantizer.replace(dead, vectors[gaps.topk(len(dead)).indices])
    dead, in_use = quantizer.dead_codes(0.05).cpu(), float(quantizer_ema.perplexity(quantizer.ema_counts))
    rows.append({"resets": ("off", "on")[resets], "lost": len(lost), "back": int((~dead[lost]).sum())})
    rows[-1] |= {"dead in all": int(dead.sum()), "perplexity": in_use}
assert rows[0]["back"] == 0
Markdown(markdown(rows))

# %% [markdown]
# Without resets none: a code that is never chosen gets nothing to move it. With resets nearly all, and perplexity is higher.
#
# **Build.** Write the quantiser's forward pass yourself, with the formula of section 3, and check on the latents above that
# indices, $z_q$ and gradient are those of the class. *Hint:* `torch.cdist`, `argmin`, `detach`.


# %% jupyter={"source_hidden": true} tags=["answer"]
def quantise(vectors, codebook):
    indices = torch.cdist(vectors, codebook).argmin(1)
    return indices, vectors + (codebook[indices] - vectors).detach()


mine, theirs = z_e.detach().requires_grad_(), z_e.detach().requires_grad_()
indices, z_q = quantise(mine.permute(0, 2, 3, 1).flatten(0, 2), model.quantizer.codebook)
z_q.square().sum().backward()
out = model.quantizer(theirs)
out.z_q.square().sum().backward()
print(f"equal indices: {(indices == out.indices.flatten()).float().mean():.2%}")
print(f"largest difference of the gradients: {(mine.grad - theirs.grad).abs().max():.1e}")

# %% [markdown]
# All indices agree, but perhaps for a few that lie on a border, where rounding decides. The gradients differ by rounding
# alone: the sum $z_e + (z_q - z_e)$ is not exactly $z_q$.

# %% [markdown]
# ## Check
#
# The run is whole: it reached its end, improved, and uses its codes.

# %% tags=["nbval-check-output"]
_, psnr_curve = run.curve("val/psnr")
assert run.done and run.best.is_file()
assert psnr_curve[-1] > psnr_curve[0], "validation PSNR did not rise"
assert figures["codes_used"] > 0.5
assert x_rec.shape == x.shape and x_rec.abs().max() <= 1
print("phase 1: all checks passed")

# %% [markdown]
# Next: [03 · Phase 2, the VQ-GAN](03_phase2_vqgan.ipynb)
