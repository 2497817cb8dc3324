# %% [markdown]
# # 03 · Phase 2: the VQ-GAN
#
# Go on from Phase 1's best checkpoint with a discriminator that looks at patches, and win back what L1 blurs (GAN:
# *generative adversarial network*).
#
# | needs | makes |
# |---|---|
# | notebooks 00, 01, 02 | `data/runs/phase2-…/`: the autoencoder that the prior and all editing use |

# %% [markdown]
# ## Settings
#
# Sections 1 to 5 explain, with toys of under a second, why a second network joins the training and what it costs; from
# section 6 on it is trained and judged.

# %%
import numpy as np
import torch
import torch.nn.functional as F
from IPython.display import Markdown, display
from matplotlib.patches import Rectangle

import vq_core
from vq_core.data.augment import to_pictures
from vq_core.data.images import images_of
from vq_core.evaluation.report import evaluate_run
from vq_core.machine import pick_device
from vq_core.models import PatchDiscriminator
from vq_core.models.metrics import gradient_energy, psnr
from vq_core.notebook import plots
from vq_core.notebook.lesson import code_of, pipeline
from vq_core.notebook.monitor import LiveView
from vq_core.notebook.widgets import UsageExplorer, card_of
from vq_core.runs.checkpoints import load_checkpoint
from vq_core.runs.codes import extract_codes
from vq_core.runs.finding import finished, load_images
from vq_core.runs.loading import weights_of
from vq_core.runs.records import markdown
from vq_core.training.adversary import Adversary, adaptive_factor, discriminator_loss, generator_loss
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
# Where we are: the autoencoder stays as it is, and a discriminator looks at what comes out of it. It is needed for training
# alone, and thrown away afterwards.

# %%
pipeline(config, "decoder", "reconstructions", "discriminator")

# %% [markdown]
# ## 1. Why L1 blurs
#
# The codes do not say everything: many images have the same ones, and differ in where exactly a strand of hair lies. The
# decoder must answer with *one* image. Which one costs least on average?
#
# $$\arg\min_{\hat{x}} \; \mathbb{E}\,(x - \hat{x})^2 = \text{mean of } x, \qquad \arg\min_{\hat{x}} \; \mathbb{E}\,\lvert x - \hat{x} \rvert = \text{median of } x$$
#
# pixel by pixel; $\mathbb{E}$ is the average over all images $x$ that the codes allow. The mean of two sharp images is not
# sharp. The median drops what is in another place each time. Neither is a picture that anyone has drawn.
#
# A toy: a dark strand in one of five places, all equally likely.

# %%
strands = torch.full((5, 3, 12, 16), 0.4)
for number in range(5):
    strands[number, :, :, 4 + 2 * number] = -1.0
answers = {"mean": strands.mean(0), "median": strands.median(0).values, "one of them": strands[2]}
shown = to_pictures(torch.cat([strands, *(x_rec[None] for x_rec in answers.values())]))
plots.image_grid(shown, columns=8, titles=["possible"] * 5 + list(answers), side=1.2)

# %%
sharp = gradient_energy(strands).mean()
rows = [
    {
        "answer": name,
        "L1": float((strands - x_rec).abs().mean()),
        "squared error": float((strands - x_rec).square().mean()),
        "sharpness": float(gradient_energy(x_rec[None]) / sharp),
    }
    for name, x_rec in answers.items()
]
Markdown(markdown(rows))

# %% [markdown]
# **You should see** the mean (five faint strands) with the least squared error, the median (no strand at all) with the least
# L1, and the sharp answer well above the best by both, though it *may be right*: if it is wrong it pays twice, for the strand that
# it drew and for the one that it did not. So the decoder is not weak: it gives the answer that is cheapest.

# %% [markdown]
# ## 2. Why a GAN sharpens, and what it costs
#
# So do not ask only "how far is it from this image?", but also "could it be an image at all?". A second network, the
# *discriminator* $D$, learns to tell real images from reconstructions, and the decoder is rewarded for what $D$ takes for
# real:
#
# $$L = L_{\text{Phase 1}} + \lambda_{gan} \, L_{gan}$$
#
# Faint strands occur in no real image, so $D$ finds them out, and blur costs something. Each of the five sharp answers
# passes. But nothing has become known that was unknown: the decoder picks one of them, and may pick the wrong one.
#
# A toy: a pixel is −1 or 1, as by a coin. 64 answers $v$ are moved by L1 and by a small discriminator.


