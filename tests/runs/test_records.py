"""The table of all runs."""

import shutil
from pathlib import Path

import pytest
import yaml

from vq_core.runs.folders import Run, all_runs
from vq_core.runs.records import differences, markdown, table

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


def of_seeds(weight: float, results: dict[int, dict[str, float]]) -> None:
    """Copies of the run of phase1 with another weight of the perceptual loss, one for each seed."""
    run = next(run for run in all_runs() if run.phase == "phase1")
    for seed, result in results.items():
        copy = Run(run.folder.with_name(f"phase1-smoke-{weight}-{seed}"))
        shutil.copytree(run.folder, copy.folder)
        settings = yaml.safe_load((copy.folder / "config.yaml").read_text())
        settings["loss"]["perceptual"] = weight
        copy.begin(settings | {"seed": seed}, 10**6)
        copy.update_result(result)


def test_runs_of_several_seeds_have_a_mean_and_differences_an_error() -> None:
    assert differences() == []
    before = table()
    of_seeds(0.5, {5: {"psnr": 20.0, "ssim": 0.5}, 6: {"psnr": 21.0, "ssim": 0.7}, 7: {"psnr": 22.0, "ssim": 0.6}})
    of_seeds(0.25, {5: {"psnr": 30.0, "ssim": 0.6}, 6: {"psnr": 31.0}})
    rows = {row["run"]: row for row in table()}
    assert [row["run"] for row in before] == [name for name in rows if "smoke-0." not in name]
    one, two = "mean of 3 seeds: phase1-smoke-0.5-5 …", "mean of 2 seeds: phase1-smoke-0.25-5 …"
    assert rows[one]["psnr"] == f"21 ± {1 / 3**0.5:.2g}" and rows[one]["λ_perc"] == 0.5
    assert rows[two]["psnr"] == f"30.5 ± {0.5**0.5 / 2**0.5:.2g}" and "against" not in rows[two]
    (line,) = differences()
    error = (1 / 3 + 0.5 / 2) ** 0.5
    assert "phase1-smoke-0.5-5 … less phase1-smoke-0.25-5 …: " in line
    assert f"psnr -9.5 ± {error:.2g}," in line or line.endswith(f"psnr -9.5 ± {error:.2g}")


def test_what_is_below_two_errors_is_noise_and_figures_with_other_names_are_not_compared() -> None:
    figures = {"fid_causal": 30.0, "fid_figure": "FID of 10000 samples"}
    of_seeds(0.5, {5: {"psnr": 20.0} | figures, 6: {"psnr": 21.0} | figures | {"fid_causal": 31.0}})
    of_seeds(0.25, {5: {"psnr": 20.5} | figures, 6: {"psnr": 21.0} | figures | {"fid_causal": 50.0}})
    (line,) = differences()
    assert f"psnr -0.25 ± {(0.25 + 0.0625) ** 0.5:.2g} (noise)" in line and "fid_causal -9.5 ± 10 (noise)" in line
    next(run for run in all_runs() if "0.25-5" in run.name).update_result({"fid_figure": "FID of 500 samples"})
    (line,) = differences()
    assert "psnr" in line and "fid" not in line


def test_the_table_is_markdown_with_gaps_where_a_row_has_nothing() -> None:
    lines = markdown([{"run": "a", "psnr": 21.23456}, {"run": "b", "bits": 4}]).splitlines()
    assert lines == ["| run | psnr | bits |", "|---|---|---|", "| a | 21.2 |  |", "| b |  | 4 |"]
