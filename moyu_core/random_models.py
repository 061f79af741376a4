"""Small models of every family of the table: random weights from a configuration, seeded, built offline in milliseconds.

    module = build("gpt2")                    # a transformers model: 2 layers, d 32, F 64, random biases
    model = from_module(build("qwen3_moe"))   # the same as a checked `LoadedModel`

They say whether something can be done with an architecture, and nothing about how well.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

LAYERS, D, F, HEADS, VOCAB = 2, 32, 64, 4, 96
MAX_PARAMETERS = 120_000
"""A misspelt size key silently gives a full-sized model; `build` refuses it."""

_LLAMA: dict[str, Any] = {
    "num_hidden_layers": LAYERS, "hidden_size": D, "intermediate_size": F, "num_attention_heads": HEADS,
    "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "attention_bias": True,
}
_GPT2: dict[str, Any] = {
    "n_layer": LAYERS, "n_embd": D, "n_inner": F, "n_head": HEADS, "n_positions": 64, "vocab_size": VOCAB,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}
_GEMMA: dict[str, Any] = {**_LLAMA, "head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
_MOE: dict[str, Any] = {**_LLAMA, "num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2,
                        "moe_intermediate_size": F, "head_dim": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "phi", "phi3", "starcoder2", "olmo", "olmo2", "olmo3", "granite",
                     "cohere", "cohere2", "stablelm", "nemotron", "smollm3"), _LLAMA),
    "qwen3": {**_LLAMA, "head_dim": 8},
    "gemma": {key: value for key, value in _GEMMA.items() if key != "sliding_window"},  # the first Gemma has none
    **dict.fromkeys(("gemma2", "gemma3_text"), _GEMMA),
    "gemma3": {
        "text_config": {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"]},
        "vision_config": {"hidden_size": D, "intermediate_size": F, "num_hidden_layers": 1, "image_size": 28,
                          "num_attention_heads": HEADS, "patch_size": 14},
        "mm_tokens_per_image": 4, "image_token_index": VOCAB - 1, "boi_token_index": VOCAB - 2,
        "eoi_token_index": VOCAB - 3,
    },
    "gpt2": _GPT2,
    "gptj": {**_GPT2, "rotary_dim": 4},
    "gpt_bigcode": _GPT2,
    "gpt_neox": _LLAMA,
    "opt": {"num_hidden_layers": LAYERS, "hidden_size": D, "ffn_dim": F, "num_attention_heads": HEADS,
            "vocab_size": VOCAB, "max_position_embeddings": 64, "word_embed_proj_dim": D},
    "falcon": {**_LLAMA, "ffn_hidden_size": F, "bias": True},
    "bloom": {"n_layer": LAYERS, "hidden_size": D, "n_head": HEADS, "vocab_size": VOCAB},
    "mpt": {"n_layers": LAYERS, "d_model": D, "n_heads": HEADS, "vocab_size": VOCAB, "max_seq_len": 64},
    "mixtral": _MOE,
    "qwen3_moe": {**_MOE, "mlp_only_layers": [1]},
    "olmoe": _MOE,
    "gpt_oss": _MOE,
}
"""Every row of the table. The second layer of `qwen3_moe` is dense, as that family allows."""


def build(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """A tiny model with random weights and biases, in evaluation mode.

    Args:
        model_type: a key of CONFIGS.
        seed: of the weights.
        **changes: configuration keys that differ, for instance `num_hidden_layers=3`.
    """
    config = AutoConfig.for_model(model_type, **{**CONFIGS[model_type], **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower() and "ln_" not in name:
                parameter.normal_(0, 0.3 if parameter.dim() == 1 else 0.1)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count < MAX_PARAMETERS, f"{model_type} has {count} parameters: a size key is misspelt"
    return model.eval()
