"""What takes a GPU to check, in one command from the checkout, without an installation:

    python tests/benchmarks/gpu.py --part prior --images FOLDER --against FOLDER --out FOLDER

`--part prior`: the demo's tokenizer on a folder of images, both priors by the full profile's settings, and as many
samples of each as there are held-out images, compared with images that nothing was trained on. It leaves
`figures.json` and a grid of samples of each prior in the folder, and takes at most 7 minutes on an H100. `--tenth`
tries the same on a CPU with a tenth of the steps and samples.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))


def prior(images: Path, against: Path, out: Path, tenth: bool) -> dict[str, Any]:
    """Train tokenizer and priors, draw, measure."""
    import torch
    from torchvision.transforms.functional import to_pil_image
    from torchvision.utils import make_grid

    from vq_core.config import load_config, pick_device
    from vq_core.data.augment import to_uint8
    from vq_core.data.images import prepare_images
    from vq_core.errors import MissingWeights
    from vq_core.evaluation.distances import SqueezeFeatures
    from vq_core.evaluation.report import compare_sets, draw_many, evaluate_run
    from vq_core.runs.loading import load_vqvae
    from vq_core.training.phases import train

    full = load_config("full").prior.model_dump(exclude={"start_from"})
    changes = [f"prior.{key}={value}" for key, value in full.items()] + ["data.source=raw"]
    if tenth:
        steps = {"kmeans": 12, "phase1": 160, "phase2": 30, "prior": full["steps"] // 100}
        changes += [f"{group}.steps={count}" for group, count in steps.items()] + ["prior.views=2"]
    config = load_config("demo", changes)
    raw = Path(os.environ["VQ_DATA"]) / "raw"
    if not raw.exists():
        raw.parent.mkdir(parents=True, exist_ok=True)
        raw.symlink_to(images.resolve())
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
    parser.add_argument("--part", choices=["prior"], required=True)
    parser.add_argument("--images", type=Path, required=True, help="to train on")
    parser.add_argument("--against", type=Path, required=True, help="to compare with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tenth", action="store_true", help="a tenth of the size, to try it on a CPU")
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault("VQ_DATA", str(asked.out.resolve() / "data"))
    found = prior(asked.images, asked.against, asked.out, asked.tenth)
    (asked.out / "figures.json").write_text(json.dumps(found, indent=2), encoding="utf-8")
    print(json.dumps(found, indent=2))
