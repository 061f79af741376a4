"""The Triton kernels against numpy and float64. They need a CUDA device; where there is none, `TRITON_INTERPRET=1` with Triton
installed runs the same tests in its interpreter on the CPU.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.activations import ACT2FN

from moyu_core import kernels, sets
from moyu_core.device_reducers import add_firing, reduce_on_device
from moyu_core.reducers import RowReducer
from moyu_core.spec import SetRule

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not kernels.usable(torch.empty(0, device=DEVICE)), reason="needs a CUDA device and Triton"),
]
WIDTHS = [1, 61, 600] if INTERPRETED else [1, 61, 1000, 1536, 11008, 14336, 28672]
RULES = [SetRule("top"), SetRule("top", 1.0), SetRule("top", 1e-6), SetRule("magnitude", 0.37), SetRule("cett"),
         SetRule("positive")]


def activation(n_neurons: int, dtype: torch.dtype, n_rows: int = 24) -> Tensor:
    """Rows as a SwiGLU makes them, and the odd ones: zeros, equal values, few values, tiny and huge ones, NaN and infinities."""
    generator = torch.Generator().manual_seed(n_neurons)
    gate, up = torch.randn(2, n_rows, n_neurons, generator=generator)
    a = torch.nn.functional.silu(gate) * up
    a[0] = 0
    a[1] = -1.5
    a[2, n_neurons // 3 :] = 0
    a[3] = torch.round(4 * a[3])
    a[4] *= 1e-4 if dtype == torch.float16 else 1e-20
    a[5] *= 100 if dtype == torch.float16 else 1e18
    a[6, :: max(n_neurons // 5, 1)] = torch.nan
    a[7, n_neurons // 2] = torch.inf
    a[8, -1] = -torch.inf
    a[9] = torch.nan
    return a.to(dtype)


@pytest.mark.parametrize("n_neurons", WIDTHS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
def test_rows_are_reduced_as_in_numpy(rule: SetRule, dtype: torch.dtype, n_neurons: int) -> None:
    a = activation(n_neurons, dtype)
    c = torch.from_numpy(np.random.default_rng(1).uniform(0.1, 2, n_neurons).astype(np.float32))
    reducer = RowReducer(rule, 0.6 if rule.name == "cett" else None)
    found = reduce_on_device(reducer, a.to(DEVICE), c.to(DEVICE))
    expected = reducer(a.float().numpy(), c.numpy())
    np.testing.assert_array_equal(found.packed.cpu().numpy(), expected.active)
    np.testing.assert_array_equal(found.statistics[0].cpu().numpy().view(np.int32), expected.sizes)
    for name, values in vars(found.fetch().statistics).items():
        np.testing.assert_allclose(values, getattr(expected.statistics, name), rtol=2e-5, atol=1e-7, err_msg=name)


def test_rows_take_the_norms_of_their_expert_and_may_lie_apart() -> None:
    a = activation(61, torch.float32)
    wide = torch.zeros(len(a), 100).to(DEVICE)
    wide[:, :61] = a.to(DEVICE)
    norms = torch.from_numpy(np.random.default_rng(2).uniform(0.1, 2, (4, 61)).astype(np.float32))
    experts = torch.arange(len(a)) % 4
    found = reduce_on_device(RowReducer(SetRule("top")), wide[:, :61], norms.to(DEVICE), experts.to(DEVICE)).fetch()
    np.testing.assert_array_equal(found.active, RowReducer(SetRule("top"))(a.numpy(), norms[experts].numpy()).active)


@pytest.mark.parametrize("n_neurons", [1, 61, 1536])
@pytest.mark.parametrize("n_rows", [1, 128, 300])
def test_firing_counts_the_rows_that_count(n_neurons: int, n_rows: int) -> None:
    random = np.random.default_rng(n_rows)
    packed = sets.pack(random.random((n_rows, n_neurons)) < 0.3)
    kept = random.random(n_rows) < 0.7
    counts = torch.full((n_neurons,), 5, dtype=torch.int32, device=DEVICE)
    add_firing(torch.from_numpy(packed).to(DEVICE), torch.from_numpy(kept.astype(np.uint8)).to(DEVICE), counts)
    np.testing.assert_array_equal(counts.cpu().numpy(), 5 + sets.counts(packed[kept], n_neurons))


def random(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


SIZES = pytest.mark.parametrize(("d", "n_neurons", "k"), [(32, 64, 1), (576, 300, 77), (576, 300, 300), (1030, 129, 50)])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def chosen_ffn(d: int, n_neurons: int, k: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Random weights, biases and input of an FFN, and chosen neurons."""
    gate, up, down = (random(n_neurons, d, dtype=dtype, seed=seed) / d**0.5 for seed in (2, 3, 4))
    gate_bias, up_bias = random(2, n_neurons, dtype=dtype, seed=6)
    neurons = torch.randperm(n_neurons, generator=torch.Generator().manual_seed(7))[:k]
    return {"x": random(d, dtype=dtype, seed=1), "up": up, "gate": gate, "down": down, "neurons": neurons, "up_bias": up_bias,
            "gate_bias": gate_bias, "bias": random(d, dtype=dtype, seed=5)}  # fmt: skip


