"""The largest activations of each neuron with their places, in numpy; what `strongest` finds and parts of a corpus merge."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Tops:
    """The K largest |a| of each neuron, largest first.

    Attributes:
        value: (L, K, F) float32, a; 0 where there are fewer than K.
        prompt: (L, K, F) int32, number of the prompt in the request; -1 where there is none.
        position, token: (L, K, F) int32, place in the sequence and vocabulary id.
    """

    value: NDArray[np.float32]
    prompt: NDArray[np.int32]
    position: NDArray[np.int32]
    token: NDArray[np.int32]

    def merged(self, later: Tops) -> Tops:
        """The largest of two parts of a corpus; of equal ones those of this part, which was captured first."""
        keep = self.value.shape[1]
        both = [np.concatenate(pair, axis=1) for pair in zip(astuple(self), astuple(later), strict=True)]
        order = np.argsort(-np.abs(both[0]), axis=1, kind="stable")[:, :keep]
        return Tops(*(np.take_along_axis(array, order, axis=1) for array in both))

    def arrays(self) -> dict[str, NDArray]:
        """Everything, to be stored; `Tops(**...)` without the prefix is the inverse."""
        return {f"top_{name}": getattr(self, name) for name in self.__dataclass_fields__}

    @staticmethod
    def restored(arrays: dict[str, NDArray]) -> Tops:
        """What `arrays` gave."""
        return Tops(**{name: arrays[f"top_{name}"] for name in Tops.__dataclass_fields__})
