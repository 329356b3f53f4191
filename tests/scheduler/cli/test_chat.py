from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.integration

Run = Callable[..., tuple[int, str, str]]


def test_what_is_left_out_is_the_gateways(controller: Any, pilotlight: Run) -> None:
    assert pilotlight("chat", "m", "Hello") == (0, "", "")

    [request] = controller.requests
    assert request.max_tokens == 256
    assert not any(request.HasField(name) for name in ("temperature", "top_p", "seed"))
    assert request.repetition_penalty == 0.0
    assert dict(request.logit_bias) == {}


def test_all_that_can_be_said_of_sampling_is_sent(controller: Any, pilotlight: Run) -> None:
    pilotlight(
        *("chat", "m", "Hello", "--temperature=0", "--top-p=0.5", "--top-k=40", "--seed=7"),
        *("--presence-penalty=-0.5", "--frequency-penalty=2", "--repetition-penalty=1.5"),
        *("--logit-bias=5=-100", "--logit-bias=4294967295=0.5"),
    )

    [request] = controller.requests
    assert (request.temperature, request.top_p, request.top_k) == (0.0, 0.5, 40)
    assert (request.presence_penalty, request.frequency_penalty) == (-0.5, 2.0)
    assert (request.repetition_penalty, request.seed) == (1.5, 7)
    assert dict(request.logit_bias) == {5: -100.0, 4294967295: 0.5}


@pytest.mark.parametrize("bias", ["5", "5=", "=1", "a=1", "-1=1", "4294967296=1", "5=x"])
def test_a_bias_is_a_token_id_and_a_number(bias: str, controller: Any, pilotlight: Run) -> None:
    code, _, err = pilotlight("chat", "m", "Hello", f"--logit-bias={bias}")

    assert code == 2
    assert f"{bias!r} is no ID=BIAS" in err
    assert controller.requests == []
