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
# The environment variable `VQ_PROFILE` picks the profile: `full` (256×256, for a GPU), `demo` (64×64, for two CPU
# cores) or `smoke` (shows that it runs). Every number is in `vq_core/configs/vqvae_anime.yaml`.

# %%
import numpy as np
import torch
from IPython.display import Markdown
from PIL import Image

import vq_core
from vq_core.data.augment import augment, to_float, to_pictures
from vq_core.data.decode import to_square
from vq_core.data.images import image_source, prepare_images, raw_dir
from vq_core.notebook import plots

# %% [markdown]
# The one cell to edit: a profile, and any setting laid over it, such as `["data.square=pad"]`.

# %% tags=["parameters"]
config = vq_core.load_config(vq_core.active_profile(), [])
raw = raw_dir(config)

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
# **You should see** a count close to the number of files. With the built-in avatars a dozen files are faulty on
# purpose, so that the next steps have something to find.

# %% [markdown]
# ## 2. The raw images
#
# A look at the originals, made small, before anything is done to them.

# %% tags=["picture-avatars"]
first = [entry.file for entry in packed.kept][:24]
originals = [Image.open(raw / name).convert("RGB") for name in first]
plots.image_grid([np.asarray(image.resize((128, 128))) for image in originals], columns=8)

# %% [markdown]
# **You should see** heads and shoulders, one per picture, upright. What is off here stays off after training.

# %% [markdown]
# ## 3. Kept and set aside
#
# Every file ends in one of these rows. The reasons stand in `manifest.csv`, file by file.

# %%
converted = {f"of these: {how}": count for how, count in packed.conversions().items()}
rows = {"kept": len(packed.kept), **converted, **packed.counts()}
lines = [f"| {reason} | {count} |" for reason, count in rows.items()]
Markdown("\n".join(["| what | files |", "|---|---|", *lines]))

# %% [markdown]
# **You should see** a few duplicates and broken files. Many "too small" mean that `data.min_side` is too strict, many
# near-duplicates that the set is smaller than it looks.

# %% [markdown]
# ## 4. Near-duplicates
#
# Perceptual hashes propose pairs, pixels decide. Only the first file (by name, or that was there before) of each group is
# kept: a copy in the validation split would make every figure look better than it is.

# %%
twins = [entry for entry in packed.entries if entry.reason == "near-duplicate"][:6]
left = [np.asarray(Image.open(raw / entry.detail).convert("RGB").resize((128, 128))) for entry in twins]
right = [np.asarray(Image.open(raw / entry.file).convert("RGB").resize((128, 128))) for entry in twins]
plots.rows_of_images({"kept": left, "set aside": right}) if twins else print("no near-duplicates")

# %% [markdown]
# **You should see** the same picture above and below: re-encoded, brightened or resized. Two different pictures in a
# column would be an error; lower `data.near_duplicate_bits` then.

# %% [markdown]
# ## 5. Crop or pad
#
# Pictures that are not square are cropped to the middle (`crop`) or put on a square of their border's colour (`pad`).
# Portraits mostly lose nothing that matters by cropping; the originals here are cut to 3:4 to show the difference.

# %%
tall = [to_square(image, "crop", 256).crop((32, 0, 224, 256)) for image in originals[:8]]
cropped = [np.asarray(to_square(image, "crop", 128)) for image in tall]
padded = [np.asarray(to_square(image, "pad", 128)) for image in tall]
plots.rows_of_images({"crop": cropped, "pad": padded})

# %% [markdown]
# **You should see** the tops of heads and the collars cut off above, whole pictures with bands below.

# %% [markdown]
# ## 6. What training sees
#
# Augmentation is light: a flip half the time, brightness, contrast and saturation a tenth up or down. No rotation and no
# warping: faces are upright. It runs on whole batches on the device and depends on seed and step only.

# %%
x = to_float(torch.from_numpy(packed.images[packed.train_rows[:8]]))
rounds = [augment(x, config.data, torch.Generator().manual_seed(seed)) for seed in range(3)]
rows = {"packed": to_pictures(x)} | {f"round {n + 1}": to_pictures(r) for n, r in enumerate(rounds)}
plots.rows_of_images(rows)

# %% [markdown]
# **You should see** the same faces, some mirrored, a little lighter, darker or paler; nothing blurred or tilted.

# %% [markdown]
# ## 7. The split
#
# A picture goes to validation if a hash of its content and the seed falls below `data.val_share`. Adding files later
# moves none of those that are there, not even by a copy that looks like one of them.

# %%
train, val = len(packed.train_rows), len(packed.val_rows)
Markdown(
    f"| split | images | share |\n|---|---|---|\n| train | {train} | {train / (train + val):.1%} |\n"
    f"| validation | {val} | {val / (train + val):.1%} |"
)

# %% [markdown]
# **You should see** about four fifths and one fifth (in small sets less exactly: it is a hash, not a count).

# %% [markdown]
# ## Check
#
# Sizes, range, and that no picture is on both sides.

# %% tags=["nbval-check-output"]
content = {entry.sha256: entry.split for entry in packed.kept}
assert packed.images.dtype == np.uint8 and packed.images.shape[1:] == (config.data.image_size,) * 2 + (3,)
assert len(content) == len(packed.kept), "a picture is there twice"
assert not set(packed.train_rows) & set(packed.val_rows)
assert x.min() >= -1 and x.max() <= 1
print("data: all checks passed")

# %% [markdown]
# Next: [01 · A codebook to start from](01_codebook_kmeans_init.ipynb)
