"""The results as Markdown: cost. Accuracy is in `accuracy_tables`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark_peers.accuracy_tables import accuracy, mixture_accuracy
from benchmark_peers.markdown import millions, table


def markdown(parts: dict[str, dict[str, Any]], reference: str) -> str:
    """Every part that was measured as a section, rates also as ratios to the contender `reference`.

    Args:
        parts: part -> {"conditions", "result"}.
        reference: label of a contender.
    """
    sections = {
        "throughput": _throughput,
        "md": _md,
        "roofline": _roofline,
        "accuracy": accuracy,
        "mixture": _mixture,
        "mixture-accuracy": mixture_accuracy,
        "import": _import,
    }
    chapters = []
    for name, section in sections.items():
        if name in parts:
            chapters.append(section(parts[name]["result"], reference) + "\n\n" + _conditions(parts[name]["conditions"]))
    return "\n\n".join(chapters) + "\n"


def _conditions(report: dict[str, Any]) -> str:
    machine, versions = report["hardware"], ", ".join(f"{name} {number}" for name, number in report["versions"].items())
    missing = "; ".join(report["not_measured"])
    return (
        f"Commit {report['commit']}, {report['date']}; {machine['processor']}, {machine['cores']} cores; {report['dtype']}, eager "
        f"(no compilation), cutoff {report['cutoff']} Å; {versions}. Not measured: {missing}."
    )


def _throughput(part: dict[str, Any], reference: str) -> str:
    batches = part["batches"]
    sizes = "; ".join(
        f"*{name}*: {s['structures']} structures, {s['atoms']} atoms, {s['edges_per_atom']:.1f} edges/atom" for name, s in batches.items()
    )
    text = f"### Throughput\n\nMedians of {part['rounds']} interleaved rounds after warm-up; neighbour lists not included. {sizes}."
    for n in _threads(part["results"], "train-"):
        columns = [(kind, batch) for kind in ("train", "infer") for batch in batches]
        header = ["model", "parameters", *(f"{kind} {batch}" for kind, batch in columns)]
        header += ["peak memory of training " + " / ".join(batches) + ", GB"]
        rows = [_throughput_row(part, label, columns, n) for label in _labels(part["results"])]
        text += f"\n\nAtoms/s, {n} thread{'s' * (n > 1)}, in brackets the ratio to {reference}:\n\n" + table(header, rows)
    return text


def _throughput_row(part: dict[str, Any], label: str, columns: Sequence[tuple[str, str]], n: int) -> list[str]:
    results = {batch: result.get(label, {}) for batch, result in part["results"].items()}
    parameters = next((r["parameters"] for r in results.values() if "parameters" in r), 0)
    cells = [_rate(results[batch], f"{kind}-{n}") for kind, batch in columns]
    peaks = " / ".join(f"{r['train_peak_memory_gb']:.1f}" if "train_peak_memory_gb" in r else "–" for r in results.values())
    return [label, millions(parameters), *cells, peaks]


def _md(part: dict[str, Any], reference: str) -> str:
    sizes = "; ".join(f"*{name}*: {s['atoms']} atoms, {s['edges_per_atom']:.1f} edges/atom" for name, s in part["systems"].items())
    paths = {r["path"]: label for result in part["results"].values() for label, r in result.items() if "path" in r}
    named = "; ".join(f"{path} ({label.split()[0]})" for path, label in paths.items())
    text = (
        "### MD step\n\nEnergy and forces with the neighbour list, integrator excluded, through each package's calculator for ASE: "
        f"{named}. ns/day at 1 fs. {sizes}. Same thermal motion for all."
    )
    for n in _threads(part["results"], "md-"):
        header = ["model", *(f"{name}: atoms/s (× {reference}), ns/day, µs/atom" for name in part["systems"])]
        rows = [[label, *(_md_cell(result.get(label, {}), n) for result in part["results"].values())] for label in _labels(part["results"])]
        text += f"\n\n{n} thread{'s' * (n > 1)}:\n\n" + table(header, rows)
    return text


def _md_cell(result: dict[str, Any], n: int) -> str:
    if f"md-{n}" not in result:
        return result.get("error", "–")[:80]
    run = result[f"md-{n}"]
    ratio = f" ({run['median'] / run['reference_median']:.2f})" if run["reference_median"] else ""
    return f"{run['atoms_per_s']:,.0f}{ratio}, {run['ns_per_day']:.2f}, {run['us_per_atom']:.0f}"


def _roofline(part: dict[str, Any], reference: str) -> str:
    del reference
    text = (
        "### Work and roofline of one training step\n\nGFLOP in matrix products, GB of tensors read and written by all operations, "
        "operations launched, all counted. Share: the time that the machine's peaks (one large product, one large copy, measured in "
        "the same turns) allow at best over the measured time; above 1 means that tensors stay in caches."
    )
    for n in _threads(part["results"], "roof-"):
        for batch, result in part["results"].items():
            header = ["model", "GFLOP", "GB", "operations", "s", "GFLOP/s (of peak)", "GB/s (of peak)", "share of roof"]
            rows = [_roof_row(label, run, n) for label, run in result.items()]
            text += f"\n\n*{batch}*, {n} thread{'s' * (n > 1)}:\n\n" + table(header, rows)
    return text


def _roof_row(label: str, run: dict[str, Any], n: int) -> list[str]:
    if f"roof-{n}" not in run:
        return [label, run.get("error", "–")[:80], *[""] * 6]
    work, roof = run["work"], run[f"roof-{n}"]
    counted = [f"{work['gflop']:.1f}", f"{work['gigabytes']:.1f}", f"{work['operations']}", f"{roof['seconds']:.3f}"]
    products = f"{roof['gflop_per_s']:.1f} ({roof['gflop_per_s'] / roof['peak_gflop_per_s']:.0%})"
    traffic = f"{roof['gb_per_s']:.1f} ({roof['gb_per_s'] / roof['peak_gb_per_s']:.0%})"
    return [label, *counted, products, traffic, f"{roof['share']:.2f}"]


def _mixture(part: dict[str, Any], reference: str) -> str:
    del reference
    jobs = {label: job for label, job in part["results"].items() if isinstance(job, dict)}
    fastest = jobs["data path alone"]["median"]
    rows = [[label, f"{job['median']:,.0f}", f"{fastest / job['median']:.2f}"] for label, job in jobs.items()]
    shares = ", ".join(f"{name} {share:.0%}" for name, share in part["shares"].items())
    note = f"{part['structures_per_step']} structures per step, {part['edges_per_atom']:.1f} edges/atom; shares: {shares}."
    return "### Real mixture\n\n" + note + "\n\n" + table(["what", "atoms/s", "data path is faster by"], rows)


def _import(part: dict[str, Any], reference: str) -> str:
    del reference
    return (
        f"### Import\n\n`import unipot` takes {part['import_unipot_s']:.2f} s beyond torch's import, and {part['everything_s']:.2f} s with "
        f"all of `unipot.__all__` looked up, which loads on first use (medians of {part['rounds']} processes)."
    )


def _rate(result: dict[str, Any], key: str) -> str:
    if key not in result:
        return result.get("error", "–")[:80]
    run = result[key]
    return f"{run['median']:,.0f}" + (f" ({run['median'] / run['reference_median']:.2f})" if run["reference_median"] else "")


def _labels(results: dict[str, dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(label for result in results.values() for label in result))


def _threads(results: dict[str, dict[str, Any]], prefix: str) -> list[int]:
    keys = {key for result in results.values() for run in result.values() for key in run if key.startswith(prefix)}
    return sorted(int(key.removeprefix(prefix)) for key in keys)
