"""Benchmarks for one large GPU: random weights in the shapes of known models, every ratio from one process.

    python -m benchmarks.h200.capture --shape llama-2-7b     # also: overlap, decode, default_masks

Records go to benchmarks/results/h200/. `--shape tiny` runs everything in seconds on a CPU, to see that it runs.
"""
