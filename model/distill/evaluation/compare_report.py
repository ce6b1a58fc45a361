"""Reports of an evaluation: tables, and curves of quality against budget with confidence bands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from model.distill.evaluation.compare import differences
from model.distill.evaluation.free_videos import FULL

MEMORY = {
    "long_accuracy": "long",
    "announced_accuracy": "announced",
    "called_accuracy": "called",
    "veiled_accuracy": "after fog",
    "recent_accuracy": "recent",
    "new_accuracy": "new",
    "long_iou": "long IoU",
    "absence": "same again",
    "absence_chance": "chance: another scene",
}
PICTURES = {
    "psnr": "PSNR to full",
    "distance": "distance",
    "motion": "motion",
    "adherence": "adherence",
    "adherence_chance": "chance: another video",
    "adherence_after_change": "after change",
    "adherence_after_change_chance": "chance: another video",
}
FIELD = {
    **{f"{kind}_{name}": f"{kind.upper()} {name}" for name in ("psnr", "ssim") for kind in ("mg", "dr", "nmr")},
    **{f"gsc_{name}": f"gsc {name}" for name in ("psnr", "ssim")},
    "lcm": "lcm, dB",
    "flicker": "flicker",
}
DRIFT = {
    "drift_ends": "drift: brightness, first to last 15 %",
    "drift_colour": "drift: color, first to last 2 chunks",
    "drift_sharpness": "sharpness, the same",
    "drift_confidence": "confidence, the same",
}
COST = {
    "chunk": "chunk ms",
    "prune": "prune ms",
    "head": "head ms",
    "bytes": "MiB allocated",
    "host": "MiB on the host",
}
SIZES = ("bytes", "host")
PARTS = {
    "memory": MEMORY,
    "in the field's terms": FIELD,
    "free videos": PICTURES,
    "drift": DRIFT,
    "cost, cache full": COST,
}
CURVES = {
    "long_accuracy": "landmarks unseen for long, share of correct pixels",
    "announced_accuracy": "landmarks of announced places, share of correct pixels",
    "called_accuracy": "landmarks of places that were called back, share of correct pixels",
    "veiled_accuracy": "landmarks that were in fog, share of correct pixels",
    "recent_accuracy": "landmarks seen lately",
    "long_iou": "landmarks unseen for long, IoU",
    "psnr": "PSNR to the full cache (dB)",
}
NAMES = {"tour": "open tours", "announced": "announced tours", "called": "called tours", "veiled": "veiled tours"}
NONE = "-"  # not measured
STYLE = {
    "full": ("black", "-"),
    "oracle": ("grey", "--"),
    "asked": ("#d1495b", "-"),
    "salient_retrieval": ("#66a182", "-"),
    "value_novelty": ("#2e4057", "--"),
    "pafu": ("#d1495b", ":"),
    "salience": ("#edae49", "-"),
    "redundancy": ("#00798c", "-"),
    "attention": ("#5e548e", "-"),
    "random": ("#8d99ae", ":"),
    "sink_window": ("#66a182", "-."),
    "window": ("#2e4057", "-."),
}


def tables(result: dict[str, Any]) -> list[Table]:
    """Mean and 95 % interval of every measure, one row per cell, as several tables that fit a terminal of 80
    columns."""
    out = []
    for title, columns in _measured(result).items():
        out.append(_table(f"{result['model']}, {_size(result)}: {title}", columns))
        for row in result["summary"]:
            out[-1].add_row(*_cells(row, columns))
    return out


def _measured(result: dict[str, Any]) -> dict[str, dict[str, str]]:
    """The columns of each part that have a value in some row, without parts that have none."""
    parts = {
        title: {
            name: words
            for name, words in columns.items()
            if any(_value(row, name) != NONE for row in result["summary"])
        }
        for title, columns in PARTS.items()
    }
    return {title: columns for title, columns in parts.items() if columns}


def _cells(row: dict[str, Any], columns: dict[str, str]) -> list[str]:
    return [row["policy"], _budget(row), *(_value(row, name) for name in columns)]


def _value(row: dict[str, Any], name: str) -> str:
    return _price(row["cost"], name) if name in COST else cell(row[name])


def _price(cost: dict[str, float], name: str) -> str:
    if name not in cost:
        return NONE
    return f"{cost[name] / 2**20:.2f}" if name in SIZES else f"{1e3 * cost[name]:.1f}"


def _table(title: str, columns: dict[str, str]) -> Table:
    out = Table(title=title)
    for name in ("policy", "budget"):
        out.add_column(name, no_wrap=True)
    for name in columns.values():
        out.add_column(name, overflow="fold")
    return out


def _budget(row: dict[str, Any]) -> str:
    return "all" if row["policy"] == FULL else f"{row['budget']:g}"


def markdown(result: dict[str, Any]) -> str:
    """The same tables as Markdown."""
    lines = [f"{result['model']}, {_size(result)}, {result['device']}, {result['dtype']}"]
    for title, columns in _measured(result).items():
        head = ["policy", "budget", *columns.values()]
        rows = [_cells(row, columns) for row in result["summary"]]
        lines += ["", f"## {title}", "", *(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))]
    return "\n".join(lines) + "\n"


def cell(estimate: dict[str, float] | None) -> str:
    if estimate is None:
        return NONE
    mean, low, high = (estimate[name] for name in ("mean", "low", "high"))
    digits = 2 if abs(mean) < 10 else 1
    interval = "" if low != low else f" [{low:.{digits}f}, {high:.{digits}f}]"
    return f"{mean:.{digits}f}{interval}"


def _size(result: dict[str, Any]) -> str:
    s = result["settings"]
    return f"split {s['split']}, seed {s['seed']}, {s['tours']} tours of {s['tour_chunks']} chunks"


def verdicts(result: dict[str, Any], ours: str = "asked") -> list[str]:
    """Sentences on how far ``ours`` leads every other policy on long-unseen landmarks, on the same tours."""
    lines = []
    for tours, name in NAMES.items():
        for budget in sorted({row["budget"] for row in result["summary"] if row["policy"] == ours}):
            for policy, gap in differences(result["cells"], ours, budget, tours).items():
                sure = "ahead" if gap["low"] > 0 else "behind" if gap["high"] < 0 else "no significant difference"
                size = f"{100 * gap['mean']:+.1f} points [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}]"
                lines.append(f"{name}, {budget:g} latent frames: {ours} against {policy}: {size}, {sure}")
    return lines


def show(result: dict[str, Any], console: Console) -> None:
    for each in tables(result):
        console.print(each)
    for line in verdicts(result):
        console.print(line, highlight=False, soft_wrap=True)
    if not result["head"]:
        console.print(
            "These weights lack a head, so policies that need it were skipped (pafu distill salience or asking)."
        )
    if not result["probe"]:
        console.print("The shipped probe judges only pafu-mini: adherence and same-again were not measured (--probe).")


def plots(result: dict[str, Any], folder: Path) -> list[Path]:
    """Quality against budget, one line with its band per policy, and fidelity over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    paths = []
    for name, title in CURVES.items():
        if all(row[name] is None for row in result["summary"]):
            continue
        figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
        for policy in dict.fromkeys(row["policy"] for row in result["summary"]):
            _line(axes, [row for row in result["summary"] if row["policy"] == policy], name)
        axes.set(xlabel="budget, latent frames", ylabel=title, title=result["model"])
        if axes.lines:
            axes.legend(fontsize=8, ncols=2)
        paths.append(folder / f"eval.{name}.png")
        figure.savefig(paths[-1], dpi=120)
        plt.close(figure)
    return [*paths, *([_over_time(result, folder)] if result["settings"]["changes"] else [])]


