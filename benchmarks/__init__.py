"""Benchmarks: each prints ratios measured in one process and writes a JSON record to benchmarks/results/."""
