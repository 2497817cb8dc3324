"""What takes a GPU to check, each part one command from the checkout, without an installation:

    python tests/benchmarks/gpu.py --part steps|quick|full --out FOLDER
    python tests/benchmarks/gpu.py --part prior --images FOLDER --against FOLDER --out FOLDER

`steps`: speed and memory of a training step of Phase 1, Phase 2 and the prior by the full profile, as they are and
compiled, what accompanies a training, and the seconds that 64 samples take in a fresh process. `quick`: the five
trainings of the quick profile and its evaluation by command line, with times. `full`: two minutes of the full profile
with shortened schedules; resumed halfway. `prior`: the demo's tokenizer on a folder of images, both priors by the full
profile's settings, and as many samples of each as there are held-out images, compared with images that nothing was
trained on.

Each takes minutes, of which compiling one to two (on slow cores: `steps` about 6 in all), and leaves `figures.json` and
pictures in the folder; on avatars drawn by the built-in artist unless `--images` says otherwise. Where LPIPS-VGG's
weights cannot be had, `steps` and `full` put random ones of their size in their place. `--tenth` tries the same on a
CPU with tiny numbers.
"""

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))


# Small networks and images of 64×64 in place of the full size: to try the script on a CPU.
TINY = [
    "data.image_size=64",
    "model.channels=[8,16,16,16]",
    "model.decoder_channels=[16,16,8,8]",
    "model.latent_channels=16",
]
TINY += ["model.code_dim=16", "model.num_codes=32", "loss.perceptual_net=random", "train.batch_size=4", "prior.dim=32"]
TINY += ["prior.layers=1", "prior.heads=2", "prior.batch_size=4", "train.device=cpu"]


