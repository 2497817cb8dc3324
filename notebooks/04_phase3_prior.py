# %% [markdown]
# # 04 · Phase 3: a transformer prior, and new avatars
#
# Learn which codes go together; then draw new avatars, and bend given ones. Everything below happens in code space.
#
# | needs | makes |
# |---|---|
# | notebooks 00 to 03 | `data/runs/prior-…/`, `data/runs/masked-…/`, and `codes.npy` in Phase 2's run |

# %% [markdown]
# ## Settings
#
# An avatar is now a 16×16 grid of codes. One transformer learns it in two ways: *causal*, each code from those before it
# in raster order, for new avatars; *masked*, each code from those before it in any order, so that what is known can come
# first and what is to be filled in last, for edits. Both losses are given in *bits per token*, on avatars that they have
# not seen.

# %%
import ipywidgets as w
import numpy as np
import torch
from IPython.display import display

import vq_core
from vq_core.data.augment import to_pictures
from vq_core.data.images import images_of
from vq_core.errors import MissingWeights
from vq_core.evaluation.analysis import decoded_codes
from vq_core.evaluation.count_models import neighbours_bits, unigram_bits
from vq_core.evaluation.distances import SqueezeFeatures
from vq_core.evaluation.memorization import novelty
from vq_core.evaluation.report import compare_sets, reconstruct_held_out
from vq_core.generation import editing
from vq_core.generation.editing import Edit
from vq_core.generation.sampling import Sampling, fill_codes, sample_codes
from vq_core.machine import pick_device
from vq_core.notebook import plots
from vq_core.notebook.editor import CodeEditor
from vq_core.notebook.monitor import LiveView
from vq_core.notebook.widgets import over_controls
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished, load_images
from vq_core.training.phases import train

# %% [markdown]
# The one cell to edit.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
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
# ## 2. Train the causal prior
#
# Codes of mirrored images (in `full` also of cropped and recoloured ones) are extra training data. Validated, kept and
# drawn from are moving averages of the weights. Early stopping looks at held-out bits: ten thousand avatars are soon learnt
# by heart.

# %%
run = train("prior", config, LiveView)
result = run.result()
print(f"{result['best_bits']:.3f} ± {result['best_bits_se']:.3f} bits per held-out token at step {result['best_step']}")

# %% [markdown]
# **You should see** the validation curve follow the training curve closely, and hardly falling any more at the end
# (`demo`).

# %% [markdown]
# ## 3. Train the masked prior
#
# The same network, which begins with the causal prior's weights and is taught other orders: half of them the order in which
# whole avatars are filled in, the others with a region of any shape at their end.

# %%
masked_run = train("masked", config, LiveView)
result = masked_run.result()
print(f"{result['best_bits']:.3f} ± {result['best_bits_se']:.3f} bits per held-out token")

# %% [markdown]
# **You should see** it begin far better than the causal prior did, and end with a few more bits: it has to know every order
# of filling in, not one.

# %% [markdown]
# ## 4. Against counting
#
# What is a prior worth? *Uniform* knows nothing, *unigram* how frequent each code is, *left + above* what two neighbours
# say together.

# %% tags=["picture-bits"]
seen, asked, k = codes[packed.train_rows], codes[packed.val_rows], config.model.num_codes
bits = {"uniform": np.log2(k), "unigram": unigram_bits(seen, asked, k), "left + above": neighbours_bits(seen, asked, k)}
bits |= {"masked": masked_run.result()["best_bits"], "causal": run.result()["best_bits"]}
run.update_result({f"bits_{name}": value for name, value in bits.items()})
plots.bars(bits, "bits per held-out token (fewer is better)")

# %% [markdown]
# **You should see** the causal transformer more than one bit below the best count (`demo`). One bit per token is a factor
# of 2^256 in the probability of an avatar.

# %% [markdown]
# ## 5. New avatars
#
# Grids drawn from the causal prior and decoded, as they come; below them, at the same size, as many real avatars that were
# held out.

