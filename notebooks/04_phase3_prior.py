# %% [markdown]
# # 04 · Phase 3: a transformer prior, and new avatars
#
# Learn which codes follow which, then draw new grids of codes and decode them. Everything below happens in code space.
#
# | needs | makes |
# |---|---|
# | notebooks 00 to 03 | `data/runs/prior-…/`, and `codes.npy` in Phase 2's run |

# %% [markdown]
# ## Settings
#
# An avatar is now a sequence of 256 codes in raster order. A causal transformer predicts each from those before it; its
# loss is given in *bits per token*, on avatars that it has not seen.

# %%
import torch

from vq_core.config import active_profile, load_config
from vq_core.data.augment import to_pictures
from vq_core.data.datamodule import images_of, load_images
from vq_core.evaluation.report import bits_figures
from vq_core.generation.editing import blend_latents, copy_region, exchange_codes, region
from vq_core.generation.sampling import sample_codes
from vq_core.notebook import plots
from vq_core.notebook.monitor import LiveView
from vq_core.training.phases import extract_codes, finished, pick_device, train_prior
from vq_core.training.prior_module import PriorModel
from vq_core.training.vqvae_module import VQVAEModel

# %% [markdown]
# The one cell to edit.

# %% tags=["parameters"]
config = load_config(active_profile(), [])
packed, device = load_images(config), pick_device(config)
autoencoder = finished("phase2", config)

# %% [markdown]
# ## 1. Codes
#
# Every image through the encoder and the quantiser, once: 256 small numbers per avatar instead of its pixels.

# %%
codes = extract_codes(autoencoder, config)
print(
    f"codes {codes.shape} {codes.dtype}, {codes.nbytes / 1e6:.1f} MB for {packed.images.nbytes / 1e6:.0f} MB of pixels"
)

# %% [markdown]
# **You should see** one 16×16 grid per image, a few dozen times smaller than the pixels.

# %% [markdown]
# ## 2. Train
#
# Early stopping looks at held-out bits: ten thousand avatars are soon learnt by heart.

# %%
run = train_prior(config, LiveView)
print(f"{run.name}: {run.result()['best_bits']:.3f} bits per held-out token at step {run.result()['best_step']}")

# %% [markdown]
# **You should see** the validation curve follow the training curve closely, still falling at the end (`demo`).

# %% [markdown]
# ## 3. Against counting
#
# What is a prior worth? *Uniform* knows nothing, *unigram* how frequent each code is, *bigram* which code follows which.

# %% tags=["picture-bits"]
bits = bits_figures(codes, packed, config) | {"transformer": run.result()["best_bits"]}
run.update_result({f"bits_{name}": value for name, value in bits.items()})
plots.bars(bits, "bits per held-out token (fewer is better)")

# %% [markdown]
# **You should see** the transformer more than one bit below the bigram (`demo`). One bit per token is a factor of
# 2^256 in the probability of an avatar.

# %% [markdown]
# ## 4. New avatars
#
# 64 grids drawn from the prior and decoded; a temperature a little below 1 keeps them tidy. Nothing is picked out.

# %% tags=["picture-samples"]
prior = PriorModel.load(run.folder).transformer.to(device)
model = VQVAEModel.load(autoencoder.folder).to(device)
count = 64 if config.profile != "smoke" else 8
samples = sample_codes(prior, count, seed=config.seed, temperature=0.9, top_p=0.95)
plots.image_grid(to_pictures(model.decode(samples)), columns=16, side=0.72)

# %% [markdown]
# **You should see** faces: two eyes, hair around them, shoulders below (`smoke`: coloured noise).

# %% [markdown]
# ## 5. Temperature
#
# Below 1 the prior keeps to what it is sure of; above 1 it takes risks. The same seed in every row.

# %%
temperatures = (0.7, 0.9, 1.0, 1.15)
drawn = {t: sample_codes(prior, 8, temperature=t, seed=1) for t in temperatures}
plots.rows_of_images({f"T = {t}": to_pictures(model.decode(grid)) for t, grid in drawn.items()})

# %% [markdown]
# **You should see** tidy and somewhat alike avatars at the top, wild and broken ones at the bottom.

# %% [markdown]
# ## 6. Top-k
#
# Only the k likeliest codes may be drawn at each position.

# %%
drawn = {k: sample_codes(prior, 8, top_k=k, seed=1) for k in (1, 8, config.model.num_codes // 4)}
plots.rows_of_images({f"top-{k}": to_pictures(model.decode(grid)) for k, grid in drawn.items()})

# %% [markdown]
# **You should see** one avatar eight times in the first row (k = 1 leaves no choice), and more variety below.

# %% [markdown]
# ## 7. Completion
#
# The upper part of a held-out avatar, down to the eyes, is given; the prior draws the rest, four times.

# %% tags=["picture-completions"]
x = images_of(packed, packed.val_rows[:3]).to(device)
given, side = model.encode(x), config.grid
keep = region(side, (0, side * 5 // 8), (0, side))
completed = [sample_codes(prior, 4, start=g[None], keep=keep, top_p=0.95, seed=2, progress=False) for g in given]
strips = [torch.cat([x[n : n + 1], model.decode(grids)]) for n, grids in enumerate(completed)]
plots.rows_of_images({f"avatar {n + 1}": to_pictures(strip) for n, strip in enumerate(strips)})

# %% [markdown]
# **You should see** the original on the left, and four chins, necks and clothes that go with the same hair and eyes.

# %% [markdown]
# ## 8. Interpolation
#
# Two ways from one avatar to another: latents blended and quantised anew, or codes exchanged one by one.

# %%
a, b = x[:1], x[1:2]
blended = blend_latents(model, a, b, 8)
exchanged = model.decode(exchange_codes(given[:1], given[1:2], 8))
plots.rows_of_images({"blend": to_pictures(blended), "exchange": to_pictures(exchanged)})

# %% [markdown]
# **You should see** two different journeys between the same two ends: a cross-fade that snaps to what codes can say, and a
# mosaic that changes over.

# %% [markdown]
# ## 9. An edit
#
# The clothes of one avatar (the lowest quarter of the grid) are taken from another; then the prior draws the same region
# anew, three times, to suit what stands above. A causal prior knows only that: regions in the middle are for later.

# %% tags=["picture-edit"]
clothes = region(side, (side * 3 // 4, side), (0, side))
taken = model.decode(copy_region(given[:1], given[1:2], clothes))
redrawn = model.decode(sample_codes(prior, 3, start=given[:1], keep=~clothes, top_p=0.9, seed=3, progress=False))
edit = {"before, donor": torch.cat([a, b]), "copied": taken, "redrawn": redrawn}
plots.rows_of_images({name: to_pictures(images) for name, images in edit.items()}, side=1.4)

# %% [markdown]
# **You should see** the face unchanged above the edit, but for a seam of a cell or two that the decoder blends.

# %% [markdown]
# ## Check
#
# The prior beats counting, sampling keeps what it is told to keep, and seeds repeat.

# %% tags=["nbval-check-output"]
again = sample_codes(prior, 2, start=given[:1], keep=keep, seed=5, progress=False)
assert run.done and bits["transformer"] < bits["uniform"]
assert config.profile == "smoke" or bits["transformer"] < bits["bigram"]
assert bool((again[:, keep] == given[:1, keep]).all())
assert torch.equal(again, sample_codes(prior, 2, start=given[:1], keep=keep, seed=5, progress=False))
print("prior: all checks passed")

# %% [markdown]
# Next: [05 · Analysis](05_analysis.ipynb)