def stand_in_weights(out: Path) -> None:
    """Give LPIPS-VGG random weights of the right size, in a folder of their own, if the real ones are not there."""
    import torch
    from torchvision.models import vgg16

    name = "checkpoints/vgg16-397923af.pth"
    if not Path(torch.hub.get_dir(), name).exists():
        torch.hub.set_dir(str(out / "hub"))
        (out / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        torch.save(vgg16(init_weights=False).state_dict(), out / "hub" / name)


def clocked(owner: Any, name: str, seconds: dict[str, float]) -> None:
    """Have a method note how long its last call took, with what it started on the GPU."""
    import torch

    method = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        wait = torch.cuda.synchronize if torch.cuda.is_available() else bool
        wait()
        started = time.monotonic()
        result = method(*args, **kwargs)
        wait()
        seconds[name] = time.monotonic() - started
        return result

    setattr(owner, name, timed)


def accompaniment(settings: list[str], images_per_second: float) -> dict[str, float]:
    """Seconds that a validation, a picture and a checkpoint take, and their share of the time at full's intervals."""
    from vq_core.config import load_config
    from vq_core.data.images import prepare_images
    from vq_core.training import callbacks
    from vq_core.training.autoencoder import AutoencoderTraining
    from vq_core.training.phases import train

    config, seconds = load_config("full", settings), dict[str, float]()
    prepare_images(config)
    for owner, name in ((callbacks.Checkpoints, "_save"), (callbacks.Pictures, "on_train_batch_end")):
        clocked(owner, name, seconds)
    clocked(AutoencoderTraining, "validation_step", seconds)
    train("phase1", config)
    full = load_config("full").train
    seconds["validation"] = seconds.pop("validation_step") * full.val_images / full.batch_size
    every = {"_save": full.save_every, "on_train_batch_end": full.image_every, "validation": full.val_every}
    step = full.batch_size / images_per_second
    shares = {f"share of {name}": seconds[name] / (step * every[name]) for name in every}
    return {name: round(value, 4) for name, value in (seconds | shares).items()}


def steps(out: Path, tenth: bool) -> dict[str, Any]:
    """Images a second and peak memory of each kind of training step, eager (seed 1) and compiled (seed 0)."""
    import torch

    from vq_core.config import load_config
    from vq_core.data.images import prepare_images
    from vq_core.training.phases import train

    stand_in_weights(out)
    figures: dict[str, Any] = {"torch": torch.__version__}
    alone = [
        "quantizer.init=kaiming",
        "phase2.start_from=scratch",
        "loss.gan_start=0",
        "loss.gan_ramp=1",
        "prior.views=2",
    ]
    alone += [
        f"data.avatars={40 if tenth else 1000}",
        "train.log_every=10",
        "train.val_every=10000",
        "prior.val_every=10000",
    ]
    for compiled in (False, True):
        asked = compiled and not tenth
        config = load_config(
            "full", [*alone, *(TINY if tenth else []), f"seed={int(not compiled)}", f"train.compile={asked}"]
        )
        prepare_images(config)
        for phase, count in (("phase1", 120), ("phase2", 120), ("prior", 200)):
            group = config.model_dump(mode="json")
            group[phase]["steps"] = 20 if tenth else count
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            run = train(phase, type(config).model_validate(group))  # type: ignore[arg-type]
            speeds = [row["train/images_per_second"] for row in run.history() if "train/images_per_second" in row]
            name = f"{phase}_{'compiled' if compiled else 'eager'}"
            figures[f"{name}_images_per_second"] = round(statistics.median(speeds[len(speeds) // 2 :]), 1)
            if torch.cuda.is_available():
                figures[f"{name}_reserved_gib"] = round(torch.cuda.max_memory_reserved() / 2**30, 2)
            if phase == "phase2":
                config = type(config).model_validate(group)  # the prior follows this run
            print(
                {key: figures[key] for key in figures if key.startswith(name)},
                round(run.result()["seconds"]),
                flush=True,
            )
    often = [
        "seed=2",
        "phase1.steps=30",
        f"train.val_images={4 if tenth else 192}",
        *(f"train.{name}_every=15" for name in ("val", "save", "image")),
    ]
    figures |= accompaniment([*alone, *(TINY if tenth else []), *often], figures["phase1_compiled_images_per_second"])
    script = (
        "import time, vq_core, torch; from vq_core.generation.sampling import sample_codes;"
        "device = 'cuda' if torch.cuda.is_available() else 'cpu';"
        f"prior = vq_core.load_prior({run.name!r}).to(device); started = time.monotonic();"
        "sample_codes(prior, 64, progress=False).cpu(); print(time.monotonic() - started)"
    )
    drawn = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    return figures | {"seconds_for_64_samples": round(float(drawn.stdout.split()[-1]), 2)}


def quick(out: Path, tenth: bool) -> dict[str, Any]:
    """The five trainings and the evaluation of the quick profile, by command line."""
    less = ["data.avatars=60", "kmeans.steps=4", "phase1.steps=6", "phase2.steps=6", "prior.steps=4", "prior.views=2"]
    more = [*less, *TINY, "model.channels=[8,16,16]", "model.decoder_channels=[16,16,8]"] if tenth else []
    more += [f"data.source={'raw' if (Path(os.environ['VQ_DATA']) / 'raw').exists() else 'avatars'}"]
    figures: dict[str, Any] = {}
    commands = [["ingest"], *(["train", phase] for phase in ("kmeans", "phase1", "phase2", "prior", "masked"))]
    commands += [["evaluate", "--frechet"], ["sample", "--count", "64"]]
    for command in commands:
        started = time.monotonic()
        asked = [sys.executable, "-m", "vq_core", *command, "--profile", "quick", *more]
        print(*command, flush=True)
        if subprocess.run(asked, cwd=ROOT, check=False).returncode:
            figures[" ".join(command[:2])] = "failed"
        else:
            figures[" ".join(command[:2])] = round(time.monotonic() - started, 1)
    runs = Path(os.environ["VQ_DATA"]) / "runs"
    for picture in runs.glob("*/sample-*.png"):
        shutil.copy(picture, out)
    for result in sorted(runs.glob("*/result.json")):
        figures[result.parent.name] = json.loads(result.read_text(encoding="utf-8"))
    return figures


def full(out: Path, tenth: bool) -> dict[str, Any]:
    """Shortened schedules of the full profile: the loss falls, the GAN begins, a training goes on where it was."""
    from vq_core.config import load_config
    from vq_core.data.images import prepare_images
    from vq_core.errors import Stopped
    from vq_core.training.phases import train

    stand_in_weights(out)
    n = 6 if tenth else 300
    short = [
        f"kmeans.steps={n}",
        "kmeans.images=500",
        f"phase1.steps={2 * n}",
        f"phase2.steps={n}",
        f"loss.gan_start={2 * n + n // 4}",
    ]
    short += [
        f"loss.gan_ramp={n // 4}",
        f"data.avatars={40 if tenth else 1000}",
        f"train.val_every={n}",
        "train.log_every=2",
    ]
    config = load_config("full", [*short, "optim.warmup_steps=50", *(TINY if tenth else [])])
    prepare_images(config)
    train("kmeans", config)
    threading.Timer(3 if tenth else 25, os.kill, (os.getpid(), signal.SIGINT)).start()  # in the middle of Phase 1
    stopped = False
    try:
        run = train("phase1", config)
    except Stopped:
        stopped, run = True, train("phase1", config)
    gan = train("phase2", config)
    shutil.copytree(gan.folder / "pictures", out / "pictures", dirs_exist_ok=True)
    losses = [row["train/total"] for row in run.history() if "train/total" in row]
    weights = [row["train/gan_weight"] for row in gan.history() if "train/gan_weight" in row]
    return {"resumed": stopped, "first_loss": losses[0], "last_loss": losses[-1], "gan_weight": weights[-1:]}


def prior(out: Path, tenth: bool, against: Path) -> dict[str, Any]:
    """Train tokenizer and priors, draw, measure."""
    import torch
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    from vq_core.config import load_config
    from vq_core.data.augment import to_uint8
    from vq_core.data.images import prepare_images
    from vq_core.errors import MissingWeights
    from vq_core.evaluation.distances import SqueezeFeatures
    from vq_core.evaluation.report import compare_sets, evaluate_run
    from vq_core.generation.sampling import draw_many
    from vq_core.machine import pick_device
    from vq_core.runs.loading import load_vqvae
    from vq_core.training.phases import train

    full = load_config("full").prior.model_dump(exclude={"start_from"})
    changes = [f"prior.{key}={value}" for key, value in full.items()] + ["data.source=raw"]
    if tenth:
        steps = {"kmeans": 12, "phase1": 160, "phase2": 30, "prior": full["steps"] // 100}
        changes += [f"{group}.steps={count}" for group, count in steps.items()] + ["prior.views=2"]
    config = load_config("demo", changes)
    packed, device = prepare_images(config), pick_device(config)
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu"}
    runs = {phase: train(phase, config) for phase in ("kmeans", "phase1", "phase2", "prior", "masked")}
    for phase, run in runs.items():
        result = evaluate_run(run, config) if phase.startswith("phase") else run.result()
        keys = ("steps", "best_step", "seconds", "psnr", "best_bits", "parameters", "precision")
        figures[phase] = {key: result[key] for key in keys if key in result}
    model = load_vqvae(runs["phase2"]).to(device)
    count, drawn = len(packed.val_rows) // (10 if tenth else 1), {}
    for name, phase in (("causal", "prior"), ("masked", "masked")):
        started = time.monotonic()
        drawn[name] = draw_many(phase, config, count)  # type: ignore[arg-type]
        figures[f"seconds_to_draw_{name}"] = round(time.monotonic() - started, 1)
        with torch.no_grad():
            grid = make_grid(to_uint8(model.decode(drawn[name][:64])).permute(0, 3, 1, 2).cpu(), nrow=8)
        to_pil_image(grid).save(out / f"samples-{name}.png")
    try:
        nets = [SqueezeFeatures()]
    except MissingWeights as error:
        nets = []
        print(f"copies only: {error}", file=sys.stderr)
    print(*compare_sets(runs["phase2"], config, drawn, nets, against), sep="\n")
    stored = runs["phase2"].result()
    return figures | {key: stored[key] for key in stored if key.startswith(("frechet", "kernel", "copies"))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=["steps", "quick", "full", "prior"], required=True)
    parser.add_argument("--images", type=Path, help="to train on; for prior needed")
    parser.add_argument("--against", type=Path, help="to compare with; for prior needed")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tenth", action="store_true", help="tiny numbers, to try it on a CPU")
    asked = parser.parse_args()
    if asked.part == "prior" and not (asked.images and asked.against):
        parser.error("--part prior needs --images and --against")
    asked.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("VQ_DATA", str(asked.out.resolve() / "data"))
    raw = Path(os.environ["VQ_DATA"]) / "raw"
    if asked.images and not raw.exists():
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.symlink_to(asked.images.resolve())
    parts: dict[str, Any] = {
        "steps": steps,
        "quick": quick,
        "full": full,
        "prior": partial(prior, against=asked.against),
    }
    found = parts[asked.part](asked.out, asked.tenth)
    (asked.out / "figures.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(json.dumps(found, indent=2))
