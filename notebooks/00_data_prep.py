# %% [markdown]
# # 00 · Data: from a folder of images to a clean, split, packed set
#
# Find what is broken, too small or there twice; crop, resize, split; look at what training will see.
#
# | needs | makes |
# |---|---|
# | `data/raw/` with your images, or nothing: then avatars are drawn | `data/processed/…`: `images.npy`, `manifest.csv` |

# %% [markdown]
# ## Settings
#
# The environment variable `VQ_PROFILE` picks the profile: `full` (256×256, for a large GPU), `quick` (128×128, for a
# smaller one), `demo` (64×64, for two CPU cores) or `smoke` (shows that it runs; its results are noise). Every number
# is in `vq_core/configs/vqvae_anime.yaml`.

# %%
from hashlib import sha256

import numpy as np
import torch
from PIL import Image

import vq_core
from vq_core.data import duplicates, ingest
from vq_core.data.augment import augment, to_float, to_pictures
from vq_core.data.decode import to_square
from vq_core.data.images import image_source, prepare_images, raw_dir
from vq_core.notebook import plots
from vq_core.notebook.lesson import code_of, pipeline, table

# %% [markdown]
# The one cell to edit: a profile, and any setting laid over it, such as `["data.square=pad"]`.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
raw = raw_dir(config)

# %% [markdown]
# ## Where we are
#
# The six notebooks build one machine. An *encoder* turns a picture into a small grid of vectors. A *codebook* replaces
# each vector by the nearest of its own vectors, so that only that one's number need be stored. A *decoder* draws the
# picture again. At last a *prior* learns which numbers go together, and draws new pictures. Here we are at the far
# left: the images that all of it learns from.

# %%
pipeline(config, "images")

# %% [markdown]
# | word | in a line |
# |---|---|
# | VQ-VAE | encoder, codebook and decoder, trained to give the picture back (*vector-quantised variational autoencoder*) |
# | GAN | a second network tells real from made, and so teaches the decoder sharpness |
# | code, codebook | one vector of a learnt list (or its number), and the list |
# | token | a code as one item of a sequence |
# | prior | the model of which codes go together |
# | logit | a network's answer before it is made a probability; any number |
# | dB (decibel) | the scale of PSNR: ten times less squared error is 10 dB more |
# | LPIPS | a distance between pictures in the features of a trained network |
# | **T1** … **T4** | what goes wrong: codebook collapses · GAN unstable · blur · overfitting |

# %% [markdown]
# ## 1. Prepare
#
# `prepare_images` draws the built-in avatars if there are no images of your own, reads every file (broken ones are set
# aside, never changed), finds duplicates, splits by content and packs the rest into one array. Run again, it only does
# what is new.

# %%
packed = prepare_images(config)
print(f"{image_source(config)}: {len(packed.kept)} images of {packed.images.shape[1]}×{packed.images.shape[2]}")

# %% [markdown]
# **You should see** a count close to the number of files. With the built-in avatars eleven files are faulty or odd on
# purpose, so that the next steps have something to find. *If it is far lower*, section 4 gives the reasons; *if it says
# `avatars` though you have images*, they are not in `data/raw/`.

# %% [markdown]
# ## 2. The raw images

# %% tags=["picture-avatars"]
first = [entry.file for entry in packed.kept][:24]
originals = [Image.open(raw / name).convert("RGB") for name in first]
plots.image_grid([np.asarray(image.resize((128, 128))) for image in originals], columns=8)

# %% [markdown]
# **You should see** heads and shoulders, one per picture, upright. *If not*, take out what does not belong: what is off
# here stays off after training.

# %% [markdown]
# ## 3. Why discrete?
#
# A picture is thousands of continuous numbers. Why turn it into a few hundred symbols from a fixed list? Because a
# symbol can be *chosen*, and a continuous number can only be *guessed*. Say that half of all eyes are blue and half are
# orange. A model that guesses colours $x_i$ with the squared error does best with their mean,
#
# $$\hat c = \arg\min_c \sum_{i=1}^n \lVert x_i - c\rVert^2 = \frac1n \sum_{i=1}^n x_i,$$
#
# where $c$ is its answer and $n$ the number of eyes. That is a grey which no eye has. A model of symbols instead gives
# each symbol $k$ a probability $p(k)$ and draws one: blue about half of the time, otherwise orange, never in between.

