"""The records of benchmarks/results/h200 as Markdown tables with bars, for benchmarks/README.md.

    python -m benchmarks.h200.report
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.record import RESULTS


def record(name: str) -> dict[str, Any]:
    """One record."""
    return json.loads((RESULTS / "h200" / f"{name}.json").read_text(encoding="utf-8"))


def bar(value: float, whole: float, width: int = 20) -> str:
    """A bar of text, `width` blocks for the whole."""
    return "█" * min(round(width * value / whole), 2 * width)


def captures() -> list[str]:
    """Time of each kind of capture over that of the bare forward pass."""
    lines = ["| shape | what | / bare forward (range) | |", "|---|---|---|---|"]
    for path in sorted((RESULTS / "h200").glob("capture-*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        title = f"{data['shape_name']}, {data['batches']} batches"
        for name, ratio in data["ratios"].items():
            if name != "forward":
                spread = f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"
                lines.append(f"| {title} | {name} | {spread} | {bar(ratio['median'], 2)} |")
    return lines


def decodes() -> list[str]:
    """Speed of each way to decode, and of the FFN alone."""
    lines = ["| shape | variant | ms a token | speed / dense (bytes-bound) | share of peak bandwidth | |", "|---" * 6 + "|"]
    for path in sorted((RESULTS / "h200").glob("decode-*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        for name, row in data["variants"].items():
            speed = row["speed_against_dense"]["median"]
            milliseconds = row["milliseconds"]["median"]
            share, bound = 100 * row["share_of_peak"], row["bound_against_dense"]
            cells = f"{name} | {milliseconds:.2f} | {speed:.2f} ({bound:.2f}) | {share:.0f} % | {bar(speed, 2)}"
            lines.append(f"| {data['shape_name']} | {cells} |")
        for name, row in data["ffn_alone"].items():
            lines.append(f"| {data['shape_name']} | FFN of one layer: {name} | {row['microseconds'] / 1e3:.4f} | | "
                         f"{100 * row['share_of_peak']:.0f} % | {bar(row['share_of_peak'], 1)} |")  # fmt: skip
    return lines


def several() -> list[str]:
    """One corpus on one and more GPUs, and a model spread over them."""
    heads = ("runs on", "GPUs", "tokens/s with start and loading", "steady", "of linear", "written, steady", "disk alone", "memory",
             "killed", "shards made twice", "")  # fmt: skip
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for place, name in (("disk", "capture"), ("/dev/shm", "capture-memory")):
        data = json.loads((RESULTS / "h200-multi" / f"{name}.json").read_text(encoding="utf-8"))
        for row in data["rounds"]:
            steady, disk = row["tokens_per_second_steady"], data["disk_bytes_per_second"][str(row["workers"])]
            cells = (place, row["workers"], f"{row['tokens_per_second']:,.0f}", f"{steady:,.0f}", f"{row['efficiency']:.2f}",
                     f"{steady * row['bytes'] / row['tokens'] / 1e9:.2f} GB/s", f"{disk / 1e9:.1f} GB/s",
                     f"{row['peak_memory'] / 1e9:.1f} GB", "one worker" if row["killed"] else "none", row["made_twice"],
                     bar(row["efficiency"] * row["workers"], data["rounds"][-1]["workers"]))  # fmt: skip
            lines.append(f"| {' | '.join(map(str, cells))} |")
    spread = json.loads((RESULTS / "h200-multi" / "spread.json").read_text(encoding="utf-8"))
    over = f"{spread['weights_gb']:.0f} GB over {len(spread['layers_by_device'])} GPUs"
    lines += ["", f"| {spread['layers']} layers of 70B shape, {over} | / bare forward (range) | |", "|---|---|---|"]
    for name, ratio in spread["ratios"].items():
        if name != "forward":
            found = f"{ratio['median']:.3f} ({ratio['min']:.3f} to {ratio['max']:.3f})"
            lines.append(f"| {name} | {found} | {bar(ratio['median'], 2)} |")
    return lines


def kernels() -> list[str]:
    """Milliseconds of the reduction of one layer."""
    lines = ["| shape | rows x neurons | " + " | ".join(record("capture-llama-2-7b")["kernels"]["milliseconds"]) + " |"]
    lines.append("|---" * (lines[0].count("|") - 1) + "|")
    for path in sorted((RESULTS / "h200").glob("capture-*.json")):
        data = json.loads(path.read_text(encoding="utf-8"))
        times = " | ".join(f"{value:.3f}" for value in data["kernels"]["milliseconds"].values())
        lines.append(f"| {data['shape_name']} | {' x '.join(map(str, data['kernels']['rows']))} | {times} |")
    return lines


def main() -> None:
    """Print all tables."""
    for table in (captures(), kernels(), decodes(), several()):
        print("\n".join(table), end="\n\n")


if __name__ == "__main__":
    main()
