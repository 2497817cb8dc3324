"""The table of all runs."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import ttest_rel

from vq_core.runs.folders import Run, all_runs
from vq_core.runs.records import markdown, table

OLD = Path(__file__).parents[1] / "fixtures" / "runs_of_6d1eaf3"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(OLD / "runs", tmp_path / "runs")
    monkeypatch.setenv("VQ_DATA", str(tmp_path))


def test_a_row_has_the_settings_that_are_compared_and_the_metrics_that_are_there() -> None:
    rows = {row["run"].split("-")[0]: row for row in table()}
    assert list(rows) == ["kmeans", "masked", "phase1", "phase2", "prior"]  # finished ones alone
    assert rows["phase1"]["K"] == 16 and rows["phase1"]["steps"] == 10 and "λ_gan" not in rows["phase1"]
    assert rows["phase2"]["λ_gan"] == 0.1 and "best_bits" not in rows["phase2"]
    assert rows["prior"]["best_bits"] == pytest.approx(3.8, abs=0.3)
    assert not any("data" in row for row in rows.values())


def test_what_was_found_of_samples_shares_a_cell() -> None:
    run = next(run for run in all_runs() if run.phase == "phase2")
    found = {"frechet_causal_ratio": 1.375, "frechet_precision_causal": 0.76, "frechet_recall_causal": 0.331}
    run.update_result(found | {"copies_causal": 0.02, "fid_precision_masked": 0.5, "fid_recall_masked": 1.0})
    rows = {row["run"]: row for row in table()}
    assert rows[run.name]["causal: frechet ratio / precision / recall / copies"] == "1.38 / 0.76 / 0.33 / 0.02"
    assert rows[run.name]["masked: fid ratio / precision / recall / copies"] == "– / 0.50 / 1.00 / –"
    assert "against" not in rows[run.name]
    assert not any(" / " in name for other in rows if other != run.name for name in rows[other])
    run.update_result(dict.fromkeys(found) | {"against": "faces"})
    (row,) = table([run])
    assert row["against"] == "faces" and [name for name in row if " / " in name] == [
        "masked: fid ratio / precision / recall / copies"
    ]


def test_runs_on_other_images_are_told_apart() -> None:
    run = next(run for run in all_runs() if run.phase == "phase1")
    run.update_result({"data": "0123456789abcdef"})
    assert {row["data"] for row in table()} == {"012345", "8b26e9"}
    assert [row["run"] for row in table([Run(run.folder)])] == [run.name]


def test_the_table_is_markdown_with_gaps_where_a_row_has_nothing() -> None:
    lines = markdown([{"run": "a", "psnr": 21.23456}, {"run": "b", "bits": 4}]).splitlines()
    assert lines == ["| run | psnr | bits |", "|---|---|---|", "| a | 21.2 |  |", "| b |  | 4 |"]


def _twin(run: Run, number: int, seed: int, metrics: dict[str, Any], **settings: str) -> None:
    """A copy of a finished run, as if trained with another seed, and with other settings."""
    twin = Run(shutil.copytree(run.folder, run.folder.with_name(f"{run.name}{number}")))
    text = (twin.folder / "config.yaml").read_text()
    for line in [f"seed: {seed}", *(f"  {key}: {value}" for key, value in settings.items())]:
        key = line.partition(":")[0]
        (old,) = [each for each in text.splitlines() if each.startswith(f"{key}:")]
        text = text.replace(f"{old}\n", f"{line}\n", 1)
    (twin.folder / "config.yaml").write_text(text)
    twin.update_result(metrics)


def test_runs_that_differ_in_their_seed_alone_share_a_row_and_settings_are_compared_over_seeds() -> None:
    (run,) = (run for run in all_runs() if run.phase == "phase1")
    figures: dict[str, list[float]] = {"psnr": [20.0, 20.4, 20.2], "ssim": [0.5, 0.6, 0.55], "codes_used": [1.0] * 3}
    others: dict[str, list[float]] = {"psnr": [23.0, 23.3], "ssim": [0.56, 0.62], "codes_used": [1.0] * 2}
    run.update_result({name: values[0] for name, values in figures.items()})
    for seed in (1, 2):
        _twin(run, seed, seed, {name: values[seed] for name, values in figures.items()})
    assert table()[-1]["run"] == f"3 seeds of {run.name}"
    for seed in (0, 1):
        _twin(run, 3 + seed, seed, {name: values[seed] for name, values in others.items()}, res_blocks="7")
    means, difference, theirs = table()[-3:]
    assert means["psnr"] == "20.2 ± 0.12" and means["codes_used"] == "1 ± 0" and "fid_causal_ratio" not in means
    assert theirs["run"] == f"2 seeds of {run.name}3" and theirs["psnr"] == "23.15 ± 0.15"
    assert difference["run"] == f"2 seeds of {run.name}3 less {run.name}: model.res_blocks (1 there, 7 here)"
    assert difference["codes_used"] == "+0 ± 0"
    assert difference["psnr"] == "+2.95 ± 0.05"
    assert difference["ssim"] == "+0.04 ± 0.02 (noise?)"
    for name in ("psnr", "ssim"):  # as SciPy's paired test says
        noise = ttest_rel(figures[name][:2], others[name]).pvalue > 0.05
        assert difference[name].endswith(" (noise?)") == noise
    markdown(table())


def test_runs_on_other_images_are_neither_averaged_nor_compared() -> None:
    (run,) = (run for run in all_runs() if run.phase == "phase1")
    for number, data in enumerate(("a", "b")):
        _twin(run, 3 + number, number, {"psnr": 23.0, "data": data}, res_blocks="7")
    _twin(run, 1, 1, {"psnr": 21.0})
    assert [row["run"] for row in table() if "seeds" in row["run"]] == [
        f"2 seeds of {run.name}",
        f"2 seeds of {run.name}3",
    ]
    _twin(run, 2, 1, {"psnr": 90.0, "data": "c"})  # the images were exchanged, the seed was not
    assert [row["run"] for row in table() if "seeds" in row["run"]] == [f"2 seeds of {run.name}3"]


def test_figures_that_compare_with_other_images_are_not_averaged() -> None:
    (run,) = (run for run in all_runs() if run.phase == "phase2")
    run.update_result({"psnr": 20.0, "against": "faces"})
    _twin(run, 1, 1, {"psnr": 21.0, "against": None})
    assert not any("seeds" in row["run"] for row in table())
