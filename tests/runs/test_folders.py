"""What lies in a run's folder, read and written."""

import json
from pathlib import Path

import numpy as np
import pytest

from vq_core.errors import RunError
from vq_core.runs.folders import History, Run, open_run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("VQ_DATA", str(tmp_path))
    run = Run(tmp_path / "runs" / "phase1-demo-12345678")
    run.begin({"seed": 3}, 0)
    return run


def test_rows_are_kept_as_they_were_logged(run: Run) -> None:
    history = History(run)
    history.add({"train/rec": 0.123456789123, "train/lr": 1e-4}, 10)
    history.add({"val/rec": 0.5}, 10)
    history.add({"train/rec": 0.1}, 20)
    assert run.history() == history.rows == History(run).rows
    assert run.history()[0] == {"step": 10, "train/rec": 0.123456789, "train/lr": 1e-4}
    steps, values = run.curve("train/rec")
    assert steps.tolist() == [10, 20] and values.tolist() == [0.123456789, 0.1]
    assert run.curve("train/gan")[0].size == 0


def test_histograms_of_training_and_validation_are_apart(run: Run) -> None:
    history = History(run)
    history.add_usage(np.array([1.0, 2.0]), 5)
    history.add_usage(np.array([3.0, 0.0]), 5, "val")
    history.add_usage(np.array([0.0, 4.0]), 10)
    assert run.usage()[0].tolist() == [5, 10] and run.usage()[1].tolist() == [[1, 2], [0, 4]]
    assert run.usage("val")[1].tolist() == [[3, 0]]
    latest = History(run).latest_usage
    assert latest is not None and latest[0] == 10 and latest[1].tolist() == [0, 4]


def test_going_on_drops_later_rows_and_a_line_that_was_cut_short(run: Run) -> None:
    history = History(run)
    for step in (5, 10, 15):
        history.add({"train/rec": 1 / step}, step)
        history.add_usage(np.array([step]), step)
    with (run.folder / "history.jsonl").open("a") as file:
        file.write('{"step": 20, "train/r')
    assert [row["step"] for row in run.history()] == [5, 10, 15]
    run.begin({"seed": 4}, 10)
    assert [row["step"] for row in run.history()] == run.usage()[0].tolist() == [5, 10]
    assert run.settings() == {"seed": 4}


def test_results_are_added_to_and_old_keys_are_read(run: Run) -> None:
    with pytest.raises(RunError, match="this run has not finished"):
        run.result()
    (run.folder / "result.json").write_text(json.dumps({"kind": "phase1", "psnr": 20.0}))
    assert run.done and run.result() == {"phase": "phase1", "psnr": 20.0}
    run.update_result({"psnr": 21.0, "ssim": 0.5})
    stored = json.loads((run.folder / "result.json").read_text())
    assert run.result() == {"phase": "phase1", "psnr": 21.0, "ssim": 0.5} and run.result().keys() < stored.keys()
    (run.folder / "result.json").write_text(json.dumps(stored | {"psnr": 22.0}))
    with pytest.raises(RunError, match=r"result\.json: is damaged; delete it, and train the phase again"):
        run.result()


def test_a_run_is_opened_by_name_or_path(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="is neither a finished run nor an export; there are: demo-avatars"):
        open_run(run.name)
    run.update_result({"phase": "phase1"})
    assert open_run(run.name) == open_run(str(run.folder)) == open_run(f"{run.folder}/") == run
    with pytest.raises(
        RunError, match=f"phase9: is neither a finished run nor an export; there are: {run.name}, demo-avatars"
    ):
        open_run("phase9")
    strange = Run(tmp_path / "runs" / "holiday-2026")
    strange.begin({}, 0)
    strange.update_result({"phase": "phase1"})
    with pytest.raises(RunError, match="is not a run: its name does not start with one of kmeans"):
        open_run("holiday-2026")
