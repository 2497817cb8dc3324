# %% [markdown]
# # 04 · Phase 3: a transformer prior, and new avatars
#
# Learn which codes go together; then draw new avatars, judge them, and change given ones. All of it in code space.
#
# | needs | makes |
# |---|---|
# | notebooks 00 to 03 | `data/runs/prior-…/`, `data/runs/masked-…/`, and `codes.npy` in Phase 2's run |

# %% [markdown]
# ## Settings
#
# The decoder draws whatever a grid of codes says, but nobody has told it which grids are avatars. That knowledge is a
# probability $p(\text{codes})$, high for grids that look like avatars and next to nothing for all others. A transformer
# learns it. It is called a *prior*, because it says what is likely before any image is seen.

# %%
import ipywidgets as w
import numpy as np
import torch
from IPython.display import Markdown, display
from PIL import Image

import vq_core
from vq_core.data.augment import to_pictures
from vq_core.data.images import images_of
from vq_core.errors import MissingWeights
from vq_core.evaluation.analysis import decoded_codes, novelty
from vq_core.evaluation.distances import SqueezeFeatures
from vq_core.evaluation.report import compare_sets
from vq_core.generation import editing
from vq_core.generation.editing import Edit
from vq_core.generation.sampling import Sampling, fill_codes, filtered_probabilities, random_codes, sample_codes
from vq_core.machine import pick_device

# %%
from vq_core.models.transformer import Block, halton_order
from vq_core.notebook import plots
from vq_core.notebook.editor import CodeEditor
from vq_core.notebook.lesson import code_of, pipeline, table
from vq_core.notebook.monitor import LiveView
from vq_core.notebook.widgets import over_controls, with_saving
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished, load_images
from vq_core.runs.records import markdown
from vq_core.training.phases import train
from vq_core.training.prior import PriorTraining, random_orders

# %% [markdown]
# The one cell to edit.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
# config = vq_core.config_of("phase2-demo-1a2b3c4d")  # instead: any finished run, its own settings and images
packed, device = load_images(config), pick_device(config)
autoencoder = finished("phase2", config)

# %% [markdown]
# The autoencoder is finished and stays as it is. What is missing is the box above the codes: something that writes codes
# by itself.

# %%
pipeline(config, "prior", "codes")

# %% [markdown]
# ## 1. An avatar is 256 codes
#
# Every image goes through the encoder and the quantiser once. What is left of it is a 16×16 grid of whole numbers below
# $K$, the size of the codebook, and the prior never sees anything else. To it a code is a *token*, one item of a sequence.

# %%
codes = extract_codes(autoencoder, config)
print(
    f"codes {codes.shape} {codes.dtype}, {codes.nbytes / 1e6:.1f} MB for {packed.images.nbytes / 1e6:.0f} MB of pixels"
)

# %% [markdown]
# **You should see** one grid per image, a few dozen times smaller than the pixels.
#
# Why a prior? Because hardly any grid is an avatar. Below are five held-out avatars, the same codes in another order, and
# codes drawn with dice.

# %%
model, side, k = vq_core.load_vqvae(autoencoder).to(device), config.grid, config.model.num_codes
own = torch.from_numpy(codes[packed.val_rows[:5]].astype(np.int64)).to(device)
order = torch.randperm(side * side, generator=torch.Generator().manual_seed(0)).to(device)
grids = {"avatars": own, "shuffled": own.flatten(1)[:, order].view_as(own)}
grids |= {"dice": random_codes(k, 5, side, config.seed).to(device)}
plots.rows_of_images({name: to_pictures(model.decode(grid)) for name, grid in grids.items()})

# %% [markdown]
# **You should see** faces at the top and confetti below. The second row shows that the right codes are not enough: what
# makes a face is which codes stand next to which. If the first row is confetti as well (always so at `smoke`), the
# autoencoder is not ready: back to notebook 02.

# %% [markdown]
# ## 2. The probability of an avatar, in bits
#
# A table of all grids would have $K^{256}$ entries. The *chain rule* avoids it: it takes the codes in a fixed order, and
# asks for one at a time, given those before it.
#
# $$p(s_1, \dots, s_n) = \prod_{t=1}^{n} p(s_t \mid s_1, \dots, s_{t-1})$$
#
# $s_t$ is the code at position $t$, counted row by row (*raster order*), and $n = 256$. Nothing is lost: the rule is exact.
# And each factor is the same kind of question, *what comes next?*, so that one network can answer all of them.
#
# A product of 256 small numbers is unhandy. Its logarithm is a sum, and $-\log_2 p$ is called *bits*. The smallest example:
# two neighbouring codes that are alike four times out of five.

