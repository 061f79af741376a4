"""Text to ids, and back to what each token shows: byte-level and sentencepiece vocabularies, awkward characters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from moyu_core import registry
from moyu_core.errors import InputError, ModelError
from moyu_core.home import Home
from moyu_core.models import from_module, load_model
from moyu_core.tokens import clean, count_tokens, encode, sink_token, token_texts, written_sink

AWKWARD = [
    "Hello, wörld!", "  two spaces\n\nnew\tline\r\n", "👩‍🚀 and 😀", "مرحبا بالعالم, שלום", "\x00\x01\x1b[31m",
    "\u202ertl\u200b", "中文字符", "e\u0301 vs é", "", " ", "a\\x41", "½ ²",
]


def byte_level(**special: Any) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, trained on a line, that puts its BOS in front unless told not to."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    marks = ["<|start|>", "<|mark|>"]
    tokenizer.train_from_iterator(["hello world the cat sat"] * 3, BpeTrainer(
        vocab_size=300, special_tokens=marks, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.post_processor = processors.TemplateProcessing("<|start|> $A", special_tokens=[("<|start|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<|mark|>"], **special)


def sentencepiece() -> PreTrainedTokenizerFast:
    """A sentencepiece-like tokenizer with byte fallback, as Llama 2 and Gemma have."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"helowrdca"]
    tokenizer = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, [], unk_token="<unk>", byte_fallback=True,
                              fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def joined_bytes(texts: list[str]) -> bytes:
    """What token texts stand for: \\xNN undone (the texts under test hold no written-out \\xNN of their own)."""
    return b"".join(text.encode("utf-8").decode("unicode_escape").encode("latin-1") if "\\x" in text and text.isascii()
                    else text.encode("utf-8") for text in texts)


@pytest.mark.parametrize("text", AWKWARD)
def test_byte_level_round_trip(text: str) -> None:
    tokenizer = byte_level()
    ids = encode(tokenizer, text)
    assert tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
    assert all(i > 1 for i in ids), "no special token slipped in"
    if "\\" not in text:
        assert joined_bytes(token_texts(tokenizer, ids)) == text.encode("utf-8")


@pytest.mark.parametrize("text", AWKWARD)
def test_sentencepiece_shows_spaces_and_bytes(text: str) -> None:
    tokenizer = sentencepiece()
    ids = encode(tokenizer, text)
    assert "▁" not in "".join(token_texts(tokenizer, ids))
    if "\\" not in text:
        assert joined_bytes(token_texts(tokenizer, ids)) == text.encode("utf-8")


def test_a_split_emoji_shows_its_bytes() -> None:
    assert token_texts(byte_level(), encode(byte_level(), "😀")) == ["\\xf0", "\\x9f", "\\x98", "\\x80"]
    assert token_texts(sentencepiece(), encode(sentencepiece(), "é\n")) == ["\\xc3", "\\xa9", "\n"]


def test_words_keep_their_leading_space() -> None:
    tokenizer = byte_level()
    assert token_texts(tokenizer, encode(tokenizer, "hello world")) == ["hello", " world"]
    assert token_texts(sentencepiece(), encode(sentencepiece(), "a d")) == ["a", " ", "d"]


def test_special_tokens_are_shown_as_written() -> None:
    tokenizer = byte_level()
    assert encode(tokenizer, "<|mark|>hello") == [1, *encode(tokenizer, "hello")]
    assert token_texts(tokenizer, [0, 1, *encode(tokenizer, "hello")]) == ["<|start|>", "<|mark|>", "hello"]
    assert token_texts(sentencepiece(), [1, 2]) == ["<s>", "</s>"]
    tokenizer.add_tokens(["café"])
    assert token_texts(tokenizer, encode(tokenizer, "café")) == ["café"], "added tokens are text, not bytes"


def test_every_byte_has_a_text() -> None:
    """All 256 one-byte tokens: ASCII as itself, the rest as \\xNN."""
    tokenizer = byte_level()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    texts = token_texts(tokenizer, [tokenizer.get_vocab()[character] for character in alphabet])
    assert sorted(texts) == sorted(chr(b) if b < 128 else f"\\x{b:02x}" for b in range(256))


