"""What a dynamic-activation method is: what it looks at, when, what it costs, and which neurons it keeps.

Four steps. `fit` learns a part from calibration text (methods that need none have none). `prepare` binds the method to a
model and its part. `begin` opens one prompt. `see` and `choose` take a layer's rows: what was in the prompt, and which
neurons the tokens at hand should keep. Nothing of one prompt is reachable from the `Choice` of another.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from moyu_core.errors import InputError
from moyu_core.methods.selection import top_mask
from moyu_core.progress import Reporter, silent
from moyu_core.spec import SetRule

if TYPE_CHECKING:
    from moyu_core.methods.parts import Part
    from moyu_core.models import LoadedModel
    from moyu_core.token_sequences import TokenSequence

DENSE, MASKED = "dense", "masked"
"""What happens to the prompt: all its neurons run, or the method's choice only."""


@dataclass(eq=False)
class Rows:
    """What one layer offers for N tokens of one sequence, in order. Methods take what they may look at and nothing else.

    Attributes:
        layer: decoder layer.
        a: (N, F) float32 activations. In a mixture layer F counts the neurons of all experts side by side; those that
            were not routed are 0 and the others carry their router weight, so that the sum of contributions is the output.
        norms: (F,) column norms c.
        tokens: (N,) token ids.
        inputs: hidden states by name (inputs.INPUTS), (N, d) each; those that were asked for.
        gate: (N, F) act(g) before it is multiplied by u; None in ungated layers or where it was not asked for.
        routed: (N, F) bool, the neurons of the routed experts; None in dense layers.
    """

    layer: int
    a: Tensor
    norms: Tensor
    tokens: Tensor
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    gate: Tensor | None = None
    routed: Tensor | None = None

    @cached_property
    def contribution(self) -> Tensor:
        """(N, F) |a| * c, the norm of what each neuron adds."""
        return self.a.abs() * self.norms

    def part(self, where: slice) -> Rows:
        """The rows of a range of tokens."""
        inputs = {name: value[where] for name, value in self.inputs.items()}
        gate, routed = (None if value is None else value[where] for value in (self.gate, self.routed))
        return Rows(self.layer, self.a[where], self.norms, self.tokens[where], inputs, gate, routed)


@dataclass(frozen=True)
class Shape:
    """Sizes of one FFN, as far as costs go.

    Attributes:
        d: width of the residual stream.
        n_neurons: F.
        gated: two matrices before the activation, or one.
        bytes_per_weight: 2 for 16-bit weights.
        experts: of a mixture, whose neurons n_neurons counts all together; 0 in a dense FFN.
    """

    d: int
    n_neurons: int
    gated: bool
    bytes_per_weight: int = 2
    experts: int = 0

    @property
    def matrices(self) -> int:
        """3 with a gate, 2 without; each has d * F weights."""
        return 3 if self.gated else 2


@dataclass(frozen=True)
class Cost:
    """What one decoded token costs in one layer. A decoded token reads each weight once, so bytes follow multiply-adds.

    Attributes:
        choosing_macs: multiply-adds of the router or predictor.
        ffn_macs: multiply-adds of the FFN that is left.
        choosing_bytes, ffn_bytes: the same as weights and tables that are read.
    """

    choosing_macs: float
    ffn_macs: float
    choosing_bytes: float
    ffn_bytes: float

    @staticmethod
    def of(shape: Shape, ffn_matrices: float, choosing_macs: float = 0, choosing_bytes: float | None = None) -> Cost:
        """From the number of d x F matrices that are left; a router's weights are read once for each multiply-add."""
        ffn = ffn_matrices * shape.d * shape.n_neurons
        read = choosing_macs * shape.bytes_per_weight if choosing_bytes is None else choosing_bytes
        return Cost(choosing_macs, ffn, read, ffn * shape.bytes_per_weight)

    def share(self, shape: Shape) -> float:
        """Multiply-adds as a share of the dense FFN's."""
        return (self.choosing_macs + self.ffn_macs) / (shape.matrices * shape.d * shape.n_neurons)


class Choice(ABC):
    """One method on one prompt. The order of calls by layer is free; within a layer it is that of the tokens."""

    def see(self, rows: Rows) -> None:  # noqa: B027 (most methods need nothing of the prompt)
        """Take in prompt rows of a layer; several calls (chunked prefill) count as one long prompt."""

    @abstractmethod
    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """The neurons to keep for these tokens, one mask a density: (N, F) bool, or (F,) where all tokens share one."""

    def choose(self, rows: Rows, density: float) -> Tensor:
        """The neurons to keep at one density, (N, F) or (F,) bool."""
        return self.sets(rows, (density,))[0]