def _line(axes: Any, rows: list[dict[str, Any]], name: str) -> None:
    rows = [row for row in rows if row[name] is not None]
    if not rows:
        return
    colour, dash = STYLE.get(rows[0]["policy"], ("brown", "-"))
    if rows[0]["policy"] == FULL:
        axes.axhline(rows[0][name]["mean"], color=colour, linestyle=dash, label=FULL, linewidth=1)
        return
    budgets = [row["budget"] for row in rows]
    low, mean, high = ([row[name][key] for row in rows] for key in ("low", "mean", "high"))
    axes.plot(budgets, mean, color=colour, linestyle=dash, marker="o", markersize=3, label=rows[0]["policy"])
    axes.fill_between(budgets, low, high, color=colour, alpha=0.12, linewidth=0)


def _over_time(result: dict[str, Any], folder: Path) -> Path:
    import numpy as np
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5), layout="constrained")
    tightest = min(cell["budget"] for cell in result["cells"])
    for each in result["cells"]:
        if each["policy"] != FULL and each["budget"] == tightest and each["change"]["psnr"]:
            colour, dash = STYLE.get(each["policy"], ("brown", "-"))
            axes.plot(np.mean(each["change"]["psnr"], 0), color=colour, linestyle=dash, label=each["policy"])
    axes.set(
        xlabel="chunk", ylabel="PSNR to the full cache (dB)", title=f"{result['model']}, {tightest:g} latent frames"
    )
    axes.legend(fontsize=8, ncols=2)
    path = folder / "eval.over_time.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
