"""Peak memory of a capture of 1,000 prompts against that of 50: the ratio that says whether memory is flat.

    python -m benchmarks.memory

Each capture runs in a process of its own; a tiny random model of many neurons, so that kept rows, not weights, would show.
"""

from __future__ import annotations

from benchmarks.growth import measure
from benchmarks.record import save

WORDS = 100


def peak(prompts: int) -> float:
    """Peak resident megabytes of a capture of so many prompts."""
    return measure(tokens=prompts * (WORDS + 1), words=WORDS, layers=8, neurons=4096)["megabytes"]


def main() -> None:
    """Measure both and print the ratio."""
    small, large = peak(50), peak(1000)
    print(f"peak memory, 1,000 prompts / 50 prompts: {large / small:.3f}  ({large:.0f} MB / {small:.0f} MB)")
    save("memory", {"megabytes": {"50": small, "1000": large}, "ratio": large / small})


if __name__ == "__main__":
    main()