class ScoreChoice(Choice):
    """Keeps the k largest scores, k = max(1, floor(density * F)); density 1 keeps all."""

    @abstractmethod
    def score(self, rows: Rows) -> Tensor:
        """(N, F) or (F,), the larger the more needed; computed once for all densities."""

    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """As `Choice.sets`."""
        score = self.score(rows)
        return [top_mask(score, count(density, score.shape[-1])) for density in densities]


class ThresholdChoice(ScoreChoice):
    """Keeps the scores that reach the layer's threshold: the size of the set differs by token and prompt."""

    @abstractmethod
    def threshold(self, layer: int, density: float) -> float:
        """The threshold whose mean density on the calibration text is the asked one; not called for density 1."""

    def sets(self, rows: Rows, densities: Sequence[float]) -> list[Tensor]:
        """As `Choice.sets`."""
        score = self.score(rows)
        every = torch.ones_like(score, dtype=torch.bool)
        return [every if density == 1 else score >= self.threshold(rows.layer, density) for density in densities]


@dataclass(frozen=True)
class Ready:
    """A method bound to a model: `begin` opens a prompt."""

    method: Method
    begin: Callable[[], Choice]


class Method(ABC):
    """One method. Class attributes are data that pages show.

    Attributes:
        name: in code, tables and links.
        title: for people.
        rank: place in lists and figures.
        family: oracle, static, TDA, RODA, RIDA or sRIDA.
        looks_at: what the router sees, a phrase.
        decides: how often it decides, a phrase.
        prefill: whether the prompt runs dense or masked where the method's authors run it.
        frozen: whether the set is chosen once a prompt and kept.
        steerable: whether `density` decides the size of the set.
        inputs: hidden states it reads (inputs.INPUTS).
        needs_gate: whether it reads act(g).
        needs_activation: whether it reads the activation of the very token that it decides on, so that only W_down can be saved.
        part: name of the fitted part it needs, "" = none.
        source: where it comes from.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    rank: ClassVar[int]
    family: ClassVar[str]
    looks_at: ClassVar[str]
    decides: ClassVar[str] = "for every token"
    prefill: ClassVar[str] = MASKED
    frozen: ClassVar[bool] = False
    steerable: ClassVar[bool] = True
    inputs: ClassVar[tuple[str, ...]] = ()
    needs_gate: ClassVar[bool] = False
    needs_activation: ClassVar[bool] = False
    part: ClassVar[str] = ""
    source: ClassVar[str]

    def applies(self, model: LoadedModel) -> str:
        """Nothing ("") where the method can be applied, else the reason why not, one sentence."""
        return ""

    def fit(self, model: LoadedModel, documents: Sequence[TokenSequence], seed: int = 0, report: Reporter = silent) -> Part:
        """The fitted part from calibration text.

        Raises:
            InputError: there is nothing to fit, or the text is too short.
        """
        raise InputError(f"{self.title} has nothing to be fitted; it can be used at once.")

    def prepare(self, model: LoadedModel, part: Part | None = None, seed: int = 0) -> Ready:
        """Bind to a model.

        Args:
            model: a loaded model.
            part: what `fit` made; needed where `self.part` says so.
            seed: of random choices.

        Raises:
            InputError: the method does not apply, or the part is missing or was fitted for other weights.
        """
        reason = self.applies(model)
        if reason:
            raise InputError(f"{self.title} does not apply to {model.identity.name}: {reason}")
        if self.part:
            if part is None:
                raise InputError(f"{self.title} needs the fitted part {self.part!r}; make it with "
                                 f"`moyu fit {self.part} --model {model.identity.name}`.")
            part.check(model.identity)
        return Ready(self, self.bind(model, part, seed))

    @abstractmethod
    def bind(self, model: LoadedModel, part: Part | None, seed: int) -> Callable[[], Choice]:
        """What opens a prompt; the checks of `prepare` are done."""

    @abstractmethod
    def cost(self, shape: Shape, density: float) -> Cost:
        """What a decoded token costs in one layer at this density."""

    def facts(self, shape: Shape, density: float) -> dict[str, Any]:
        """What a page says about the method: the class attributes and the cost, JSON-ready."""
        names = ("name", "title", "family", "looks_at", "decides", "prefill", "frozen", "steerable", "source")
        cost = self.cost(shape, density)
        return {**{name: getattr(self, name) for name in names}, "cost": asdict(cost), "cost_share": cost.share(shape)}


def count(density: float, n_neurons: int) -> int:
    """k = max(1, floor(density * F + 1e-9)), as for active sets.

    Raises:
        InputError: the density is not in (0, 1].
    """
    return SetRule("top", density=density).count(n_neurons)


def dense_only(model: LoadedModel) -> str:
    """The reason of methods that need one FFN of neurons, "" where the model has that."""
    if any(site.experts for site in model.sites):
        return "its FFNs are mixtures of experts, whose neurons stand behind a router already."
    return ""
