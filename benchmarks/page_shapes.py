"""Layer change on the map page, from the key press to the redrawn map, at the shapes of a small and of a large model.

    python -m benchmarks.page_shapes

Two runs of random sets and values are written by the product's own writer (128 tokens x 1,536 neurons, 512 x 11,008; eight layers),
served by `moyu serve`, and looked at in headless Chromium: the set picture, and signed values.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.record import save
from moyu_core import companding, schema, sets
from moyu_core.activation_table import ActivationWriter
from moyu_core.capture import CapturedPrompt
from moyu_core.home import REPOSITORY
from moyu_core.prompts import Prompt
from moyu_core.run_writer import writing
from moyu_core.spec import ModelIdentity, RunSpec, SetRule
from moyu_core.studies.shared import table
from moyu_core.token_sequences import TokenSequence
from tests.browser import chromium, free_port

LAYERS = 8
SHAPES = {"128 x 1536": (128, 1536), "512 x 11008": (512, 11_008)}
PICTURES = ("set", "signed")


def captured(tokens: int, neurons: int) -> CapturedPrompt:
    """One prompt with values of the right shape, heavy-tailed as activations are."""
    generator = np.random.default_rng(0)
    rows = LAYERS * tokens
    values = generator.standard_t(3, (rows, neurons)).astype(np.float32)
    codes, scale = companding.encode(values)
    columns: dict[str, np.ndarray] = {
        "active": sets.top_sets(np.abs(values), neurons // 10),
        "values": codes,
        "scale": scale,
        "nonfinite": np.zeros(rows, np.int32),
        "density": np.full(rows, 0.1, np.float32),
        "zero_share": np.zeros(rows, np.float32),
        "l2_norm": np.linalg.norm(values, axis=1),
        "abs_max": np.abs(values).max(axis=1),
        "effective_neurons": np.full(rows, neurons / 3, np.float32),
    }
    sequence = TokenSequence(Prompt("wide", "text"), np.arange(tokens), {index: f" t{index}" for index in range(tokens)})
    return CapturedPrompt(sequence, tuple(range(LAYERS)), tokens, columns)


def build(root: Path, tokens: int, neurons: int) -> str:
    """Write the run; returns its id."""
    spec = RunSpec("capture", ModelIdentity("random rows", f"{tokens}x{neurons}", "float32"), "none", SetRule(), 0, {"cett": False})
    prompt = captured(tokens, neurons)
    with writing(root, spec) as folder:
        with ActivationWriter(folder.path, neurons, values=True) as writer:
            writer.write(prompt)
            folder.write("index", writer.close())
        rows = {"prompt_id": ["wide"], "condition": ["plain"], "text": ["text"], "domain": ["random"], "n_tokens": [tokens],
                "cut_tokens": [0], "has_values": [True]}
        folder.write("prompts", table(schema.PROMPT_COLUMNS, rows))
        every = np.arange(LAYERS * neurons)
        columns = {"layer": every // neurons, "neuron": every % neurons, "column_norm": np.ones(len(every)),
                   "rate": np.full(len(every), 0.1)}
        folder.write("neurons", table(schema.NEURON_COLUMNS, columns))
        folder.facts = {
            "title": "random rows", "layers": list(range(LAYERS)), "seconds": 0, "checks": {"nonfinite": True},
            "values_agreement": {},
            "counts": {"prompts": 1, "tokens": tokens, "rows": LAYERS * tokens, "cut_tokens": 0, "nonfinite": 0},
            "model": {"name": "random rows", "n_layers": LAYERS, "n_neurons": neurons, "note": "", "slots": 1, "gated": True,
                      "activation": "silu", "family": "none", "sink_token": "t0"},
        }
    return spec.run_id


def layer_changes(browser, address: str) -> list[float]:
    """Milliseconds from the key press to the map that names the new layer; the first two are left out."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.goto(address)
    page.locator(".st-key-map canvas").first.wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    times, layer, step = [], 0, 1
    for _ in range(14):
        step = 1 if layer == 0 else -1 if layer == LAYERS - 1 else step
        layer += step
        page.get_by_role("slider", name="Layer").focus()
        start = time.perf_counter()
        page.keyboard.press("ArrowRight" if step > 0 else "ArrowLeft")
        page.locator(".st-key-map").get_by_text(re.compile(f"layer {layer}$")).first.wait_for(timeout=30_000)
        times.append(1e3 * (time.perf_counter() - start))
        page.wait_for_timeout(700)
    page.close()
    return times[2:]


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        runs = {name: build(Path(folder) / "runs", *shape) for name, shape in SHAPES.items()}
        port = free_port()
        command = [sys.executable, "-m", "moyu_core.cli", "serve", "--port", str(port), "--read-only"]
        environment = {**os.environ, "MOYU_HOME": folder}
        server = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, env=environment)
        assert server.stdout is not None
        next(line for line in server.stdout if "ready" in line)
        medians = {}
        try:
            with chromium() as browser:
                for name, run in runs.items():
                    for show in PICTURES:
                        times = layer_changes(browser, f"http://127.0.0.1:{port}/?run={run}&show={show}&layer=0")
                        medians[f"{name}, {show}"] = float(np.median(times))
                        print(f"{name}, {show}: layer change to redrawn map {np.median(times):.0f} ms")
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(30)
    save("page_shapes", {"layer_change_ms": medians})


if __name__ == "__main__":
    main()
