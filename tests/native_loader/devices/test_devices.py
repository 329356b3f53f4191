from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from tests.native_loader.fake_driver import FakeDriver

from pilotlight.native_loader import (
    DeviceFailed,
    DeviceMemoryRefused,
    DeviceUnavailable,
    LayoutMismatch,
    MemoryRefused,
    available_devices,
    open_device,
)
from pilotlight.native_loader.devices.device import DeviceInfo

DEADLINE_SECONDS = 30
MIB = 1 << 20


@pytest.fixture(params=["cpu", "cuda:1"])
def device_name(request: pytest.FixtureRequest, fake_driver: FakeDriver) -> str:
    """A device of each kind, where the fake driver makes the GPUs."""
    name: str = request.param
    return name


@pytest.fixture
def child_environment(fake_driver: FakeDriver) -> dict[str, str]:
    """What a process needs to find the same GPUs."""
    return {
        **os.environ,
        "PILOTLIGHT_CUDA_LIBRARY": str(fake_driver.path),
        "FAKE_CUDA_DEVICES": ",".join(["268435456"] * 3),
    }


@pytest.fixture
def no_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path, in place of the driver, where nothing is."""
    path = tmp_path / "libcuda.so"
    monkeypatch.setenv("PILOTLIGHT_CUDA_LIBRARY", str(path))
    return path


def test_lists_the_devices(fake_driver: FakeDriver) -> None:
    held = open_device("cuda:1").allocate(3 * MIB)

    cpu, *gpus = available_devices()

    assert (cpu.name, cpu.model) == ("cpu", "")
    assert 0 < cpu.free_bytes <= cpu.total_bytes
    assert [gpu.name for gpu in gpus] == ["cuda:0", "cuda:1", "cuda:2"]
    # 3 MiB in granules of 2 MiB.
    assert gpus[1] == DeviceInfo(
        name="cuda:1", model="Fake 1", total_bytes=256 * MIB, free_bytes=252 * MIB
    )
    assert held.size_bytes == 3 * MIB


def test_lists_the_cpu_alone_without_a_driver(no_driver: Path) -> None:
    assert [device.name for device in available_devices()] == ["cpu"]


def test_says_which_devices_there_are(fake_driver: FakeDriver) -> None:
    with pytest.raises(DeviceUnavailable, match="the driver knows 3 devices"):
        open_device("cuda:3")
    with pytest.raises(DeviceUnavailable, match="devices are called 'cpu', 'cuda', 'cuda:1'"):
        open_device("gpu")


def test_says_where_it_looked_for_the_driver(no_driver: Path) -> None:
    with pytest.raises(DeviceUnavailable, match=f"{no_driver}: cannot open shared object file"):
        open_device("cuda")


def test_says_what_a_library_lacks(
    fake_driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PILOTLIGHT_CUDA_LIBRARY", "libm.so.6")

    with pytest.raises(DeviceUnavailable, match=r"libm\.so\.6 has no cuInit"):
        open_device("cuda")


def test_memory_holds_what_is_written(device_name: str) -> None:
    memory = open_device(device_name).allocate(100)

    memory.write(10, b"some weights")

    assert memory.read(10, 12) == b"some weights"
    assert memory.size_bytes == 100
    with pytest.raises(IndexError):
        memory.write(90, b"some weights")
    with pytest.raises(IndexError):
        memory.read(90, 12)
    with pytest.raises(IndexError):
        memory.read(0, 1 << 62)


def test_only_the_cpus_memory_is_a_buffer(fake_driver: FakeDriver) -> None:
    cpu = open_device("cpu").allocate(5)
    gpu = open_device("cuda").allocate(5)
    cpu.write(0, b"bytes")

    assert bytes(memoryview(cpu.native)) == b"bytes"  # type: ignore[arg-type]  # no protocol in 3.11
    with pytest.raises(BufferError, match="has no address in this process"):
        memoryview(gpu.native)  # type: ignore[arg-type]  # as above


def test_out_of_memory_says_what_is_free(fake_driver: FakeDriver) -> None:
    device = open_device("cuda:2")

    with pytest.raises(DeviceMemoryRefused) as refused:
        device.allocate(257 * MIB)

    assert refused.value.device == "cuda:2"
    assert refused.value.free_bytes == 256 * MIB
    assert "'cuda:2' has 268,435,456 bytes free" in str(refused.value)
    assert device.space().free_bytes == 256 * MIB


def test_the_cpu_takes_no_more_than_is_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "pilotlight.native_loader.devices.device.available_memory_bytes", lambda: 1000
    )

    with pytest.raises(DeviceMemoryRefused) as refused:
        open_device("cpu").allocate(1001)

    assert refused.value.free_bytes == 1000


def test_failures_name_the_call(fake_driver: FakeDriver) -> None:
    device = open_device("cuda")
    fake_driver.fail("cuMemCreate", code=214)

    with pytest.raises(DeviceFailed) as failed:
        device.allocate(100)

    assert failed.value.device == "cuda:0"
    assert failed.value.call == "cuMemCreate"
    assert failed.value.code == "CUDA_ERROR_ECC_UNCORRECTABLE"
    assert str(failed.value) == (
        "device 'cuda:0' failed: cuMemCreate answered CUDA_ERROR_ECC_UNCORRECTABLE"
    )


def test_attaches_what_was_exported(device_name: str) -> None:
    device = open_device(device_name)
    memory = device.allocate(8000)
    memory.write(4000, b"weights")
    fd = memory.export()
    del memory

    attached = device.attach(fd, 8000)
    os.close(fd)

    assert attached.read(4000, 7) == b"weights"


def test_attaches_nothing_else(device_name: str, tmp_path: Path) -> None:
    device = open_device(device_name)
    exported = device.allocate(100).export()
    errors = (LayoutMismatch, DeviceFailed, MemoryRefused)

    with (tmp_path / "file").open("wb+") as file:
        file.write(bytes(4096))
        file.flush()
        with pytest.raises(errors):
            device.attach(file.fileno(), 4096)
    with pytest.raises(errors):
        device.attach(exported, 1 << 40)
    with pytest.raises(errors):
        device.attach(exported, 16 * MIB)
    with pytest.raises(LayoutMismatch):
        device.attach(exported, -1)
    os.close(exported)
    with pytest.raises(errors):
        device.attach(exported, 100)


@pytest.mark.integration
def test_another_process_attaches(device_name: str, child_environment: dict[str, str]) -> None:
    memory = open_device(device_name).allocate(5 * MIB)
    memory.write(5 * MIB - 7, b"weights")
    fd = memory.export()
    program = (
        "import sys; from pilotlight.native_loader import open_device\n"
        "name, fd = sys.argv[1], int(sys.argv[2])\n"
        f"print(open_device(name).attach(fd, {5 * MIB}).read({5 * MIB - 7}, 7).decode())"
    )

    done = subprocess.run(
        [sys.executable, "-c", program, device_name, str(fd)],
        env=child_environment,
        pass_fds=[fd],
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )
    os.close(fd)

    assert (done.returncode, done.stdout, done.stderr) == (0, "weights\n", "")


@pytest.mark.integration
def test_memory_outlives_the_process_that_took_it(
    device_name: str, child_environment: dict[str, str]
) -> None:
    ours, theirs = socket.socketpair()
    ours.settimeout(DEADLINE_SECONDS)
    program = (
        "import socket, sys, time; from pilotlight.native_loader import open_device\n"
        "memory = open_device(sys.argv[1]).allocate(100)\n"
        "memory.write(0, b'weights')\n"
        "door = socket.socket(fileno=int(sys.argv[2]))\n"
        "socket.send_fds(door, [b'.'], [memory.export()])\n"
        f"time.sleep({DEADLINE_SECONDS})"
    )
    with (
        ours,
        theirs,
        subprocess.Popen(
            [sys.executable, "-c", program, device_name, str(theirs.fileno())],
            env=child_environment,
            pass_fds=[theirs.fileno()],
        ) as process,
    ):
        try:
            _, (fd,), _, _ = socket.recv_fds(ours, 1, 1)
        finally:
            process.kill()
        assert process.wait(DEADLINE_SECONDS) == -signal.SIGKILL

        attached = open_device(device_name).attach(fd, 100)
        os.close(fd)

    assert attached.read(0, 7) == b"weights"


@pytest.mark.integration
def test_a_driver_that_fails_in_another_process_is_its_error(
    child_environment: dict[str, str],
) -> None:
    program = "from pilotlight.native_loader import open_device; open_device('cuda:1')"

    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**child_environment, "FAKE_CUDA_FAIL": "cuDevicePrimaryCtxRetain:1:100"},
        capture_output=True,
        text=True,
        timeout=DEADLINE_SECONDS,
        check=False,
    )

    assert done.returncode == 1
    assert done.stderr.endswith(
        "device 'cuda:1' failed: cuDevicePrimaryCtxRetain answered CUDA_ERROR_NO_DEVICE\n"
    )
