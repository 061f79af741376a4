"""A GGUF file -> float32 safetensors with its tokenizer: `python -m moyu_core.conversion FILE FOLDER SINK_TOKEN_ID`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from moyu_core import model_files
from moyu_core.errors import ModelError
from moyu_core.models import from_module


def convert(gguf: Path, target: Path, sink_token_id: int) -> None:
    """Writes a GGUF file as float32 safetensors with its tokenizer, loads that and writes the check's error beside it.

    Raises:
        ModelError: the packages that read GGUF files are missing, or what was written fails its check.
    """
    try:
        import accelerate  # noqa: F401
        import gguf as _  # noqa: F401
    except ImportError as error:
        raise ModelError(f"reading GGUF files needs `pip install gguf accelerate`: {error}") from None
    from transformers import GgufConfig

    where: dict[str, Any] = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**where)
    _split_digits(tokenizer, gguf)
    tokenizer.save_pretrained(target)
    # Without dequantize=True transformers takes the model for a quantised one and refuses to save it.
    model = AutoModelForCausalLM.from_pretrained(
        **where, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True))
    model.config._name_or_path = ""
    model.save_pretrained(target)
    del model
    written = model_files.read_weights(target, model_files.checked_config(target, target.name), torch.float32)
    checked = from_module(written, name=target.name, sink_token_id=sink_token_id, fingerprint="being written")
    (target / "check_error").write_text(repr(checked.check_error))


def _split_digits(tokenizer: Any, gguf: Path) -> None:
    """Restores the pre-tokenizer that GGUF calls `smollm`: every numeral on its own, then byte level.

    transformers reads the file as plain byte level, which differs for numerals such as a superscript after a space.
    """
    from gguf import GGUFReader
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence

    field = GGUFReader(gguf).fields.get("tokenizer.ggml.pre")
    if field is not None and field.contents() == "smollm":
        steps: Any = [Digits(individual_digits=True), ByteLevel(add_prefix_space=False)]
        tokenizer.backend_tokenizer.pre_tokenizer = Sequence(steps)


if __name__ == "__main__":  # moyu_core.fetch runs this in a process of its own
    convert(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
