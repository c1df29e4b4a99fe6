"""The facts of fine-tuning runs that stand first in a report: what was learned from what, for how long, and with which error bars."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unipot.data.store import Store
from unipot.reporting.structure_images import structure_figure
from unipot.reporting.tables import ReportTable
from unipot.structure import Structure
from unipot.workflows.inputs.frame_limits import spread
from unipot.workflows.runs.finetune_run import FinetuneRun
from unipot.zoo.card import read_card

#: structures that are drawn
_DRAWN = 4


def facts_table(runs: Sequence[FinetuneRun], names: Sequence[str]) -> ReportTable:
    """One column per run: frames, distillation, training, search, error bars, seed, time, version."""
    columns = [_facts(run) for run in runs]
    rows = tuple((what, *(own.get(what, "–") for own in columns)) for what in dict.fromkeys(what for own in columns for what in own))
    return ReportTable(title="At a glance", columns=("", *names), rows=rows)


def distillation_in_words(facts: dict[str, Any]) -> str:
    """What a teacher did before the user's frames were learned; empty without one."""
    if not facts:
        return ""
    method = str(facts.get("method", "a teacher")).upper().replace("XTB", "xTB")
    corrected = " and a model of how your labels differ from it" if "steps" in facts else ""
    return f"{facts.get('n_labelled', 0):,} structures labelled by {method}{corrected}, {facts.get('max_steps', 0):,} steps"


def frames_figure(run: FinetuneRun) -> bytes | None:
    """Some of the user's frames; None where their store is not there any more."""
    path = run.summary.get("store")
    if path is None or not (Path(path) / "metadata.json").is_file():
        return None
    store = Store(path)
    chosen: list[Structure] = [store[int(k)] for k in spread(len(store), _DRAWN)]
    return structure_figure(chosen, [f"{s.id}\n{s.n_atoms} atoms" for s in chosen])


def _facts(run: FinetuneRun) -> dict[str, Any]:
    s, made = run.summary, run.summary.get("made_with", {})
    steps = f"{s['n_steps']:,} steps of {s['method']}, best at step {s['best_step']:,}"
    held_out = f", {s['n_validation']} of them held out" if s["n_validation"] else ", none held out"
    search = s.get("search", {})
    facts = {
        "frames": f"{s['n_frames']}{held_out}",
        "starts from": "random weights" if s["from_scratch"] else f"head {s['parent']}" if s["parent"] else "the checkpoint as it is",
        "distilled before": distillation_in_words(s.get("distillation", {})) or "nothing",
        "trained": steps,
        "search of settings": f"{search['trials']} trials, {search['steps']:,} steps" if search else "none",
        "error bars": _error_bars(run),
        "time": in_words(s.get("seconds_in_all", s["seconds"])),
        "seed": s.get("seed"),
        "made with": ", ".join(f"{name} {value}" for name, value in made.items()),
        "date": s.get("date"),
    }
    return {what: value for what, value in facts.items() if value not in (None, "")}


def _error_bars(run: FinetuneRun) -> str:
    best = run.folder / "best.safetensors"
    own = read_card(best).get("uncertainty", {}) if best.is_file() else {}
    if not own:
        return "none"
    forces = own.get("forces", {})
    if forces.get("unit_width") is None:
        return str(own.get("calibration", "yes"))
    width, error = 1e3 * forces["factor"] * forces["unit_width"], 1e3 * forces["error"]
    return f"forces ±{width:.3g} meV/Å for 90 %, mean error {error:.3g}; {own['calibration']}"


def in_words(seconds: float) -> str:
    """A duration as people say it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
