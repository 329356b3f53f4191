"""The transformers engine on tiny models of real architectures."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pilotlight.store_node.engines import Engine, EngineSetup, Offer, Weights, Work
from pilotlight.store_node.engines.transformers import TransformersEngine
from pilotlight.store_node.engines.transformers.loop import StepLoop
from pilotlight.store_node.errors import (
    InvalidLogits,
    InvalidOption,
    UnsupportedModel,
    WeightsMismatch,
)
from pilotlight.store_node.protocol import FinishReason, RequestId, Sampling
from pilotlight.store_node.testing import EngineContract, Transcript, run_to_end

DENSE = ["llama", "qwen3", "opt", "gpt2", "gemma2"]

Checkpoints = Callable[[str], Path]
Setups = Callable[..., EngineSetup]
WeightsOf = Callable[..., Weights]
Tensors = dict[str, torch.Tensor]
Rewrite = Callable[[Path, Path, Callable[[Tensors], None]], Path]


def _bind(setup: EngineSetup, weights: Weights) -> tuple[TransformersEngine, Offer]:
    engine = TransformersEngine()
    engine.prepare(setup)
    return engine, engine.bind(weights)


def _answer(engine: Engine, prompt_ids: tuple[int, ...], **sampling: Any) -> Transcript:
    work = Work(
        request_id=RequestId("a"),
        attempt=1,
        prompt_ids=prompt_ids,
        emitted_ids=(),
        sampling=Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling}),
    )
    return run_to_end(engine, [work])[work.request_id]


def _count_answers(monkeypatch: pytest.MonkeyPatch) -> list[RequestId]:
    """Return the requests that step loops will have taken."""
    admit = StepLoop.admit
    answered: list[RequestId] = []

    def count(loop: StepLoop, work: Work) -> None:
        admit(loop, work)
        answered.append(work.request_id)

    monkeypatch.setattr(StepLoop, "admit", count)
    return answered


class TestContractInFloat64(EngineContract):
    @pytest.fixture(params=DENSE)
    def directory(self, request: pytest.FixtureRequest, checkpoint: Checkpoints) -> Path:
        return checkpoint(request.param)

    @pytest.fixture
    def make_engine(self) -> Callable[[], Engine]:
        return TransformersEngine

    @pytest.fixture
    def engine_setup(self, directory: Path, make_setup: Setups) -> EngineSetup:
        return make_setup(directory, dtype="float64")

    @pytest.fixture
    def weights(self, directory: Path, stored_weights: WeightsOf) -> Weights:
        return stored_weights(directory)


class TestContractInFloat32(TestContractInFloat64):
    @pytest.fixture
    def engine_setup(self, directory: Path, make_setup: Setups) -> EngineSetup:
        return make_setup(directory, dtype="float32")


@pytest.mark.parametrize(
    ("architecture", "dtype"),
    [
        *((architecture, dtype) for architecture in DENSE for dtype in ("float64", "float32")),
        # The library's grouped product of experts does not know float64.
        ("mixtral", "float32"),
    ],
)
def test_greedy_tokens_are_those_of_generate(
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    architecture: str,
    dtype: str,
) -> None:
    directory = checkpoint(architecture)
    engine, _ = _bind(make_setup(directory, dtype=dtype), stored_weights(directory))
    reference: Any = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype))
    prompts = [(5, 6, 7, 8, 9), (40,), tuple(range(10, 40))]

    answers = [_answer(engine, prompt).token_ids for prompt in prompts]

    for prompt, answer in zip(prompts, answers, strict=True):
        generated = reference.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=24,
            do_sample=False,
            eos_token_id=None,
        )
        assert answer == generated[0, len(prompt) :].tolist()
    assert len(set(answers[0])) > 3


@pytest.mark.parametrize("architecture", DENSE)
def test_weights_are_used_where_they_lie(
    checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf, architecture: str
) -> None:
    directory = checkpoint(architecture)
    weights = stored_weights(directory)

    engine, offer = _bind(make_setup(directory), weights)

    _answer(engine, (5,))
    assert offer.dtype == "float32"
    assert offer.copied_bytes == 0


def test_experts_that_the_library_merges_are_counted_as_copied(
    checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf
) -> None:
    directory = checkpoint("mixtral")

    _, offer = _bind(make_setup(directory), stored_weights(directory))

    # 2 layers, 4 experts, 3 matrices of 32 by 32, 4 bytes each
    assert offer.copied_bytes == 2 * 4 * 3 * 32 * 32 * 4


def test_casting_is_counted_as_copied(
    checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf
) -> None:
    directory = checkpoint("llama")
    weights = stored_weights(directory)

    _, offer = _bind(make_setup(directory, dtype="float64"), weights)

    assert offer.dtype == "float64"
    assert offer.copied_bytes == 2 * weights.size_bytes  # 8 bytes for every 4


def test_the_dtype_is_that_of_the_weights_where_the_configuration_names_none(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
) -> None:
    def halve(tensors: Tensors) -> None:
        tensors.update({name: tensor.bfloat16() for name, tensor in tensors.items()})

    directory = rewrite(checkpoint("llama"), tmp_path, halve)
    config = json.loads((directory / "config.json").read_text())
    del config["dtype"]
    (directory / "config.json").write_text(json.dumps(config))

    _, offer = _bind(make_setup(directory), stored_weights(directory))

    assert offer.dtype == "bfloat16"
    assert offer.copied_bytes == 0


@pytest.mark.parametrize(
    ("architecture", "prefix"),
    [("gpt2", "transformer."), ("opt", "model."), ("llama", "model.")],
)
def test_names_without_the_base_models_prefix_bind_too(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
    architecture: str,
    prefix: str,
) -> None:
    def strip(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix(prefix)] = tensors.pop(name)

    plain = checkpoint(architecture)
    stripped = rewrite(plain, tmp_path, strip)

    expected, _ = _bind(make_setup(plain), stored_weights(plain))
    engine, offer = _bind(make_setup(stripped), stored_weights(stripped))

    assert _answer(engine, (5, 6)).token_ids == _answer(expected, (5, 6)).token_ids
    assert offer.copied_bytes == 0


def test_an_alias_stands_for_a_tensor_that_is_not_stored(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
) -> None:
    alias, stored = "model.layers.1.input_layernorm.weight", "model.norm.weight"

    def share(tensors: Tensors) -> None:
        del tensors[alias]

    directory = rewrite(checkpoint("llama"), tmp_path, share)

    _, offer = _bind(make_setup(directory), stored_weights(directory, {alias: stored}))

    assert offer.copied_bytes == 0


def test_weights_that_do_not_fit_are_named(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
) -> None:
    def spoil(tensors: Tensors) -> None:
        del tensors["model.norm.weight"]
        tensors["model.extra.weight"] = torch.zeros(3)

    directory = rewrite(checkpoint("llama"), tmp_path, spoil)

    with pytest.raises(WeightsMismatch) as mismatch:
        _bind(make_setup(directory), stored_weights(directory))

    assert mismatch.value.missing == ("model.norm.weight",)
    assert mismatch.value.unexpected == ("model.extra.weight",)
    assert "model.norm.weight" in str(mismatch.value)
    assert "\n" not in str(mismatch.value)


def test_weights_of_another_shape_are_named_with_both_shapes(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
) -> None:
    def grow(tensors: Tensors) -> None:
        tensors["model.norm.weight"] = torch.ones(33)

    directory = rewrite(checkpoint("llama"), tmp_path, grow)

    with pytest.raises(WeightsMismatch, match=r"model\.norm\.weight \(\[33\] instead of \[32\]\)"):
        _bind(make_setup(directory), stored_weights(directory))


def test_logits_that_are_not_finite_end_the_engine(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
) -> None:
    def poison(tensors: Tensors) -> None:
        tensors["model.norm.weight"][0] = float("nan")

    directory = rewrite(checkpoint("llama"), tmp_path, poison)
    engine, _ = _bind(make_setup(directory), stored_weights(directory))

    with pytest.raises(InvalidLogits, match="position 2 are not finite"):
        _answer(engine, (5, 6))


def test_top_log_probabilities_are_the_models_own(
    checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf
) -> None:
    directory = checkpoint("llama")
    engine, _ = _bind(make_setup(directory), stored_weights(directory))
    reference: Any = AutoModelForCausalLM.from_pretrained(directory)
    with torch.inference_mode():
        expected = reference(torch.tensor([[5, 6, 7]])).logits[0, -1].log_softmax(0)

    answer = _answer(engine, (5, 6, 7), max_tokens=1, temperature=0.5, top_k=1, seed=3, logprobs=4)

    (logprobs,) = answer.logprobs
    values, ids = expected.topk(4)
    assert logprobs.top_ids == tuple(ids.tolist())
    assert logprobs.top_logprobs == pytest.approx(values.tolist(), abs=1e-5)
    assert logprobs.logprob == pytest.approx(float(values[0]), abs=1e-5)


def test_the_context_is_the_smaller_of_the_asked_and_the_models(
    checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf
) -> None:
    directory = checkpoint("opt")

    offers = [
        _bind(make_setup(directory, context_tokens=asked), stored_weights(directory))[1]
        for asked in (0, 40, 1000)
    ]

    assert [offer.context_tokens for offer in offers] == [64, 40, 64]


@pytest.mark.parametrize("nonsense", [2**31, -5])
def test_a_context_that_makes_no_sense_is_taken_as_not_stated(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    nonsense: int,
) -> None:
    config = json.loads((checkpoint("llama") / "config.json").read_text())
    config["max_position_embeddings"] = nonsense
    (tmp_path / "config.json").write_text(json.dumps(config))

    _, offer = _bind(make_setup(tmp_path), stored_weights(checkpoint("llama")))

    assert offer.context_tokens == 2048


def test_a_stop_id_that_generate_would_stop_at_ends_the_request(
    checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf
) -> None:
    directory = checkpoint("llama")
    engine, _ = _bind(make_setup(directory), stored_weights(directory))
    whole = _answer(engine, (5, 6)).token_ids

    answer = _answer(engine, (5, 6), stop_token_ids=(whole[5], 95))

    assert answer.finish_reason is FinishReason.STOP
    assert answer.token_ids == whole[: whole.index(whole[5]) + 1]


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"model_type": "our_own", "auto_map": {"AutoConfig": "x.Y"}}, "such code is never run"),
        ({"model_type": "our_own"}, "does not know it"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"hidden_size": "wide"}, "config.json"),
    ],
    ids=["custom-code", "unknown", "unnamed", "vision", "quantised", "nonsense"],
)
def test_configurations_that_can_not_be_built_are_refused_in_one_line(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    changes: dict[str, object],
    rule: str,
) -> None:
    config = json.loads((checkpoint("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))

    with pytest.raises(UnsupportedModel) as refused:
        TransformersEngine().prepare(make_setup(tmp_path))

    assert rule in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [None, "[1]", "{"], ids=["absent", "list", "cut"])
def test_a_config_file_that_is_none_is_refused(
    tmp_path: Path, make_setup: Setups, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        TransformersEngine().prepare(make_setup(tmp_path))


def test_an_unknown_dtype_is_refused(checkpoint: Checkpoints, make_setup: Setups) -> None:
    with pytest.raises(UnsupportedModel, match="known: auto, float64"):
        TransformersEngine().prepare(make_setup(checkpoint("llama"), dtype="int3"))


def test_options_are_refused_since_there_are_none(
    checkpoint: Checkpoints, make_setup: Setups
) -> None:
    setup = make_setup(checkpoint("llama"), engine_options={"prefill_chunk": "64"})

    with pytest.raises(InvalidOption, match="unknown engine option 'prefill_chunk'"):
        TransformersEngine().prepare(setup)


def test_preloading_runs_what_it_can_and_names_the_rest(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = _count_answers(monkeypatch)

    TransformersEngine.preload([*DENSE, "mixtral", "mamba", "no-such-model"])

    assert len(answered) == len(DENSE) + 1
    assert [record.getMessage().split()[-1] for record in caplog.records] == ["past", "knows"]


def test_preloading_leaves_out_what_the_library_can_not_make_small(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = _count_answers(monkeypatch)

    # One breaks a rule for its configuration, the other an assertion.
    TransformersEngine.preload(["zamba2", "reformer", "gpt2"])

    assert len(answered) == 1
    messages = [record.getMessage() for record in caplog.records]
    assert [message[: message.index(":")] for message in messages] == [
        "no tiny zamba2 model could be run",
        "no tiny reformer model could be run",
    ]
    assert not any("\n" in message for message in messages)


def test_preloading_writes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    answered = _count_answers(monkeypatch)

    TransformersEngine.preload(["gpt2"])

    assert len(answered) == 1


def test_the_version_names_what_computes() -> None:
    version = TransformersEngine.version()

    assert "transformers-5" in version
    assert f"torch-{torch.__version__}" in version