def test_id_outside_the_vocabulary() -> None:
    with pytest.raises(InputError, match="Token id 99999 is not in the vocabulary"):
        token_texts(byte_level(), [99999])


def test_lone_surrogates_become_replacement_characters() -> None:
    assert clean("a\ud83db") == "a\ufffdb"
    assert clean("\udc00") == "\ufffd"
    assert clean("\ud83d\ude00 ok") == "😀 ok", "a pair is one character"
    tokenizer = byte_level()
    assert encode(tokenizer, "hello\ud83d") == encode(tokenizer, "hello\ufffd")


def test_encode_takes_a_loaded_model() -> None:
    model = from_module(tiny.build("llama"), byte_level())
    assert encode(model, "hello") == encode(byte_level(), "hello")
    with pytest.raises(ModelError, match="takes token ids only"):
        encode(tiny.load("llama"), "hello")


def test_sink_token() -> None:
    """Override before BOS before end of text."""
    both = byte_level(bos_token="<|start|>", eos_token="<|mark|>")
    assert [sink_token(both, "m", 7), sink_token(both, "m")] == [7, 0]
    assert sink_token(both, "m", 0) == 0
    assert sink_token(byte_level(eos_token="<|mark|>"), "m") == 1
    with pytest.raises(ModelError, match=r"tokenizer of m has neither .* give sink_token_id"):
        sink_token(byte_level(), "m")


@pytest.mark.parametrize("special", [{"bos_token": "<|start|>", "eos_token": "<|mark|>"}, {"bos_token": "<|mark|>"}])
def test_written_sink_agrees_with_the_tokenizer(tmp_path: Path, special: dict[str, str]) -> None:
    byte_level(**special).save_pretrained(tmp_path)
    assert written_sink(tmp_path) == sink_token(AutoTokenizer.from_pretrained(tmp_path), "m")


def test_written_sink_without_bos_is_the_end_of_text(tmp_path: Path) -> None:
    byte_level(eos_token="<|mark|>").save_pretrained(tmp_path)
    assert written_sink(tmp_path) is None, "the class might have a BOS of its own"
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "bos_token": None}))
    assert written_sink(tmp_path) == 1
    assert sink_token(AutoTokenizer.from_pretrained(tmp_path), "m") == 1
    (tmp_path / "tokenizer.json").unlink()
    assert written_sink(tmp_path) is None


def test_counting_agrees_with_encoding(tmp_path: Path) -> None:
    tokenizer = byte_level(bos_token="<|start|>")
    tokenizer.save_pretrained(tmp_path)
    for text in [*AWKWARD, "hello\ud83d", "<|mark|>x"]:
        assert count_tokens(tmp_path, text) == len(encode(tokenizer, text)), text


def test_counting_notices_another_tokenizer(tmp_path: Path) -> None:
    byte_level().save_pretrained(tmp_path)
    assert count_tokens(tmp_path, "hello") == 1
    sentencepiece().save_pretrained(tmp_path)
    assert count_tokens(tmp_path, "hello") == 5


def test_counting_without_a_tokenizer_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json"):
        count_tokens(tmp_path, "x")


@pytest.mark.model
def test_default_tokenizer() -> None:
    """Adds nothing, splits every numeral, comes back to the text, and is counted alike."""
    home = Home.default()
    if registry.on_disk("default", home) is None:
        pytest.skip("the default model is not fetched (moyu fetch default)")
    model = load_model("default", home, device="cpu")
    folder = home.models / "smollm2-135m-instruct"
    for text in AWKWARD:
        ids = encode(model, text)
        assert model.tokenizer.decode(ids, clean_up_tokenization_spaces=False) == text
        assert model.tokenizer(text)["input_ids"] == ids, "no special token is added by default either"
        assert count_tokens(folder, text) == len(ids)
    assert token_texts(model.tokenizer, encode(model, "\n 12²")) == ["\n ", "1", "2", "²"]
    assert token_texts(model.tokenizer, [0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert written_sink(folder) == 1, "BOS is a chat mark, which is why the registry overrides it"
    assert model.sink_token_id == 0
