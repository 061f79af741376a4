"""Run all benchmarks: `python -m benchmarks`."""

from benchmarks import (
    capture_cost,
    history_grid,
    inertia_cost,
    memory,
    page,
    page_shapes,
    predictor_memory,
    predictors,
    rerun,
    scale,
    slice_query,
    start,
)

for benchmark in (
    capture_cost,
    history_grid,
    inertia_cost,
    slice_query,
    memory,
    page,
    page_shapes,
    rerun,
    predictors,
    predictor_memory,
    scale,
    start,
):
    print(f"\n{benchmark.__name__}")
    benchmark.main()
