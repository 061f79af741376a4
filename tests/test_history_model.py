"""What must be true of the history study on the default model."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from moyu_core import sets
from moyu_core.home import Home
from moyu_core.models import LoadedModel, load_model
from moyu_core.prompts import read_prompts
from moyu_core.sites import Activation, watch
from moyu_core.spec import SetRule
from moyu_core.studies.history.grid import Cells
from moyu_core.studies.history.tables import measured
from moyu_core.tokens import encode
from tests import plain

LENGTH, HISTORIES, PROBES = 12, 5, (" bank", " the", " water", " because")


@pytest.mark.model
def test_the_default_model_without_attention_to_the_history_has_no_uncertainty() -> None:
    """Each token sees itself and the sink only: at fixed length U = 0 in every layer, and history has no component."""
    home = Home.default()
    model = load_model("default", home, device="cpu")
    texts = [encode(model, prompt.text) for prompt in read_prompts(home.prompts / "histories.jsonl").prompts[::9]]
    histories = [ids[:LENGTH] for ids in texts if len(ids) >= LENGTH][:HISTORIES]
    probes = [encode(model, probe)[0] for probe in PROBES]
    found = {cut: table(model, histories, probes, cut) for cut in (True, False)}
    n_neurons = model.sites[0].n_neurons
    cut, whole = (measured(found[key], 0, list(range(len(probes))), n_neurons, 0) for key in (True, False))
    assert np.abs(cut["uncertainty"][0]).max() < 0.005 and np.abs(cut["history_share"][0]).max() < 0.005
    assert np.abs(cut["uncertainty_energy"][0]).max() < 0.005
    assert np.abs(cut["variance_history"][0]).max() < 1e-3 and np.abs(cut["variance_interaction"][0]).max() < 1e-3
    assert whole["uncertainty"][3].low > 0.4 and whole["variance_interaction"][3].mean > 0.2, "with attention it is otherwise"


@torch.inference_mode()
def table(model: LoadedModel, histories: list[list[int]], probes: list[int], cut: bool) -> Cells:
    """Sets and values of the last token of every cell, each a sequence of its own, by sorting everything."""
    pairs = list(product(range(len(probes)), range(len(histories))))
    ids = torch.tensor([[model.sink_token_id, *histories[h], probes[t]] for t, h in pairs])
    size = ids.shape[1]
    mask = torch.full((size, size), torch.finfo(model.dtype).min).triu(1)
    if cut:
        mask = torch.full((size, size), torch.finfo(model.dtype).min)
        mask[:, 0] = 0
        mask.fill_diagonal_(0)
    seen: list[np.ndarray] = []

    def receive(activation: Activation) -> None:
        seen.append(activation.a.view(len(pairs), size, -1)[:, -1].float().numpy().copy())

    with watch(model, None, receive):
        model.decoder(input_ids=ids, attention_mask=mask.expand(len(pairs), 1, size, size), use_cache=False)
    norms = np.stack([site.column_norms().float().numpy() for site in model.sites])
    active = np.stack([plain.members(a, norm, SetRule()) for a, norm in zip(seen, norms, strict=True)])
    shape = (len(model.sites), len(probes), len(histories), -1)
    return Cells("k", LENGTH, sets.pack(active.reshape(shape)), np.log1p(np.abs(np.stack(seen))).reshape(shape), norms)