# %% tags=["picture-samples"]
prior = vq_core.load_prior(run).to(device)
model = vq_core.load_vqvae(autoencoder).to(device)
count = 128 if config.profile != "smoke" else 8
samples = sample_codes(prior, count, Sampling(seed=config.seed))
pictures = to_pictures(model.decode(samples[:32]))
plots.image_grid(pictures, columns=8, side=0.8)

# %% tags=["picture-real"]
plots.image_grid(packed.images[packed.val_rows[:32]], columns=8, side=0.8)

# %% [markdown]
# **You should see** faces: two eyes, hair around them, shoulders below (`smoke`: coloured noise); softer and now and then
# more muddled than the real ones.

# %% [markdown]
# ## 6. In another order
#
# The masked prior can draw whole avatars too. It follows Halton's order, in which each code lies far from those before it:
# an outline everywhere first, then what is between.

# %% tags=["picture-filled"]
masked = vq_core.load_prior(masked_run).to(device)
filled = fill_codes(masked, count, Sampling(seed=config.seed))
plots.image_grid(to_pictures(model.decode(filled[:16])), columns=8, side=0.8)

# %% [markdown]
# **You should see** avatars nearly as good as the causal prior's. The strength of this one are parts of an avatar, below.

# %% [markdown]
# ## 7. In figures
#
# How far are samples from real avatars? *Kernel*: the distance of the distributions in the features of a pretrained network,
# with its spread; *precision*: the share of a set that looks real; *recall*: the share of real ones that look like the set.
# *Floor* are real avatars too, *reconstructions* what the autoencoder leaves of them: no prior can be better than that.
# *Copies* have more codes in common with a training image than 99 % of held-out images have. `python -m vq_core evaluate
# --frechet` draws more of them, and with at least 513 in each set adds the Fréchet distance.

# %%
try:
    nets = [SqueezeFeatures()]
except MissingWeights as error:
    nets = []
    print(f"Copies only: {error}")
print(*compare_sets(autoencoder, config, {"causal": samples, "masked": filled}, nets), sep="\n")

# %% [markdown]
# **You should see** precision near that of the reconstructions, somewhat less recall, and copies as rare as among the
# held-out images.

# %% [markdown]
# ## 8. Are they new?
#
# Samples above, the nearest training image of each below (mirrored ones count too). The two figures compare how near
# samples come with how near reconstructions of held-out images do.

# %% tags=["picture-nearest"]
new = novelty(pictures, packed, to_pictures(reconstruct_held_out(model, packed)))
run.update_result({"samples_nearer": new.nearer, "samples_copies": new.copies})
plots.rows_of_images({"samples": pictures[:8], "nearest": packed.images[new.rows[:8]]})

# %%
print(
    f"a sample is nearer to a training image than a held-out one is: {new.nearer:.0%} of the time (real images: 50 %)"
)
print(f"nearer than 99 % of the held-out ones are: {new.copies:.0%} of the samples (real images: 1 %)")

# %% [markdown]
# **You should see** relatives, not twins; the second figure far above 1 % would mean that avatars were learnt by heart.

# %% [markdown]
# ## 9. Temperature
#
# Below 1 the prior keeps to what it is sure of; above 1 it takes risks. The same seed in every row.

# %%
drawn = {t: sample_codes(prior, 6, Sampling(temperature=t, seed=1)) for t in (0.7, 1.0, 1.2)}
plots.rows_of_images({f"T = {t}": to_pictures(model.decode(grid)) for t, grid in drawn.items()})

# %% [markdown]
# **You should see** tidy and somewhat alike avatars at the top, wild and broken ones at the bottom.

# %% [markdown]
# ## 10. Top-k
#
# Only the k likeliest codes may be drawn at each position.

