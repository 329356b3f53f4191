from __future__ import annotations

import gc
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.native_loader.fake_driver import FakeDriver

from pilotlight.native_loader import (
    AttachedDeviceWeights,
    Device,
    DeviceMemoryRefused,
    DeviceWeights,
    LayoutMismatch,
    WeightsClosed,
    open_device,
)
from pilotlight.native_loader.devices.device_weights import CudaBytes
from pilotlight.native_loader.formats.dtypes import ITEM_BITS
from pilotlight.native_loader.placements.placement import PlacedTensor
from pilotlight.native_loader.testing import RawTensor, random_tensor

DEADLINE_SECONDS = 100
MIB = 1 << 20


@pytest.fixture(params=["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> Device:
    return open_device(request.param)


def placed(tensor: RawTensor, offset: int = 0) -> PlacedTensor:
    return PlacedTensor(
        offset=offset, size_bytes=len(tensor.data), dtype=tensor.dtype, shape=tensor.shape
    )


def weights_of(device: Device, tensors: dict[str, tuple[int, RawTensor]]) -> DeviceWeights:
    """Return weights of tensors at those offsets, whose bytes have been written."""
    memory = device.allocate(max(offset + len(tensor.data) for offset, tensor in tensors.values()))
    for offset, tensor in tensors.values():
        memory.write(offset, tensor.data)
    return DeviceWeights(
        memory, {name: placed(tensor, offset) for name, (offset, tensor) in tensors.items()}
    )


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).cpu().numpy().tobytes()


def test_tensors_lie_in_the_memory(device: Device, rng: random.Random) -> None:
    first = random_tensor(rng, "BF16", 8, 32)
    second = random_tensor(rng, "F32", 5)

    weights = weights_of(device, {"first": (0, first), "second": (512, second)})
    tensors = weights.tensors()

    assert tensors["first"].shape == (8, 32)
    assert tensors["second"].data_ptr() == weights.memory.address + 512
    assert {str(tensor.device) for tensor in tensors.values()} == {device.name}
    assert raw_bytes(tensors["first"]) == first.data
    assert raw_bytes(tensors["second"]) == second.data
    assert weights.size_bytes == len(first.data) + len(second.data)


@pytest.mark.parametrize("dtype", sorted(ITEM_BITS))
def test_every_dtype_becomes_a_tensor_of_its_bytes(
    device: Device, rng: random.Random, dtype: str
) -> None:
    tensor = random_tensor(rng, dtype, 2, 8)

    weights = weights_of(device, {"t": (256, tensor), "none": (0, random_tensor(rng, dtype, 0))})
    tensors = weights.tensors()

    assert raw_bytes(tensors["t"]) == tensor.data
    assert tensors["none"].nbytes == 0
    assert str(tensors["none"].device) == device.name


def test_a_tensor_that_is_not_aligned_is_a_copy(device: Device, rng: random.Random) -> None:
    tensor = random_tensor(rng, "F64", 4)

    weights = weights_of(device, {"t": (3, tensor)})
    copied = weights.tensors()["t"]

    assert raw_bytes(copied) == tensor.data
    assert copied.data_ptr() % 8 == 0


def test_scalars_and_flags(device: Device) -> None:
    scalar = RawTensor(dtype="F32", shape=(), data=b"\0\0\x80\x3f")
    flags = RawTensor(dtype="BOOL", shape=(3,), data=b"\1\0\1")

    tensors = weights_of(device, {"scalar": (0, scalar), "flags": (256, flags)}).tensors()

    assert tensors["scalar"].item() == 1.0
    assert tensors["flags"].tolist() == [True, False, True]


def test_tensors_outlive_weights(device: Device, rng: random.Random) -> None:
    tensor = random_tensor(rng, "U8", 1000)
    weights = weights_of(device, {"t": (0, tensor)})
    view = weights.tensors()["t"]

    weights.close()
    del weights
    gc.collect()

    assert raw_bytes(view) == tensor.data


def test_attached_weights_share_the_memory(device: Device, rng: random.Random) -> None:
    tensor = random_tensor(rng, "F16", 100)
    weights = weights_of(device, {"t": (0, tensor)})
    fd = weights.memory.export()

    attached = AttachedDeviceWeights(
        fd, device.name, weights.memory.size_bytes, {"t": placed(tensor)}
    )
    os.close(fd)
    weights.close()

    assert raw_bytes(attached.tensors()["t"]) == tensor.data


def test_gives_no_tensors_once_closed(device: Device, rng: random.Random) -> None:
    weights = weights_of(device, {"t": (0, random_tensor(rng, "U8", 3))})

    weights.close()

    with pytest.raises(WeightsClosed):
        weights.tensors()
    with pytest.raises(WeightsClosed):
        _ = weights.memory


@pytest.mark.parametrize(
    "wrong",
    [
        PlacedTensor(offset=97, size_bytes=4, dtype="F32", shape=(1,)),
        PlacedTensor(offset=-4, size_bytes=4, dtype="F32", shape=(1,)),
        PlacedTensor(offset=0, size_bytes=-4, dtype="F32", shape=(-1,)),
        PlacedTensor(offset=0, size_bytes=4, dtype="F32", shape=(-1, -1)),
        PlacedTensor(offset=0, size_bytes=8, dtype="F32", shape=(1,)),
        PlacedTensor(offset=0, size_bytes=4, dtype="F31", shape=(1,)),
    ],
)
def test_refuses_tensors_that_do_not_lie_in_the_memory(wrong: PlacedTensor) -> None:
    memory = open_device("cpu").allocate(100)

    with pytest.raises(LayoutMismatch, match="tensor 'wrong' does not"):
        DeviceWeights(memory, {"wrong": wrong})


def test_weights_that_can_not_be_attached(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file, pytest.raises(LayoutMismatch, match="cpu: "):
        AttachedDeviceWeights(file.fileno(), "cpu", 100, {})


def test_a_gpus_bytes_are_described_for_other_libraries(fake_driver: FakeDriver) -> None:
    memory = open_device("cuda:1").allocate(1000)

    description = CudaBytes(memory.native, 256, 100).__cuda_array_interface__

    assert description == {
        "shape": (100,),
        "typestr": "|u1",
        "data": (memory.address + 256, False),
        "strides": None,
        "version": 3,
    }


def test_whoever_has_a_gpus_bytes_holds_its_memory(fake_driver: FakeDriver) -> None:
    device = open_device("cuda:1")
    held = CudaBytes(device.allocate(2 * MIB).native, 0, 100)
    gc.collect()
    assert device.space().free_bytes == 254 * MIB

    del held
    gc.collect()

    assert device.space().free_bytes == 256 * MIB


@pytest.mark.gpu
def test_a_gpus_memory_goes_with_the_last_tensor() -> None:
    device = open_device("cuda")
    torch.zeros(1, device="cuda")
    before = device.space().free_bytes
    tensor = PlacedTensor(offset=0, size_bytes=512 * MIB, dtype="U8", shape=(512 * MIB,))
    weights = DeviceWeights(device.allocate(512 * MIB), {"t": tensor})
    view = weights.tensors()["t"]
    weights.close()
    total = view.sum()
    assert before - device.space().free_bytes >= 512 * MIB

    # While the sum may still be under way.
    del view, weights
    gc.collect()

    assert before - device.space().free_bytes < 64 * MIB
    assert total.item() >= 0


@pytest.mark.gpu
def test_a_gpu_without_room_refuses() -> None:
    device = open_device("cuda")
    space = device.space()

    with pytest.raises(DeviceMemoryRefused) as refused:
        device.allocate(space.total_bytes)

    assert refused.value.free_bytes <= space.total_bytes


@pytest.mark.gpu
def test_another_process_computes_with_attached_weights() -> None:
    tensor = RawTensor(dtype="F32", shape=(3,), data=b"\0\0\x80\x3f" * 3)
    weights = weights_of(open_device("cuda"), {"t": (256, tensor)})
    size_bytes = weights.memory.size_bytes
    fd = weights.memory.export()
    program = (
        "import sys\n"
        "from pilotlight.native_loader import AttachedDeviceWeights\n"
        "from pilotlight.native_loader.placements.placement import PlacedTensor\n"
        "tensor = PlacedTensor(offset=256, size_bytes=12, dtype='F32', shape=(3,))\n"
        "fd, size_bytes = map(int, sys.argv[1:])\n"
        "weights = AttachedDeviceWeights(fd, 'cuda', size_bytes, {'t': tensor})\n"
        "view = weights.tensors()['t']\n"
        "view += 1\n"
        "print(view.sum().item())"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, str(fd), str(size_bytes)],
        pass_fds=[fd],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    os.close(fd)

    assert (done.returncode, done.stdout) == (0, "6.0\n"), done.stderr
    assert weights.tensors()["t"].tolist() == [2.0, 2.0, 2.0]
