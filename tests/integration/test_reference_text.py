"""Greedy text of every demo checkpoint, through a whole cluster, is that of `generate`."""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from pilotlight.scheduler.demo.checkpoints import RECIPES, make_checkpoints
from pilotlight.scheduler.testing.http_answers import Answer
from pilotlight.scheduler.testing.local_cluster import LocalCluster

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(600)]

N_TOKENS = 48
NEAR_TIE = 1e-4
"""In float32 the order of a sum's terms decides between two logits as close as that."""

CHECKPOINTS = Path(__file__).parents[2] / ".demo" / "checkpoints"
TEXTS = (
    "The",
    "Why is the sky blue?",
    "<|system|>You are terse.<|end|><|user|>Name three colours.<|end|><|assistant|>",
    "A class definition is an executable statement that defines a class object. " * 12,
)


@dataclass(slots=True)
class Tally:
    """How the sequences of one type compare."""

    n_equal: int = 0
    near_ties: list[str] = field(default_factory=list[str])
    seconds: float = 0.0

    def __str__(self) -> str:
        ties = "".join(f"\n  {tie}" for tie in self.near_ties)
        n_compared = self.n_equal + len(self.near_ties)
        return (
            f"{self.n_equal} of {n_compared} sequences of {N_TOKENS} tokens are equal,"
            f" {len(self.near_ties)} differ at a near-tie; {self.seconds:.1f} s{ties}"
        )


class Reference:
    """A checkpoint as transformers loads and runs it."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        auto: Any = AutoModelForCausalLM
        self._folder = folder
        self._torch = torch
        self._model = auto.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        ids: list[int] = self._tokenizer(text).input_ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text

    def generate(self, prompt: Sequence[int]) -> list[int]:
        """Return what greedily follows a prompt."""
        torch = self._torch
        generated = self._model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=N_TOKENS,
            do_sample=False,
            eos_token_id=None,
        )
        ids: list[int] = generated[0, len(prompt) :].tolist()
        return ids

    def top_two(self, ids: Sequence[int]) -> tuple[set[int], float]:
        """Return the two likeliest next tokens, and the margin between their logits."""
        with self._torch.inference_mode():
            logits = self._model(self._torch.tensor([ids])).logits[0, -1]
        values, tokens = logits.topk(2)
        return set(tokens.tolist()), float(values[0] - values[1])


@pytest.fixture(scope="module")
def up(shared_cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Yield a cluster of one node that holds all demo checkpoints."""
    make_checkpoints(CHECKPOINTS, say=lambda _: None)
    shared_cluster.set_environ(PILOTLIGHT_ENGINES="[transformers]")
    shared_cluster.start_up(f"--models={CHECKPOINTS}")
    shared_cluster.wait_node("node-1")
    yield shared_cluster
    assert shared_cluster.stop("up") == 0


@pytest.fixture(scope="module")
def tallies(report_line: Callable[[str], None]) -> Iterator[dict[str, Tally]]:
    """Yield a tally for each type; they are shown at the end."""
    tallies = {"float64": Tally(), "float32": Tally()}
    yield tallies
    for dtype, tally in tallies.items():
        report_line(f"{dtype}: {tally}")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", [recipe.name for recipe in RECIPES])
def test_greedy_text_is_that_of_generate(
    up: LocalCluster, tallies: dict[str, Tally], name: str, dtype: str
) -> None:
    began = time.monotonic()
    up.deploy(name, dtype=dtype, keep_alive="60s")
    reference = Reference(CHECKPOINTS / name, dtype)
    prompts = [reference.encode(text) for text in TEXTS]

    answers = [up.ask(name, prompt, max_tokens=N_TOKENS) for prompt in prompts]
    up.run("delete", name)
    up.wait_idle(name)

    for prompt, answer in zip(prompts, answers, strict=True):
        expected = reference.generate(prompt)
        assert (answer.status, answer.finish_reason) == (200, "length")
        assert answer.text == reference.decode(answer.ids)
        assert len(set(expected)) > 10
        if answer.ids == expected:
            tallies[dtype].n_equal += 1
        else:
            assert dtype == "float32"
            tallies[dtype].near_ties.append(near_tie(name, prompt, answer, expected))
    tallies[dtype].seconds += time.monotonic() - began


def near_tie(name: str, prompt: Sequence[int], answer: Answer, expected: Sequence[int]) -> str:
    """Return where two sequences part, in words; it must be at a near-tie."""
    assert len(answer.ids) == len(expected)
    at = next(
        i for i, ids in enumerate(zip(answer.ids, expected, strict=True)) if len(set(ids)) > 1
    )
    exact = Reference(CHECKPOINTS / name, "float64")
    tokens, margin = exact.top_two([*prompt, *expected[:at]])
    assert tokens == {answer.ids[at], expected[at]}
    assert margin < NEAR_TIE
    return f"{name}, prompt of {len(prompt)} tokens, token {at}: margin {margin:.2g}"
