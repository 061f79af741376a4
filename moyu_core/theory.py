"""Why training pushes active neurons down: closed forms for a last layer at initialisation.

The network of the theorem (Li et al., arXiv 2210.06313): f = V a with a = act(p), entries of V in R^(K x F) independent
N(0, s^2), independent of the pre-activations p and of the label y, a probability vector. With pi = softmax(f), Stein's
lemma gives for every neuron i (our derivation)

    cross-entropy          E[dL/da_i] = s^2 a_i (1 - E||pi||^2)
    squared loss / 2       E[dL/da_i] = K s^2 a_i
    through act            E[dL/dp_i] = act'(p_i) E[dL/da_i] = (s^2 / 2) (1 - E||pi||^2) d(act^2)/dp
    gated a = act(g) u     E[dL/du] = act(g) E[dL/da],  E[dL/dg] = act'(g) u E[dL/da]

so the sign of E[dL/da_i] is the sign of a_i for any activation: |a| shrinks. Only ReLU turns that into exact zeros; for GELU
and SiLU the sign in p changes twice (`turning_point`). Nothing is said about later training, Adam, weight decay, the
residual stream or layers before the last. numpy only, no torch: pages evaluate it live. `monte_carlo` checks it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from moyu_core.errors import InputError

Array = NDArray[np.float64]

POINTS = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.5, 1.0, 2.0)
"""Pre-activations at which table and tests look; they lie on both sides of every change of sign."""
LOSSES = ("ce", "mse")

_erf = np.vectorize(math.erf, otypes=[np.float64])


@dataclass(frozen=True)
class Function:
    """An activation function with its derivative.

    Attributes:
        name: as pages write it.
        value: act(p).
        slope: act'(p); ReLU's at 0 is 0.
        exact_zeros: whether a whole interval of p is mapped to exactly 0.
    """

    name: str
    value: Callable[[ArrayLike], Array]
    slope: Callable[[ArrayLike], Array]
    exact_zeros: bool = False


def _relu(p: ArrayLike) -> Array:
    return np.maximum(np.asarray(p, np.float64), 0.0)


def _relu_slope(p: ArrayLike) -> Array:
    return (np.asarray(p, np.float64) > 0).astype(np.float64)


def _normal_cdf(p: ArrayLike) -> Array:
    return 0.5 * (1.0 + _erf(np.asarray(p, np.float64) / math.sqrt(2.0)))


def _gelu(p: ArrayLike) -> Array:
    return np.asarray(p, np.float64) * _normal_cdf(p)


def _gelu_slope(p: ArrayLike) -> Array:
    x = np.asarray(p, np.float64)
    return _normal_cdf(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2.0 * math.pi)


def _sigmoid(p: ArrayLike) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(p, np.float64)))


def _silu(p: ArrayLike) -> Array:
    return np.asarray(p, np.float64) * _sigmoid(p)


def _silu_slope(p: ArrayLike) -> Array:
    s = _sigmoid(p)
    return s * (1.0 + np.asarray(p, np.float64) * (1.0 - s))


FUNCTIONS = {
    "relu": Function("ReLU", _relu, _relu_slope, exact_zeros=True),
    "gelu": Function("GELU", _gelu, _gelu_slope),
    "silu": Function("SiLU", _silu, _silu_slope),
}


def function(name: str) -> Function:
    """The activation function of a name.

    Raises:
        InputError: not relu, gelu or silu.
    """
    if name not in FUNCTIONS:
        raise InputError(f"Activation {name!r} has no closed form here; use one of {', '.join(FUNCTIONS)}.")
    return FUNCTIONS[name]


def turning_point(name: str) -> float:
    """p_min < 0 where act' changes its sign: -0.752 for GELU, -1.278 for SiLU; NaN for ReLU, which has none."""
    slope = function(name).slope
    if function(name).exact_zeros:
        return math.nan
    low, high = -2.0, 0.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if float(slope(middle)) < 0 else (low, middle)
    return 0.5 * (low + high)


def gradient_a(a: ArrayLike, s: float, loss: str = "ce", square: float = 0.0, classes: int = 0) -> Array:
    """E[dL/da_i] by the closed form; it has the sign of a_i.

    Args:
        a: activations.
        s: standard deviation of an entry of V.
        loss: `ce` or `mse` (||f - y||^2 / 2).
        square: E||softmax(f)||^2, in [1/K, 1]; for `ce`. At 1 (one class certain) nothing is left to push.
        classes: K; for `mse`.
    """
    if loss not in LOSSES:
        raise InputError(f"Loss {loss!r} has no closed form here; use one of {', '.join(LOSSES)}.")
    factor = 1.0 - square if loss == "ce" else float(classes)
    return s * s * factor * np.asarray(a, np.float64)


def gradient_p(name: str, p: ArrayLike, s: float, loss: str = "ce", square: float = 0.0, classes: int = 0) -> Array:
    """E[dL/dp_i] = act'(p) E[dL/da_i]; arguments as in `gradient_a`."""
    act = function(name)
    return act.slope(p) * gradient_a(act.value(p), s, loss, square, classes)


def gradient_gated(name: str, g: ArrayLike, u: ArrayLike, s: float, loss: str = "ce", square: float = 0.0,
                   classes: int = 0) -> tuple[Array, Array]:
    """(E[dL/dg], E[dL/du]) of a gated neuron a = act(g) u; both shrink |a|. Arguments as in `gradient_a`."""
    act, up = function(name), np.asarray(u, np.float64)
    by_a = gradient_a(act.value(g) * up, s, loss, square, classes)
    return act.slope(g) * up * by_a, act.value(g) * by_a


def sign_p(name: str, p: float) -> int:
    """Sign of E[dL/dp]: +1 gradient descent lowers p, -1 it raises p, 0 nothing moves."""
    return int(np.sign(float(gradient_p(name, p, 1.0))))
