import json

import numpy as np
import pytest

from unipot.evaluation.records import Evaluation
from unipot.reporting.error_tables import forgetting_table
from unipot.training.metrics import MetricRow, MetricTable
from unipot.training.metrics_log import MetricsCsv
from unipot.workflows.report import ReportConfig, colours_of, comparison_table, models_of, report
from unipot.workflows.runs.finetune_run import read_finetune_run

SUMMARY = {
    "name": "tuned", "model": "fine-tuned (full)", "dataset": "water", "head": "water", "level_of_theory": "PBE",
    "parent": "spice", "from_scratch": False, "method": "full", "n_frames": 30, "n_training": 25, "n_validation": 5,
    "n_steps": 10, "best_step": 8, "seconds": 1.0,
}  # fmt: skip


def evaluation(model, force_mae, dataset="water (test)"):
    rows = [
        MetricRow(dataset=dataset, property=name, element=None, n=6, mae=mae, rmse=2 * mae, cosine=0.9, within=0.5)
        for name, mae in (("energy_per_atom", 0.001), ("forces", force_mae))
    ]
    label = np.arange(6.0)
    return Evaluation(
        dataset=dataset, model=model, head="water", table=MetricTable(rows=rows), points={"forces": (label, label + force_mae)}
    )  # fmt: skip


def run_folder(path, force_mae, **changes):
    summary = {**SUMMARY, **changes}
    evaluation(summary["model"], force_mae).save(path / "evaluations" / "final")
    if not summary["from_scratch"]:
        evaluation("zero-shot (spice)", 0.5).save(path / "evaluations" / "zero_shot")
        evaluation("pretrained", 0.1, dataset="spice").save(path / "evaluations" / "before_spice")
        evaluation("fine-tuned", 0.2, dataset="spice").save(path / "evaluations" / "after_spice")
    (path / "finetune_summary.json").write_text(json.dumps(summary))
    log = MetricsCsv(path / "metrics.csv")
    log.log_metrics({"validation/water/forces/mae": 0.5}, 0)
    log.log_metrics({"validation/water/forces/mae": force_mae, "train/loss": 0.3}, 10)
    return path


@pytest.fixture
def folders(tmp_path):
    return [
        run_folder(tmp_path / "tuned", 0.02),
        run_folder(tmp_path / "slower", 0.03),
        run_folder(tmp_path / "scratch", 0.3, model="from scratch", from_scratch=True),
    ]


def test_each_model_has_a_name_of_its_own_and_zero_shot_appears_once(folders):
    names = [e.model for e in models_of([read_finetune_run(path) for path in folders])]
    assert names == ["zero-shot (spice)", "fine-tuned (full), tuned", "fine-tuned (full), slower", "from scratch"]


def test_smallest_force_error_is_emphasised(folders):
    table = comparison_table([read_finetune_run(path) for path in folders])
    assert table.rows[table.best][0] == "fine-tuned (full), tuned"


def test_forgetting_is_a_ratio_of_errors(folders):
    run = read_finetune_run(folders[0])
    (row,) = forgetting_table(run.before, run.after).rows
    assert row[0] == "spice"
    assert row[5:] == pytest.approx((100.0, 200.0, 2.0))


def test_page_holds_every_model(folders, tmp_path):
    page = report(ReportConfig(finetune_runs=[str(path) for path in folders], output=str(tmp_path / "r.html"))).read_text(encoding="utf-8")
    assert all(name in page for name in ("zero-shot (spice)", "from scratch", "Learning curves", "Forgetting"))


def test_nothing_to_report_is_refused():
    with pytest.raises(ValueError, match="at least one of pretrain_run"):
        report(ReportConfig())


def test_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="finetune_summary.json is missing"):
        read_finetune_run(tmp_path)


def test_what_a_teacher_taught_stands_before_the_errors(tmp_path):
    taught = {"method": "gfn2-xtb", "n_labelled": 2000, "steps": [600], "max_steps": 2400}
    folder = run_folder(tmp_path / "taught", 0.02, distillation=taught, seed=7, made_with={"unipot": "0.1.0"}, date="2026-01-02")
    page = report(ReportConfig(finetune_runs=[str(folder)], output=str(tmp_path / "r.html"))).read_text(encoding="utf-8")
    first = page[: page.index("Errors on the user")]
    assert "2,000 structures labelled by GFN2-xTB and a model of how your labels differ from it, 2,400 steps" in first
    assert all(text in first for text in ("unipot 0.1.0", "2026-01-02", "<td class=\"text\">seed</td>"))


def test_a_model_has_one_colour_on_the_whole_page(folders):
    runs = [read_finetune_run(path) for path in folders]
    colours = colours_of(runs)
    assert set(colours) == {e.model for e in models_of(runs)} and len(set(colours.values())) == len(colours)
