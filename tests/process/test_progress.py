from __future__ import annotations

import io

from pilotlight.process.progress import Progress, StepProgress

GIB = 1 << 30


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_short_work_shows_nothing() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("pack", GIB, stream=stream, clock=clock)

    clock.now += 0.4
    progress.advance(GIB)
    progress.clear()

    assert stream.getvalue() == ""


def test_a_terminal_gets_one_changing_line() -> None:
    stream, clock = Terminal(), Clock()
    progress = Progress("pack", 4 * GIB, stream=stream, clock=clock)

    clock.now += 1.0
    progress.advance(GIB)
    clock.now += 0.05  # sooner than the next refresh
    progress.advance(GIB)
    clock.now += 0.95
    progress.advance(GIB)
    progress.clear()

    # 1 GiB in 1 s leaves 3 GiB; 3 GiB in 2 s leaves 1 GiB at 1.5 GiB/s = 0.667 s.
    assert stream.getvalue() == (
        "\rpack: 1.00 GiB of 4.00 GiB, 1.07 GB/s, 3.00 s left\x1b[K"
        "\rpack: 3.00 GiB of 4.00 GiB, 1.61 GB/s, 667 ms left\x1b[K"
        "\r\x1b[K"
    )


def test_a_file_gets_a_plain_line_every_five_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = Progress("pack", 20 * GIB, stream=stream, clock=clock)

    for _ in range(12):
        clock.now += 1.0
        progress.advance(GIB)
    progress.clear()

    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "pack: 1.00 GiB of 20.0 GiB",
        "pack: 6.00 GiB of 20.0 GiB",
        "pack: 11.0 GiB of 20.0 GiB",
    ]


def test_steps_are_counted_and_named() -> None:
    stream, clock = Terminal(), Clock()
    progress = StepProgress("starts", 40, stream=stream, clock=clock)

    clock.now += 10.0
    progress.advance(10)
    clock.now += 0.1
    progress.begin("throughput")
    progress.clear()

    # 10 of 40 steps in 10 s leave 30 s; a tenth of a second later, 30 steps at 10 per 10.1 s.
    assert stream.getvalue() == (
        "\rstarts: 10 of 40, 30.0 s left\x1b[K\rthroughput: 10 of 40, 30.3 s left\x1b[K\r\x1b[K"
    )
