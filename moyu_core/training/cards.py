"""The words of the model cards around figures that `card` computed. Strings only: no model, no corpus."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from moyu_core.training.sources import PACKAGES

if TYPE_CHECKING:
    from moyu_core.training.card import Figures, Ground
    from moyu_core.training.train import Result

NAMES = {"relu": "ReLU", "gelu": "GELU", "swiglu": "SwiGLU"}
FORMULAS = {"relu": "a = max(0, W_up x)", "gelu": "a = GELU(W_up x), the exact form with erf",
            "swiglu": "a = SiLU(W_gate x) * (W_up x)"}
CLASSES = {"relu": "StarCoder2", "gelu": "StarCoder2", "swiglu": "StableLM"}
REMARKS = {"gelu": "GELU has no interval of exact zeros; the few come from arithmetic, where float32 rounds GELU of a very "
                   "negative number to 0."}
KINDS = {"wheel": "PyPI wheel", "deb": "Debian 12"}
FRONT_MATTER = "---\nlicense: apache-2.0\nlanguage: en\npipeline_tag: text-generation\n---\n"


def _prose(text: str) -> str:
    """A paragraph that is wrapped in the code as one line."""
    return " ".join(text.split())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def _quoted(text: str) -> str:
    """Text of a model as one line of code, so that nothing in it is Markdown."""
    return "`" + text.replace("\n", " / ").replace("`", "'").replace("|", "\\|") + "`"


def _perplexity(loss: float) -> str:
    return f"{math.exp(loss):.2f}"


WHY_THESE_CLASSES = _prose("""
    Why these classes, and not OPT for ReLU and GELU beside Llama for SwiGLU: those two differ in more than the FFN. OPT has learned
    positions, LayerNorm and biases in every layer, Llama rotary positions, RMSNorm and no biases, and a difference between the
    models could come from any of these. StarCoder2 (ungated FFN) and StableLM (gated FFN) can be configured to compute the same
    function around the FFN: LayerNorm with bias, rotary positions over the whole head, no other biases, the FFN behind the
    attention, output layer tied to the embedding. `tests/test_training.py` puts the same weights into both and compares the logits
    with the FFN silenced. Both are ordinary classes of transformers, so nothing here needs code of its own.""")
"""What a reader who expects the usual pair of classes has to know."""


def model_card(own: Figures, common: Ground, everyone: Sequence[Figures]) -> str:
    """The card of one model."""
    introduction = _prose(f"""
        A small English language model whose FFN is `{FORMULAS[own.activation]}`. It stands beside two others that differ from
        it in nothing but the FFN, so that what an activation function does to sparsity can be looked at with everything else
        equal. It is a specimen for looking into, not a model to get answers from: it knows little and makes things up.""")
    return "\n\n".join([
        f"{FRONT_MATTER}# Tiny {NAMES[own.activation]}", introduction, _shape(own), _recipe(own),
        _quality(own, common, everyone), _activations(own), _samples(own), data_section(common), _limits(),
    ]) + "\n"


def _shape(own: Figures) -> str:
    size, gated = own.config.size, own.activation == "swiglu"
    neurons = f"{size.width * 2 // 3} (2/3 of the ungated width: equal FFN weights)" if gated else str(size.width)
    return "\n\n".join(["## Shape", _table(["", ""], [
        ["class", f"{CLASSES[own.activation]} (transformers), a decoder without biases outside its LayerNorms"],
        ["layers, width, heads", f"{size.layers}, {size.d_model}, {size.heads}"],
        ["FFN neurons a layer", neurons],
        ["weights", f"{own.sizes.total:,}: {own.sizes.body:,} outside the embedding, of those {own.sizes.ffn:,} in FFNs"],
        ["vocabulary", f"{size.vocabulary} (byte-level BPE, trained on the training text)"],
        ["longest sequence", f"{size.positions} tokens, the sink token `<\\|endoftext\\|>` (id 0) first"],
        ["stored", "bfloat16 safetensors"],
    ]), WHY_THESE_CLASSES])


def _recipe(own: Figures) -> str:
    c = own.config
    tokens = c.steps * c.batch * c.size.positions / 1e6
    return "## Recipe\n\n" + _prose(f"""
        Seed {c.seed}; {c.steps} steps of {c.batch} sequences of {c.size.positions} tokens ({tokens:.0f} million tokens); AdamW
        (0.9, 0.95), weight decay {c.decay} on matrices; learning rate {c.rate} after {c.warmup} steps of warm-up, cosine down to
        {c.floor:.0%} of it; gradient clipped at norm {c.clip}; bfloat16 autocast over float32 weights on one GPU; no dropout.
        The three models of a seed start from the same embedding, attention and up projection and see the same sequences in
        the same order. `moyu train tiny` makes them again from the packages below; other hardware rounds differently, so
        that the third digit of a loss may differ.""")


def _quality(own: Figures, common: Ground, everyone: Sequence[Figures]) -> str:
    bits = math.log(2) * common.bytes_a_token
    rows = [[NAMES[each.activation] + (" (this model)" if each is own else ""), f"{each.loss:.3f} ± {each.error:.3f}",
             _perplexity(each.loss), f"{each.loss / bits:.3f}",
             ", ".join(_perplexity(value) for _, value in sorted(each.losses.items()))] for each in everyone]
    rows.append(["unigram frequencies", f"{common.unigram:.3f}", _perplexity(common.unigram), f"{common.unigram / bits:.3f}", ""])
    head = ["model", "loss (nats a token)", "perplexity", "bits a byte", "perplexity of seeds 0, 1, 2"]
    how = _prose(f"""
        All {len(common.data.held_out):,} held-out tokens in windows of {own.config.size.positions}, weights as stored, float32; ±
        is the standard error over windows. Held out are whole documents, but other chapters, scenes or entries of the same works
        are in the training text. This model by source, at most 64 windows each:""")
    by_source = _table(["source", "perplexity"], [[name, _perplexity(loss)] for name, loss in own.sources.items()])
    return "\n\n".join(["## Quality on held-out text", _table(head, rows), how, by_source])


ACTIVATION_ROWS = (
    ("zero_share", "share of exact zeros", "{:.3f}"),
    ("silent_share", "share of neurons that are 0 at every position", "{:.3f}"),
    ("cett_density", "density at CETT 0.2", "{:.3f}"),
    ("effective_neurons", "effective number of neurons", "{:.0f}"),
)


def _activations(own: Figures) -> str:
    how = _prose(f"{own.config.measured} held-out windows, position 0 left out. {REMARKS.get(own.activation, '')}")
    rows = [[label, *(form.format(value) for value in own.shares[key])] for key, label, form in ACTIVATION_ROWS]
    return "\n\n".join(["## Activations after training", how, _table(["layer", *_layers(own)], rows)])


def _layers(own: Figures) -> list[str]:
    return [str(layer) for layer in range(own.config.size.layers)]


def _samples(own: Figures) -> str:
    how = _prose("""
        The most likely token each time, and one sample (temperature 0.7, top 40, seed 0, not picked); ` / ` is a new line.""")
    rows = [[_quoted(prompt), _quoted(own.greedy[prompt]), _quoted(own.sampled[prompt])] for prompt in own.greedy]
    return "\n\n".join(["## Continuations", how, _table(["prompt", "greedy", "sampled"], rows)])


def data_section(common: Ground) -> str:
    """The sources with sizes and licences; the same in every card."""
    rows = []
    for p in PACKAGES:
        n = common.counts[p.name]
        rows.append([f"{p.contents} ({p.genre})", f"{p.name} {p.version}, {KINDS[p.kind]}", p.licence, p.extraction,
                     f"{n['train_bytes'] / 1e6:.2f} MB", f"{n.get('held_out_bytes', 0) / 1e3:.0f} kB"])
    size = sum(common.counts[p.name]["train_bytes"] for p in PACKAGES) / 1e6
    what = _prose(f"""
        {size:.1f} MB of training text, {len(common.data.train):,} tokens; every paragraph once; 4 % of the documents, by the hash
        of their names, held out. The text itself is not in the repository: it is fetched from these packages, whose SHA-256
        are in `moyu_core/training/sources.py`.""")
    notice = _prose("""
        Glosses: WordNet Release 3.0, Copyright 2006 by Princeton University, all rights reserved; used under the WordNet
        licence, which allows use, copying, modification and distribution for any purpose.""")
    head = ["text", "package", "licence of the text", "taken out", "training", "held out"]
    return "\n\n".join(["## Data", what, _table(head, rows), notice])


def _limits() -> str:
    limits = _prose("""
        Old books, scripture and speeches of two centuries: the text holds the views of its time, and so does the model. No
        filtering, no instruction training, no evaluation beyond what is above.""")
    figures = _prose("""
        Figures: `python -m moyu_core.training.card` recomputes them, `--check` compares. Licence of the weights: Apache-2.0.""")
    return "\n\n".join(["## Limits", limits, figures])


def overview(everyone: Sequence[Figures], common: Ground, results: Sequence[Result]) -> str:
    """data/models/README.md."""
    size = everyone[0].sizes
    introduction = _prose(f"""
        `tiny-relu`, `tiny-gelu` and `tiny-swiglu`: {size.total:,} weights each ({size.body:,} outside the embedding, {size.ffn:,}
        in FFNs), the same data, order, tokenizer, shape and schedule; they differ in the FFN only
        (`moyu_core/training/tiny_models.py` says how that was made sure). Ordinary Hugging Face folders; each has a card.""")
    zeros = [[NAMES[e.activation], *(f"{value:.3f}" for value in e.shares["zero_share"])] for e in everyone]
    along = _prose("""
        The run of the study `training` in `data/runs/demo`: table `curves`, one row a training, step, layer and measure, and table
        `trainings`, the results above with their configurations. Units and meanings are in the field metadata and in
        `data/README.md`. Errors are over sequences at fixed weights; for a statement about initialisation, where the expectation
        is over weights, seeds are the units.""")
    again = _prose("""
        `moyu train tiny` (about 37 MB of packages and two minutes for text and tokenizer; then, for each of the nine runs, four
        minutes on one data-centre GPU shared by three, or many hours on two cores), then `moyu study training --out data/runs/demo`
        and `python -m moyu_core.training.card`.""")
    return "\n\n".join([
        "# Matched tiny models", introduction,
        "## Runs", "Three seeds of full length; the weights of seed 0 are kept.", _runs(results),
        f"Unigram perplexity on the same text: {_perplexity(common.unigram)}.",
        "Share of exact zeros after training, seed 0, by layer:", _table(["model", *_layers(everyone[0])], zeros),
        "## Along training", along, "## Rebuild", again,
    ]) + "\n"


def _runs(results: Sequence[Result]) -> str:
    head = ["model", "seed", "steps", "million tokens", "training loss", "held-out loss", "held-out perplexity", "weights kept"]
    return _table(head, [[
        NAMES[r.config["activation"]], str(r.config["seed"]), str(r.config["steps"]), f"{r.tokens / 1e6:.0f}",
        f"{r.train_loss:.3f}", f"{r.held_out_loss:.3f}", _perplexity(r.held_out_loss), "yes" if r.config["seed"] == 0 else "no",
    ] for r in results])