# %%
eyes = np.array([[59, 111, 182], [224, 138, 44]] * 4, dtype=np.uint8)  # blue, orange, blue …
guessed = np.repeat(eyes.mean(axis=0, keepdims=True), 8, axis=0).astype(np.uint8)
drawn = np.random.default_rng(1).choice(eyes, 8)
rows = {"the data": eyes, "squared error": guessed, "symbols, drawn": drawn}
plots.rows_of_images({name: colours[:, None, None] for name, colours in rows.items()}, side=0.5)

# %% [markdown]
# **You should see** one greyish colour all along the middle row. A picture made of such means is what we call blurred.
#
# There are two more reasons. A grid of symbols is *short*: a model of new pictures chooses a few hundred times, not tens
# of thousands of times. And it can be *edited*: a symbol can be counted, copied or replaced wherever it stands. The
# crudest such grid is a palette: here 16×16 cells, each of one of eight colours. Then the commonest number is replaced
# by the one of the most different colour.

# %%
small = Image.fromarray(packed.images[0]).resize((16, 16), Image.Resampling.BOX).quantize(8, kmeans=8)
numbers, palette = np.asarray(small), np.array(small.getpalette()).reshape(-1, 3)
common = np.bincount(numbers.ravel()).argmax()
other = np.square(palette - palette[common]).sum(axis=1).argmax()
edited = np.where(numbers == common, other, numbers)
panels = {"256 numbers": palette[numbers], f"every {common} is now {other}": palette[edited]}
fig, [axes] = plots.figure(1, 3, 10, 3.6)
for ax, (name, shown) in zip(axes, ({"image": packed.images[0]} | panels).items(), strict=True):
    ax.imshow(shown, alpha=0.5 if name == "256 numbers" else 1.0)
    ax.set(title=name, xticks=[], yticks=[])
for (row, column), number in np.ndenumerate(numbers):
    axes[1].text(column, row, number, ha="center", va="center", fontsize=7, color="#111")
fig

# %% [markdown]
# **You should see** one picture as numbers, and an edit that names one number and repaints every place where it stood.
#
# Discreteness has a price: what no symbol can say is lost. A colour per cell says far too little. So what follows
# *learns* a better list, of vectors, and a decoder that draws a whole patch from each and its neighbours.

# %% [markdown]
# ## 4. Kept and set aside
#
# Every file ends in one of these rows; the reasons stand in `manifest.csv`, file by file.

# %%
converted = {f"of these: {how}": count for how, count in packed.conversions().items()}
table({"kept": len(packed.kept), **converted, **packed.counts()}, "what", "files")

# %% [markdown]
# **You should see** a few duplicates and broken files. *If many are "too small"*, `data.min_side` is too strict; *if
# there are many near-duplicates*, the set is smaller than it looks, and more steps will not help (T4).

# %% [markdown]
# ## 5. Near-duplicates
#
# A model is judged on images that it has not trained on. If a copy of such an image *was* trained on, knowing it by
# heart looks like skill. Let $q$ be the share of held-out images with a copy in training, $E_\text{new}$ the error on
# truly new ones and $E_\text{copy}$ that on copies. What one measures is
#
# $$E(q) = (1 - q) E_\text{new} + q E_\text{copy}.$$
#
# To see how far this misleads, take a model that does nothing but remember: it answers with the nearest image that it
# was trained on. Now slip slightly brightened copies of held-out images into its training.

