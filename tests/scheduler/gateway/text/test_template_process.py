from __future__ import annotations

import time
from io import BytesIO

import msgspec
import pytest

from pilotlight.scheduler.gateway.text import template_process
from pilotlight.scheduler.gateway.text.template_messages import (
    Failure,
    RenderAnswer,
    RenderRequest,
)
from pilotlight.scheduler.gateway.text.template_process import answer, serve

HELLO = [{"role": "user", "content": "Hello, naïve 🎉"}]
HUGE = "{{ messages[0].content * 9000000000000000 }}"  # more than any machine has


def request(source: str, **fields: object) -> bytes:
    known = {"number": 7, "source": source, "special_tokens": {}, "messages": HELLO}
    return msgspec.json.encode(known | fields)


def answered(source: str, **fields: object) -> RenderAnswer:
    return msgspec.json.decode(answer(request(source, **fields)), type=RenderAnswer)


def test_answers_with_the_text_under_the_requests_number() -> None:
    source = "{{ bos_token }}{{ messages[0].content }}"

    assert answered(source, special_tokens={"bos_token": "<s>"}) == RenderAnswer(
        number=7, text="<s>Hello, naïve 🎉"
    )


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{% for %}", "Expected an expression"),
        ("{% for a in b %}" * 50 + "{% endfor %}" * 50, "too many statically nested blocks"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "recursion"),
    ],
)
def test_what_can_t_be_compiled_is_no_template(source: str, reason: str) -> None:
    broken = answered(source)

    assert broken.failure is Failure.BROKEN
    assert reason in broken.reason


def test_time_is_that_of_the_processor_and_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "RENDER_SECONDS", 0.05)
    loops = "{% for a in range(99999) %}"
    began = time.process_time()

    endless = answered(loops * 3 + "{% endfor %}" * 3)

    assert endless == RenderAnswer(number=7, failure=Failure.TOO_SLOW)
    assert time.process_time() - began < 5.0
    assert answered("{{ messages[0].role }}").text == "user"


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ '\\ud800' }}", "surrogates not allowed"),
        ("{{ messages[0].content.encode('ascii') }}", "'ascii' codec"),
    ],
)
def test_whatever_a_template_raises_is_a_refusal(source: str, reason: str) -> None:
    refused = answered(source)

    assert refused.failure is Failure.REFUSED
    assert reason in refused.reason


def test_a_templates_own_words_are_cut_and_made_unicode() -> None:
    refused = answered("{{ raise_exception('\\ud800' * 100000) }}")

    assert refused.reason == "?" * 1000


def test_running_out_of_memory_is_an_answer() -> None:
    assert answered(HUGE) == RenderAnswer(number=7, failure=Failure.TOO_LARGE)


def test_a_text_that_is_too_long_is_not_sent() -> None:
    limit = 8 << 20

    # The rest of the line takes less than 100 bytes.
    assert len(answered(f"{{{{ 'x' * {limit - 100} }}}}").text) == limit - 100
    too_long = answered(f"{{{{ 'x' * {limit} }}}}")
    assert too_long == RenderAnswer(number=7, failure=Failure.TOO_LONG)


def test_the_current_time_is_there() -> None:
    assert answered("{{ strftime_now('%Y') | length }}").text == "4"


def test_says_that_it_is_ready_and_answers_until_the_requests_end() -> None:
    requests = BytesIO(request("a", number=1) + b"\n" + request("b", number=2) + b"\n")
    answers = BytesIO()

    serve(requests, answers)

    ready, *lines = answers.getvalue().splitlines()
    assert ready == b""
    assert [msgspec.json.decode(line, type=RenderAnswer) for line in lines] == [
        RenderAnswer(number=1, text="a"),
        RenderAnswer(number=2, text="b"),
    ]


def test_a_request_is_one_line_whatever_is_in_it() -> None:
    asked = RenderRequest(
        number=1, source="a\nb\u2028", special_tokens={}, messages=[{"content": "\r\n"}]
    )

    assert len(msgspec.json.encode(asked).split(b"\n")) == 1
