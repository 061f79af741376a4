"""How time and peak memory of a capture grow: with tokens from 10^3 to 10^6, with layers, and with neurons.

    python -m benchmarks.growth [--tokens 1000,10000,100000,1000000]

Each capture is a process of its own, of a small random model (d 64) in float32, its prompts 250 tokens long. Time is that of the
whole run on disk, beside bare forward passes of the same batches in the same process; memory is the process's peak.
The goal: at 10^6 tokens at most 1.10 times the memory of 10^4. `memory` measures in the same way.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from typing import Any

from benchmarks.record import save

CHILD = """
import json, resource, sys, tempfile, time
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from moyu_core.token_sequences import batches, pad, tokenise
from moyu_core.home import Home
from moyu_core.models import from_module
from moyu_core.prompts import Prompt
from moyu_core.studies.capture import Request, capture_run

asked = json.loads(sys.argv[1])
torch.manual_seed(0)
words = {f"w{i}": i for i in range(1000)}
core = Tokenizer(models.WordLevel(words, unk_token="w0"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="w1", eos_token="w2", unk_token="w0")
config = LlamaConfig(vocab_size=1000, hidden_size=64, intermediate_size=asked["neurons"], num_hidden_layers=asked["layers"],
                     num_attention_heads=4)
model = from_module(LlamaForCausalLM(config), tokenizer)

def prompts(count, first=0):
    texts = (" ".join(f"w{(i * 7 + j) % 1000}" for j in range(asked["words"])) for i in range(first, first + count))
    return tuple(Prompt(f"p{i}", text) for i, text in enumerate(texts, first))

def bare(made):
    with torch.inference_mode():
        for batch in batches(tokenise(model, made), 512):
            model.decoder(input_ids=pad(batch, 1), use_cache=False)

count = max(1, asked["tokens"] // (asked["words"] + 1))
with tempfile.TemporaryDirectory() as folder:
    capture_run(model, Request("in-memory", prompts(2, 10**6)), Home(Path(folder), ()))
    start = time.perf_counter()
    capture_run(model, Request("in-memory", prompts(count)), Home(Path(folder), ()))
    seconds = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
sample = min(count, 400)
bare(prompts(4))
start = time.perf_counter()
bare(prompts(sample))
forward = (time.perf_counter() - start) * count / sample
tokens = (asked["words"] + 1) * count
print(json.dumps({**asked, "tokens": tokens, "seconds": seconds, "forward_seconds": forward, "megabytes": peak}))
"""

BASE = {"tokens": 10_000, "words": 249, "layers": 4, "neurons": 1024}
LAYERS = (2, 4, 8, 16, 32)
NEURONS = (256, 1024, 4096, 16384)


def measure(**changes: int) -> dict[str, Any]:
    """One capture: seconds, seconds of the bare passes (of 10^5 tokens at most, scaled), peak megabytes."""
    asked = json.dumps({**BASE, **changes})
    done = subprocess.run([sys.executable, "-c", CHILD, asked], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    print("{tokens:>8} tokens, {layers:2} layers, {neurons:5} neurons: {seconds:8.2f} s, bare {forward_seconds:8.2f} s, "
          "{megabytes:6.0f} MB".format(**found))  # fmt: skip
    return found


def main() -> None:
    """Measure the three series."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", default="1000,10000,100000,1000000")
    counts = [int(count) for count in parser.parse_args(sys.argv[1:] if __name__ == "__main__" else []).tokens.split(",")]
    series = {
        "tokens": [measure(tokens=count) for count in counts],
        "layers": [measure(layers=count) for count in LAYERS],
        "neurons": [measure(neurons=count) for count in NEURONS],
    }
    by_tokens = {row["tokens"]: row["megabytes"] for row in series["tokens"]}
    ratio = max(by_tokens.values()) / by_tokens.get(10_000, min(by_tokens.values()))
    print(f"peak memory, most tokens / 10,000: {ratio:.3f}")
    save("growth", {"series": series, "memory_ratio": ratio})


if __name__ == "__main__":
    main()
