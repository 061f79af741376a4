"""Three language models that differ in their FFN and in nothing else.

`relu` and `gelu` are StarCoder2-class models, `swiglu` is a StableLM-class model: of the families that transformers has, these
two share everything around the FFN (LayerNorm with bias, rotary positions over the whole head, attention without biases,
sequential residual, tied embedding), one with an ungated FFN of free activation, the other gated. OPT against Llama would differ
in positions, norm and biases as well. Without biases, with `partial_rotary_factor` 1 and equal epsilons the two classes compute
the same function around the FFN; a test puts the same weights into both and compares logits.

The gated width is 2/3 of the ungated one, so FFN parameters are equal. Every weight is drawn from a generator seeded by its
role, so the models of one seed start with the same attention, embedding and up projection.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from moyu_core.architectures import TABLE
from moyu_core.errors import InputError
from moyu_core.schema.training import ACTIVATIONS
from moyu_core.training.tokenizer import SINK_ID, VOCABULARY

EMBEDDING_STD = 0.02
WEIGHT_STD = 0.04
"""Standard deviations at initialisation; projections back into the residual stream are divided by sqrt(2 * layers)."""


@dataclass(frozen=True)
class Size:
    """The shape that the three share.

    Attributes:
        layers, d_model, heads: of the transformer.
        width: F of the ungated FFN, a multiple of 3; the gated one has 2/3 of it.
        positions: longest sequence, sink token included.
        vocabulary: tokens.
    """

    layers: int = 6
    d_model: int = 224
    heads: int = 7
    width: int = 864
    positions: int = 512
    vocabulary: int = VOCABULARY

    def __post_init__(self) -> None:
        if self.width % 3 or self.d_model % self.heads or (self.d_model // self.heads) % 2:
            raise InputError(f"The width ({self.width}) must be a multiple of 3 and d_model ({self.d_model}) an even "
                             f"multiple of the {self.heads} heads.")


def configuration(activation: str, size: Size) -> Any:
    """The transformers configuration of one of `ACTIVATIONS`."""
    from transformers import StableLmConfig, Starcoder2Config

    if activation not in ACTIVATIONS:
        raise InputError(f"Tiny models are trained with {', '.join(ACTIVATIONS)}, not {activation!r}.")
    common: dict[str, Any] = {
        "vocab_size": size.vocabulary, "hidden_size": size.d_model, "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads, "num_key_value_heads": size.heads, "max_position_embeddings": size.positions,
        "tie_word_embeddings": True, "bos_token_id": SINK_ID, "eos_token_id": SINK_ID, "attention_dropout": 0.0,
        "initializer_range": WEIGHT_STD,
    }
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    if activation == "swiglu":
        return StableLmConfig(intermediate_size=size.width * 2 // 3, hidden_act="silu", layer_norm_eps=1e-5,
                              use_qkv_bias=False, hidden_dropout=0.0, use_parallel_residual=False, qk_layernorm=False,
                              rope_parameters={**rope, "partial_rotary_factor": 1.0}, **common)
    return Starcoder2Config(intermediate_size=size.width, hidden_act=activation, norm_epsilon=1e-5, use_bias=False,
                            residual_dropout=0.0, embedding_dropout=0.0, sliding_window=None, rope_parameters=rope, **common)


def build(activation: str, size: Size, seed: int) -> Any:
    """An initialised model in float32 on the CPU; seed, activation and size decide every weight."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(configuration(activation, size), dtype=torch.float32)
    for name, parameter in model.named_parameters():
        _initialise(_role(name), parameter.data, size, seed)
    return model


_ROLES = {"c_fc": "up", "up_proj": "up", "gate_proj": "gate", "c_proj": "down", "down_proj": "down"}


def _role(name: str) -> str:
    """The name of a weight without what only its class calls so."""
    return ".".join(_ROLES.get(part, part) for part in name.split("."))


def _initialise(role: str, weight: Tensor, size: Size, seed: int) -> None:
    """Normal matrices, unit norm scales, zero biases."""
    if weight.ndim == 1:
        weight.fill_(0.0 if role.endswith("bias") else 1.0)
        return
    digest = hashlib.sha256(f"{seed} {role}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    std = EMBEDDING_STD if "embed_tokens" in role else WEIGHT_STD
    if role.endswith(("mlp.down.weight", "o_proj.weight")):
        std /= math.sqrt(2 * size.layers)
    weight.copy_(std * torch.randn(weight.shape, generator=generator))


def down_projections(model: Any) -> list[nn.Module]:
    """The down projection of every layer, by the architecture table."""
    row = TABLE[model.config.model_type]
    return [model.get_submodule(row.down.format(layer)) for layer in range(model.config.num_hidden_layers)]


@dataclass(frozen=True)
class Parameters:
    """Numbers of weights.

    Attributes:
        total: all, the tied embedding once.
        embedding: of the embedding, which is the output layer too.
        ffn: of all FFNs.
    """

    total: int
    embedding: int
    ffn: int

    @property
    def body(self) -> int:
        """Outside the embedding."""
        return self.total - self.embedding


def parameters(model: Any) -> Parameters:
    """Counts the weights of a model."""
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return Parameters(sum(sizes.values()), sum(n for name, n in sizes.items() if "embed_tokens" in name),
                      sum(n for name, n in sizes.items() if ".mlp." in name))