# %%
def new_game(seed=0):
    draw = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        judge = torch.nn.Sequential(torch.nn.Linear(1, 16), torch.nn.LeakyReLU(0.2), torch.nn.Linear(16, 1))
    return draw, judge, (0.1 * torch.randn(64, 1, generator=draw)).requires_grad_()


# %%
paths = {}
for weight in (0.0, 0.1, 1.0):
    draw, judge, v = new_game()
    players = torch.optim.Adam([v], 0.02), torch.optim.Adam(judge.parameters(), 0.02)
    path = []
    for _ in range(200):
        coin = torch.randint(2, v.shape, generator=draw) * 2.0 - 1
        of_decoder = (v - coin).abs().mean() + weight * generator_loss(judge(v), "hinge")
        of_judge = discriminator_loss(judge(coin), judge(v.detach()), "hinge")
        (v.grad,) = torch.autograd.grad(of_decoder, v)
        players[1].zero_grad()
        of_judge.backward()
        for player in players:
            player.step()
        path.append(v.detach().flatten().clone())
    paths[weight] = torch.stack(path)

# %%
fig, [axes] = plots.figure(1, 3, 10, 2.6, sharex=True, sharey=True)
for ax, (weight, path) in zip(axes, paths.items(), strict=True):
    ax.plot(path, color=plots.BLUE, lw=0.6, alpha=0.5)
    ax.axhline(-1, color=plots.ORANGE, ls="--")
    ax.axhline(1, color=plots.ORANGE, ls="--", label="real values")
    ax.set(title=f"λ_gan = {weight:g}", xlabel="step")
axes[0].set(ylabel="answer v")
axes[0].legend(fontsize=8)
fig

# %%
rows = []
for weight, path in paths.items():
    off = torch.stack([path[-1] - 1, path[-1] + 1])
    rows.append({"λ_gan": weight, "mean |v|": float(path[-1].abs().mean())})
    rows[-1] |= {"L1": float(off.abs().mean()), "squared error": float(off.square().mean())}
Markdown(markdown(rows))

# %% [markdown]
# **You should see** three fates. Without a discriminator the answers stay in the middle: with two equally likely values all
# that lies between them is a median, and L1 prefers neither the sharp answers nor the blur. With a little of it they go to −1 or 1, as real pixels are. L1 is the same as before, but the squared error
# is nearly twice as large: almost 3 dB of PSNR is the price of sharpness, for a pixel of which the codes say nothing. With too
# much of it nobody comes to rest: the answers rush past the real values to where $D$ was deceived a moment ago, $D$ follows,
# and they rush back. That is **T2**, and the switch is a smaller `loss.gan`.

# %% [markdown]
# ## 3. A discriminator on patches
#
# Sharpness is local: to see that a strand is smeared one needs no chin. So $D$ does not judge the image, but each of many
# overlapping *patches*, with the same few weights. That makes hundreds of lessons out of one image, and
# leaves nothing to learn by heart but texture. What the whole should look like remains the business of L1.
#
# How large is a patch? All pixels that have a gradient from one verdict. (Here without the norms, which look at the mean of
# the image.)

