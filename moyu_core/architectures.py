"""Where the FFN's down projection is, by architecture: one row a family, keyed by `model_type` of the configuration.

The activation of this project is the tensor that enters the down projection, so a row says where that projection is,
how its weight lies, and which configuration keys hold the width and the activation function. No torch in here: a page
may ask. Each row is tried in tests on a tiny model, and again on the real weights whenever a model is loaded
(`identity_check.check_identity`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from moyu_core.errors import ModelError

NORM_AFTER = "a norm follows the FFN, so contributions and promoted tokens are those before that norm"


@dataclass(frozen=True)
class Architecture:
    """One family of models. The defaults are Llama's.

    Attributes:
        model_type: `model_type` of config.json.
        family: the name that people use.
        down: module path of the down projection, `{}` = layer. In mixture models: that of their dense layers.
        gated: whether the activation is act(gate) * up (SwiGLU, GeGLU) rather than act(up).
        layout: `linear` (weight (d, F)), `conv1d` (weight (F, d), GPT-2) or `experts` (3-D parameters, no Linear).
        experts: module path of the experts in `experts` rows.
        activation: configuration key of the activation function; empty where the code fixes it.
        activation_default: the function where the key is missing or fixed.
        width: configuration key of F; where it is empty, missing or null, F = 4 d.
        text_config: key of the language model's part of a multimodal configuration.
        norm_after: whether a norm stands between the FFN and the residual stream.
        note: what else a reader of the numbers should know.
    """

    model_type: str
    family: str
    down: str = "model.layers.{}.mlp.down_proj"
    gated: bool = True
    layout: str = "linear"
    experts: str = ""
    activation: str = "hidden_act"
    activation_default: str = "silu"
    width: str = "intermediate_size"
    text_config: str = ""
    norm_after: bool = False
    note: str = ""

    @property
    def remark(self) -> str:
        """Note and consequence of a post-FFN norm in one phrase; empty where there is nothing to say."""
        return "; ".join(part for part in (NORM_AFTER if self.norm_after else "", self.note) if part)


def _neox_like(model_type: str, family: str, down: str, default: str, **changes: Any) -> Architecture:
    """A row for the ungated families."""
    return Architecture(model_type, family, down, gated=False, activation_default=default, **changes)


def _mixture(model_type: str, family: str, **changes: Any) -> Architecture:
    """A row for the gated mixtures of experts."""
    return Architecture(model_type, family, layout="experts", experts="model.layers.{}.mlp.experts", **changes)


_GEMMA: dict[str, Any] = {
    "activation": "hidden_activation", "activation_default": "gelu_pytorch_tanh", "norm_after": True,
}

ROWS = (
    Architecture("llama", "Llama"),
    Architecture("mistral", "Mistral"),
    Architecture("qwen2", "Qwen2"),
    Architecture("qwen3", "Qwen3"),
    Architecture("gemma", "Gemma", **{**_GEMMA, "norm_after": False}),
    Architecture("gemma2", "Gemma 2", **_GEMMA),
    Architecture("gemma3_text", "Gemma 3", **_GEMMA),
    Architecture("gemma3", "Gemma 3 (multimodal)", "model.language_model.layers.{}.mlp.down_proj",
                 text_config="text_config", note="only the language model is captured", **_GEMMA),
    _neox_like("phi", "Phi", "model.layers.{}.mlp.fc2", "gelu_new"),
    Architecture("phi3", "Phi-3"),
    _neox_like("gpt2", "GPT-2", "transformer.h.{}.mlp.c_proj", "gelu_new", layout="conv1d", width="n_inner",
               activation="activation_function"),
    _neox_like("gpt_neox", "GPT-NeoX, Pythia", "gpt_neox.layers.{}.mlp.dense_4h_to_h", "gelu"),
    _neox_like("gptj", "GPT-J", "transformer.h.{}.mlp.fc_out", "gelu_new", width="n_inner",
               activation="activation_function"),
    _neox_like("opt", "OPT", "model.decoder.layers.{}.fc2", "relu", width="ffn_dim",
               activation="activation_function", note="drops the batch axis before its FFN"),
    _neox_like("falcon", "Falcon", "transformer.h.{}.mlp.dense_4h_to_h", "gelu", width="ffn_hidden_size",
               activation="activation"),
    _neox_like("bloom", "BLOOM", "transformer.h.{}.mlp.dense_4h_to_h", "gelu_pytorch_tanh", width="", activation="",
               note="its FFN module adds the residual itself"),
    _neox_like("mpt", "MPT", "transformer.blocks.{}.ffn.down_proj", "gelu", width="", activation="",
               note="its FFN module adds the residual itself; expansion_ratio is ignored by the code, F = 4 d"),
    _neox_like("starcoder2", "StarCoder2", "model.layers.{}.mlp.c_proj", "gelu_pytorch_tanh"),
    Architecture("olmo", "OLMo"),
    Architecture("olmo2", "OLMo 2", norm_after=True),
    Architecture("olmo3", "OLMo 3", norm_after=True),
    Architecture("granite", "Granite"),
    Architecture("cohere", "Cohere"),
    Architecture("cohere2", "Cohere 2"),
    Architecture("stablelm", "StableLM"),
    _neox_like("nemotron", "Nemotron", "model.layers.{}.mlp.down_proj", "relu2"),
    Architecture("smollm3", "SmolLM3"),
    _neox_like("gpt_bigcode", "GPT-BigCode, StarCoder", "transformer.h.{}.mlp.c_proj", "gelu_pytorch_tanh",
               width="n_inner", activation="activation_function"),
    _mixture("mixtral", "Mixtral", note="router weights sum to 1"),
    _mixture("qwen3_moe", "Qwen3-MoE", width="moe_intermediate_size",
             note="router weights sum to less than 1 unless norm_topk_prob; some layers may be dense"),
    _mixture("olmoe", "OLMoE", note="router weights sum to less than 1 unless norm_topk_prob"),
    _mixture("gpt_oss", "gpt-oss", note="clamped gate of its own; each expert's down projection has a bias"),
)

TABLE = {row.model_type: row for row in ROWS}

_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_WIDTH_OF_STREAM = ("hidden_size", "n_embd", "d_model")
_POSITIONS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")
_EXPERTS = ("num_local_experts", "num_experts")
POSITIONS_UNKNOWN = 2048
"""Longest sequence where the configuration names none (ALiBi models have no hard limit)."""


@dataclass(frozen=True)
class Shape:
    """What a configuration says without loading anything.

    Attributes:
        layers: number of decoder layers.
        n_neurons: F of a layer; of one expert in mixture models.
        d_model: width of the residual stream.
        max_positions: longest sequence in tokens.
        activation: name of the activation function, as transformers calls it.
        experts: experts a layer, 0 = dense.
        slots: experts a token is routed to, 1 = dense.
    """

    layers: int
    n_neurons: int
    d_model: int
    max_positions: int
    activation: str
    experts: int = 0
    slots: int = 1


def find(model_type: str | None) -> Architecture:
    """The row of a `model_type`.

    Raises:
        ModelError: there is none; the message names the known ones.
    """
    row = TABLE.get(model_type or "")
    if row is None:
        raise ModelError(f"Architecture {model_type!r} is not in the table (moyu_core/architectures.py); known are "
                         f"{', '.join(sorted(TABLE))}.")
    return row


def shape(config: Mapping[str, Any]) -> Shape:
    """Sizes of a model from its configuration (config.json as a dictionary, or `config.to_dict()`).

    Raises:
        ModelError: the architecture is unknown, or the configuration lacks a size.
    """
    row = find(config.get("model_type"))
    part = config.get(row.text_config) or {} if row.text_config else config
    d_model = _first(part, _WIDTH_OF_STREAM)
    mixture = row.layout == "experts"
    return Shape(
        layers=_first(part, _LAYERS),
        n_neurons=int(part.get(row.width) or 4 * d_model),
        d_model=d_model,
        max_positions=_first(part, _POSITIONS, POSITIONS_UNKNOWN),
        activation=str(part.get(row.activation) or row.activation_default),
        experts=_first(part, _EXPERTS) if mixture else 0,
        slots=int(part.get("num_experts_per_tok") or 2) if mixture else 1,
    )


def _first(config: Mapping[str, Any], keys: tuple[str, ...], default: int | None = None) -> int:
    """The value of the first key that is there and not null."""
    for key in keys:
        if config.get(key) is not None:
            return int(config[key])
    if default is None:
        raise ModelError(f"The configuration of {config.get('model_type')!r} has none of {', '.join(keys)}.")
    return default