def gated_in_float64(parts: dict[str, Tensor], activation: str, biased: bool) -> Tensor:
    """What `gated.whole` is to give of them."""
    wide = {name: tensor.double() for name, tensor in parts.items() if name != "neurons"}
    chosen = parts["neurons"]
    opening = wide["gate"][chosen] @ wide["x"] + biased * wide["gate_bias"][chosen]
    inside = wide["up"][chosen] @ wide["x"] + biased * wide["up_bias"][chosen]
    act = (lambda value: value) if activation == "linear" else ACT2FN[activation]
    return (act(opening) * inside) @ wide["down"][chosen] + biased * wide["bias"]


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> bool:
    return bool((found.cpu().double() - expected).norm() <= tolerance * expected.norm() + 1e-6)


@DTYPES
@SIZES
@pytest.mark.parametrize("biased", [False, True])
def test_each_projection_of_chosen_neurons(biased: bool, d: int, n_neurons: int, k: int, dtype: torch.dtype) -> None:
    from moyu_core.kernels.ffn import inner, outer

    parts = chosen_ffn(d, n_neurons, k, dtype)
    wide = {name: tensor.double() for name, tensor in parts.items() if name != "neurons"}
    chosen = parts["neurons"]
    a = wide["up"][chosen] @ wide["x"] + biased * wide["up_bias"][chosen]
    here = {name: tensor.to(DEVICE) for name, tensor in parts.items()}
    for _ in range(2):  # the second launch finds the counters as the first one left them
        found = inner(here["x"], here["up"], here["neurons"], here["up_bias"] if biased else None, torch.float32)
        out = outer(found, here["down"], here["neurons"], here["bias"] if biased else None, torch.float32)
        assert close(found, a)
        assert close(out, a @ wide["down"][chosen] + biased * wide["bias"])


@DTYPES
@SIZES
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize(("activation", "biased"), [
    ("silu", False), ("silu", True), ("gelu", True), ("gelu_pytorch_tanh", False), ("gelu_new", False), ("relu", True),
    ("relu2", False), ("linear", True)])  # fmt: skip
def test_a_gated_ffn_of_chosen_neurons(
    activation: str, biased: bool, settled: bool, d: int, n_neurons: int, k: int, dtype: torch.dtype
) -> None:
    from moyu_core.kernels.gated import whole

    parts = chosen_ffn(d, n_neurons, k, dtype)
    expected = gated_in_float64(parts, activation, biased)
    here = {name: tensor.to(DEVICE) for name, tensor in parts.items()}
    weights = [here[name] for name in ("x", "up", "gate", "down", "neurons")]
    biases = [here[name] for name in ("up_bias", "gate_bias", "bias")] if biased else []
    for _ in range(2):
        found = whole(*weights, activation, *biases, settled=settled)
        assert found.dtype == dtype
        assert close(found, expected, 1e-5 if dtype == torch.float32 else 4e-3), "only the result is rounded to its dtype"


@pytest.mark.skipif(DEVICE == "cpu" or torch.cuda.get_device_capability() != (9, 0), reason="needs a Hopper GPU")
@pytest.mark.parametrize("settled", [False, True])
@pytest.mark.parametrize(("activation", "biased", "index"), [
    ("silu", False, torch.int32), ("gelu", True, torch.int64), ("gelu_new", True, torch.int32), ("relu2", False, torch.int64)])
@pytest.mark.parametrize(("d", "k"), [(4096, 0), (4096, 1), (4096, 1101), (4096, 2999)])
def test_a_gated_ffn_on_a_hopper_gpu(
    d: int, k: int, activation: str, biased: bool, index: torch.dtype, settled: bool
) -> None:  # fmt: skip
    from moyu_core.kernels import hopper
    from moyu_core.kernels.gated import whole

    here = {name: tensor.to(DEVICE) for name, tensor in chosen_ffn(d, 3000, k, torch.bfloat16).items()}
    expected = gated_in_float64(here, activation, biased)
    weights = [here[name] for name in ("x", "up", "gate", "down")]
    biases = [here[name] for name in ("up_bias", "gate_bias", "bias")] if biased else []
    assert hopper.fits(*weights)
    found = [whole(*weights, here["neurons"].to(index), activation, *biases, settled=settled) for _ in range(20)]
    assert close(found[0], expected.cpu(), 4e-3)
    assert all(torch.equal(found[0], other) for other in found), "the same input gives the same bits"


def test_no_neurons_leave_the_bias() -> None:
    from moyu_core.kernels.ffn import inner, outer
    from moyu_core.kernels.gated import whole

    x, weight, bias = (tensor.to(DEVICE) for tensor in (random(32, dtype=torch.float32), random(8, 32, dtype=torch.float32),
                                                        random(32, dtype=torch.float32, seed=1)))  # fmt: skip
    none = torch.empty(0, dtype=torch.long, device=DEVICE)
    assert torch.equal(outer(inner(x, weight, none, None, torch.float32), weight, none, bias, torch.float32), bias)
    assert torch.equal(whole(x, weight, weight, weight, none, "silu", bias=bias), bias)
