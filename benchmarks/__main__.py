"""Run all benchmarks: `python -m benchmarks`."""

from benchmarks import capture_cost, memory, page, slice_query

for benchmark in (capture_cost, slice_query, memory, page):
    print(f"\n{benchmark.__name__}")
    benchmark.main()
