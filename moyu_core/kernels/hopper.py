# pyright: reportMissingImports=false
"""`gated.whole` in CUDA C++ (`hopper.cu`), for Hopper GPUs and the width of the 7B and 8B shapes.

Triton cannot say what helps there: a warp that only fetches, and memory of the multiprocessor that is full of weights while a
kernel waits for its input. What it gains is told in benchmarks/README.md. The source is compiled when it is first needed, in about
a second, through NVIDIA's own bindings, which PyTorch's CUDA builds bring along; where they are missing `gated` goes on in Triton.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moyu_core.kernels import ACTIVATIONS

CAPABILITY = (9, 0)


@dataclass(frozen=True)
class Tiling:
    """How the two kernels share out a width; names as in `hopper.cu`."""

    hold: int
    pace: int
    teams: int
    columns: int
    threads: int
    slots: int
    unroll: int


TILINGS = {4096: Tiling(hold=8, pace=3, teams=2, columns=32, threads=512, slots=9, unroll=1)}
"""By the width of a row; found by measuring on an H200 (benchmarks/README.md)."""


@dataclass(frozen=True)
class _Kernel:
    """A compiled function and how it is launched."""

    function: Any
    programs: int
    threads: int
    shared_bytes: int


def _fields(*pointers: str) -> list[tuple[str, Any]]:
    return [*((name, ctypes.c_void_p) for name in pointers), ("n_chosen", ctypes.c_int)]


class _Inner(ctypes.Structure):
    _fields_ = _fields("x", "up", "gate", "up_bias", "gate_bias", "neurons", "a")


class _Outer(ctypes.Structure):
    _fields_ = _fields("a", "down", "bias", "neurons", "result")


def fits(x: Tensor, *weights: Tensor) -> bool:
    """Whether the kernels are made for this width, dtype and device. Rows must start at multiples of 16 bytes."""
    return (
        x.is_cuda
        and x.dtype == torch.bfloat16
        and x.numel() in TILINGS
        and all(weight.dtype == torch.bfloat16 and weight.data_ptr() % 16 == 0 for weight in (x, *weights))
        and _installed()
        and torch.cuda.get_device_capability(x.device) == CAPABILITY
    )


def whole(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], neurons: Tensor, activation: str, settled: bool
) -> Tensor:
    """What `gated.whole` says, where `fits`; weights and biases are those of (up, gate, down)."""
    width, (up, gate, down), (up_bias, gate_bias, bias) = len(x), weights, biases
    a = torch.empty(len(neurons), dtype=torch.float32, device=x.device)
    result = torch.empty_like(x)
    flags = (ACTIVATIONS[activation], up_bias is not None, bias is not None, neurons.dtype == torch.int64, settled)
    inner, outer = _kernels(x.device.index or 0, width, TILINGS[width], *flags)
    first = _Inner(*(_address(t) for t in (x, up, gate, up_bias, gate_bias, neurons, a)), len(neurons))
    second = _Outer(*(_address(t) for t in (a, down, bias, neurons, result)), len(neurons))
    stream = torch.cuda.current_stream(x.device).cuda_stream
    with torch.cuda.device_of(x):
        _launch(inner, first, stream)
        _launch(outer, second, stream)
    return result


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@cache
def _installed() -> bool:
    return find_spec("cuda") is not None and find_spec("cuda.bindings") is not None


@cache
def _kernels(
    device: int, width: int, tiling: Tiling, activation: int, biased: bool, biased_down: bool, wide: bool, settled: bool
) -> tuple[_Kernel, _Kernel]:
    """The two kernels for a device, compiled with everything that they need not ask for."""
    from cuda.bindings import driver

    defined = {"WIDTH": width, **{name.upper(): value for name, value in asdict(tiling).items()}, "ACTIVATION": activation,
               "BIASED": int(biased), "BIASED_DOWN": int(biased_down), "SETTLED": int(settled),
               "INDEX": "long long" if wide else "int"}  # fmt: skip
    with torch.cuda.device(device):
        torch.cuda.current_stream().synchronize()  # makes sure of the device's context
        module = _checked(driver.cuModuleLoadData(_compiled(defined)))
        processors = torch.cuda.get_device_properties(device).multi_processor_count
        inner = _Kernel(_checked(driver.cuModuleGetFunction(module, b"inner")), processors, 32 * (8 * tiling.teams + 1),
                        tiling.hold * 2 * 2 * width)  # fmt: skip
        outer = _Kernel(_checked(driver.cuModuleGetFunction(module, b"outer")), width // tiling.columns, tiling.threads,
                        tiling.slots * tiling.threads * 16)  # fmt: skip
        attributes = driver.CUfunction_attribute
        for kernel in (inner, outer):
            for attribute, value in ((attributes.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, kernel.shared_bytes),
                                     (attributes.CU_FUNC_ATTRIBUTE_PREFERRED_SHARED_MEMORY_CARVEOUT, 100)):  # fmt: skip
                _checked(driver.cuFuncSetAttribute(kernel.function, attribute, value))
    return inner, outer


def _compiled(defined: dict[str, Any]) -> bytes:
    """Machine code of `hopper.cu`."""
    from cuda.bindings import nvrtc

    path = Path(__file__).with_suffix(".cu")
    program = _checked(nvrtc.nvrtcCreateProgram(path.read_bytes(), path.name.encode(), 0, [], []))
    options = [b"--gpu-architecture=sm_90", b"--std=c++17", *(f"-D{name}={value}".encode() for name, value in defined.items())]
    done = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(done[0]):
        log = b" " * _checked(nvrtc.nvrtcGetProgramLogSize(program))
        nvrtc.nvrtcGetProgramLog(program, log)
        raise RuntimeError(f"{path.name} does not compile: {log.decode(errors='replace')}")
    code = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
    _checked(nvrtc.nvrtcGetCUBIN(program, code))
    _checked(nvrtc.nvrtcDestroyProgram(program))
    return code


def _launch(kernel: _Kernel, parameters: ctypes.Structure, stream: int) -> None:
    """Launch; the next kernel may start while this one runs (programmatic dependent launch)."""
    from cuda.bindings import driver

    config = driver.CUlaunchConfig()
    config.gridDimX, config.gridDimY, config.gridDimZ = kernel.programs, 1, 1
    config.blockDimX, config.blockDimY, config.blockDimZ = kernel.threads, 1, 1
    config.sharedMemBytes, config.hStream = kernel.shared_bytes, stream
    config.attrs, config.numAttrs = [_soon()], 1
    pointers = (ctypes.c_void_p * 1)(ctypes.addressof(parameters))
    _checked(driver.cuLaunchKernelEx(config, kernel.function, ctypes.addressof(pointers), 0))


@cache
def _soon() -> Any:
    from cuda.bindings import driver

    value = driver.CUlaunchAttributeValue()
    value.programmaticStreamSerializationAllowed = 1
    attribute = driver.CUlaunchAttribute()
    attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    attribute.value = value
    return attribute


def _checked(answer: tuple[Any, ...]) -> Any:
    """What a function of the driver or the compiler gives beside its error code, which must be 0."""
    if int(answer[0]):
        raise RuntimeError(f"CUDA says {answer[0].name}")
    return answer[1] if len(answer) > 1 else None
