"""The results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def markdown(report: dict[str, Any], reference: str) -> str:
    """Every part of a report as a table, rates also as ratios to the contender `reference`."""
    parts = [_conditions(report)]
    for key, section in (("throughput", _throughput), ("mixture", _mixture), ("accuracy", _accuracy), ("import", _import)):
        if key in report:
            parts.append(section(report[key], reference))
    missing = report["not_measured"]
    if missing:
        parts.append("Not measured: " + "; ".join(missing) + ".")
    return "\n\n".join(parts) + "\n"


def _conditions(report: dict[str, Any]) -> str:
    machine, versions = report["hardware"], ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    return (
        f"Commit {report['commit']}, {report['date']}; {machine['processor']}, {report['threads']} of {machine['cores']} cores; "
        f"{report['dtype']}, eager (no compilation), cutoff {report['cutoff']} Å; {versions}."
    )


def _throughput(part: dict[str, Any], reference: str) -> str:
    batches = part["batches"]
    sizes = "; ".join(
        f"*{name}*: {s['structures']} structures, {s['atoms']} atoms, {s['edges_per_atom']:.1f} edges/atom" for name, s in batches.items()
    )
    columns = [(batch, kind) for kind in ("train", "infer") for batch in batches]
    header = ["model", "parameters"]
    header += [f"{kind} {batch}, atoms/s (× {reference})" for batch, kind in ((b, k) for b, k in columns)]
    header += ["peak memory of training " + " / ".join(batches) + ", GB"]
    rows = []
    labels = list(dict.fromkeys(label for result in part["results"].values() for label in result))
    for label in labels:
        results = {batch: part["results"][batch].get(label, {}) for batch in batches}
        errors = [r["error"] for r in results.values() if "error" in r]
        if errors:
            rows.append([label, errors[0], *[""] * (len(header) - 2)])
            continue
        cells = [_rate(part["results"][batch], label, kind, reference) for batch, kind in columns]
        peaks = " / ".join(f"{r['train']['peak_memory_gb']:.1f}" for r in results.values())
        rows.append([label, _millions(next(iter(results.values()))["parameters"]), *cells, peaks])
    rounds = next(iter(r["train"]["rounds"] for r in next(iter(part["results"].values())).values() if "train" in r), 0)
    note = f"Medians of {rounds} interleaved rounds after warm-up; neighbour lists not included. {sizes}."
    return "### Throughput\n\n" + note + "\n\n" + _table(header, rows)


def _rate(results: dict[str, Any], label: str, kind: str, reference: str) -> str:
    rate = results[label][kind]["median"]
    base = results.get(reference, {}).get(kind, {}).get("median")
    return f"{rate:.0f}" + (f" ({rate / base:.2f})" if base else "")


def _mixture(part: dict[str, Any], reference: str) -> str:
    del reference
    jobs = {label: job for label, job in part["results"].items() if isinstance(job, dict)}
    fastest = jobs["data path alone"]["median"]
    rows = [[label, f"{job['median']:.0f}", f"{fastest / job['median']:.2f}"] for label, job in jobs.items()]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in part["shares"].items())
    note = f"{part['structures_per_step']} structures per step, {part['edges_per_atom']:.1f} edges/atom; shares: {shares}."
    return "### Real mixture\n\n" + note + "\n\n" + _table(["what", "atoms/s", "data path is faster by"], rows)


def _accuracy(part: dict[str, Any], reference: str) -> str:
    del reference
    sizes = part["sizes"]
    header = ["model", "force MAE, meV/Å", "force RMSE, meV/Å", "energy MAE, meV", "steps", "epochs"]
    rows = []
    for label, result in part["results"].items():
        if "steps" not in result:
            rows.append([label, result["runs"][0]["error"], "", "", "", ""])
            continue
        numbers = [f"{result[key]:.1f}" for key in ("force_mae_mev_per_a", "force_rmse_mev_per_a", "energy_mae_mev")]
        rows.append([label, *numbers, f"{result['steps']:.0f}", f"{result['epochs']:.0f}"])
    note = (
        f"{part['dataset']}, {sizes['train']} training and {sizes['test']} test frames, {part['seconds']:.0f} s of training each, "
        f"one after the other, {part['seeds']} seed(s)."
    )
    recipes = [f"* {label}: {run['recipe']['source']}" for label, r in part["results"].items() for run in r["runs"][:1] if "recipe" in run]
    return "### Force error at equal wall time\n\n" + "\n\n".join([note, _table(header, rows), "\n".join(recipes)])


def _import(part: dict[str, Any], reference: str) -> str:
    del reference
    return (
        f"### Import\n\n`import unipot` takes {part['import_unipot_s']:.2f} s beyond torch's import, and {part['everything_s']:.2f} s with "
        f"all of `unipot.__all__` looked up, which loads on first use (medians of {part['rounds']} processes)."
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---|" + "--:|" * (len(header) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _millions(count: int) -> str:
    return f"{count / 1e6:.2f} M"
