from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

from pilotlight.scheduler.errors import InvalidRequest, UnreadableExecutionFile
from pilotlight.scheduler.gateway.testing import inline_renderer
from pilotlight.scheduler.gateway.text import template_process
from pilotlight.scheduler.gateway.text.template_child import TemplateChild
from pilotlight.scheduler.gateway.text.template_messages import Failure, RenderAnswer
from pilotlight.scheduler.gateway.text.template_renderer import (
    REFUSE_SECONDS,
    SHORT_BYTES,
    TemplateRenderer,
)
from pilotlight.scheduler.gateway.text.text_request import ChatMessage

HELLO = (ChatMessage(role="user", content="Hello"),)
PLAIN = "{{ bos_token }}{% for message in messages %}{{ message.content }}{% endfor %}"
LOOPS = "{% for a in range(99999) %}"
ENDS = "{% endfor %}"
ENDLESS = LOOPS * 3 + ENDS * 3
# One comparison, in C, that takes 2 to the power of 45 steps.
ONE_CALL = (
    "{% set ns = namespace(a=[1], b=[1]) %}"
    "{% for i in range(45) %}{% set ns.a = [ns.a, ns.a] %}{% set ns.b = [ns.b, ns.b] %}"
    "{% endfor %}{{ ns.a == ns.b }}"
)
HUGE = "{{ 'x' * 3000000000 }}"
PIECEMEAL = LOOPS * 2 + "{{ 'x' * 10000 }}" + ENDS * 2
CONSTANT = "{{ 'x' * 400000000 }}"  # its template, in Python, has it thrice
OUTPUT = "{{ 'x' * 20000000 }}"

Answer = Callable[[bytes], Awaitable[bytes]]


async def render(
    renderer: TemplateRenderer, source: str = PLAIN, messages: Sequence[ChatMessage] = HELLO
) -> str:
    return await renderer.render(source, special_tokens={"bos_token": "<s>"}, messages=messages)


async def really(line: bytes) -> bytes:
    return template_process.answer(line)


async def never(line: bytes) -> bytes:
    await asyncio.Event().wait()
    raise AssertionError(line)


async def breaking(line: bytes) -> bytes:
    raise ConnectionResetError("it broke off")


async def out_of_memory(line: bytes) -> bytes:
    number = msgspec.json.decode(line)["number"]
    return msgspec.json.encode(RenderAnswer(number=number, failure=Failure.TOO_LARGE))


async def too_slow(line: bytes) -> bytes:
    number = msgspec.json.decode(line)["number"]
    return msgspec.json.encode(RenderAnswer(number=number, failure=Failure.TOO_SLOW))


async def mixed_up(line: bytes) -> bytes:
    return msgspec.json.encode(RenderAnswer(number=4711, text="of somebody else"))


@dataclass(eq=False)
class Actor:
    """A process that plays its part once, and then renders."""

    part: Answer
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    lines: list[bytes] = field(default_factory=list[bytes])
    has_ended: bool = False

    async def ask(self, line: bytes) -> bytes:
        self.lines.append(line)
        self.asked.set()
        part, self.part = self.part, really
        return await part(line)

    async def end(self) -> None:
        self.has_ended = True