# %%
judge = PatchDiscriminator(channels=8, layers=config.discriminator.layers, spectral_norm=True)
canvas = torch.zeros(1, 3, 320, 320, requires_grad=True)
verdicts = judge(canvas)[0, 0]
(gradient,) = torch.autograd.grad(verdicts[tuple(side // 2 for side in verdicts.shape)], canvas)
patch = int((gradient[0].abs().sum((0, 1)) > 0).sum())
size = config.data.image_size
count = judge(torch.zeros(1, 3, size, size)).numel()
print(f"{count} verdicts on an image of {size}×{size}, each on a patch of {patch}×{patch} pixels")

# %%
fig, [[ax]] = plots.figure(1, 1, 3, 3)
ax.imshow(packed.images[packed.val_rows[-1]])
for corner, colour in ((0.15, plots.BLUE), (0.4, plots.ORANGE)):
    place = corner * size
    ax.add_patch(Rectangle((place, place), patch, patch, fill=False, lw=2.5, edgecolor=colour))
ax.set(title="two of the patches", xlabel="x [pixels]", ylabel="y [pixels]", xlim=(0, size), ylim=(size, 0))
ax.grid(False)
fig

# %% [markdown]
# **You should see** a patch that holds an eye or a few strands and not the whole face (`demo`: 16×16). One that is
# too small sees noise only, one that is too large begins to judge faces, and to learn them by heart:
# `discriminator.layers`.

# %%
code_of(PatchDiscriminator.__init__)

# %% [markdown]
# ## 4. Hinge
#
# $D(x)$ is a number per patch, the *logit*: positive means "real". $D$ is asked to be above 1 for real patches and below −1
# for reconstructed ones, and no more than that:
#
# $$L_D = \tfrac12\, \mathbb{E}\max(0, 1 - D(x)) + \tfrac12\, \mathbb{E}\max(0, 1 + D(\hat{x})), \qquad L_{gan} = -\mathbb{E}\, D(\hat{x})$$
#
# Why the corner at ±1? A patch that is recognised clearly teaches $D$ nothing more, so it turns to the doubtful ones, and its
# logits do not grow without bound. $L_{gan}$ has no corner: the decoder always gets a direction.

# %%
logit = torch.linspace(-2.5, 2.5, 101)
lines = {
    "D, real patch": (F.relu(1 - logit), plots.BLUE, "-"),
    "D, reconstructed": (F.relu(1 + logit), plots.ORANGE, "-"),
}
lines |= {"decoder": (-logit, plots.GREY, "--")}
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
for name, (values, colour, style) in lines.items():
    ax.plot(logit, values, color=colour, ls=style, label=name)
ax.set(title="hinge losses", xlabel="logit D", ylabel="loss")
ax.legend(fontsize=8)
fig

# %% [markdown]
# **You should see** two ramps that end at 1 and at −1. At a logit of 0 for everything both are 1: that is $L_D$ of a
# discriminator that knows nothing, and 0 that of one that is always sure.
#
# As it runs, with the other common form (`loss.gan_loss=non_saturating`). The method is the decoder's side: it freezes $D$,
# as otherwise $D$ would learn to be deceived.

# %%
code_of(generator_loss, discriminator_loss, Adversary.generator_loss)

# %% [markdown]
# ## 5. How much of it: the ramp of λ_gan, and the adaptive weight
#
# A discriminator that has learnt nothing has opinions too. Here are three, fresh from their random start, and what each would
# have Phase 1's reconstructions changed into: minus the gradient of $L_{gan}$ by the image.

# %%
disc, loss = config.discriminator, config.loss
model1 = vq_core.load_vqvae(phase1).to(device)
x = images_of(packed, packed.val_rows[-10:]).to(device)
x_rec = model1(x)


def fresh(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return PatchDiscriminator(disc.channels, disc.layers, disc.spectral_norm).to(device)


def advice(judge, images):
    seen = images.detach().clone().requires_grad_()
    (gradient,) = torch.autograd.grad(generator_loss(judge(seen), loss.gan_loss), seen)
    return -gradient


# %%
opinions = [advice(fresh(seed), x_rec).flatten() for seed in range(3)]
for one, other in ((0, 1), (0, 2), (1, 2)):
    agreement = F.cosine_similarity(opinions[one], opinions[other], dim=0)
    print(f"discriminators {one} and {other} agree by {agreement:+.2f} (1: the same advice, 0: none in common)")

# %% [markdown]
# **You should see** small numbers: three strangers, three directions, none of them learnt from an image. To follow them would
# only spoil what Phase 1 has learnt. Therefore $\lambda_{gan}$ is 0 until step $s_0$ (`loss.gan_start`; steps of Phase 1 count),
# and then climbs in `loss.gan_ramp` steps to $\lambda$, which is `loss.gan`. $D$ learns from $s_0$ on with its whole loss, while
# its word begins with a low voice, $\lambda / \text{ramp}$:
#
# $$\lambda_{gan}(s) = \lambda \cdot \min\left(1, \frac{s - s_0 + 1}{\text{ramp}}\right) \text{ from step } s_0 \text{ on}$$

# %%
before = 0 if config.phase2.start_from == "scratch" else phase1.result()["best_step"]
start = max(0, loss.gan_start - before)
steps = range(0, config.phase2.steps, max(1, config.phase2.steps // 200))
ramp = [gan_weight(s, weight=loss.gan, start=start, ramp=loss.gan_ramp) for s in steps]
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.plot(steps, ramp, color=plots.BLUE)
ax.set(title="λ_gan, the weight of the GAN term, in Phase 2", xlabel="step", ylabel="λ_gan")
fig

# %% [markdown]
# **You should see** a ramp up to `loss.gan` and a plateau. If it ends before the plateau, `phase2.steps` are too few.
#
# What does a weight of 0.1 (`full`; `demo`: 0.012) *mean*? Nothing by itself: logits and pixels have no common unit. The
# *adaptive* weight makes it a share of the other terms' pull at the decoder's last layer, with weights $w$:
#
# $$\lambda_{gan} \cdot \min\left(c,\; \frac{\lVert \nabla_w L_{\text{Phase 1}} \rVert}{\lVert \nabla_w L_{gan} \rVert + 10^{-6}}\right)$$
#
# $c$, the cap, is `loss.gan_adaptive`; 0, the default, leaves the factor out. A toy: the same GAN loss in three units.

# %%
w = torch.ones(3, requires_grad=True)
rows = []
for unit in (0.1, 1.0, 10.0):
    of_pixels, of_gan = (
        (w - torch.tensor([0.0, 2.0, 3.0])).abs().mean(),
        unit * (w * torch.tensor([1.0, 2.0, -1.0])).mean(),
    )
    factor = adaptive_factor(of_pixels, of_gan, w, cap=100.0)
    pulls = [torch.autograd.grad(each, w, retain_graph=True)[0].norm() for each in (of_pixels, of_gan)]
    share = float(pulls[1] / pulls[0])
    rows.append({"unit": unit, "pull as it is": share, "factor": float(factor), "pull with it": share * float(factor)})
Markdown(markdown(rows))

# %% [markdown]
# **You should see** 1 in the last column, whatever the unit.

# %%
code_of(adaptive_factor)

# %% [markdown]
# ## 6. Train
#
# The step is the one shown in notebook 02: the autoencoder's losses, then the
# discriminator's on the same images. PSNR falls a little now, for the reason in section 2.

# %%
run = train("phase2", config, LiveView)
print(f"{run.name}: {run.result()['steps']} steps after {before} of Phase 1")

# %% [markdown]
# **You should see** strands of hair and eyelashes grow crisper within a few hundred steps (`demo`), and PSNR lose less
# than 1 dB. If it loses more, or goes up and down, look at the next curves for **T2**.

# %% [markdown]
# ## 7. The discriminator's curves
#
# Its loss is 1 while it can tell nothing apart (hinge) and 0 when it is always right. Its mean logits for real and
# reconstructed patches should stay apart, but near each other: a good opponent, not a perfect one.

# %%
names = {
    "train/disc": "discriminator loss",
    "train/disc_real": "logit, real",
    "train/disc_fake": "logit, reconstructed",
}
plots.curves({"phase 2": run}, names | {"train/gan": "L_gan of the decoder"})

# %% [markdown]
# **You should see** a discriminator loss between 0.5 and 1. Near 0 it has won and teaches nothing any more (**T2**:
# `discriminator.lr=1e-4`, `discriminator.spectral_norm=true`). At 1 throughout it learns nothing: a higher `discriminator.lr`.

# %% [markdown]
# ## 8. What the discriminator sees
#
# The trained discriminator's verdict on every patch of the same images: dark is "reconstructed", bright is "real". Then the mean
# of each row, and how strongly it pulls at the decoder.

# %%
judge = PatchDiscriminator(disc.channels, disc.layers, disc.spectral_norm)
judge.load_state_dict(weights_of(load_checkpoint(run.best, ("phase2",)), "adversary.discriminator"))
judge = judge.to(device).eval().requires_grad_(False)
model2 = vq_core.load_vqvae(run).to(device)
images = {"input": x, "Phase 1": model1(x), "Phase 2": model2(x)}
logits = {name: judge(some) for name, some in images.items()}
maps = {name: to_pictures(some.clamp(-2, 2).expand(-1, 3, -1, -1) / 2) for name, some in logits.items()}
plots.rows_of_images({"input": to_pictures(x)} | {f"verdict, {name}": some for name, some in maps.items()})

# %%
last = model2.decoder.last.weight.requires_grad_()
x_rec = model2(x[:4])
factor = adaptive_factor((x_rec - x[:4]).abs().mean(), generator_loss(judge(x_rec), loss.gan_loss), last, cap=1e4)
last.requires_grad_(False)
for name, some in logits.items():
    print(f"{name}: mean logit {some.mean():+.2f}, {(some > 0).float().mean():.0%} of the patches taken for real")
print(f"λ_gan = {loss.gan} pulls {float(loss.gan / factor):.2f} times as strongly as L1")

# %% [markdown]
# **You should see** Phase 1 found out nearly everywhere (`demo`: 7 % of its patches pass), and Phase 2 far more often taken for
# real (about a third), though not as often as real images. If Phase 2 is found out as easily as Phase 1,
# the GAN is too weak: double `loss.gan`, or more `phase2.steps`. A pull above 1 or 2 would give the picture away: a smaller
# `loss.gan`.

# %% [markdown]
# ## 9. The same images: input, Phase 1, Phase 2
#
# Look at the rims of the irises and at the strands of hair.

# %% tags=["picture-reconstructions"]
rows = {name: to_pictures(some) for name, some in images.items()}
plots.rows_of_images(rows)

# %% [markdown]
# **You should see** the third row closer to the first in sharpness, at the same colours and poses.

# %% [markdown]
# Eyes, enlarged:

# %%
size = config.data.image_size
down, right = slice(round(0.38 * size), round(0.94 * size)), slice(round(0.22 * size), round(0.78 * size))
plots.rows_of_images({name: some[:6, down, right] for name, some in rows.items()}, side=1.7)

# %% [markdown]
# Hair, enlarged:

# %%
down, right = slice(round(0.04 * size), round(0.54 * size)), slice(round(0.2 * size), round(0.7 * size))
plots.rows_of_images({name: some[:6, down, right] for name, some in rows.items()}, side=1.7)

# %% [markdown]
# **You should see** harder edges at lashes, highlights and strands in Phase 2; not a grid or a grain all over, which would
# be the discriminator's handwriting (lower `loss.gan` then).

# %% [markdown]
# ## 10. Figures of both phases
#
# Over all held-out images, as in notebook 02.

# %%
metrics = {"Phase 1": evaluate_run(phase1, config), "Phase 2": evaluate_run(run, config)}
names = ("psnr", "ssim", "sharpness", "perplexity", "codes_used")
Markdown(markdown([{"figure": name} | {phase: metrics[phase][name] for phase in metrics} for name in names]))

# %% [markdown]
# **You should see** sharpness nearer to 1 than in Phase 1 (`demo`: 0.85 and more), PSNR less than 1 dB lower, and no fewer
# codes in use. A sharpness above 1.1 is grain that the images do not have: a smaller `loss.gan`.

# %% [markdown]
# ## 11. Sharpness against fidelity
#
# The two phases are two points of a curve. Phase 2 began with Phase 1's weights $\theta_1$ and went only a little way from them,
# so that the weights between are autoencoders too, and so are some beyond:
#
# $$\theta(a) = (1 - a)\, \theta_1 + a\, \theta_2$$
#
# $a = 0$ is Phase 1, $a = 1$ Phase 2. (With `phase2.start_from=scratch` the two have nothing in common, and what lies between
# means nothing.)

# %%
held_out = images_of(packed, packed.val_rows[:48]).to(device)
mixed, ends = vq_core.load_vqvae(run).to(device), (model1.state_dict(), model2.state_dict())


def measured(x_rec):
    sharpness = gradient_energy(x_rec).sum() / gradient_energy(held_out).sum()
    return float(sharpness), float(psnr(x_rec, held_out).mean())


curve = {}
for a in (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5):
    mixed.load_state_dict({name: (1 - a) * value + a * ends[1][name] for name, value in ends[0].items()})
    curve[a] = measured(mixed(held_out))

# %%
fig, [[ax]] = plots.figure(1, 1, 6.5, 3)
ax.plot(*zip(*curve.values(), strict=True), color=plots.BLUE, marker="o", ms=4)
for a, name in {0.0: "Phase 1", 0.5: "half-way", 1.0: "Phase 2", 1.5: "a = 1.5"}.items():
    ax.annotate(name, curve[a], xytext=(5, 5), textcoords="offset points", fontsize=8.5)
ax.axvline(1.0, color=plots.GREY, ls="--", lw=1)
ax.set(title="what sharpness costs", xlabel="sharpness (1: as sharp as the input)", ylabel="PSNR [dB]")
fig

# %% [markdown]
# **You should see** a curve that begins almost flat and falls ever more steeply (`demo`): the first half of the way costs about a
# tenth of a decibel, the second three times that, and beyond Phase 2 it gets dearer still. There is no best point on it. To
# measure pixels, take the left end; for pictures to look at, the right one. How far along the curve a training goes is what
# `loss.gan` sets. A curve that falls at once means that the GAN draws what was never there (**T2**).

# %% [markdown]
# ## 12. What the GAN got wrong
#
# The held-out images that have lost most PSNR from Phase 1 to Phase 2. The last two rows are the errors of both.

# %%
first = packed.val_rows[:512]
scores = []
for model in (model1, model2):
    parts = (images_of(packed, part).to(device) for part in np.array_split(first, -(-len(first) // 32)))
    scores.append(torch.cat([psnr(model(some), some).cpu() for some in parts]))
lost = scores[0] - scores[1]
print(
    f"{(lost > 0).float().mean():.0%} of the images have lost PSNR; {lost.mean():.2f} dB on average, {lost.max():.2f} at most"
)

# %%
hardest = images_of(packed, first[lost.argsort(descending=True)[:8].numpy()]).to(device)
shown = {"input": hardest, "Phase 1": model1(hardest), "Phase 2": model2(hardest)}
for name in ("Phase 1", "Phase 2"):
    error = (shown[name] - hardest).abs().mean(1, keepdim=True).expand_as(hardest)
    shown[f"error × 3, {name}"] = 3 * error - 1
plots.rows_of_images({name: to_pictures(some) for name, some in shown.items()})

# %% [markdown]
# **You should see** (`demo`) that nearly all images have lost, the worst of them nearly a decibel. The errors are in the same
# places as before and brighter there: a clear line beside the true one is wrong twice. Look at eyes and spectacles: Phase 1 is
# undecided about them, Phase 2 decides, and now and then for a frame that melts into the cheek or an iris of another shape.
# Such an answer *looks* right, and that is the dangerous side of it: of a detail in Phase 2 nobody can tell whether it was in
# the image.
#
# Is the new detail the true one? *Detail* is here an image minus itself blurred. Its strength is compared with the input's, and
# its agreement is the cosine of the angle between the two: 1 if every line is in its place, 0 if lines are anywhere.


# %%
def detail(some):
    return (some - F.avg_pool2d(F.pad(some, (1, 1, 1, 1), mode="replicate"), 3, 1)).flatten()


true, rows = detail(held_out), []
for name, model in {"Phase 1": model1, "Phase 2": model2}.items():
    drawn = detail(model(held_out))
    agreement = float(F.cosine_similarity(drawn, true, dim=0))
    rows.append({"detail of": name, "strength": float(drawn.norm() / true.norm()), "agreement": agreement})
Markdown(markdown(rows))

# %% [markdown]
# **You should see** (`demo`) detail of nearly full strength in Phase 2, and an agreement that is no better than before. The
# codes are a bottleneck, and no discriminator can tell the decoder what did not pass it. With an agreement of $\rho$ a share of
# $\rho^2$ of the detail's energy is in its place; the rest, about half, is likely and not true.
#
# So notebook 02's two suspects are both guilty, of different things. The loss made the picture *soft*, which the GAN has cured.
# What is *not true* the codes lack: `model.num_codes`, `model.latent_channels`, `model.res_blocks` (**T3**).

# %% [markdown]
# ## 13. The codebook in both phases
#
# Bars are Phase 1, the line is Phase 2, each sorted by its own usage. Phase 2 has fewer steps: beyond its last one the
# line stays. A click on a bar shows the code in Phase 1.

# %%
card = card_of(model1, packed, extract_codes(phase1, config))
explorer = UsageExplorer({"phase 1": phase1, "phase 2": run}, card)
display(explorer)

# %% [markdown]
# The last entries of both, on held-out images:

# %%
(_, first), (_, second) = phase1.usage("val"), run.usage("val")
plots.usage_histogram({"phase 1": first[-1]}, other=("phase 2", second[-1]))

# %% [markdown]
# **You should see** two codebooks used nearly alike: Phase 2 must not lose codes. If it does, its learning rate is too high for
# codes to follow (`phase2.lr`), or the GAN throws the latents about (**T2**).

# %% [markdown]
# ## When something is off
#
# | what you see | what it is | what to do |
# |---|---|---|
# | PSNR falls by more than 1 dB, colours or textures flicker between pictures, discriminator loss near 0 | **T2** the GAN is unstable | train Phase 1 longer (`phase1.steps`); a longer `loss.gan_ramp` or a smaller `loss.gan`; `discriminator.lr=1e-4`; `discriminator.spectral_norm=true` |
# | nothing becomes sharper | **T3** the GAN is too weak | double `loss.gan`; more `phase2.steps` |
# | soft, and sharpness stays below 0.7 with a GAN that works | **T3** the codes lack it | notebook 02, the table "Blurred, and what to change first" |

# %% [markdown]
# ## Exercises
#
# **Predict.** Sharpness can be had without a GAN: add to each reconstruction of Phase 1 a share of its own detail (an
# *unsharp mask*, as in every photo editor). At the sharpness of Phase 2, will PSNR be higher than Phase 2's, lower, or equal?

# %% jupyter={"source_hidden": true} tags=["answer"]
soft = model1(held_out)
masked = {share: (soft + share * detail(soft).view_as(soft)).clamp(-1, 1) for share in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)}
fig, [[ax]] = plots.figure(1, 1, 6.5, 3)
ax.plot(*zip(*curve.values(), strict=True), color=plots.BLUE, marker="o", ms=4, label="Phase 1 → Phase 2")
filtered = [measured(some) for some in masked.values()]
ax.plot(*zip(*filtered, strict=True), color=plots.ORANGE, marker="s", ms=4, ls="--", label="unsharp mask on Phase 1")
ax.set(title="is a filter as good?", xlabel="sharpness (1: as sharp as the input)", ylabel="PSNR [dB]")
ax.legend(fontsize=8)
display(fig)
for name, some in {"unsharp mask": masked[0.4], "Phase 2": model2(held_out)}.items():
    print(f"{name}: {(judge(some) > 0).float().mean():.0%} of the patches taken for real")
beside = {"input": held_out, "Phase 2": model2(held_out), "unsharp mask": masked[0.4]}
plots.rows_of_images({name: to_pictures(some[:8]) for name, some in beside.items()}, side=1.1)

# %% [markdown]
# Equal, or very nearly (`demo`). By these two figures 300 steps of a GAN have done what a filter of one line does! So mistrust
# them: they say how *much* detail there is, and what it costs; not what *kind* of detail. The filter makes everything that is
# there stronger, seams and specks too, and cannot draw what is missing. What a GAN is good for must be judged by something
# that knows images: your eye, the discriminator's verdict (printed above; a biased judge, as it is Phase 2's own opponent), or
# a perceptual distance, `python -m vq_core evaluate --lpips vgg`.
#
# **Build.** Compute the side $r$ of a patch for `discriminator.layers` from 1 to 4, and check the one of this profile against
# section 3. *Hint:* all kernels are 4 wide; there are `layers` convolutions of stride 2, then two of stride 1. One after the other,
#
# $$r \leftarrow r + (\text{kernel} - 1) \cdot \textstyle\prod (\text{strides before}), \qquad r = 1 \text{ at first}$$


# %% jupyter={"source_hidden": true} tags=["answer"]
def side_of_patch(layers):
    side, strides_before = 1, 1
    for stride in [2] * layers + [1, 1]:
        side, strides_before = side + 3 * strides_before, strides_before * stride
    return side


print({layers: side_of_patch(layers) for layers in (1, 2, 3, 4)})
print(f"as measured: {side_of_patch(disc.layers) == patch}")

# %% [markdown]
# 16, 34, 70, 142: each layer doubles the side and a little. 70 is the paper's (Isola et al.,
# [arXiv:1611.07004](https://arxiv.org/abs/1611.07004)), for images of 256×256; `demo`'s are smaller than that.

# %% [markdown]
# ## Check
#
# The run is whole, and sharper than Phase 1 without having lost the picture.

# %% tags=["nbval-check-output"]
weights = run.curve("train/gan_weight")[1]
assert run.done and run.best.is_file()
assert all(weights > 0) and all(weights <= config.loss.gan * max(1, config.loss.gan_adaptive) * 1.001)
assert metrics["Phase 2"]["psnr"] > metrics["Phase 1"]["psnr"] - 1
assert metrics["Phase 2"]["codes_used"] > 0.5
print("phase 2: all checks passed")

# %% [markdown]
# Next: [04 · Phase 3, the prior](04_phase3_prior.ipynb)
