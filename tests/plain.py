"""The plain way to everything the capture does cleverly: own hooks, stable sorting, float64. Nothing of it is shared.

    model = plain.model("gpt2")                       # a tiny model with a word tokenizer
    a, c = plain.activation(model, "gpt2", 0, ids)    # (T, F) and (F,), by hooks written here
    plain.members(a, c, SetRule("top"))               # (T, F) booleans
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from moyu_core.models import LoadedModel
from moyu_core.prompts import Prompt
from moyu_core.spec import SetRule

DOWN = {
    "llama": "model.layers.{}.mlp.down_proj",
    "gpt2": "transformer.h.{}.mlp.c_proj",
    "opt": "model.decoder.layers.{}.fc2",
    "bloom": "transformer.h.{}.mlp.dense_4h_to_h",
    "gpt_neox": "gpt_neox.layers.{}.mlp.dense_4h_to_h",
}
WORDS = ["<pad>", "<s>", "</s>", "<unk>", *(f"word{i}" for i in range(4, tiny.VOCAB))]


def tokenizer() -> PreTrainedTokenizerFast:
    """One token a word; `<s>` (id 1) stands first."""
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="<unk>"))
    backend.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def model(family: str, **changes: Any) -> LoadedModel:
    loaded = tiny.load(family, **changes)
    loaded.tokenizer = tokenizer()
    return loaded


def prompts(*lengths: int, seed: int = 0) -> tuple[Prompt, ...]:
    """Prompts of so many random words each, named p0, p1 ..."""
    random = np.random.default_rng(seed)
    return tuple(Prompt(f"p{i}", " ".join(random.choice(WORDS[5:], n)), "test") for i, n in enumerate(lengths))


def token_ids(prompt: Prompt) -> Tensor:
    """(1, T): sink token and words."""
    return torch.tensor([[1, *(WORDS.index(word) for word in prompt.text.split())]])


def activation(model: LoadedModel, family: str, layer: int, ids: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(T, F) float32 that enters the down projection, and its column norms (F,) float64."""
    module = dict(model.model.named_modules())[DOWN[family].format(layer)]
    seen: list[Tensor] = []
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        model.model(input_ids=ids)
    handle.remove()
    weight = module.weight if family == "gpt2" else module.weight.T  # (F, d)
    return seen[0].reshape(ids.shape[1], -1).numpy(), np.sqrt((weight.detach().numpy().astype(float) ** 2).sum(1))


def expert_rows(model: LoadedModel, layer: int, ids: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a Mixtral: (T*K, F) activations, (T*K,) experts, (T*K, F) column norms, from the router's choice on."""
    experts = model.model.model.layers[layer].mlp.experts
    seen: list[Any] = []
    handle = experts.register_forward_pre_hook(lambda _, args, kwargs: seen.append((*args, *kwargs.values())),
                                               with_kwargs=True)
    with torch.no_grad():
        model.model(input_ids=ids)
    handle.remove()
    hidden, chosen, _ = seen[0]
    rows, norms = [], []
    for token, picks in zip(hidden, chosen, strict=True):
        for expert in picks:
            gate, up = (experts.gate_up_proj[expert] @ token).detach().chunk(2)
            rows.append((torch.nn.functional.silu(gate) * up).numpy())
            norms.append(experts.down_proj[expert].detach().square().sum(0).sqrt().numpy())
    return np.stack(rows), chosen.flatten().numpy(), np.stack(norms)


def members(a: np.ndarray, c: np.ndarray, rule: SetRule, threshold: float | None = None) -> np.ndarray:
    """(T, F) booleans: who is in the active set, by sorting everything; scores are float32 as the rule says."""
    if rule.name == "positive":
        return a > 0
    score = np.abs(a) if rule.name == "magnitude" else np.abs(a) * c.astype(np.float32)
    if threshold is not None:
        return (score >= np.float32(threshold)) & (score > 0)
    chosen = np.zeros(a.shape, bool)
    first = np.argsort(-score.astype(float), axis=1, kind="stable")[:, : rule.count(a.shape[1])]
    np.put_along_axis(chosen, first, True, axis=1)
    return chosen & (score > 0)


def statistics(a: np.ndarray) -> dict[str, np.ndarray]:
    """The per-row statistics in float64, from their definitions."""
    square = a.astype(float) ** 2
    energy = square.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = square / energy[:, None]
        entropy = -np.where(share > 0, share * np.log(share), 0).sum(1)
    return {"l2_norm": np.sqrt(energy), "abs_max": np.abs(a).max(1), "zero_share": (a == 0).mean(1),
            "effective_neurons": np.where(energy > 0, np.exp(entropy), 0)}
