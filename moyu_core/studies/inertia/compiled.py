"""The sums that go over every active neuron, compiled by Numba: sets are read from their bits, nothing is unpacked to F numbers.

Rows of sets are units, text after text; a unit's members are the numbers of its active neurons, and what belongs to them (energy
shares) stands in one flat array, unit after unit.
"""

from __future__ import annotations

import numpy as np

from moyu_core.jit import njit

_SUMS = {"reassoc", "contract", "nsz"}
"""What the compiler may do with sums so that they use vectors."""


@njit(nogil=True, cache=True)
def members(active):
    """(neurons (M,) int32, starts (N + 1,) int64): the active neurons of (N, ceil(F/8)) packed sets, in order."""
    starts = np.zeros(active.shape[0] + 1, np.int64)
    neurons = np.empty(active.shape[0] * active.shape[1] * 8, np.int32)
    found = 0
    for unit in range(active.shape[0]):
        for byte in range(active.shape[1]):
            bits = active[unit, byte]
            for bit in range(8):
                neurons[found] = byte * 8 + bit  # overwritten by the next one where the bit is 0
                found += (bits >> bit) & 1
        starts[unit + 1] = found
    return neurons[:found].copy(), starts


@njit(nogil=True, cache=True)
def energy_shares(active, a, norms):
    """(M,) float32: each active neuron's share of its row's sum of (a*c)^2 over the set.

    Args:
        active: (N, ceil(F/8)) packed sets.
        a: (N, F) float32.
        norms: (F,) float32 column norms c.
    """
    neurons, starts = members(active)
    shares = np.empty(len(neurons), np.float32)
    for unit in range(active.shape[0]):
        total = 0.0
        for place in range(starts[unit], starts[unit + 1]):
            total += (np.float64(a[unit, neurons[place]]) * norms[neurons[place]]) ** 2
        for place in range(starts[unit], starts[unit + 1]):
            shares[place] = (np.float64(a[unit, neurons[place]]) * norms[neurons[place]]) ** 2 / max(total, 1e-300)
    return shares


@njit(nogil=True, cache=True)
def gathered(values, sizes, where):
    """The flat values of some units, in the order of `where` (N',); `sizes` (N,) says how many values each unit has."""
    starts = np.zeros(len(sizes) + 1, np.int64)
    starts[1:] = np.cumsum(sizes)
    total = 0
    for unit in where:
        total += sizes[unit]
    found = np.empty(total, values.dtype)
    first = 0
    for unit in where:
        found[first : first + sizes[unit]] = values[starts[unit] : starts[unit + 1]]
        first += sizes[unit]
    return found


@njit(nogil=True, cache=True)
def pair_sums(active, valid, shares, topics, n_topics, n_neurons, same):
    """Sums over ordered pairs of units (text s, place i), (text t, place j), i != j, without the pairs that are named.

    Two kinds: overlap by count, and the share of the first unit's energy that lies in the second's set.

    Args:
        active: (S * n, ceil(F/8)) packed sets.
        valid: (S * n,) which units take part.
        shares: (M,) float32 energy shares of all members; empty where only counts are asked for.
        topics: (S,) numbers 0..T-1.
        n_topics: T.
        n_neurons: F.
        same: (P, 2) ordered pairs of units that do not count, i != j.

    Returns:
        (within (2, T), across (2, T, T)), count before energy.
    """
    neurons, starts = members(active)
    weights = np.zeros(len(active), np.float32)
    for unit in range(len(active)):
        if valid[unit] and starts[unit + 1] > starts[unit]:
            weights[unit] = 1 / np.sqrt(np.float32(starts[unit + 1] - starts[unit]))
    sets = (neurons, starts, weights, shares)
    within, across = np.zeros((2, n_topics)), np.zeros((2, n_topics, n_topics))
    sums = np.zeros((n_topics, 3, n_neurons), np.float32)
    _pairs_of_texts(sets, topics, sums, within, across)
    _pairs_of_places(sets, topics, sums, across)
    _pairs_named(sets, topics, active, same, within, across)
    return within, across


@njit(nogil=True, cache=True)
def _pairs_of_texts(sets, topics, sums, within, across):
    """All pairs but those of a unit with itself; those inside a text go to `within`."""
    width = len(sets[2]) // len(topics)
    one = np.zeros(sums.shape[1:], np.float32)
    sums[:] = 0
    for text in range(len(topics)):
        one[:] = 0
        own_count, own_energy = 0.0, 0.0
        for unit in range(text * width, text * width + width):
            count, energy = _add(sets, unit, one)
            own_count += count
            own_energy += energy
        topic = topics[text]
        count, energy = _dot(one[0], one[0]) - own_count, _dot(one[1], one[2]) - own_energy
        within[0, topic] += count
        within[1, topic] += energy
        across[0, topic, topic] -= count
        across[1, topic, topic] -= energy
        sums[topic] += one
    _products(sums, 1.0, across)


@njit(nogil=True, cache=True)
def _pairs_of_places(sets, topics, sums, across):
    """Take out the pairs of the same place, each unit with itself among them."""
    width = len(sets[2]) // len(topics)
    for place in range(width):
        sums[:] = 0
        for text in range(len(topics)):
            _add(sets, text * width + place, sums[topics[text]])
        _products(sums, -1.0, across)


@njit(nogil=True, cache=True)
def _pairs_named(sets, topics, active, same, within, across):
    """Take out the pairs that are named."""
    neurons, starts, weights, shares = sets
    width = len(weights) // len(topics)
    for pair in range(len(same)):
        first, second = same[pair]
        if weights[first] == 0 or weights[second] == 0:
            continue
        count, energy = 0, 0.0
        for place in range(starts[first], starts[first + 1]):
            shared = (active[second, neurons[place] >> 3] >> (neurons[place] & 7)) & 1
            count += shared
            if shared and len(shares):
                energy += shares[place]
        overlap = count * weights[first] * weights[second]
        one, other = topics[first // width], topics[second // width]
        if first // width == second // width:
            within[0, one] -= overlap
            within[1, one] -= energy
        else:
            across[0, one, other] -= overlap
            across[1, one, other] -= energy


@njit(nogil=True, cache=True)
def _add(sets, unit, sums):
    """Add one unit to (3, F) sums: the set as a vector of length 1, shares, members; returns its products with itself."""
    neurons, starts, weights, shares = sets
    if weights[unit] == 0:
        return 0.0, 0.0
    energy = 0.0
    for place in range(starts[unit], starts[unit + 1]):
        sums[0, neurons[place]] += weights[unit]
    if len(shares):
        for place in range(starts[unit], starts[unit + 1]):
            sums[1, neurons[place]] += shares[place]
            sums[2, neurons[place]] += np.float32(1)
            energy += shares[place]
    return 1.0, energy


@njit(nogil=True, cache=True)
def _products(sums, sign, across):
    """Add products of (T, 3, F) sums by topic: count with count, shares with members."""
    for one in range(len(sums)):
        for other in range(len(sums)):
            across[0, one, other] += sign * _dot(sums[one, 0], sums[other, 0])
            across[1, one, other] += sign * _dot(sums[one, 1], sums[other, 2])


@njit(nogil=True, cache=True, fastmath=_SUMS)
def _dot(left, right):
    total = np.float32(0)
    for neuron in range(left.shape[0]):
        total += left[neuron] * right[neuron]
    return total
