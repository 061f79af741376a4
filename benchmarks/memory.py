"""Peak memory of a capture of 1,000 prompts against that of 50: the ratio that says whether memory is flat.

    python -m benchmarks.memory

Each capture runs in a process of its own; a tiny random model of many neurons, so that kept rows, not weights, would show.
"""

from __future__ import annotations

import json
import subprocess
import sys

from benchmarks.record import save

CHILD = """
import json, resource, sys, tempfile
from pathlib import Path
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from moyu_core.home import Home
from moyu_core.models import from_module
from moyu_core.prompts import Prompt
from moyu_core.studies.capture import Request, capture_run

torch.manual_seed(0)
words = {f"w{i}": i for i in range(1000)}
core = Tokenizer(models.WordLevel(words, unk_token="w0"))
core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="w1", eos_token="w2", unk_token="w0")
config = LlamaConfig(vocab_size=1000, hidden_size=64, intermediate_size=4096, num_hidden_layers=8, num_attention_heads=4)
model = from_module(LlamaForCausalLM(config), tokenizer)
prompts = tuple(Prompt(f"p{i}", " ".join(f"w{(i * 7 + j) % 1000}" for j in range(100))) for i in range(int(sys.argv[1])))
with tempfile.TemporaryDirectory() as folder:
    capture_run(model, Request("in-memory", prompts), Home(Path(folder), ()))
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss))
"""


def peak(prompts: int) -> float:
    """Peak resident megabytes of a capture of so many prompts."""
    done = subprocess.run([sys.executable, "-c", CHILD, str(prompts)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]) / 1024


def main() -> None:
    """Measure both and print the ratio."""
    small, large = peak(50), peak(1000)
    print(f"peak memory, 1,000 prompts / 50 prompts: {large / small:.3f}  ({large:.0f} MB / {small:.0f} MB)")
    save("memory", {"megabytes": {"50": small, "1000": large}, "ratio": large / small})


if __name__ == "__main__":
    main()
