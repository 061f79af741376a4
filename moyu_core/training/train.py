"""Trains one of the matched models and logs, on a log scale of steps, what happens to its activations.

    config + corpus -> steps (checkpointed) -> log.json, weights.safetensors, result.json in MOYU_HOME/training/<id>/

A run that is killed goes on from its last checkpoint bit for bit: weights, optimizer moments, generator state, log and step are
in one file, and the step decides the data. On a CPU the whole run is reproducible for a given number of threads; on a GPU in
bfloat16 the recipe is the same and the rounding is not.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor, nn
from torch.nn import functional

from moyu_core.devices import choose_device
from moyu_core.errors import Cancelled
from moyu_core.progress import Reporter, silent
from moyu_core.spec import fingerprint
from moyu_core.training import measures
from moyu_core.training.checkpoint import Checkpoint, save_tensors
from moyu_core.training.data import Data, Sequences, corpus_data, spread
from moyu_core.training.tiny_models import Size, build

if TYPE_CHECKING:
    from moyu_core.home import Home

CHECKPOINT_SECONDS = 60.0
FAST_EVERY = 20
"""Steps between two readings of the training loss."""


@dataclass(frozen=True)
class Config:
    """Everything that decides a run, apart from the corpus.

    Attributes:
        activation: relu, gelu or swiglu.
        seed: of weights and order of data; models of one seed see the same data in the same order.
        size: the model's shape.
        steps, batch: optimizer steps and sequences in each, of `size.positions` tokens.
        rate, warmup, floor: peak learning rate, steps until it is reached, share of it left at the end (cosine).
        decay: AdamW's weight decay of matrices; norms have none.
        clip: largest norm of the gradient.
        points: measurements along training, log-spaced, step 0 and the last among them (equal steps count once).
        measured: held-out sequences that activations and gradients are measured on.
        judged: held-out sequences of the loss along training.
    """

    activation: str = "relu"
    seed: int = 0
    size: Size = field(default_factory=Size)
    steps: int = 4500
    batch: int = 64
    rate: float = 3e-3
    warmup: int = 200
    floor: float = 0.05
    decay: float = 0.1
    clip: float = 1.0
    points: int = 28
    measured: int = 32
    judged: int = 128

    def identity(self, data: Data) -> str:
        """`<activation>-<seed>-<12 hex>`: the same configuration and corpus give the same name."""
        return f"{self.activation}-{self.seed}-{fingerprint([asdict(self), data.sha256()])[:12]}"

    def learning_rate(self, step: int) -> float:
        """Of the step that is taken at `step`, counted from 0."""
        if step < self.warmup:
            return self.rate * (step + 1) / self.warmup
        progress = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.rate * (self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress)))

    def logged_steps(self) -> list[int]:
        """Steps after which everything is measured: 0, then log-spaced up to the last; small runs have fewer."""
        spaced = np.geomspace(1, self.steps, max(2, self.points - 1)).round().astype(int)
        return sorted({0, self.steps, *map(int, spaced)})


@dataclass(frozen=True)
class Result:
    """What a finished run says.

    Attributes:
        config: the configuration, as JSON.
        identity: name of the run.
        held_out_loss, held_out_error: nats a token over the whole held-out part, weights rounded to bfloat16 as they
            are stored, computed in float32; standard error over sequences.
        train_loss: mean of the last readings of the training loss.
        tokens: seen in training.
        seconds: spent in training, all sessions together.
        device: where.
    """

    config: dict[str, Any]
    identity: str
    held_out_loss: float
    held_out_error: float
    train_loss: float
    tokens: int
    seconds: float
    device: str


class Trainer:
    """The state of a run between two steps."""

    def __init__(self, config: Config, data: Data, device: torch.device) -> None:
        self.config, self.device = config, device
        self.model = build(config.activation, config.size, config.seed).to(device)
        self.optimizer = _optimizer(self.model, config, device)
        self.sequences = Sequences(data.train, config.size.positions, config.batch, config.seed, device)
        self.measured = spread(data.held_out, config.size.positions, config.measured, device)
        self.judged = spread(data.held_out, config.size.positions, config.judged, device)
        self.step, self.seconds = 0, 0.0
        self.log: list[dict[str, Any]] = []
        self.recent: list[float] = []

    def advance(self) -> Tensor:
        """One optimizer step; returns the loss of its batch, on the device."""
        inputs, labels = self.sequences[self.step]
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.learning_rate(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            logits = self.model(input_ids=inputs, use_cache=False).logits
        loss = functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.optimizer.step()
        self.step += 1
        return loss.detach()

    def measure(self) -> None:
        """Appends every measure at this step to the log."""
        found = measures.measure(self.model, *self.measured)
        found.append(measures.Value(-1, "held_out_loss", *measures.loss(self.model, *self.judged)))
        if self.recent:
            found.append(measures.Value(-1, "train_loss", float(np.mean(self.recent)), float("nan")))
        tokens = self.step * self.config.batch * self.config.size.positions
        self.log += [{"step": self.step, "tokens": tokens, **asdict(value)} for value in found]

    def note(self, loss: float) -> None:
        """Keeps the last ten readings of the training loss."""
        self.recent = [*self.recent[-9:], loss]


def _optimizer(model: nn.Module, config: Config, device: torch.device) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": config.decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=config.rate, betas=(0.9, 0.95), eps=1e-8, fused=device.type == "cuda")


def train(config: Config, home: Home, report: Reporter = silent, device: str | None = None,
          data: Data | None = None) -> Result:
    """Trains to the end, from the last checkpoint where there is one; a finished run is returned at once.

    Args:
        config: what to train.
        home: where the corpus, checkpoints and results are kept.
        report: called after every step; `Cancelled` is passed on after a checkpoint was written.
        device: as `choose_device` takes it.
        data: token ids; None builds the corpus from its packages.
    """
    data = data or corpus_data(home, report)
    place = home.root / "training" / config.identity(data)
    where, _ = choose_device(device)
    place.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_suffix(".lock")), _deterministic(where):  # a second process waits and finds the result
        if (place / "result.json").is_file():
            return Result(**json.loads((place / "result.json").read_text(encoding="utf-8")))
        trainer = Trainer(config, data, where)
        checkpoint = Checkpoint(place / "checkpoint.safetensors")
        checkpoint.restore(trainer)
        _run(trainer, checkpoint, report)
        return _finish(trainer, data, place, checkpoint)


class _deterministic:
    """On a CPU only deterministic kernels, in float32 throughout; the old settings come back afterwards."""

    def __init__(self, device: torch.device) -> None:
        self.wanted = device.type == "cpu"

    def __enter__(self) -> None:
        self.before = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(self.wanted or self.before)

    def __exit__(self, *error: object) -> None:
        torch.use_deterministic_algorithms(self.before)


def _run(trainer: Trainer, checkpoint: Checkpoint, report: Reporter) -> None:
    """Steps, measurements and checkpoints until the last step."""
    config, started, saved = trainer.config, time.monotonic(), time.monotonic()
    before, wanted = trainer.seconds, set(trainer.config.logged_steps())
    if not trainer.log:
        trainer.measure()
    while trainer.step < config.steps:
        loss = trainer.advance()
        if trainer.step % FAST_EVERY == 0 or trainer.step == config.steps:
            trainer.note(float(loss))
        if trainer.step in wanted:
            trainer.measure()
        trainer.seconds = before + time.monotonic() - started
        told = f", loss {trainer.recent[-1]:.2f}" if trainer.recent else ""
        try:
            report(f"training {config.activation}, seed {config.seed}{told}", trainer.step, config.steps)
        except Cancelled:
            checkpoint.save(trainer)
            raise
        if time.monotonic() - saved > CHECKPOINT_SECONDS:
            checkpoint.save(trainer)
            saved = time.monotonic()


def _finish(trainer: Trainer, data: Data, place: Path, checkpoint: Checkpoint) -> Result:
    """Rounds the weights, judges them on all held-out text, writes log, weights and result, in this order."""
    for parameter in trainer.model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16).float()
    everything = spread(data.held_out, trainer.config.size.positions, None, trainer.device)
    loss, error = measures.loss(trainer.model, *everything)
    result = Result(asdict(trainer.config), place.name, loss, error, float(np.mean(trainer.recent)),
                    trainer.step * trainer.config.batch * trainer.config.size.positions, trainer.seconds,
                    _device_name(trainer.device))
    (place / "log.json").write_text(json.dumps(trainer.log) + "\n", encoding="utf-8")
    weights = {name: p.data.to(torch.bfloat16).cpu().contiguous() for name, p in trainer.model.named_parameters()}
    save_tensors(weights, place / "weights.safetensors")
    (place / "result.json").write_text(json.dumps(asdict(result), indent=1) + "\n", encoding="utf-8")
    checkpoint.path.unlink(missing_ok=True)
    return result


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type}, {torch.get_num_threads()} threads"


