"""The table of all runs."""

import shutil
from pathlib import Path

import pytest

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
