"""A capture on many workers: Ray Data actors that each hold the model and write shards of an ordinary run.

    plan      the request cut into shards of whole batches, on disk
    shards    what is finished, written whole or not at all
    worker    an actor: takes a shard's number, captures it, answers with one row
    engine    Ray: connecting, the pipeline, progress, cancel
    capture   the whole way from a request to a run

The driver reads the prompts (their hash names the run) and workers read their shard from the plan, so the folder of runs must be
one that all machines see. What is finished stays in `.shards-<run id>` until the run is whole: asked again, the capture goes on.
"""
