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
# L = λ_rec·|x − x̂| + λ_commit·‖z_e − sg[e]‖² (+ λ_perc·LPIPS where `loss.perceptual` is not 0). The codebook has no
# gradient: it follows the latents by moving averages, and dead codes are moved to the patches reconstructed worst.

# %%
import numpy as np
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
from vq_core.runs.finding import load_images
from vq_core.training.phases import train
from vq_core.training.schedules import learning_rate

# %% [markdown]
# The one cell to edit. To try a number, write it here: `["loss.commit=0.5"]` makes a run of its own (what the warm-up uses too, such as `model`, `data`, `phase1.lr` or `loss.perceptual`, wants its own run of notebook 01 first: write it there as well).

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
packed, device = load_images(config), pick_device(config)

# %% [markdown]
# ## 1. The schedule
#
# The learning rate climbs linearly, then falls along a cosine. A *step* is one update of the autoencoder, whatever the
# accumulation.

# %%
total, peak = config.phase1.steps, config.phase1.lr
steps = range(0, total, max(1, total // 200))
rates = [learning_rate(config.optim, step, total=total, peak=peak) for step in steps]
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.plot(steps, rates, color=plots.BLUE)
ax.set(title="learning rate in Phase 1", xlabel="step")
fig

# %% [markdown]
# **You should see** a short ramp up to `phase1.lr` and a long glide down.

# %% [markdown]
# ## 2. Train
#
# Loss, PSNR on validation images, usage of the codes, and the same eight validation images again and again. Interrupt
# the kernel whenever you like: the state is saved, and the cell goes on from there when run again.

# %%
run = train("phase1", config, LiveView)
print(f"{run.name}: best on validation images at step {run.result()['best_step']}")

# %% [markdown]
# **You should see** PSNR rise to the last steps (`demo`: 22–24 dB on the built-in avatars) and hair, eyes and mouths come into place.

# %% [markdown]
# ## 3. Curves
#
# Training terms and validation figures, as logged in the run's `history.jsonl` (TensorBoard has them too).

# %%
names = {
    "train/rec": "L_rec (train)",
    "train/commit": "L_commit",
    "val/psnr": "PSNR [dB]",
    "val/perplexity": "perplexity",
}
plots.curves({"phase 1": run}, names)

# %% [markdown]
# **You should see** L_rec falling, L_commit rising at first (latents spread out) and then level, PSNR and perplexity
# rising. Validation PSNR that turns down while L_rec still falls is overfitting (T4 below).

# %% [markdown]
# ## 4. Held-out images
#
# Input above, reconstruction below; none of them was trained on.

# %%
model = vq_core.load_vqvae(run).to(device)
x = images_of(packed, packed.val_rows[-12:]).to(device)
x_rec = model(x)
plots.rows_of_images({"input": to_pictures(x), "Phase 1": to_pictures(x_rec)})

# %% [markdown]
# **You should see** the same persons, with colours and pose right and fine strands of hair a little soft: L1 alone
# prefers the middle of all possibilities. Sharpness is Phase 2's work.

# %% [markdown]
# ## 5. Metrics
#
# Over all validation images. *Sharpness* is the gradient energy of the reconstructions over that of the inputs: 1 is as
# sharp as the input.

# %%
metrics = evaluate_run(run, config)
shown = {name: metrics[name] for name in ("psnr", "ssim", "sharpness", "perplexity", "codes_used")}
Markdown(
    "\n".join(["| metric | value |", "|---|---|", *(f"| {name} | {value:.3f} |" for name, value in shown.items())])
)

# %% [markdown]
# **You should see** (`demo`) PSNR of 22–24 dB, sharpness around 0.6, at least 95 % of the codes in use.

# %% [markdown]
# ## 6. The codebook through training
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
# **You should see** an even green, early on with some dark rows that light up when a reset gives them a place.

# %% [markdown]
# The same as a histogram: drag the slider, or press play. Click on a bar (or type its number) to see what that code
# decodes to, where in the image it occurs, and patches of images that map to it.

# %%
card = card_of(model, packed, extract_codes(run, config))
explorer = UsageExplorer({"phase 1": run}, card)
explorer.step.value = int(moments[0])
explorer.step.value = int(moments[-1])
explorer.histogram.selected = [config.model.num_codes // 3]
display(explorer)

# %% [markdown]
# **You should see** the hill grow broader and flatter to the right. Red codes are dead, orange ones rare, purple ones used more
# than five times the mean.

# %% [markdown]
# One such card, for readers without a kernel:

# %% tags=["picture-code"]
card(explorer.code.value)

# %% [markdown]
# **You should see** patches that resemble each other, and a place where they are at home.

# %% [markdown]
# And without a slider, the first and the last entry beside each other:

# %%
plots.usage_histogram({f"step {moments[0]}": counts[0], f"step {moments[-1]}": counts[-1]})

# %% [markdown]
# ## 7. Resets
#
# Every `quantizer.reset_every` steps codes below `quantizer.reset_below` of the mean usage are moved to the latents of
# the patches that were reconstructed worst, with their moving averages.

# %%
plots.curves({"phase 1": run}, {"train/codes_reset": "codes reset"}, width=6)

# %% [markdown]
# **You should see** resets at the start, then hardly any: a codebook that needs them to the end is too large for the
# data.

# %% [markdown]
# ## When something is off
#
# | what you see | what it is | what to do |
# |---|---|---|
# | perplexity far below K/2, many red bars | **T1** codebook collapse | `loss.commit=0.5`; `quantizer.init=kmeans`; a smaller `model.num_codes`; a lower `phase1.lr`; a smaller `quantizer.reset_every` |
# | reconstructions right but soft | **T3** blur | `loss.perceptual=1.0` (with LPIPS weights); `model.res_blocks=3`; `model.latent_channels=384`; `model.num_codes=2048`; Phase 2 |
# | validation PSNR falls while L_rec still falls | **T4** overfitting | more images; augmentation (`data.brightness=0.2` …); it stops by itself after `train.patience` validations, and the best checkpoint is what is kept |

# %% [markdown]
# ## Check
#
# The run is whole: it reached its end, improved, and uses its codes.

# %% tags=["nbval-check-output"]
_, psnr_curve = run.curve("val/psnr")
assert run.done and run.best.is_file()
assert psnr_curve[-1] > psnr_curve[0], "validation PSNR did not rise"
assert metrics["codes_used"] > 0.5
assert x_rec.shape == x.shape and x_rec.abs().max() <= 1
print("phase 1: all checks passed")

# %% [markdown]
# Next: [03 · Phase 2, the VQ-GAN](03_phase2_vqgan.ipynb)
