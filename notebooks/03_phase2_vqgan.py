# %% [markdown]
# # 03 · Phase 2: the VQ-GAN
#
# Go on from Phase 1's best checkpoint with a discriminator that looks at patches, and win back what L1 blurs.
#
# | needs | makes |
# |---|---|
# | notebooks 00, 01, 02 | `data/runs/phase2-…/`: the autoencoder that the prior and all editing use |

# %% [markdown]
# ## Settings
#
# The loss gains λ_gan·L_gan. A PatchGAN discriminator with an optimiser of its own says of every patch whether it is
# from a real image; the decoder learns to convince it.

# %%
from IPython.display import Markdown, display

import vq_core
from vq_core.data.augment import to_pictures
from vq_core.data.images import images_of
from vq_core.evaluation.report import evaluate_run
from vq_core.machine import pick_device
from vq_core.notebook import plots
from vq_core.notebook.monitor import LiveView
from vq_core.notebook.widgets import UsageExplorer, card_of
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished, load_images
from vq_core.training.phases import train
from vq_core.training.schedules import gan_weight

# %% [markdown]
# The one cell to edit.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
packed, device = load_images(config), pick_device(config)
phase1 = finished("phase1", config)

# %% [markdown]
# ## 1. The schedule of λ_gan
#
# Nothing, then a ramp, then constant. The autoencoder must be good before it is judged, and the discriminator needs the
# ramp to learn what it is doing. Steps of Phase 1 count towards the start.

# %%
loss = config.loss
before = 0 if config.phase2.start_from == "scratch" else phase1.result()["best_step"]
start = max(0, loss.gan_start - before)
steps = range(0, config.phase2.steps, max(1, config.phase2.steps // 200))
ramp = [gan_weight(s, weight=loss.gan, start=start, ramp=loss.gan_ramp) for s in steps]
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.plot(steps, ramp, color=plots.BLUE)
ax.set(title="λ_gan, the weight of the GAN term, in Phase 2", xlabel="step")
fig

# %% [markdown]
# **You should see** a ramp up to `loss.gan` and a plateau.

# %% [markdown]
# ## 2. Train
#
# Interruptible and resumable like Phase 1. PSNR may fall a little now: it rewards blur, and this phase pays for sharpness
# with it.

# %%
run = train("phase2", config, LiveView)
print(f"{run.name}: {run.result()['steps']} steps after {before} of Phase 1")

# %% [markdown]
# **You should see** strands of hair and eyelashes grow crisper within a few hundred steps (`demo`), and PSNR lose less
# than 1 dB.

# %% [markdown]
# ## 3. The discriminator's curves
#
# Its loss is 1 while it can tell nothing apart (hinge) and 0 when it is always right. Its mean logits for real and
# reconstructed patches should stay apart, but near each other.

# %%
names = {
    "train/disc": "discriminator loss",
    "train/disc_real": "logit, real",
    "train/disc_fake": "logit, reconstructed",
}
plots.curves({"phase 2": run}, names | {"train/gan": "L_gan of the decoder"})

# %% [markdown]
# **You should see** a discriminator loss between 0.5 and 1. Near 0 it has won and teaches nothing any more (T2).

# %% [markdown]
# ## 4. The same images: input, Phase 1, Phase 2
#
# Held-out images. Look at the rims of the irises and at the strands of hair.

# %% tags=["picture-reconstructions"]
models = {"Phase 1": vq_core.load_vqvae(phase1), "Phase 2": vq_core.load_vqvae(run)}
x = images_of(packed, packed.val_rows[-10:]).to(device)
rows = {"input": to_pictures(x)} | {name: to_pictures(model.to(device)(x)) for name, model in models.items()}
plots.rows_of_images(rows)

# %% [markdown]
# **You should see** the third row closer to the first in sharpness, at the same colours and poses.

# %% [markdown]
# Eyes, enlarged:

# %%
size = config.data.image_size
down, right = slice(round(0.38 * size), round(0.94 * size)), slice(round(0.22 * size), round(0.78 * size))
plots.rows_of_images({name: images[:6, down, right] for name, images in rows.items()}, side=1.7)

# %% [markdown]
# Hair, enlarged:

# %%
down, right = slice(round(0.04 * size), round(0.54 * size)), slice(round(0.2 * size), round(0.7 * size))
plots.rows_of_images({name: images[:6, down, right] for name, images in rows.items()}, side=1.7)

# %% [markdown]
# **You should see** harder edges at lashes, highlights and strands in Phase 2; not a grid or a grain all over, which would
# be the discriminator's handwriting (lower `loss.gan` then).

# %% [markdown]
# ## 5. Figures of both phases
#
# *Sharpness* is the gradient energy of the reconstructions over that of the inputs, on all validation images.

# %%
metrics = {"Phase 1": evaluate_run(phase1, config), "Phase 2": evaluate_run(run, config)}
names = ("psnr", "ssim", "sharpness", "perplexity", "codes_used")
lines = [f"| {n} | " + " | ".join(f"{metrics[phase][n]:.3f}" for phase in metrics) + " |" for n in names]
Markdown("\n".join(["| figure | Phase 1 | Phase 2 |", "|---|---|---|", *lines]))

# %%
plots.bars({phase: f["sharpness"] for phase, f in metrics.items()}, "sharpness (1: as sharp as the input)")

# %% [markdown]
# **You should see** sharpness nearer to 1 than in Phase 1 (`demo`: 0.85 and more), PSNR at most 0.7 dB lower, and no fewer
# codes in use.

# %% [markdown]
# ## 6. The codebook in both phases
#
# Bars are Phase 1, the line is Phase 2, each sorted by its own usage. Phase 2 has fewer steps: beyond its last one the
# line stays. A click on a bar shows the code in Phase 1.

# %%
card = card_of(models["Phase 1"], packed, extract_codes(phase1, config))
explorer = UsageExplorer({"phase 1": phase1, "phase 2": run}, card)
explorer.scale.value = True
explorer.split.value = "val"
display(explorer)

# %% [markdown]
# The last entries of both, on validation images:

# %%
(_, first), (_, second) = phase1.usage("val"), run.usage("val")
plots.usage_histogram({"phase 1": first[-1]}, other=("phase 2", second[-1]))

# %% [markdown]
# **You should see** two codebooks used nearly alike: Phase 2 must not lose codes.

# %% [markdown]
# ## When something is off
#
# | what you see | what it is | what to do |
# |---|---|---|
# | PSNR falls by more than 1–2 dB, colours or textures flicker between pictures, discriminator loss near 0 | **T2** the GAN is unstable | train Phase 1 longer (`phase1.steps`); a longer `loss.gan_ramp` or a smaller `loss.gan`; `discriminator.lr=1e-4`; `discriminator.spectral_norm=true` |
# | nothing becomes sharper | the GAN is too weak | `loss.gan=0.2`; more `phase2.steps` |

# %% [markdown]
# ## Check
#
# The run is whole, and sharper than Phase 1 without having lost the picture.

# %% tags=["nbval-check-output"]
weights = run.curve("train/gan_weight")[1]
assert run.done and run.best.is_file()
assert all(weights > 0) and all(weights <= config.loss.gan * max(1, config.loss.gan_adaptive) * 1.001)
assert metrics["Phase 2"]["psnr"] > metrics["Phase 1"]["psnr"] - 2
assert metrics["Phase 2"]["codes_used"] > 0.5
print("phase 2: all checks passed")

# %% [markdown]
# Next: [04 · Phase 3, the prior](04_phase3_prior.ipynb)
