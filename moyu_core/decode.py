"""Token by token with a KV cache, dense or with a method whose unchosen weights are really not read.

    lane = Lane(twin(model), ready, density)      # or Lane(model) for the dense model
    with lane.prompted(ids):                      # dense, as in the methods' own speed code; the method sees the prompt
        token = lane.first
        for _ in range(32):
            token = lane.step(token)              # logits of the last step are lane.logits

Sets that stay for a whole prompt run on compacted copies of their weights (`sparse_ffn.frozen`), sets that change with every
token on gathered rows and columns (`routed_ffn`). A twin has the same weights in modules of its own, so that a dense and a
sparse lane can take turns.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from moyu_core import sparse_ffn
from moyu_core.architectures import shape
from moyu_core.errors import InputError
from moyu_core.methods.inputs import observe
from moyu_core.methods.protocol import Choice, Method, Ready, Rows
from moyu_core.routed_ffn import Router, routed
from moyu_core.sites import find_sites

if TYPE_CHECKING:
    from moyu_core.models import LoadedModel


def twin(model: LoadedModel) -> LoadedModel:
    """The same model in other modules: every weight and buffer is shared, nothing that is swapped in one shows in the other."""
    tensors = (*model.model.parameters(), *model.model.buffers())
    module = copy.deepcopy(model.model, {id(tensor): tensor for tensor in tensors})
    sites = find_sites(module, model.architecture, shape(module.config.to_dict()))
    return replace(model, model=module, sites=sites)


def stays(method: Method) -> bool:
    """Whether one set serves a whole prompt, so that its weights can be copied together."""
    return method.frozen or method.family == "static"


def sees_prompt(method: Method, choice: Choice) -> bool:
    """Whether the method takes anything from the prompt; if not, the prompt runs unobserved."""
    return type(choice).see is not Choice.see


class Lane:
    """One way of decoding one sequence after another.

    Args:
        model: the model; a twin where another lane runs beside it.
        ready: a prepared method, None = dense.
        density: share of the neurons that the method keeps.
        timed: whether the time spent choosing is taken (waits for the device at every layer).

    Attributes:
        first: token that comes next, as the last pass has it.
        written: tokens so far, the one that followed the prompt first.
        logits: (V,) of the last step.
        router: of a method that chooses anew for every token, else None.
        seconds: of the last prompt: `prompt` (prefill, with whatever the method looks at), `choose` (choosing and copying
            together a set that stays).
        sets: layer -> neurons of a set that stays.
    """

    def __init__(self, model: LoadedModel, ready: Ready | None = None, density: float = 1.0, timed: bool = False) -> None:
        self.model, self._ready, self._density, self._timed = model, ready, density, timed
        self.first = 0
        self.written: list[int] = []
        self.router: Router | None = None
        self.logits: Tensor = torch.zeros(0)
        self.seconds: dict[str, float] = {}
        self.sets: dict[int, Tensor] = {}
        self._cache: Any = None

    @contextmanager
    def prompted(self, ids: Tensor, steps: int = 1) -> Iterator[Lane]:
        """Runs the prompt and keeps the lane open for `step`.

        Args:
            ids: (T,) token ids, sink token first.
            steps: tokens that are to be decoded, for the check against the context.

        Raises:
            InputError: prompt and answer are longer than the context.
        """
        check_length(self.model, len(ids), steps)
        with ExitStack() as stack, torch.inference_mode():
            choice = self._prefill(ids)
            began = self.now()
            if self._ready is not None and choice is not None:
                self._open(stack, self._ready.method, choice)
            self.seconds["choose"] = self.now() - began
            yield self

    def _prefill(self, ids: Tensor) -> Choice | None:
        began = self.now()
        choice = None if self._ready is None else self._ready.begin()
        with ExitStack() as stack:
            if self._ready is not None and choice is not None and sees_prompt(self._ready.method, choice):
                method = self._ready.method
                stack.enter_context(observe(self.model, None, method.inputs, choice.see, gate=method.needs_gate))
            found = self.model.model(input_ids=ids[None].to(self.model.device), use_cache=True)
        self.written = []
        self._take(found)
        self.seconds = {"prompt": self.now() - began}
        return choice

    def _open(self, stack: ExitStack, method: Method, choice: Choice) -> None:
        """Puts the sparse FFNs in place."""
        if not stays(method):
            self.router = Router(self.model, choice, self._density, self._timed)
            stack.enter_context(routed(self.model, method, self.router))
            return
        self.sets = {site.layer: self._set(choice, site) for site in self.model.sites}
        if all(map(len, self.sets.values())):
            stack.enter_context(sparse_ffn.frozen(self.model, self.sets))
        else:  # a threshold that nothing reached: no copy can be made of no neuron
            for layer, gathered in stack.enter_context(sparse_ffn.gathered(self.model)).items():
                gathered.neurons = self.sets[layer]

    def _set(self, choice: Choice, site: Any) -> Tensor:
        norms = site.column_norms().to(self.model.device).flatten()
        blank = torch.zeros(1, site.n_neurons, device=self.model.device)
        rows = Rows(site.layer, blank, norms, torch.zeros(1, dtype=torch.long))
        return choice.choose(rows, self._density).flatten().nonzero().flatten()

    def prompt_seconds(self, ids: Tensor) -> float:
        """Seconds until the first token is known, the lane left closed."""
        with torch.inference_mode():
            self._prefill(ids)
        return self.seconds["prompt"]

    def step(self, token: int) -> int:
        """Feeds a token and returns the most probable next one."""
        ids = torch.tensor([[token]], device=self.model.device)
        with torch.inference_mode():
            return self._take(self.model.model(input_ids=ids, past_key_values=self._cache, use_cache=True))

    def _take(self, found: Any) -> int:
        self._cache, self.logits = found.past_key_values, found.logits[0, -1]
        self.first = int(self.logits.argmax())
        self.written.append(self.first)
        return self.first

    @property
    def density(self) -> float:
        """Share of the neurons that were really kept: of the set that stays, or over the tokens decoded so far."""
        if self.router is not None:
            return self.router.kept / max(self.router.asked, 1)
        whole = sum(site.n_neurons for site in self.model.sites)
        return sum(map(len, self.sets.values())) / whole if self.sets else 1.0

    def extra_bytes(self, original: LoadedModel) -> int:
        """Bytes of weights that this lane holds beside the model's own, while it is open."""
        known = {tensor.untyped_storage().data_ptr() for tensor in (*original.model.parameters(), *original.model.buffers())}
        held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in self.model.model.parameters()}
        return sum(size for pointer, size in held.items() if pointer not in known)

    def now(self) -> float:
        """A clock that waits for what the device has been given."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        return time.perf_counter()


def check_length(model: LoadedModel, prompt: int, steps: int) -> None:
    """Refuse what does not fit into the context.

    Raises:
        InputError: how long the prompt is, and what the model takes.
    """
    if prompt + steps > model.max_positions:
        raise InputError(
            f"The prompt has {prompt:,} tokens and {steps:,} are to be written, but {model.identity.name} takes "
            f"{model.max_positions:,} in all; shorten the prompt or ask for fewer tokens."
        )