# %%
together = np.array([[0.4, 0.1], [0.1, 0.4]])  # p(left, right)
left = together.sum(axis=1)  # p(left)
right = together / left[:, None]  # p(right | left)
assert np.allclose(left[:, None] * right, together)  # the chain rule
mean_bits = {"left": -(left * np.log2(left)).sum(), "right, given left": -(together * np.log2(right)).sum()}
table(mean_bits, "code", "bits, on average", ".2f")

# %% [markdown]
# **You should see** 1 bit for the left code, which is a fair coin, and 0.72 bits for the right one. Knowing the left code
# is worth 0.28 bits; a prior lives on nothing else.
#
# For a whole avatar one gives the mean over its codes,
#
# $$\text{bits per token} = -\frac{1}{n} \sum_{t=1}^{n} \log_2 p(s_t \mid s_1, \dots, s_{t-1}).$$
#
# A model that says $b$ bits gave the right code, on (geometric) average, the probability $2^{-b}$. It is as unsure as
# somebody who has to choose among $2^b$ codes that are all equally likely. A compressor that used it would need $n \cdot b$
# bits for an avatar.

# %%
names = ("bits per token", "the right code gets", "as unsure as among … codes", "bytes for an avatar")
lines = [(b, f"{2**-b:.2%}", f"{2**b:.1f}", side**2 * b / 8) for b in (0.0, 1.0, 3.2, 5.3, float(np.log2(k)))]
Markdown(markdown([dict(zip(names, line, strict=True)) for line in lines]))

# %% [markdown]
# **You should see** 0 bits for a model that is always sure and right, and $\log_2 K$ bits in the last line for one that
# knows nothing: with $K = 512$ these are the 9 bits of nine questions with yes or no.
#
# So "5.3 bits" (an example; `demo` comes to 2.8 to 3.3) says: *on average* the prior is as unsure as among 39 equally likely
# codes. At some positions it is nearly sure, at others among hundreds. Fewer bits are better, on avatars that the model has not
# seen. Two warnings. Bits of two different autoencoders cannot be compared, as their codes say different things. And bits judge
# codes, not pictures: a smeared avatar can have few of them.

# %% [markdown]
# ## 3. The causal mask
#
# The network is asked all 256 questions at once, which is far cheaper than asking them in turn. But then the answers are in
# its input, and it must not look. A transformer moves information between positions in one place only, the attention:
#
# $$y_t = \sum_{u} a_{tu} v_u, \qquad a_{tu} = \operatorname{softmax}_u\!\left(\frac{q_t \cdot k_u}{\sqrt{d}} + m_{tu}\right)$$
#
# Position $t$ asks with its query $q_t$; each position $u$ offers a key $k_u$ and a value $v_u$, vectors of $d$ numbers.
# *Softmax* makes weights of any numbers: exp of each, over their sum. The *mask* $m_{tu}$ is 0 where $u \le t$ and $-\infty$
# elsewhere. As $\exp(-\infty) = 0$, later positions get the weight 0.

# %%
scores = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
allowed = torch.ones(16, 16, dtype=torch.bool).tril()
weights = scores.masked_fill(~allowed, -torch.inf).softmax(dim=1)
given = (torch.arange(side * side) < side * 8 + 6).view(side, side).float()
given[8, 6] = 0.5
fig, [axes] = plots.figure(1, 3, 9.6, 3.3)
axes[0].imshow(allowed, cmap="gray")
axes[1].imshow(weights, cmap="viridis")
axes[2].imshow(given, cmap="gray")
axes[0].set(title="mask: may be looked at (white)", xlabel="position u, looked at", ylabel="position t, which asks")
axes[1].set(title="weights after the softmax", xlabel="position u, looked at", ylabel="position t, which asks")
axes[2].set(title="given to row 8, column 6 (white)", xlabel="column of the avatar's grid", ylabel="row")
fig

# %% [markdown]
# **You should see** a triangle, here for 16 positions; weights inside it alone, each row adding up to 1; and what this means
# for a whole grid: the grey cell is to be predicted, the white ones are given, the black ones hidden.
#
# A position may look at itself, because its input is not its own code. It is made of codes *before* it, up to six near ones,
# and of its row and column. The real thing, where `cache` spares earlier positions from being computed again in sampling:

# %%
code_of(Block.forward)

# %% [markdown]
# ## 4. Train the causal prior
#
# The loss is the formula of section 2, and this is all of it; `orders` come in section 5.

# %%
code_of(PriorTraining.bits_per_token)

# %% [markdown]
# Codes of mirrored images (in `full` also of cropped and recoloured ones) are extra training data. Moving averages of the
# weights are validated, kept and drawn from.

