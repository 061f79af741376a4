"""What every study does alike: telling whether its run is there, writing it once, and saying what it ran on."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from moyu_core import __version__, registry, schema, store
from moyu_core.home import Home
from moyu_core.models import LoadedModel
from moyu_core.progress import Reporter, silent
from moyu_core.run_writer import RunFolder, exclusive, writing
from moyu_core.spec import ModelIdentity, RunSpec

SpecOf = Callable[[ModelIdentity, int], RunSpec]
"""Takes the model's identity and the sink token id, returns the spec of the run."""


def finished(spec_of: SpecOf, model: str, home: Home, dtype: str = "float32", sink_token_id: int | None = None) -> str | None:
    """The id of the finished run, where everything that names it can be told without loading the model; else None."""
    folder = registry.on_disk(model, home)
    identity = registry.identity(model, home, dtype)
    if folder is None or identity is None:
        return None
    sink = sink_token_id if sink_token_id is not None else registry.model_facts(folder).sink_token_id
    if sink is None:
        return None
    run_id = spec_of(identity, sink).run_id
    return run_id if store.has_run(home, run_id, verify=True) else None


def make(spec: RunSpec, home: Home, write: Callable[[RunFolder], None], report: Reporter = silent) -> str:
    """Have the run written unless it is there already; returns its id. Asking twice at once computes once.

    Args:
        spec: identity of the run.
        home: where it goes.
        write: fills the folder with tables and facts; what it raises leaves nothing on disk.
        report: is called while another process makes the same run.
    """
    with exclusive(home.runs, spec.run_id, report):
        if not store.has_run(home, spec.run_id, verify=True):
            with writing(home.runs, spec) as folder:
                write(folder)
    return spec.run_id


def provenance(model: LoadedModel, seconds: float) -> dict[str, Any]:
    """Manifest entries on time, device and versions."""
    import torch
    import transformers

    return {
        "seconds": round(seconds, 3),
        "device": {"name": str(model.device), "reason": model.device_reason, "machine": platform.machine()},
        "versions": {
            "moyu": __version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "numpy": np.__version__,
            "pyarrow": pa.__version__,
            "python": platform.python_version(),
        },
    }


def model_facts(model: LoadedModel) -> dict[str, Any]:
    """Manifest entry `model`: what the pages say about it."""
    from moyu_core.architectures import shape

    site = model.sites[0]
    return {
        "name": model.identity.name,
        "family": model.architecture.family,
        "n_layers": len(model.sites),
        "n_neurons": site.n_neurons,
        "gated": site.gated,
        "activation": shape(model.model.config.to_dict()).activation,
        "note": model.note,
        "slots": site.slots,
    }


def table(columns: list[schema.Column], values: Mapping[str, Any]) -> pa.Table:
    """An Arrow table of the schema, from one sequence per column; a missing or a surplus column is a defect."""
    arrow = schema.arrow_schema(columns)
    assert set(values) == set(arrow.names), sorted(set(values) ^ set(arrow.names))
    return pa.table([pa.array(values[field.name], field.type) for field in arrow], schema=arrow)