# %%
thumbnails = [np.asarray(Image.fromarray(image).resize((16, 16))) for image in packed.images[:300]]
known, asked = np.split(np.reshape(thumbnails, (len(thumbnails), -1)) / 255, [len(thumbnails) * 4 // 5])
shares, errors = np.linspace(0, 1, 6), []
for share in shares:
    copies = np.clip(1.05 * asked[: round(share * len(asked))], 0, 1)
    apart = np.abs(asked[:, None] - np.concatenate([known, copies])).mean(axis=2)
    errors.append(apart.min(axis=1).mean())
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.plot(100 * shares, errors, color=plots.BLUE, marker="o", label="measured")
ax.plot([0, 100], [errors[0], errors[-1]], color=plots.ORANGE, ls="--", label="E(q)")
ax.set(title="A model that only remembers", xlabel="held-out images with a copy in training [%]")
ax.set(ylabel="mean error (0 to 1)", ylim=(0, None))
ax.legend()
fig

# %% [markdown]
# **You should see** the error fall to a fraction, though the model has learnt nothing about faces. So near-duplicates
# go *before* the split.
#
# Finding them takes two steps. A *perceptual hash* describes a picture's coarse pattern of light and dark in 64 bits,
# which survive compression and resizing. Two pictures whose hashes differ in at most `data.near_duplicate_bits` bits
# become a candidate pair. Is the hash enough? Here are its distances between pictures that the pixels have told apart:

# %%
hashes = np.array([duplicates.perceptual_hash(image) for image in packed.images[:500]])
distances = np.bitwise_count(hashes[:, None] ^ hashes)[np.triu_indices(len(hashes), 1)]
bits = config.data.near_duplicate_bits
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.hist(distances, bins=np.arange(-1, 66, 2), color=plots.BLUE)
ax.axvline(bits + 1, color=plots.ORANGE, ls="--", label=f"candidates: at most {bits} bits")
ax.set(
    title="Pairs of different pictures",
    xlabel="bits that differ, of 64",
    ylabel="pairs",
    yscale="log",
    ylim=(0.5, None),
)
ax.legend(loc="lower center")
print(f"{(distances <= bits).sum()} of {len(distances)} pairs would be thrown out by the hash alone")
fig

# %% [markdown]
# **You should see** a hill around 30 bits, whose left tail may reach the dashed line (`demo`: a handful of pairs). Flat
# portraits in one pose share a hash though they are different people. So the hash only proposes, and the pixels of the
# two pictures decide. Of each group the first file stays (by name, or that was there before):

# %%
code_of(duplicates.first_of_group)

# %% [markdown]
# The pairs that were found in these images:

# %%
twins = [entry for entry in packed.entries if entry.reason == "near-duplicate"][:6]
left = [np.asarray(Image.open(raw / entry.detail).convert("RGB").resize((128, 128))) for entry in twins]
right = [np.asarray(Image.open(raw / entry.file).convert("RGB").resize((128, 128))) for entry in twins]
plots.rows_of_images({"kept": left, "set aside": right}) if twins else print("no near-duplicates")

# %% [markdown]
# **You should see** the same picture above and below: re-encoded, brightened or resized. *Two different pictures in a
# column* would be an error; lower `data.near_duplicate_bits` then. *If you know of copies that it missed*, raise it.

# %% [markdown]
# ## 6. Crop or pad
#
# The networks want squares of one size. Pictures that are not square are cropped to the middle (`crop`) or put on a
# square of their border's colour (`pad`). Cropping loses the ends; padding spends codebook entries on bands. The
# originals here are cut to 3:4 to show the difference.

# %%
tall = [to_square(image, "crop", 256).crop((32, 0, 224, 256)) for image in originals[:6]]
cropped = [np.asarray(to_square(image, "crop", 128)) for image in tall]
padded = [np.asarray(to_square(image, "pad", 128)) for image in tall]
plots.rows_of_images({"crop": cropped, "pad": padded})

# %% [markdown]
# **You should see** the tops of heads and the collars cut off above, whole pictures with bands below. *If cropping cuts
# off what you care about*, set `data.square=pad`.

# %% [markdown]
# ## 7. What training sees
#
# Few images are soon learnt by heart (T4). *Augmentation* shows each of them a little changed every time. With $A_i$ a
# change drawn anew for image $x_i$, and $L$ the loss, training minimises
#
# $$\frac1n \sum_{i=1}^n L\bigl(A_i(x_i)\bigr),$$
#
# so the model learns the changed pictures. That tells what augmentation may do. It *may* make anything that could have
# lain in the folder: a mirrored face, a slightly lighter one. It *may not* make what you never want back: a face on its
# side costs codebook entries, and tilted samples come out. Nor can it invent people.

# %%
x = to_float(torch.from_numpy(packed.images[packed.train_rows[:8]]))
strong = config.data.model_copy(update={"brightness": 0.9, "contrast": 0.9, "saturation": 0.9})
rows = {"packed": x, "may": augment(x, config.data, torch.Generator().manual_seed(3))}
rows |= {"may not: turned": x.rot90(1, (2, 3)), "may not: ±90 %": augment(x, strong, torch.Generator().manual_seed(3))}
plots.rows_of_images({name: to_pictures(batch) for name, batch in rows.items()})

# %% [markdown]
# **You should see** faces that could be in the set in the second row: some mirrored, a little lighter or paler. In the
# last two are faces that could not. *If your images have a side that matters* (writing, a parting always on the left),
# set `data.flip=0`. *If training finds T4*, raise `data.brightness`, `data.contrast` and `data.saturation` to 0.2.
#
# The mean over many images shows where things are to be expected:

# %%
many = to_float(torch.from_numpy(packed.images[packed.train_rows[:200]]))
turned = torch.cat([part.rot90(n, (2, 3)) for n, part in enumerate(many.chunk(4))])
seen = {"packed": many, "augmented": augment(many, config.data, torch.Generator().manual_seed(0)), "turned": turned}
means = [to_pictures(batch.mean(dim=0, keepdim=True))[0] for batch in seen.values()]
plots.image_grid(means, columns=3, titles=[f"mean, {name}" for name in seen], side=1.8)

# %% [markdown]
# **You should see** a ghost of a face twice, the second one symmetric, then a kaleidoscope: a codebook for that would need
# every part of a face in four directions.
#
# This is the code. Every image draws its own flip and its own three factors, from a generator whose seed follows from
# the run's seed and the step; so a training that is resumed sees the same changes. Held-out images are never augmented.

# %%
code_of(augment)

# %% [markdown]
# ## 8. The split
#
# A fifth of the images is *held out*: training never sees it, so its figures hold for pictures to come. Which fifth? If
# the choice hangs on a file's name or place in the list, adding or renaming files moves images across, and tomorrow's
# model is judged on what yesterday's has learnt. So each image decides for itself, by its content. A hash turns content
# and seed $s$ into a number that looks random but never changes:
#
# $$u(x) = \frac{h_s(x)}{2^{64}} \in [0, 1), \qquad x \text{ is held out if } u(x) < v.$$
#
# Here $h_s(x)$ are the first 64 bits of the SHA-256 of seed and content, and $v$ is `data.val_share`. A toy: a thousand
# pictures (each name stands for a picture's content), then one more that comes first in the list.


# %%
def drawn_in_order(pictures):
    return dict(zip(pictures, np.random.default_rng(0).random(len(pictures)) < 0.2, strict=True))


def by_content(pictures):
    return {name: int(sha256(name.encode()).hexdigest()[:16], 16) / 2**64 < 0.2 for name in pictures}


pictures = [f"picture {n}" for n in range(1000)]
for split in (drawn_in_order, by_content):
    before, after = split(pictures), split(["a new one", *pictures])
    leaked = sum(before[name] and not after[name] for name in pictures)
    print(f"{split.__name__}: {leaked} of {sum(before.values())} held-out pictures are now trained on")

# %% [markdown]
# **You should see** most of the held-out pictures leak in the first case, none in the second.
#
# The real thing. The line below `val = …` is for tiny sets: if one side were empty, one or two images are moved. Rows
# are sorted by content as well, so that renaming a file changes nothing.

# %%
code_of(ingest._split)

# %% [markdown]
# The same numbers, computed here from the manifest, and the side on which each image lies:

# %%
digests = [sha256(f"{config.seed} {entry.sha256}".encode()).digest() for entry in packed.kept]
u, held = np.array([int.from_bytes(d[:8], "big") / 2**64 for d in digests]), np.zeros(len(packed.kept), dtype=bool)
held[packed.val_rows] = True
fig, [[ax]] = plots.figure(1, 1, 6, 2.7)
ax.hist([u[held], u[~held]], np.linspace(0, 1, 21), stacked=True, color=[plots.ORANGE, plots.BLUE])
ax.axvline(config.data.val_share, color="#222", ls="--")
ax.legend(["data.val_share", "held out", "training"], loc="lower right")
ax.set(title="u(x) of every image", xlabel="u, from the image's content", ylabel="images")
fig

# %%
train, val = len(packed.train_rows), len(packed.val_rows)
table(
    {"train": f"{train} ({train / (train + val):.1%})", "held out": f"{val} ({val / (train + val):.1%})"},
    "split",
    "images",
)

# %% [markdown]
# **You should see** level bars, cut at the dashed line, and about four fifths and one fifth (in small sets less
# exactly: it is a hash, not a count). *If only a handful are held out*, later figures are noise: raise `data.val_share`
# before the first training, since a new split makes all runs new.

# %% [markdown]
# ## When something is off
#
# | what you see | what it is | what to do |
# |---|---|---|
# | two different pictures in a column of section 5 | the hash's threshold is too generous | a lower `data.near_duplicate_bits` |
# | most files set aside as too small | the limit is meant for larger images | a lower `data.min_side`; a smaller `data.image_size` |
# | chins or hair cut off in section 6 | the pictures are tall or wide | `data.square=pad` |
# | later: the validation curve turns around | **T4** overfitting: few images | more images; `data.brightness=0.2` and so on |

# %% [markdown]
# ## Exercises
#
# **Predict.** Suppose that near-duplicates were *not* set aside, and that every image had a copy with a single changed
# pixel. Of how many pairs would one be trained on and the other held out? Guess, then open the answer.

# %% jupyter={"source_hidden": true} tags=["answer"]
changed = packed.images[:1000].copy()
changed[:, 0, 0, 0] ^= 1
other = [sha256(f"{config.seed} {sha256(image.tobytes()).hexdigest()}".encode()).digest() for image in changed]
apart = held[:1000] != np.array([int.from_bytes(d[:8], "big") / 2**64 < config.data.val_share for d in other])
v = config.data.val_share
print(f"{apart.mean():.0%} of the pairs are split; expected: v(1 − v) + (1 − v)v = {2 * v * (1 - v):.0%}")

# %% [markdown]
# One changed pixel makes a wholly new hash, so the two sides are independent draws. Splitting by content does not
# protect from near-duplicates; setting them aside first does.
#
# **Build.** Write an augmentation that shifts every image by up to an eighth of its side, in any direction, without
# black bands. Then decide: may it be used? *Hint:* `torch.nn.functional.pad` with `mode="replicate"`, then cut a window
# out.


# %% jupyter={"source_hidden": true} tags=["answer"]
def shifted(x, most, generator):
    down, right = torch.randint(0, 2 * most + 1, (2,), generator=generator).tolist()
    wide = torch.nn.functional.pad(x, (most,) * 4, mode="replicate")
    return wide[..., down : down + x.shape[2], right : right + x.shape[3]]


generator, most = torch.Generator().manual_seed(0), x.shape[-1] // 8
moved = torch.cat([shifted(image[None], most, generator) for image in x])
assert moved.shape == x.shape
plots.rows_of_images({"packed": to_pictures(x), "shifted": to_pictures(moved)})

# %% [markdown]
# It may, as far as the pictures go: a face a little to the left could have lain in the folder. But it is not free.
# Samples will be off centre as well, the eyes are no longer in the same cells, and the prior has more to learn.

# %% [markdown]
# ## Check
#
# Sizes, range, and that no picture is on both sides.

# %% tags=["nbval-check-output"]
content = {entry.sha256: entry.split for entry in packed.kept}
assert packed.images.dtype == np.uint8 and packed.images.shape[1:] == (config.data.image_size,) * 2 + (3,)
assert len(content) == len(packed.kept), "a picture is there twice"
assert not set(packed.train_rows) & set(packed.val_rows)
assert (held != (u < config.data.val_share)).sum() <= 2, "two may move, where a side would be empty"
assert x.min() >= -1 and x.max() <= 1
print("data: all checks passed")

# %% [markdown]
# Next: [01 · A codebook to start from](01_codebook_kmeans_init.ipynb)
