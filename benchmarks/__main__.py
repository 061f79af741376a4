"""Run all benchmarks: `python -m benchmarks`."""

from benchmarks import capture_cost, history_grid, memory, page, page_shapes, predictors, scale, slice_query

for benchmark in (capture_cost, history_grid, slice_query, memory, page, page_shapes, predictors, scale):
    print(f"\n{benchmark.__name__}")
    benchmark.main()