class Stage:
    """Starts actors with the parts given; from then on with none."""

    def __init__(self, *parts: Answer | OSError) -> None:
        self.parts = list(parts)
        self.actors: list[Actor] = []
        self.now = 100.0

    async def start(self) -> Actor:
        part = self.parts.pop(0) if self.parts else really
        if isinstance(part, OSError):
            raise part
        self.actors.append(Actor(part))
        return self.actors[-1]

    def renderer(self, *, patience_seconds: float = 60.0) -> TemplateRenderer:
        return TemplateRenderer(
            start=self.start, patience_seconds=patience_seconds, clock=lambda: self.now
        )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content + 5 }}", "str"),
        ("{{ messages[9].content.strip() }}", "undefined|no element"),
        ("{{ 1 // 0 }}", "zero"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
async def test_what_a_template_refuses_is_a_bad_request(source: str, reason: str) -> None:
    async with inline_renderer() as renderer:
        with pytest.raises(InvalidRequest, match=f"refuses these messages: .*{reason}") as caught:
            await render(renderer, source)

    assert caught.value.param == "messages"


async def test_messages_have_names_where_they_were_given() -> None:
    messages = (*HELLO, ChatMessage(role="user", content="Why?", name="ada"))
    async with inline_renderer() as renderer:
        text = await render(renderer, "{{ messages | tojson }}", messages)

    assert text == (
        '[{"role": "user", "content": "Hello"}, {"role": "user", "content": "Why?", "name": "ada"}]'
    )


async def test_a_template_that_is_none_is_named() -> None:
    async with inline_renderer() as renderer:
        with pytest.raises(UnreadableExecutionFile, match="the chat template can't be used: Exp"):
            await render(renderer, "{% for %}")


@pytest.mark.parametrize("content", ["half a pair: \ud800", "\udfff"])
async def test_text_that_is_no_unicode_is_refused(content: str) -> None:
    async with inline_renderer() as renderer:
        with pytest.raises(InvalidRequest, match="surrogates not allowed"):
            await render(renderer, PLAIN, [ChatMessage(role="user", content=content)])
        with pytest.raises(InvalidRequest, match="surrogates not allowed"):
            await render(renderer, content)


async def test_entering_starts_a_process_and_leaving_ends_it() -> None:
    stage = Stage()

    async with stage.renderer() as renderer:
        await asyncio.sleep(0)
        assert len(stage.actors) == 1
        await render(renderer)

    assert len(stage.actors) == 1
    assert stage.actors[0].has_ended


async def test_one_that_does_not_answer_is_replaced_and_not_asked_again() -> None:
    stage = Stage(never)
    async with stage.renderer(patience_seconds=0.01) as renderer:
        with pytest.raises(InvalidRequest, match="runs for more than 2 s"):
            await render(renderer)
        assert await render(renderer, "another") == "another"

    assert [len(actor.lines) for actor in stage.actors] == [1, 1]
    assert stage.actors[0].has_ended


async def test_a_template_that_takes_too_much_is_refused_for_some_seconds() -> None:
    stage = Stage(too_slow)
    async with stage.renderer() as renderer:
        with pytest.raises(InvalidRequest, match=r"template runs for more than 2 s$"):
            await render(renderer)
        stage.now += REFUSE_SECONDS - 0.1
        with pytest.raises(InvalidRequest, match=r"template runs for more than 2 s$"):
            await render(renderer)
        assert len(stage.actors[0].lines) == 1
        assert await render(renderer, "another") == "another"

        stage.now += 0.2

        assert await render(renderer) == "<s>Hello"


async def test_long_messages_that_take_too_much_are_held_against_nobody_else() -> None:
    stage = Stage(too_slow)
    async with stage.renderer() as renderer:
        with pytest.raises(InvalidRequest, match="runs for more than 2 s"):
            await render(renderer, PLAIN, [ChatMessage(role="user", content="x" * SHORT_BYTES)])

        assert await render(renderer) == "<s>Hello"


@pytest.mark.parametrize("part", [breaking, out_of_memory, mixed_up])
async def test_what_another_template_may_have_caused_is_tried_again(part: Answer) -> None:
    stage = Stage(part)
    async with stage.renderer() as renderer:
        assert await render(renderer) == "<s>Hello"

    assert len(stage.actors) == 2


@pytest.mark.parametrize(
    ("part", "reason"),
    [
        (breaking, "breaks the process that it runs in"),
        (out_of_memory, "takes more than 1 GiB of memory"),
        (mixed_up, "breaks the process that it runs in"),
    ],
)
async def test_what_a_template_causes_again_is_its_own(part: Answer, reason: str) -> None:
    stage = Stage(part, part)
    async with stage.renderer() as renderer:
        with pytest.raises(InvalidRequest, match=reason):
            await render(renderer)
        with pytest.raises(InvalidRequest, match=reason):
            await render(renderer)

    # Two that broke, and one that nobody was let to.
    assert [len(actor.lines) for actor in stage.actors] == [1, 1, 0]


async def test_where_no_process_can_be_started_the_next_request_tries_again() -> None:
    stage = Stage(OSError("no memory"), OSError("no memory"))
    async with stage.renderer() as renderer:
        with pytest.raises(UnreadableExecutionFile, match=r"process .* can't be started"):
            await render(renderer)

        assert await render(renderer) == "<s>Hello"


async def test_a_request_that_leaves_does_not_get_its_answer_to_another() -> None:
    may_answer = asyncio.Event()

    async def late(line: bytes) -> bytes:
        await may_answer.wait()
        return template_process.answer(line)

    stage = Stage(late)
    async with stage.renderer() as renderer, asyncio.TaskGroup() as tasks:
        leaving = tasks.create_task(render(renderer, "of the one that left"))
        waiting = tasks.create_task(render(renderer, "never asked for"))
        staying = tasks.create_task(render(renderer))
        await asyncio.sleep(0)
        await stage.actors[0].asked.wait()
        leaving.cancel()
        waiting.cancel()
        may_answer.set()

        assert await staying == "<s>Hello"

    assert len(stage.actors) == 1
    assert len(stage.actors[0].lines) == 2


async def test_leaving_cancels_those_that_wait() -> None:
    stage = Stage(never)
    async with stage.renderer() as renderer:
        waiting = [asyncio.ensure_future(render(renderer)) for _ in range(3)]
        await asyncio.sleep(0)
        await stage.actors[0].asked.wait()

    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [asyncio.CancelledError] * 3
    assert stage.actors[0].has_ended


class Nursery:
    """Starts real processes, and knows them."""

    def __init__(self) -> None:
        self.children: list[TemplateChild] = []

    async def start(self) -> TemplateChild:
        self.children.append(await TemplateChild.start())
        return self.children[-1]

    @property
    def pid(self) -> int:
        return self.children[-1].pid


def is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def nursery() -> Nursery:
    return Nursery()


@pytest.fixture
async def real(nursery: Nursery) -> AsyncIterator[TemplateRenderer]:
    async with TemplateRenderer(start=nursery.start) as renderer:
        yield renderer
    assert not any(is_there(child.pid) for child in nursery.children)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (HUGE, "takes more than 1 GiB of memory"),
        (PIECEMEAL, "takes more than 1 GiB of memory|runs for more than 2 s"),
        (ENDLESS, "runs for more than 2 s"),
        (ONE_CALL, "runs for more than 2 s"),
        (OUTPUT, "writes more than 8 MiB"),
    ],
)
async def test_what_takes_too_much_is_refused_and_others_go_on(
    source: str, reason: str, real: TemplateRenderer
) -> None:
    with pytest.raises(InvalidRequest, match=f"^the model's chat template ({reason})$"):
        await render(real, source)

    assert await render(real) == "<s>Hello"