# %%
run = train("prior", config, LiveView)
result = run.result()
print(f"{result['best_bits']:.3f} ± {result['best_bits_se']:.3f} bits per held-out token at step {result['best_step']}")

# %% [markdown]
# **You should see** both curves fall steeply from about $\log_2 K$, and the validation curve level off at 2.8 to 3 bits
# (`demo`). The gap to the training curve is what was learnt by heart instead of understood. Above half a bit it is **T4**,
# overfitting: more images, more `prior.views`, `prior.dropout=0.1`. (A line under the curves says so from a fifth of the training
# bits on.) 2,000 avatars are few, so `demo` ends at that edge; section 12 asks whether copies come of it. Bits that
# stay near $\log_2 K$ mean that nothing is learnt: halve `prior.lr` and `prior.muon_lr`.

# %% [markdown]
# ## 5. Why a second prior
#
# To redraw the eyes of an avatar, one must know its chin. The causal prior cannot: for the first cell of a hole it sees
# what is above, never what is below.

# %%
hole = editing.region(side, (side * 3 // 8, side * 5 // 8), (side // 4, side * 3 // 4))
before = torch.arange(side * side).view(side, side) < hole.flatten().int().argmax()
fig, [axes] = plots.figure(1, 2, 6.4, 3.2)
for ax, seen, title in zip(axes, (before, ~hole), ("the causal prior sees", "the masked prior sees"), strict=True):
    ax.imshow(torch.where(hole, 0.5, seen.float()), cmap="gray", vmin=0, vmax=1)
    ax.set(title=f"{title} (white)", xlabel="column", ylabel="row")
fig

# %% [markdown]
# **You should see** the hole in grey and, on the left, more than half of what is known go to waste: black cells are known,
# but not seen.
#
# The remedy keeps the chain rule and gives up its fixed order. It holds for any order $\sigma$ of the positions,
#
# $$p(s_1, \dots, s_n) = \prod_{t=1}^{n} p(s_{\sigma(t)} \mid s_{\sigma(1)}, \dots, s_{\sigma(t-1)}),$$
#
# so what is known may come first and the hole last. The *masked* prior is trained on many orders: a half end with a region of
# any shape. The other half are Halton's order (section 9) over the whole avatar, because this prior can draw whole ones too
# (`sample --way masked`).

# %%
code_of(random_orders)

# %% [markdown]
# Why not this one alone? Because one network that must know every order knows each of them less well. So whole avatars come
# from the causal prior by default, and holes from the masked one, which begins with the causal prior's weights.

# %%
masked_run = train("masked", config, LiveView)
result = masked_run.result()
print(f"{result['best_bits']:.3f} ± {result['best_bits_se']:.3f} bits per held-out token")

# %% [markdown]
# **You should see** 0.3 to 0.6 bits more than the causal prior has (`demo`): the price of all those orders. If it is more than
# a bit, it was not trained long enough (`prior.steps`), or did not begin with the causal prior's weights
# (`masked.start_from=prior`).

# %% [markdown]
# ## 6. Against counting
#
# A number of bits needs something to compare with. *Uniform* knows nothing, *unigram* how frequent each code is, *left
# neighbour* how often it follows the code to its left (blended with the unigram, as if that were 200 more sightings).

# %% tags=["picture-bits"]
seen, asked = codes[packed.train_rows], codes[packed.val_rows]
share = np.bincount(seen.ravel(), minlength=k) + 0.5
share = share / share.sum()
pairs = np.zeros((k, k), dtype=np.float32)
np.add.at(pairs, (seen[:, :, :-1].ravel(), seen[:, :, 1:].ravel()), 1)
after = (pairs + 200 * share) / (pairs.sum(1, keepdims=True) + 200)
bits = {"uniform": np.log2(k), "unigram": -np.log2(share[asked]).mean()}
bits["left neighbour"] = -np.log2(after[asked[:, :, :-1], asked[:, :, 1:]]).mean()
bits |= {"masked": masked_run.result()["best_bits"], "causal": run.result()["best_bits"]}
run.update_result({f"bits_{name}": value for name, value in bits.items()})
plots.bars(bits, "bits per held-out token (fewer is better)")

# %% [markdown]
# **You should see** the causal prior more than one bit below the best count (`demo`). One bit per token is a factor of
# $2^{256}$ in the probability of an avatar. A transformer that does not beat *left neighbour* has not learnt to use what
# lies further away: train longer (`prior.steps`).

# %% [markdown]
# ## 7. From probabilities to a code: temperature and top-p
#
# A prior answers with $K$ probabilities, and one code has to be drawn. Taking the likeliest each time gives the same, dull
# avatar for ever; drawing from all lets one unlucky code in a thousand spoil a face. Two knobs lie between. *Temperature*
# $T$ sharpens or flattens,
#
# $$q_i = \frac{p_i^{1/T}}{\sum_j p_j^{1/T}},$$
#
# and *top-p* cuts the tail off: of the codes, likeliest first, only as many are kept as together have the probability
# `top_p`. (*Top-k* keeps a fixed number of them.) Here they are on one answer of the prior, where it is rather unsure.

# %%
prior = vq_core.load_prior(run).to(device)
with torch.no_grad():
    answers = prior(own[:1].flatten(1))[0]  # [256, K] logits
chances = answers.softmax(-1)
unsure = int((chances * chances.log()).sum(-1).argsort()[side * 4])  # by entropy, a quarter of them are less sure
knobs = {"T = 0.5": (0.5, None, 1.0), "T = 1": (1.0, None, 1.0), "T = 2": (2.0, None, 1.0)}
knobs |= {"T = 1, top-p = 0.8": (1.0, None, 0.8)}
fig, [axes] = plots.figure(1, 4, 10, 2.7, sharey=True)
for ax, (name, knob) in zip(axes, knobs.items(), strict=True):
    q = filtered_probabilities(answers[unsure : unsure + 1], *knob)[0].sort(descending=True).values.cpu()
    ax.bar(range(20), q[:20], color=plots.BLUE)
    ax.set(title=f"{name}: {int((q > 0.001).sum())} above 0.1 %", xlabel="code, likeliest first", ylabel="probability")
    ax.title.set_fontsize(9)
fig

# %% [markdown]
# **You should see** the same codes in the same order each time: one towers at $T = 0.5$, all move together at $T = 2$, and
# on the right a cut, beyond which the bars are gone and what they had is given to the others. In the code:

# %%
code_of(filtered_probabilities)

# %% [markdown]
# Drawing an avatar is this, 256 times, each code joining what the next one is given:

# %%
code_of(sample_codes)

# %% [markdown]
# Whole avatars at three temperatures, with the same seed in every row:

# %%
drawn = {t: sample_codes(prior, 5, Sampling(temperature=t, seed=1), progress=False) for t in (0.7, 1.0, 1.3)}
plots.rows_of_images({f"T = {t}": to_pictures(model.decode(grid)) for t, grid in drawn.items()})

# %% [markdown]
# **You should see** tidy and somewhat alike avatars at the top, wild and broken ones at the bottom. The defaults, 1.05 and
# 0.96, were chosen together: slightly bold, without the tail. If avatars break at $T = 1$ too, try `Sampling(top_p=0.85)`;
# if that does not help, the prior is not good enough yet.

# %% [markdown]
# All of it to play with:

# %%
controls = {
    "temperature": w.FloatSlider(1.05, min=0.1, max=2, step=0.05, description="temperature", continuous_update=False),
    "top_k": w.IntSlider(k, min=1, max=k, description="top-k", continuous_update=False),
    "top_p": w.FloatSlider(0.96, min=0.05, max=1, step=0.01, description="top-p", continuous_update=False),
    "seed": w.BoundedIntText(1, min=0, max=2**31 - 1, description="seed"),
}
decoded = lambda how: to_pictures(model.decode(sample_codes(prior, 8, Sampling(**how), progress=False)))  # noqa: E731
over_controls(controls, lambda **how: plots.image_grid(decoded(how)))

# %% [markdown]
# ## 8. New avatars
#
# As they come from the causal prior, none picked out; then real avatars that were held out. The line below makes the same
# picture in a terminal; with a kernel, "save" puts it into the run's folder.

# %% tags=["picture-samples"]
shown = 15 if config.profile != "smoke" else 5
samples = sample_codes(prior, shown, Sampling(seed=config.seed), progress=False)
pictures, command = to_pictures(model.decode(samples)), f"python -m vq_core sample --run {run.name}"
figure = plots.image_grid(pictures, columns=5, side=2.45)
with_saving(figure, run.folder / "samples.png", f"{command} --count {shown} --seed {config.seed}")

# %% tags=["picture-real"]
plots.image_grid(packed.images[packed.val_rows[:shown]], columns=5, side=2.45)

# %% [markdown]
# **You should see** faces: two eyes, hair around them, shoulders below (`smoke`: coloured noise); softer and now and then
# more muddled than the real ones. Softness comes from the decoder (T3, notebook 03), muddle from the prior.

# %% [markdown]
# ## 9. The order of filling in
#
# The masked prior could draw a whole avatar in any order. Which one? A code is easy to draw where its surroundings are
# known, so each decision should help as many later ones as possible. *Halton's order* does: each position lies far from
# those before it, an outline everywhere first, then what is between. *Surest first* sounds better and was the custom: always
# fix what the prior is surest of. Here, where sixteen drafts agree most.

# %%
masked = vq_core.load_prior(masked_run).to(device)
rank, sure, turns = torch.zeros(side, side, device=device), torch.zeros_like(own[:1]), (1 / 16, 1 / 4, 1 / 2, 1)
for number, share in enumerate(turns, 1):
    keep = rank > 0
    drafts = fill_codes(masked, 16, Sampling(seed=number), start=sure, keep=keep, progress=False)
    common = drafts.mode(dim=0).values
    agree = (drafts == common).float().mean(0).masked_fill(keep, -1).flatten()
    rank.view(-1)[agree.topk(round(share * side**2) - int(keep.sum())).indices] = number
    sure = torch.where(keep, sure, common)

# %% [markdown]
# Three avatars, three orders, uncovered as they were drawn: raster order (causal prior); the surest cells first, and Halton's
# order (masked prior).


# %%
def uncovered(grid, rank):
    picture, cell = to_pictures(model.decode(grid[None]))[0], config.data.image_size // side
    parts = [np.kron((rank <= number).cpu(), np.ones((cell, cell))) for number in range(1, 5)]
    return [np.where(part[..., None], picture, 215).astype(np.uint8) for part in parts]


filled = fill_codes(masked, 8, Sampling(seed=config.seed), progress=False)
steps = torch.bucketize((torch.arange(side**2) + 1) / side**2, torch.tensor(turns)).view(side, side) + 1
orders = {"raster": (samples[0], steps), "surest first": (sure[0], rank)}
orders["Halton"] = (filled[0], steps.flatten()[halton_order(side).argsort()].view(side, side))
plots.rows_of_images({name: uncovered(*order) for name, order in orders.items()}, side=1.2)

# %% [markdown]
# **You should see** (columns: a sixteenth, a quarter, half, all of the cells) rows from the top; then clumps of background,
# while the face, which matters most, comes last, when all around it is settled; then Halton's dots, with something of every
# part of the avatar. Surest-first avatars are often plain, as the likeliest code is the commonest.
#
# The loop that follows Halton's order is in `fill_codes`; the first branch is this prior's:

# %%
code_of(fill_codes)

# %% [markdown]
# Whole avatars that the masked prior filled in:

# %% tags=["picture-filled"]
count = 128 if config.profile != "smoke" else 8
many = {"causal": sample_codes(prior, count, Sampling(seed=config.seed))}
many["masked"] = fill_codes(masked, count, Sampling(seed=config.seed))
plots.image_grid(to_pictures(model.decode(many["masked"][:16])), columns=8, side=0.8)

# %% [markdown]
# **You should see** avatars nearly as good as the causal prior's. Where they are much worse, it lacks training (`prior.steps`).

# %% [markdown]
# ## 10. The best and the worst, by the prior's own judgement
#
# The prior gives every avatar a probability, so it can also judge its own. Of all samples, the seven with the fewest and
# the seven with the most bits per token:


# %%
def bits_of(grids):  # of each code, given those before it
    flat = grids.flatten(1)
    with torch.no_grad():
        logs = prior(flat).log_softmax(-1).gather(-1, flat[..., None])
    return -(logs / np.log(2)).view_as(grids)


cost = bits_of(many["causal"]).mean(dim=(1, 2))
ends = {"fewest bits": cost.argsort()[:7], "most bits": cost.argsort(descending=True)[:7]}
pictured = {name: to_pictures(model.decode(many["causal"][which])) for name, which in ends.items()}
print(f"fewest {cost.min():.2f}, most {cost.max():.2f} bits per token")
plots.rows_of_images(pictured)

# %% [markdown]
# **You should see** plain avatars above: smooth hair, one background colour, which are easy to foretell. Below are the busy
# ones, and among them the failures: two kinds of hair in one head, a torn outline, eyes that do not match. Few bits do not
# mean beautiful, and many do not mean bad, but failures gather at that end. `Sampling(top_p=0.85)` draws fewer of them; it
# costs variety.

# %% [markdown]
# ## 11. In figures
#
# Eyes tire, and choose what they like. So sets are compared, in the features of a pretrained network. *Kernel*: the
# distance of two distributions, with its spread. *Precision*: the share of a set that looks real. *Recall*: the share of
# real avatars that look like the set, so that a prior which draws one good face for ever has precision 1 and recall near 0.
# *Floor* are real avatars against real ones; *reconstructions* are what the autoencoder leaves of them, and no prior can
# be expected to do better. *Copies* are explained in section 12.

# %%
try:
    nets = [SqueezeFeatures()]
except MissingWeights as error:
    nets = []
    print(f"Copies only: {error}")
print(*compare_sets(autoencoder, config, many, nets), sep="\n")

# %% [markdown]
# **You should see** precision near that of the reconstructions and somewhat less recall (`demo`: 0.6 and more, both). Low
# precision means broken avatars (`Sampling(top_p=0.85)`, more `prior.steps`), low recall that they are too much alike (a higher
# temperature, more images). Mind the spread: with 128 images a difference of 0.05 is chance. `python -m vq_core evaluate
# --frechet` draws more, and with 513 in each set adds the Fréchet distance (of two
# Gaussians, fitted to the features of both sets).

# %% [markdown]
# ## 12. Are they copies?
#
# A prior that had learnt its training avatars by heart would draw perfect faces, all "real"; only the gap in bits of section 4
# would have warned. Whether it *draws* copies is told by the distance from each sample to the *nearest training avatar*: the
# share of their 256 codes that differ, place by place; mirrored ones count too. That number alone says nothing, since plain
# avatars are near to everything, so it is compared with two others: how near *held-out* avatars come, which nobody can have
# copied, and how near *copies made on purpose* come: 0.

# %%
learnt = torch.from_numpy(codes[packed.train_rows[:count]].astype(np.int64)).to(device)
known = np.stack([codes, extract_codes(autoencoder, config, view=1)])[:, packed.train_rows]
sets = {"samples": many["causal"].cpu().numpy(), "copies on purpose": learnt.cpu().numpy()}
new, copied = novelty(sets, known, codes[packed.val_rows]).values()
run.update_result({"samples_nearer": new.nearer, "samples_copies": new.copies})
fig, [[ax]] = plots.figure(1, 1, 8, 2.9)
bins = np.linspace(0, max(new.samples.max(), new.held_out.max()), 40)
kinds = {"samples": (new.samples, plots.ORANGE, "-"), "held-out avatars": (new.held_out, plots.BLUE, "--")}
ax.axvline(copied.samples.mean(), color=plots.PURPLE, ls=":", lw=2, label="copies on purpose")
for name, (distances, colour, line) in kinds.items():
    ax.hist(distances, bins, histtype="step", density=True, color=colour, ls=line, lw=2, label=name)
ax.axvline(np.quantile(new.held_out, 0.01), color=plots.GREY, label="1 % of held-out ones are nearer")
ax.set(
    xlabel="share of codes that differ from the nearest training avatar", ylabel="density", title="would one notice?"
)
ax.legend()
fig

# %%
names = ("", "nearer than a held-out avatar", "nearer than 99 % of them")
lines = [("samples", new.nearer, new.copies), ("copies on purpose", copied.nearer, copied.copies), ("real", 0.5, 0.01)]
Markdown(markdown([dict(zip(names, (name, f"{a:.0%}", f"{b:.0%}"), strict=True)) for name, a, b in lines]))

# %% [markdown]
# **You should see** the samples lie where the held-out avatars lie, and not where the copies lie. In the last column copies have
# nearly 100 % and real avatars, by construction, 1 %. Up to 5 % is no alarm: it is six of 128 samples, against a line that rests
# on the five nearest held-out avatars (`demo`). Far more means copies (**T4**): fewer steps, `prior.dropout=0.1`, more images. The
# other half of the evidence is a look at the pairs.

# %% tags=["picture-nearest"]
nearest = packed.images[packed.train_rows[new.nearest[:8]]]
plots.rows_of_images({"samples": to_pictures(model.decode(many["causal"][:8])), "nearest": nearest})

# %% [markdown]
# **You should see** relatives, not twins. Codes notice a sample of which one half is copied and the other new, but not a copy
# that is shifted by half a cell: hence the look. And memory shows as being surer on training avatars than on others, in bits:

# %%
fresh = torch.from_numpy(codes[packed.val_rows[:count]].astype(np.int64)).to(device)
means = {"trained on": bits_of(learnt).mean(dim=(1, 2)), "held out": bits_of(fresh).mean(dim=(1, 2))}
spread = {name: f"{b.mean():.2f} ± {b.std() / len(b) ** 0.5:.2f}" for name, b in means.items()}
table(spread, "avatars", "bits per token, ± standard error")

# %% [markdown]
# **You should see** 0.2 to 0.6 bits between them (`demo`): something was learnt by heart, and yet samples are no copies. Above half
# a bit it is **T4**, by the rule of section 4: no proof of copies, but a reason to look at more pairs.

# %% [markdown]
# ## 13. Completion
#
# The lower part of two held-out avatars is missing and drawn four times. All that is known comes first in raster order, so
# this is a task for the causal prior, which knows its one order best; each edit says which prior suits it (`edit.way`). The
# torn picture is written to the run's folder, for the command; `data` is `$VQ_DATA` where that is set.

# %% tags=["picture-completions"]
x = images_of(packed, packed.val_rows[:2]).to(device)
missing = torch.zeros(x.shape[-2:], dtype=torch.bool, device=device)
missing[x.shape[-2] * 5 // 8 :] = True
torn = x.masked_fill(missing, 1.0)
priors, drawing = {"causal": prior, "masked": masked}, {"sampling": Sampling(seed=2), "progress": False}
given = [editing.completion(model, part[None], missing) for part in torn]
grids = [edit.apply(partial, priors[edit.way], 4, **drawing) for partial, edit in given]
strips = [torch.cat([x[n : n + 1], torn[n : n + 1], model.decode(grid)]) for n, grid in enumerate(grids)]
alpha = Image.fromarray((~missing).cpu().numpy()).convert("L")
(torn_file := Image.fromarray(to_pictures(x)[0])).putalpha(alpha)
torn_file.save(run.folder / "torn.png")
figure = plots.rows_of_images({f"avatar {n + 1}": to_pictures(strip) for n, strip in enumerate(strips)}, side=2.45)
command = f"python -m vq_core edit --run {run.name} --seed 2 data/runs/{run.name}"
with_saving(figure, run.folder / "completions.png", f"{command}/torn.png --complete  # avatar 1")

# %% [markdown]
# **You should see** the original, what was left of it, and four chins, necks and clothes that go with the same hair and
# eyes. A visible seam means that the edge was not redrawn far enough: make the missing part a row larger.

# %% [markdown]
# ## 14. A region anew
#
# The hole of section 5: a rectangle in the middle of the face is forgotten. Now the masked prior is the right one.

# %% tags=["picture-regenerated"]
given, anew = model.encode(x), Edit(region=hole, regenerate=True)
proposals = [anew.apply(g[None], priors[anew.way], 4, **drawing) for g in given]
redrawn = [editing.decode_edited(model, g[None], after) for g, after in zip(given, proposals, strict=True)]
strips = [torch.cat([model.decode(g[None]), images]) for g, images in zip(given, redrawn, strict=True)]
Image.fromarray(to_pictures(x)[0]).save(run.folder / "avatar.png")
figure = plots.rows_of_images({f"avatar {n + 1}": to_pictures(strip) for n, strip in enumerate(strips)}, side=2.45)
where = f"--rows {side * 3 // 8}:{side * 5 // 8} --columns {side // 4}:{side * 3 // 4}"
with_saving(figure, run.folder / "regenerated.png", f"{command}/avatar.png {where} --regenerate  # avatar 1")

# %% [markdown]
# **You should see** the reconstruction on the left, then four faces that differ in the middle; around it only as far as the
# decoder carries a change. Eyes that do not match each other are the masked prior's typical failure: ask for more proposals
# (`--count 8`), or redraw one eye alone.

# %% [markdown]
# ## 15. Edits by hand
#
# Three changes need no prior: a region copied from another avatar (the eyes); a region painted with one code (a hair band);
# codes replaced wherever they stand (the background's).

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
plots.image_grid(to_pictures(edits), columns=5, titles=["before", "donor", *changes], side=2.45)

# %% [markdown]
# **You should see** the other's eyes, a band of its hair's colour, and its background, but for a rim of cells that hold
# a little of the hair; beyond the decoder's reach every pixel is as it was. Painted cells that look out of place are no
# fault: a code's looks depend on its neighbours (notebook 05).

# %% [markdown]
# Now with the mouse. Click or drag over the avatar to choose cells; then set a code (chosen from all codes on the right),
# copy from another avatar, or let the prior that suits them draw them anew, as often as you like. "open a file" takes a
# picture of your own; "save" writes picture and codes into the run's folder.

# %%
sitters = images_of(packed, packed.val_rows[:6]).to(device)
editor = CodeEditor(model, priors, sitters, decoded_codes(model, codes), run.folder / "edits", config.data)
display(editor)

# %% [markdown]
# A picture of your own comes back as its *reconstruction* first. If that is no likeness, it is too far from the training images.

# %% [markdown]
# ## 16. Variations and interpolation
#
# Forget a share of the codes, scattered over the avatar, and have them drawn anew: the more, the less of it is left.

# %% tags=["picture-variations"]
varied = {s: Edit(vary=s).apply(one, masked, 5, **drawing) for s in (0.2, 0.5, 0.8)}
plots.rows_of_images({f"strength {s}": to_pictures(model.decode(grid)) for s, grid in varied.items()})

# %% [markdown]
# **You should see** the same avatar with other details at the top, distant relatives at the bottom.
#
# And two ways from one avatar to another: latents blended and quantised anew; codes exchanged in a random order.

# %% tags=["picture-interpolation"]
ways = {
    "blend": editing.blend_latents(model, x[:1], x[1:2], 8),
    "exchange": model.decode(editing.exchange_codes(one, other, 8)),
}
plots.rows_of_images({name: to_pictures(frames) for name, frames in ways.items()})

# %% [markdown]
# **You should see** a cross-fade that snaps to what codes can say, and a mosaic. Neither knows the prior, so the frames in the
# middle are no avatars. Step by step:

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
# ## When something is off
#
# | what you see | what it is | what to do |
# |---|---|---|
# | validation bits more than half a bit above training bits, or rising while these fall | **T4** overfitting; see section 12 for copies | `prior.dropout=0.1`; `prior.views=8`; a smaller `prior.dim`; more images; the best checkpoint is kept anyway |
# | bits no better than *left neighbour* | too little training | more `prior.steps`; a lower `prior.lr` and `prior.muon_lr` if the curve jumps |
# | samples sharp in parts, but muddled as a whole | the prior is unsure | `Sampling(top_p=0.85)`, in a terminal `--top-p 0.85`; more `prior.steps` |
# | samples and reconstructions soft | **T3** blur, in the autoencoder | notebook 03; the prior is not to blame |
# | samples all alike | too cold | `Sampling(temperature=1.1, top_p=0.97)` |

# %% [markdown]
# ## Exercises
#
# **Predict.** One code in the middle of an avatar is exchanged for another. For which positions do the causal prior's
# predictions change? Draw the region on paper, then unfold the answer.

# %% jupyter={"source_hidden": true} tags=["answer"]
changed = own[:1].clone()
changed[0, side // 2, side // 2] = (changed[0, side // 2, side // 2] + 1) % k
with torch.no_grad():
    moved = (prior(changed.flatten(1)) - prior(own[:1].flatten(1))).abs().mean(-1).view(side, side).cpu()
assert moved.flatten()[: side * side // 2 + side // 2 + 1].max() < 1e-3 < moved.max()
fig, [[ax]] = plots.figure(1, 1, 4.6, 3.4)
ax.set(title="mean change of the logits", xlabel="column", ylabel="row")
fig.colorbar(ax.imshow(moved, cmap="viridis"), ax=ax, label="logits")
fig

# %% [markdown]
# Only for those after it: nothing changes up to and including the exchanged cell, whose own prediction does not look at it.
# The cells next to it change most, those far below a little.
#
# **Build.** Where in an avatar is the prior unsure? Draw a map of the bits per position, averaged over held-out avatars.
# *Hint:* `bits_of` has the bits of each code before any mean is taken.

# %% jupyter={"source_hidden": true} tags=["answer"]
per_position = bits_of(fresh).mean(dim=0).cpu()
assert per_position.shape == (side, side) and abs(per_position.mean() - means["held out"].mean().cpu()) < 1e-3
fig, [[ax]] = plots.figure(1, 1, 4.6, 3.4)
ax.set(title="where the prior is unsure", xlabel="column", ylabel="row")
fig.colorbar(ax.imshow(per_position, cmap="viridis"), ax=ax, label="bits")
fig

# %% [markdown]
# The eyes cost most (`demo`). The first cell of all is dear too, because it settles the colour of the background; the rest of
# the background then costs next to nothing.

# %% [markdown]
# ## Check
#
# The priors beat counting, sampling keeps what it is told to keep, and seeds repeat.

# %% tags=["nbval-check-output"]
five, kept = Sampling(seed=5), {"start": one, "keep": ~hole, "progress": False}
again = fill_codes(masked, 2, five, **kept)
assert run.done and masked_run.done and bits["causal"] < bits["uniform"] > bits["masked"]
assert config.profile == "smoke" or bits["causal"] < bits["left neighbour"]
assert bool((again[:, ~hole] == one[:, ~hole]).all())
assert torch.equal(again, fill_codes(masked, 2, five, **kept))
assert torch.equal(*(sample_codes(prior, 2, five, progress=False) for _ in range(2)))
print("prior: all checks passed")

# %% [markdown]
# Next: [05 · Analysis](05_analysis.ipynb)
