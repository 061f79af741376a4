"""One corpus through `--engine ray` on 1, 2 ... workers: tokens a second, efficiency, memory, bandwidth, a killed worker.

    python -m benchmarks.multi_gpu --shape llama-2-7b --tokens 1000000 --workers 1,2          # one GPU a worker
    python -m benchmarks.multi_gpu --model default --tokens 8000 --workers 1,2 --cores 1      # CPU, one core a worker

A model of random weights is written to a folder first, so that workers load it as users' models are loaded. Every number of
workers is a process of its own. Two speeds: over all, Ray's start and loading included, and in steady state: what each worker made
from its first finished shard to its last, over that time, added up. With --kill one worker of the last round is killed half-way;
no shard may be made twice. The runs must be equal: same id, and the same sets in a sample of slices; each is removed when it
is compared. How fast the folder's disk takes bytes is measured first, by as many writers as there are workers. Written for
`benchmarks/results/h200-multi`; needs requirements-ray.txt.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.record import save
from moyu_core.home import REPOSITORY, Home

WORDS_OF_A_PROMPT = 1023
SAMPLED_SLICES = 200
PROBE_BYTES = 4 << 30
"""Of each writer; more than a disk's own memory."""


def write_model(folder: Path, shape: str) -> None:
    """Random weights in a shape of `h200.common`, with a tokenizer of one token a word."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    from benchmarks.h200 import common

    model = common.random_model(shape)
    words = {f"w{i}": i for i in range(common.SHAPES[shape]["vocab_size"])}
    core = Tokenizer(WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = WhitespaceSplit()  # pyright: ignore[reportAttributeAccessIssue]
    PreTrainedTokenizerFast(tokenizer_object=core, bos_token="w1", eos_token="w2", unk_token="w0").save_pretrained(folder)
    model.model.save_pretrained(folder)


def write_corpus(path: Path, tokens: int, words: list[str]) -> None:
    """Prompts of random words until there are so many tokens."""
    random = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        for index in range(max(1, tokens // (WORDS_OF_A_PROMPT + 1))):
            text = " ".join(random.choice(words, WORDS_OF_A_PROMPT))
            file.write(json.dumps({"id": f"doc-{index}", "text": text}) + "\n")


def disk_speed(folder: Path, writers: int, size: int) -> float:
    """Bytes a second that a folder takes from so many writers, until they are on the disk."""
    block = np.random.default_rng(0).bytes(16 << 20)

    def write(number: int) -> None:
        path = folder / f"probe-{number}"
        with path.open("wb", buffering=0) as file:
            for _ in range(size // len(block)):
                file.write(block)
            os.fsync(file.fileno())
        path.unlink()

    started = time.perf_counter()
    with ThreadPoolExecutor(writers) as pool:
        list(pool.map(write, range(writers)))
    return writers * (size // len(block)) * len(block) / (time.perf_counter() - started)


class Watch:
    """A reporter that notes when tokens were done, kills a worker half-way if it is to, and sees that no shard is made twice."""

    def __init__(self, runs: Path, kill: bool) -> None:
        self._runs, self._kill = runs, kill
        self.made: dict[str, set[int]] = {}
        self.finished: dict[str, list[tuple[float, int]]] = {}
        self.killed = 0
        self.memory = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """A `Reporter`."""
        for path in self._runs.glob(".shards-*/shard-*/shard.json"):
            made, state = self.made.setdefault(path.parent.name, set()), path.stat()
            if state.st_ino not in made:
                made.add(state.st_ino)
                said = json.loads(path.read_text())
                tokens = json.loads((path.parents[1] / "plan.json").read_text())["tokens"][said["shard"]]
                self.finished.setdefault(said["worker"], []).append((state.st_mtime, tokens))
            if self._kill and not self.killed and 2 * done >= total > 0:
                self.killed = int(json.loads(path.read_text())["worker"].split(":")[1])
                os.kill(self.killed, signal.SIGKILL)

    def sample_memory(self, over: threading.Event) -> None:
        """Remember the most memory that this process and its descendants held, shared pages counted once (PSS)."""
        while not over.wait(1.0):
            held = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    held += process.memory_full_info().pss
                except (psutil.Error, AttributeError):
                    continue
            self.memory = max(self.memory, held)

    def steady(self) -> float:
        """Tokens a second of all workers, each from its first finished shard to its last."""
        speeds = []
        for shards in map(sorted, self.finished.values()):
            span = shards[-1][0] - shards[0][0]
            speeds.append(sum(tokens for _, tokens in shards[1:]) / span if span else 0.0)
        return sum(speeds)

    def shard_seconds(self) -> list[list[float]]:
        """From one finished shard to the next, of each worker."""
        ends = ([end for end, _ in sorted(shards)] for shards in self.finished.values())
        return [[round(after - before, 2) for before, after in pairwise(each)] for each in ends]


def one(arguments: dict[str, Any]) -> dict[str, Any]:
    """One capture with so many workers; runs in a process of its own."""
    from moyu_core.cluster.capture import capture_on_cluster
    from moyu_core.cluster.engine import Cluster
    from moyu_core.datasets import read_dataset
    from moyu_core.store import find_run
    from moyu_core.studies.requests import CaptureRequest

    if arguments["cores"]:
        os.sched_setaffinity(0, range(arguments["workers"] * arguments["cores"]))  # children inherit it
        os.cpu_count = lambda: arguments["workers"] * arguments["cores"]
    home = Home(Home.default().root, (), Path(arguments["runs"]))
    watch, over = Watch(home.runs, arguments["kill"]), threading.Event()
    threading.Thread(target=watch.sample_memory, args=(over,), daemon=True).start()
    request = CaptureRequest(arguments["model"], read_dataset(Path(arguments["corpus"])).prompts, dtype=arguments["dtype"])
    started = time.perf_counter()
    cluster = Cluster(workers=arguments["workers"], gpus_per_worker=arguments["gpus_per_worker"])
    run = find_run(home, capture_on_cluster(request, home, cluster, watch, arguments["shard_tokens"]))
    seconds = time.perf_counter() - started
    over.set()
    tokens = run.manifest["counts"]["tokens"]
    run.verify()
    return {
        "run": run.id,
        "workers": arguments["workers"],
        "tokens": tokens,
        "seconds": seconds,
        "tokens_per_second": tokens / seconds,
        "tokens_per_second_steady": watch.steady(),
        "bytes": run.size_bytes,
        "bytes_per_second": run.size_bytes / seconds,
        "peak_memory": watch.memory,
        "shards": len(watch.made),
        "shard_seconds": watch.shard_seconds(),
        "made_twice": sum(len(made) > 1 for made in watch.made.values()),
        "killed": watch.killed,
        "sets": _sets(run),
    }


def _sets(run: Any) -> str:
    """Hash of the sets in a sample of slices."""
    from moyu_core import query

    keys = sorted(query.index(run))
    chosen = np.random.default_rng(0).choice(len(keys), min(SAMPLED_SLICES, len(keys)), replace=False)
    digest = hashlib.sha256()
    for prompt, condition, layer in (keys[i] for i in sorted(chosen)):
        digest.update(query.read_slice(run, prompt, layer, condition).active.tobytes())
    return digest.hexdigest()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="llama-2-7b", help="of benchmarks.h200.common")
    parser.add_argument("--model", help="a model that is there, instead of random weights")
    parser.add_argument("--tokens", type=int, default=1_000_000)
    parser.add_argument("--workers", default="1,2")
    parser.add_argument("--gpus-per-worker", type=int, default=1)
    parser.add_argument("--cores", type=int, default=0, help="cores of a worker; pins everything to workers x cores")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--shard-tokens", type=int)
    parser.add_argument("--kill", action="store_true", help="kill a worker half-way through the last round")
    parser.add_argument("--folder", type=Path, help="for model, corpus and runs; a temporary one if left out")
    parser.add_argument("--name", default="h200-multi/capture", help="of the record")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


def _where() -> dict[str, Any]:
    from benchmarks.h200 import common

    return common.where()


def main() -> None:
    """Measure every number of workers and print the efficiency."""
    chosen = _options()
    if chosen.one:
        print(json.dumps(one(json.loads(chosen.one))))
        return
    with tempfile.TemporaryDirectory(dir=chosen.folder) as temporary:
        folder = Path(temporary)
        if not chosen.model:
            write_model(folder / chosen.shape, chosen.shape)
        words = ["river", "keeps", "its", "own", "time"] if chosen.model else [f"w{i}" for i in range(5, 250)]
        write_corpus(folder / "corpus.jsonl", chosen.tokens, words)
        rounds = [int(count) for count in chosen.workers.split(",")]
        size = min(PROBE_BYTES, 1000 * chosen.tokens)
        disk = {str(writers): disk_speed(folder, writers, size) for writers in sorted({1, *rounds})}
        found = []
        for number, workers in enumerate(rounds):
            asked = {
                **{name: vars(chosen)[name] for name in ("dtype", "gpus_per_worker", "cores", "shard_tokens")},
                "model": chosen.model or str(folder / chosen.shape),
                "corpus": str(folder / "corpus.jsonl"),
                "runs": str(folder / f"runs-{number}"),
                "workers": workers,
                "kill": chosen.kill and number == len(rounds) - 1,
            }
            command = [sys.executable, "-m", "benchmarks.multi_gpu", "--one", json.dumps(asked)]
            done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
            found.append(json.loads(done.stdout.splitlines()[-1]))
            print(found[-1], flush=True)
            shutil.rmtree(asked["runs"])
    for each in found:
        alone = found[0]["tokens_per_second_steady"] * each["workers"] / found[0]["workers"]
        each["efficiency"] = each["tokens_per_second_steady"] / alone if alone else float("nan")
        print("{workers} worker(s): {tokens_per_second:.0f} tokens/s, steady {tokens_per_second_steady:.0f}, efficiency "
              "{efficiency:.2f}, {shards} shards, made twice: {made_twice}, killed: {killed}".format(**each))  # fmt: skip
    equal = len({(each["run"], each["sets"]) for each in found}) == 1
    print(f"runs are equal: {equal}")
    where = {} if chosen.model else _where()
    save(chosen.name, {"shape": chosen.model or chosen.shape, "dtype": chosen.dtype, "disk_bytes_per_second": disk,
                       "rounds": found, "equal": equal, **where})  # fmt: skip


if __name__ == "__main__":
    main()