# %%
drawn = {k: sample_codes(prior, 6, Sampling(top_k=k, seed=1)) for k in (1, 8, config.model.num_codes // 4)}
plots.rows_of_images({f"top-{k}": to_pictures(model.decode(grid)) for k, grid in drawn.items()})

# %% [markdown]
# **You should see** one avatar six times in the first row (k = 1 leaves no choice), and more variety below.

# %% [markdown]
# All of it to play with:

# %%
controls = {
    "temperature": w.FloatSlider(1.05, min=0.1, max=2, step=0.05, description="temperature", continuous_update=False),
    "top_k": w.IntSlider(k, min=1, max=k, description="top-k", continuous_update=False),
    "top_p": w.FloatSlider(0.93, min=0.05, max=1, step=0.01, description="top-p", continuous_update=False),
    "seed": w.BoundedIntText(1, min=0, max=2**31 - 1, description="seed"),
}
decoded = lambda how: to_pictures(model.decode(sample_codes(prior, 8, Sampling(**how), progress=False)))  # noqa: E731
over_controls(controls, lambda **how: plots.image_grid(decoded(how)))

# %% [markdown]
# ## 11. Completion
#
# The lower part of three held-out avatars is missing and drawn four times. All that is known comes first in raster order, so
# the causal prior draws it, which knows its one order best; each edit says which prior suits it.

# %% tags=["picture-completions"]
x = images_of(packed, packed.val_rows[:3]).to(device)
missing = torch.zeros(x.shape[-2:], dtype=torch.bool, device=device)
missing[x.shape[-2] * 5 // 8 :] = True
torn = x.masked_fill(missing, 0.0)
priors, drawing = {"causal": prior, "masked": masked}, {"sampling": Sampling(seed=2), "progress": False}
given = [editing.completion(model, part[None], missing) for part in torn]
grids = [edit.apply(partial, priors[edit.way], 4, **drawing) for partial, edit in given]
strips = [torch.cat([x[n : n + 1], torn[n : n + 1], model.decode(grid)]) for n, grid in enumerate(grids)]
plots.rows_of_images({f"avatar {n + 1}": to_pictures(strip) for n, strip in enumerate(strips)})

# %% [markdown]
# **You should see** the original, what was left of it, and four chins, necks and clothes that go with the same hair and
# eyes.

# %% [markdown]
# ## 12. A region anew
#
# A rectangle in the middle of the face is forgotten. Here the masked prior is the right one: it knows what stands on all
# four sides of it.

# %% tags=["picture-regenerated"]
side, given = config.grid, model.encode(x)
middle = editing.region(side, (side * 3 // 8, side * 5 // 8), (side // 4, side * 3 // 4))
anew = Edit(region=middle, regenerate=True)
proposals = [anew.apply(g[None], priors[anew.way], 4, **drawing) for g in given]
redrawn = [editing.decode_edited(model, g[None], new_codes) for g, new_codes in zip(given, proposals, strict=True)]
strips = [torch.cat([model.decode(g[None]), images]) for g, images in zip(given, redrawn, strict=True)]
plots.rows_of_images({f"avatar {n + 1}": to_pictures(strip) for n, strip in enumerate(strips)})

# %% [markdown]
# **You should see** the reconstruction on the left, then four faces that differ in the middle; around it only as far as the
# decoder carries a change.

# %% [markdown]
# ## 13. Edits by hand
#
# A region copied from another avatar, here the eyes; a region painted with one code, as a hair band in the colour of the
# other's hair; codes replaced by another wherever they stand, here those of the background.

# %% tags=["picture-edit"]
one, other = given[:1], given[1:2]
eyes = editing.region(side, (side * 7 // 16, side * 5 // 8), (side // 4, side * 3 // 4))
band = editing.region(side, (side // 4, side * 5 // 16), (side // 4, side * 3 // 4))
corner = editing.region(side, (0, side // 4), (0, side // 8))
hair, sky = (int(other[:, cells].mode().values) for cells in (band, corner))
changes = {"copied": Edit(region=eyes, copy_from=other).apply(one)}
changes |= {"painted": Edit(region=band, code=hair).apply(one), "replaced": one}
for code in one[:, corner].unique().tolist():
    changes["replaced"] = Edit(replace=(code, sky)).apply(changes["replaced"])
edited = [editing.decode_edited(model, one, after) for after in changes.values()]
edits = torch.cat([model.decode(torch.cat([one, other])), *edited])
plots.image_grid(to_pictures(edits), columns=5, titles=["before", "donor", *changes], side=1.7)

# %% [markdown]
# **You should see** the other's eyes, a band of its hair's colour, and its background, but for a rim of cells that hold
# a little of the hair; beyond the decoder's reach every pixel is as it was.

# %% [markdown]
# Now by hand. Click or drag over the avatar to choose cells; then set a code (chosen from all codes on the right), copy from
# another avatar, or let the prior that suits them draw them anew, as often as you like. Undo and redo walk through the steps.

# %%
sitters = images_of(packed, packed.val_rows[:6]).to(device)
editor = CodeEditor(model, priors, sitters, decoded_codes(model, codes), run.folder / "edits")
editor.avatar.value = 3
editor.canvas.selected = [side * row + column for row in range(7, 10) for column in range(4, 12)]
stages = {"before": editor.picture}
for name, button in {"a code": editor.set, "copied": editor.copy, "drawn anew": editor.anew}.items():
    button.click()
    stages[name] = editor.picture
    editor.undo.click()
editor.redo.click()
display(editor)

# %% [markdown]
# **You should see** an avatar with new eyes, drawn by the prior. "undo" brings its own back; "save" writes picture and
# codes into the run's folder. For readers without a kernel, what three of the buttons made of the same cells:

# %%
plots.image_grid(list(stages.values()), columns=4, titles=list(stages), side=1.7)

# %% [markdown]
# **You should see** a band of one code, then two pairs of eyes that fit the face.

# %% [markdown]
# ## 14. Variations
#
# A share of the codes, scattered over the avatar, is forgotten and drawn anew: the more, the less of it is left.

# %% tags=["picture-variations"]
varied = {s: Edit(vary=s).apply(one, masked, 6, **drawing) for s in (0.2, 0.5, 0.8)}
plots.rows_of_images({f"strength {s}": to_pictures(model.decode(grid)) for s, grid in varied.items()})

# %% [markdown]
# **You should see** the same avatar with other details at the top, distant relatives at the bottom.

# %% [markdown]
# ## 15. Interpolation
#
# Two ways from one avatar to another: latents blended and quantised anew; codes exchanged in a random order.

# %% tags=["picture-interpolation"]
ways = {
    "blend": editing.blend_latents(model, x[:1], x[1:2], 8),
    "exchange": model.decode(editing.exchange_codes(one, other, 8)),
}
plots.rows_of_images({name: to_pictures(frames) for name, frames in ways.items()})

# %% [markdown]
# **You should see** two journeys between the same two ends: a cross-fade that snaps to what codes can say, and a mosaic
# that changes over everywhere at once.

# %% [markdown]
# Two other avatars, step by step:

# %%
a, b = sitters[:1], sitters[1:2]
between = {
    "blend": to_pictures(editing.blend_latents(model, a, b, 17)),
    "exchange": to_pictures(model.decode(editing.exchange_codes(model.encode(a), model.encode(b), 17))),
}
controls = {
    "method": w.ToggleButtons(options=list(between), value="exchange"),
    "frame": w.IntSlider(8, min=0, max=16, description="frame"),
}
over_controls(controls, lambda method, frame: plots.image_grid(between[method][[0, frame, 16]], columns=3, side=1.8))

# %% [markdown]
# ## Check
#
# The priors beat counting, sampling keeps what it is told to keep, and seeds repeat.

# %% tags=["nbval-check-output"]
five, kept = Sampling(seed=5), {"start": one, "keep": ~middle, "progress": False}
again = fill_codes(masked, 2, five, **kept)
assert run.done and masked_run.done and bits["causal"] < bits["uniform"] > bits["masked"]
assert config.profile == "smoke" or bits["causal"] < bits["left + above"]
assert bool((again[:, ~middle] == one[:, ~middle]).all())
assert torch.equal(again, fill_codes(masked, 2, five, **kept))
assert torch.equal(*(sample_codes(prior, 2, five, progress=False) for _ in range(2)))
print("prior: all checks passed")

# %% [markdown]
# Next: [05 · Analysis](05_analysis.ipynb)
