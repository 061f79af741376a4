"""Tokens: text to ids, and each id's own text for display."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from moyu_core.errors import InputError, ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def clean(text: str) -> str:
    """Text with lone surrogates replaced by U+FFFD: they have no UTF-8 form, so no tokenizer takes them."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def encode(model_or_tokenizer: Any, text: str) -> list[int]:
    """The ids of a text, without any special token added; the capture puts the sink token in front.

    Lone surrogates in the text become U+FFFD first. Marks that are written out in the text (`<|im_start|>`) become the
    tokens they name, as chat prompts need.

    Args:
        model_or_tokenizer: a `LoadedModel` or a transformers tokenizer.
        text: any text; the empty text has no tokens.
    """
    tokenizer = getattr(model_or_tokenizer, "tokenizer", model_or_tokenizer)
    if tokenizer is None:
        raise ModelError("This model was given without a tokenizer, so it takes token ids only.")
    return list(tokenizer(clean(text), add_special_tokens=False, verbose=False)["input_ids"])


def token_texts(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """Each token's own text.

    Pieces of byte-level vocabularies are turned back into bytes; bytes that are no text on their own (a part of an
    emoji) appear as \\xNN. In sentencepiece vocabularies the mark U+2581 is a space and `<0x0A>` the byte it names.
    Special tokens are shown as they are written. Nothing is escaped: a newline is a newline.

    Raises:
        InputError: an id is not in the vocabulary.
    """
    decode = _decoder(_scheme(tokenizer))
    added = {int(key): str(value) for key, value in getattr(tokenizer, "added_tokens_decoder", {}).items()}
    pieces = tokenizer.convert_ids_to_tokens([int(i) for i in ids])
    texts = []
    for token_id, piece in zip(ids, pieces, strict=True):
        if piece is None:
            raise InputError(f"Token id {token_id} is not in the vocabulary of {len(tokenizer)} tokens.")
        texts.append(added[int(token_id)] if int(token_id) in added else decode(piece))
    return texts


def _scheme(tokenizer: Any) -> str:
    """`bytes` (byte-level BPE), `pieces` (sentencepiece) or `plain`, from the tokenizer's own decoder."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or backend.decoder is None:
        return "pieces" if hasattr(tokenizer, "sp_model") else "plain"
    return scheme_of(json.loads(backend.decoder.__getstate__()))


def scheme_of(decoder: dict[str, Any]) -> str:
    """The scheme from the `decoder` part of a tokenizer.json."""
    text = json.dumps(decoder, ensure_ascii=False)
    if '"ByteLevel"' in text:
        return "bytes"
    return "pieces" if "▁" in text or '"Metaspace"' in text or '"ByteFallback"' in text else "plain"


def _decoder(scheme: str) -> Any:
    """The function from a piece to its text, for one scheme."""
    return {"bytes": _from_bytes, "pieces": _from_piece, "plain": str}[scheme]


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: printable Latin-1 stands for itself, the other bytes for U+0100 and on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _from_bytes(piece: str) -> str:
    alphabet = _byte_of_character()
    if any(character not in alphabet for character in piece):
        return piece  # an added token that the tokenizer does not list
    return bytes(alphabet[character] for character in piece).decode("utf-8", "backslashreplace")


def _from_piece(piece: str) -> str:
    byte = _BYTE_TOKEN.fullmatch(piece)
    if byte:
        return bytes([int(byte[1], 16)]).decode("utf-8", "backslashreplace")
    return piece.replace("▁", " ")


def sink_token(tokenizer: Any, name: str, override: int | None = None) -> int:
    """The id that stands first in every sequence: the override, else BOS, else the end-of-text token.

    Raises:
        ModelError: the tokenizer has neither; the message asks for an id.
    """
    for candidate in (override, getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None)):
        if candidate is not None:
            return int(candidate)
    raise ModelError(f"The tokenizer of {name} has neither a BOS nor an end-of-text token; give sink_token_id, the id "
                     "of the token that shall stand first in every sequence.")


def written_sink(folder: Path) -> int | None:
    """What `sink_token` will say for the tokenizer of a folder, read from its files without transformers.

    None where the files leave it to the tokenizer's class.
    """
    files = folder / "tokenizer_config.json", folder / "tokenizer.json"
    if not all(file.is_file() for file in files):
        return None
    settings = json.loads(files[0].read_text(encoding="utf-8"))
    for key in ("bos_token", "eos_token"):
        if key not in settings:
            return None
        if settings[key] is not None:
            token = settings[key]["content"] if isinstance(settings[key], dict) else settings[key]
            return _light_tokenizer(str(files[1]), files[1].stat().st_mtime_ns).token_to_id(token)
    return None


def count_tokens(folder: Path | str, text: str) -> int:
    """How many tokens a text has, sink token not counted; fast, for a live counter (no torch, no transformers).

    Raises:
        ModelError: the folder has no tokenizer.json.
    """
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise ModelError(f"{Path(folder).name} has no tokenizer.json, so tokens cannot be counted without loading it.")
    return len(_light_tokenizer(str(path), path.stat().st_mtime_ns).encode(clean(text), add_special_tokens=False).ids)


def shown_tokens(folder: Path | str, text: str) -> list[tuple[int, str]]:
    """Id and own text of each token, sink token left out; as `encode` and `token_texts`, without transformers.

    Raises:
        ModelError: the folder has no tokenizer.json.
    """
    count_tokens(folder, "")  # says so where there is none
    path = Path(folder) / "tokenizer.json"
    tokenizer = _light_tokenizer(str(path), path.stat().st_mtime_ns)
    decode = _decoder(scheme_of(json.loads(tokenizer.to_str()).get("decoder") or {}))
    added = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    found = tokenizer.encode(clean(text), add_special_tokens=False)
    return [(number, added.get(number) or decode(piece)) for number, piece in zip(found.ids, found.tokens, strict=True)]


def token_text(folder: Path | str, token_id: int | None) -> str:
    """How a single id is written, for instance that of the sink token; empty where it is not known."""
    path = Path(folder) / "tokenizer.json"
    if token_id is None or not path.is_file():
        return ""
    return _light_tokenizer(str(path), path.stat().st_mtime_ns).id_to_token(token_id) or ""


@lru_cache(maxsize=4)
def _light_tokenizer(path: str, mtime_ns: int) -> Any:
    """The tokenizer of a file; a changed file is read again."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(path)