@pytest.mark.integration
async def test_a_constant_too_large_to_compile_is_refused(real: TemplateRenderer) -> None:
    with pytest.raises(InvalidRequest, match=r"(takes|runs for) more than"):
        await render(real, CONSTANT)

    assert await render(real) == "<s>Hello"


@pytest.mark.integration
async def test_several_megabytes_come_back_as_they_are(real: TemplateRenderer) -> None:
    contents = ["x y\n" * (1 << 20), "日本語 🎉\x00\u2028" * (1 << 17), '"\\' * (1 << 20)]

    for content in contents:
        text = await render(real, PLAIN, [ChatMessage(role="user", content=content)])
        assert text == f"<s>{content}"


@pytest.mark.integration
async def test_one_killed_between_two_renderings_is_replaced(
    real: TemplateRenderer, nursery: Nursery
) -> None:
    await render(real)
    os.kill(nursery.pid, signal.SIGKILL)

    assert await render(real) == "<s>Hello"
    assert len(nursery.children) == 2


@pytest.mark.integration
async def test_one_killed_while_it_renders_is_replaced(
    real: TemplateRenderer, nursery: Nursery
) -> None:
    await render(real)
    os.kill(nursery.pid, signal.SIGSTOP)  # so that the rendering surely has not ended
    rendering = asyncio.ensure_future(render(real))
    await asyncio.sleep(0)
    os.kill(nursery.pid, signal.SIGKILL)

    assert await rendering == "<s>Hello"
    assert len(nursery.children) == 2


@pytest.mark.integration
async def test_ctrl_c_is_not_for_it(real: TemplateRenderer, nursery: Nursery) -> None:
    await render(real)
    os.kill(nursery.pid, signal.SIGINT)

    assert await render(real) == "<s>Hello"
    assert len(nursery.children) == 1


@pytest.mark.integration
async def test_it_has_no_files_of_ours(
    real: TemplateRenderer, nursery: Nursery, tmp_path: Path
) -> None:
    with (tmp_path / "ours").open("w") as ours:
        os.set_inheritable(ours.fileno(), True)
        await render(real)

        assert sorted(os.listdir(f"/proc/{nursery.pid}/fd")) == ["0", "1", "2"]
    assert os.readlink(f"/proc/{nursery.pid}/fd/2") == os.devnull


@pytest.mark.integration
async def test_leaving_ends_one_that_renders(nursery: Nursery) -> None:
    async with TemplateRenderer(start=nursery.start) as renderer:
        await render(renderer)
        rendering = asyncio.ensure_future(render(renderer, ENDLESS))
        await asyncio.sleep(0)
        pid = nursery.pid

    assert not is_there(pid)
    with pytest.raises(asyncio.CancelledError):
        await rendering


# Tells its child's pid when that renders for ever, as far as anybody is concerned.
_PARENT = """
import asyncio, sys
from pilotlight.scheduler.gateway.text.template_child import TemplateChild

async def main():
    child = await TemplateChild.start()
    print(child.pid, flush=True)
    await child.ask(sys.argv[1].encode())

asyncio.run(main())
"""


@pytest.mark.integration
def test_it_dies_with_its_killed_parent_in_the_middle_of_a_rendering() -> None:
    request = msgspec.json.encode({"number": 1, "source": ENDLESS, "messages": []}).decode()
    command = [sys.executable, "-c", _PARENT, request]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))

        parent.kill()

        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(10_000)
        os.close(pidfd)
