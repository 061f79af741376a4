"""The reduction by the compiled kernel, in torch and by a plain sort say the same."""

from __future__ import annotations

import numpy as np
import plain
import pytest
import torch

from moyu_core import sets
from moyu_core.device_reducers import pack, reduce_on_device, top_mask
from moyu_core.errors import InputError
from moyu_core.reducers import ReducedRows, RowReducer
from moyu_core.spec import SetRule

RULES = [SetRule("top"), SetRule("top", 1.0), SetRule("top", 1e-6), SetRule("magnitude", 0.37), SetRule("cett"),
         SetRule("positive")]
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and there is none")])]


def activations(n_neurons: int = 61, n_rows: int = 40, relu: bool = True) -> np.ndarray:
    """Rows with exact zeros, ties, tiny values, a row of zeros and rows that hold NaN and infinities."""
    random = np.random.default_rng(n_neurons)
    a = random.standard_normal((n_rows, n_neurons)).astype(np.float32)
    if relu:
        a[: n_rows // 2] = np.maximum(a[: n_rows // 2], 0)
    a[3] = np.round(a[3])
    a[4] = 0
    a[5] = 1.5
    a[6] *= 1e-20
    a[7, [1, 3]] = np.nan, -np.inf
    a[8] = np.nan
    a[9, 7:] = 0
    return a


def column_norms(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(1).uniform(0.1, 2, shape).astype(np.float32)


def reducer(rule: SetRule) -> RowReducer:
    return RowReducer(rule, 0.6 if rule.name == "cett" else None)


def assert_same(found: ReducedRows, other: ReducedRows, rtol: float = 2e-5) -> None:
    np.testing.assert_array_equal(found.active, other.active)
    for name in type(found.statistics).__dataclass_fields__:
        here, there = getattr(found.statistics, name), getattr(other.statistics, name)
        assert here.dtype == there.dtype
        np.testing.assert_allclose(here, there, rtol=rtol, atol=1e-7, err_msg=name)


@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
@pytest.mark.parametrize("by_row", [False, True], ids=["dense", "mixture"])
def test_host_reduction_is_the_plain_one(rule: SetRule, by_row: bool) -> None:
    a = activations()
    c = column_norms(a.shape if by_row else a.shape[1:])
    before = a.copy()
    found = reducer(rule)(a, c)
    clean = np.where(np.isfinite(a), a, 0)
    expected = plain.members(clean, c, rule, reducer(rule).threshold)
    np.testing.assert_array_equal(sets.unpack(found.active, a.shape[1]), expected)
    np.testing.assert_array_equal(found.sizes, expected.sum(1))
    np.testing.assert_array_equal(a, before, "the model's own tensor must not change")
    if rule.density is not None:
        assert (found.sizes == np.minimum(rule.count(61), (clean != 0).sum(1))).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
@pytest.mark.parametrize("by_row", [False, True], ids=["dense", "mixture"])
@pytest.mark.parametrize("n_neurons", [61, 64])
def test_torch_reduction_is_that_of_the_host(device: str, rule: SetRule, by_row: bool, n_neurons: int) -> None:
    a = activations(n_neurons)
    c = column_norms(a.shape if by_row else a.shape[1:])
    on_device = reduce_on_device(reducer(rule), torch.from_numpy(a).to(device), torch.from_numpy(c).to(device)).fetch()
    assert_same(on_device, reducer(rule)(a, c))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_reduced_in_float32(device: str, dtype: torch.dtype) -> None:
    a = torch.from_numpy(activations(relu=False)).to(device, dtype)
    c = torch.from_numpy(column_norms((61,))).to(device)
    found = reduce_on_device(RowReducer(SetRule("top")), a, c).fetch()
    assert_same(found, RowReducer(SetRule("top"))(a.float().cpu().numpy(), c.cpu().numpy()))


@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
def test_rows_are_written_where_the_caller_wants_them(rule: SetRule) -> None:
    a, c = activations(), column_norms((61,))
    block = ReducedRows.empty((3, len(a)), 61)
    block.active[:], block.sizes[:] = 0xAA, -7
    found = reducer(rule)(a, c, block[1])
    assert_same(found, reducer(rule)(a, c), rtol=0)
    assert_same(block[1], found, rtol=0)
    np.testing.assert_array_equal(block.sizes[1], found.sizes)
    assert (block.active[[0, 2]] == 0xAA).all()
    assert (block.sizes[[0, 2]] == -7).all(), "other layers' rows stay as they are"


@pytest.mark.parametrize("rows", [0, 1, 64, 327])
@pytest.mark.parametrize("by_row", [False, True], ids=["dense", "mixture"])
def test_a_row_does_not_depend_on_the_rows_before(rows: int, by_row: bool) -> None:
    a = np.resize(activations(), (rows, 61))
    c = column_norms(a.shape if by_row else a.shape[1:])
    one_by_one = [RowReducer(SetRule("top"))(a[i : i + 1], c[i : i + 1] if by_row else c) for i in range(rows)]
    found = RowReducer(SetRule("top"))(a, c)
    assert len(found.active) == len(found.statistics.l2_norm) == rows
    for i, alone in enumerate(one_by_one):
        np.testing.assert_array_equal(found.active[i], alone.active[0])
        assert found.statistics.nonfinite[i] == alone.statistics.nonfinite[0]
        np.testing.assert_allclose(found.statistics.effective_neurons[i], alone.statistics.effective_neurons[0], rtol=1e-5)


@pytest.mark.parametrize("rule", RULES, ids=SetRule.label)
@pytest.mark.parametrize("by_row", [False, True], ids=["dense", "mixture"])
def test_threads_that_share_the_rows_change_nothing(rule: SetRule, by_row: bool) -> None:
    from moyu_core import host_rows

    a = activations(n_rows=101)
    c = column_norms(a.shape if by_row else a.shape[1:])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = reducer(rule)(a, c)
        torch.set_num_threads(2)
        shared = host_rows.threads(len(a))
        together = reducer(rule)(a, c)
    finally:
        torch.set_num_threads(before)
    if shared == 1:
        pytest.skip("Numba has no OpenMP, or one core, on this machine")
    assert_same(together, alone, rtol=0)
    np.testing.assert_array_equal(together.sizes, sets.sizes(alone.active))


def test_torch_ties_go_to_the_lower_neuron() -> None:
    score = torch.tensor([[1.0, 2, 1, 1, 0], [0, 0, 3, 0, 0], [0, 0, 0, 0, 0]])
    assert top_mask(score, 2).tolist() == [[True, True, False, False, False], [False, False, True, False, False],
                                           [False] * 5]


@pytest.mark.parametrize("n_neurons", [1, 7, 8, 9, 64])
def test_torch_packs_as_numpy_does(n_neurons: int) -> None:
    mask = np.random.default_rng(n_neurons).random((6, n_neurons)) < 0.5
    np.testing.assert_array_equal(pack(torch.from_numpy(mask)).numpy(), sets.pack(mask))


def test_only_the_rule_cett_takes_a_threshold() -> None:
    for rule, threshold in ((SetRule("cett"), None), (SetRule("top"), 0.1)):
        with pytest.raises(InputError, match="threshold"):
            RowReducer(rule, threshold)
