"""The transformers engine on tiny models of real architectures."""

from __future__ import annotations

import dataclasses
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from pilotlight.store_node.engines import (
    Engine,
    EngineSetup,
    Offer,
    Weights,
    Work,
    WorkFailure,
    WorkRefused,
)
from pilotlight.store_node.engines.transformers import TransformersEngine, blueprints, warmup
from pilotlight.store_node.engines.transformers.loop import StepLoop
from pilotlight.store_node.errors import (
    InvalidOption,
    UnsupportedModel,
    WeightsMismatch,
)
from pilotlight.store_node.protocol import FinishReason, RequestId, Sampling
from pilotlight.store_node.testing import EngineContract, EngineRun, Transcript, run_to_end

PACKED = ["llama", "qwen2", "qwen3", "mistral", "opt", "gpt2", "gemma", "gemma2", "phi"]
# Its positions are biases of attention, which the library's interface does not know.
SEPARATE = ["bloom"]
# Their layers carry on from single tokens only.
WHOLE = ["jamba"]
DENSE = PACKED + SEPARATE + WHOLE

# Chunks so short that every prompt takes some, in memory that a few requests fill.
SMALL_STEPS: dict[str, Any] = {
    "concurrency": 6,
    "engine_options": {"prefill_chunk": "2", "kv_tokens": "256", "kv_block_tokens": "8"},
}

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
    work = _work("a", prompt_ids, **sampling)
    return run_to_end(engine, [work])[work.request_id]


def _work(name: str, prompt_ids: tuple[int, ...], **sampling: Any) -> Work:
    return Work(
        request_id=RequestId(name),
        attempt=1,
        prompt_ids=prompt_ids,
        emitted_ids=(),
        sampling=Sampling(**{"temperature": 0.0, "max_tokens": 24, **sampling}),
    )


def _count_answers(monkeypatch: pytest.MonkeyPatch) -> list[RequestId]:
    """Return the requests that step loops will have taken, as if none had been before."""
    monkeypatch.setattr(warmup, "_answered", set[str]())
    admit = StepLoop[Any].admit
    answered: list[RequestId] = []

    def count(loop: StepLoop[Any], work: Work) -> None:
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
        return make_setup(directory, dtype="float64", **SMALL_STEPS)

    @pytest.fixture
    def weights(self, directory: Path, stored_weights: WeightsOf) -> Weights:
        return stored_weights(directory)


class TestContractInFloat32(TestContractInFloat64):
    @pytest.fixture(params=["llama", "opt", "gemma2"])
    def directory(self, request: pytest.FixtureRequest, checkpoint: Checkpoints) -> Path:
        return checkpoint(request.param)

    @pytest.fixture
    def engine_setup(self, directory: Path, make_setup: Setups) -> EngineSetup:
        return make_setup(directory, dtype="float32", **SMALL_STEPS)


class _OnCuda:
    """Weights on the first GPU."""

    copied_bytes = 0

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self.aliases = weights.aliases
        self.size_bytes = weights.size_bytes

    def tensors(self) -> Tensors:
        return {name: tensor.cuda() for name, tensor in self._weights.tensors().items()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
class TestContractOnCuda(TestContractInFloat64):
    @pytest.fixture(params=["llama", "gpt2"])
    def directory(self, request: pytest.FixtureRequest, checkpoint: Checkpoints) -> Path:
        return checkpoint(request.param)

    @pytest.fixture
    def weights(self, directory: Path, stored_weights: WeightsOf) -> Weights:
        return _OnCuda(stored_weights(directory))


@pytest.mark.parametrize(
    ("context_tokens", "variant"), [(0, "long-positions"), (16, "")], ids=["long", "short"]
)
def test_a_long_request_changes_no_other_where_long_texts_have_positions_of_their_own(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    context_tokens: int,
    variant: str,
) -> None:
    shutil.copy(checkpoint("llama") / "model.safetensors", tmp_path)
    config = json.loads((checkpoint("llama") / "config.json").read_text())
    config["rope_parameters"] = {
        "rope_type": "longrope",
        "rope_theta": 10_000.0,
        "original_max_position_embeddings": 16,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [4.0, 6.0, 8.0, 9.0],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    setup = make_setup(tmp_path, dtype="float64", context_tokens=context_tokens, concurrency=2)
    engine, offer = _bind(setup, stored_weights(tmp_path))
    short, long = _work("short", (5, 6), max_tokens=30), _work("long", tuple(range(3, 15)))
    whole = _answer(engine, (5, 6), max_tokens=30).token_ids

    together = run_to_end(engine, [long, short])
    resumed = run_to_end(engine, [dataclasses.replace(short, emitted_ids=tuple(whole[:12]))])

    assert together[RequestId("short")].token_ids == whole
    assert resumed[RequestId("short")].token_ids == whole[12:]
    assert offer.variant == variant


def test_a_penalty_that_makes_logits_overflow_ends_the_request_and_no_other(
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
    tmp_path: Path,
) -> None:
    def widen(tensors: Tensors) -> None:
        tensors["lm_head.weight"] *= 1e37

    directory = rewrite(checkpoint("llama"), tmp_path, widen)
    engine, _ = _bind(make_setup(directory, concurrency=2), stored_weights(directory))
    penalised = _work("penalised", (5, 6), temperature=1.0, top_p=0.5, repetition_penalty=0.01)

    scripts = run_to_end(engine, [penalised, _work("plain", (5, 7))])

    assert scripts[RequestId("penalised")].failure is not None
    assert len(scripts[RequestId("plain")].token_ids) == 24


def test_a_request_that_finds_no_memory_is_refused_and_no_other_notices(
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = checkpoint("llama")
    setup = make_setup(directory, concurrency=2, engine_options={"kv_tokens": "4096"})
    engine, _ = _bind(setup, stored_weights(directory))
    alone = _answer(engine, (5, 6)).token_ids
    run = EngineRun(engine)
    script = run.admit(_work("a", (5, 6)))
    run.step()

    def refuse(*_: object) -> torch.Tensor:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    with monkeypatch.context() as patched:
        patched.setattr(torch.Tensor, "new_empty", refuse)
        with pytest.raises(WorkRefused, match="no memory for 64 tokens"):
            engine.admit(_work("b", (5, 6), max_tokens=60))

    run.to_end()
    assert script.token_ids == alone


def test_kv_memory_of_less_than_a_block_is_refused(
    checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf
) -> None:
    directory = checkpoint("llama")
    setup = make_setup(directory, engine_options={"kv_tokens": "8", "kv_block_tokens": "16"})

    with pytest.raises(InvalidOption, match="kv_tokens=8 is less than one block of 16 tokens"):
        _bind(setup, stored_weights(directory))


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


def test_logits_that_are_not_finite_end_the_request_and_no_other(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    rewrite: Rewrite,
) -> None:
    def poison(tensors: Tensors) -> None:
        tensors["model.embed_tokens.weight"][6] = float("nan")

    directory = rewrite(checkpoint("llama"), tmp_path, poison)
    engine, _ = _bind(make_setup(directory, concurrency=2), stored_weights(directory))
    alone = _answer(engine, (5, 7)).token_ids

    together = run_to_end(engine, [_work("poisoned", (5, 6)), _work("sound", (5, 7))])

    assert together[RequestId("sound")].token_ids == alone
    assert together[RequestId("poisoned")].failure == WorkFailure(
        code="invalid_logits",
        message="the model's logits for request 'poisoned' at position 2 are not finite",
    )
    assert not engine.is_busy


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
        ({"model_type": "our_own", "auto_map": {"AutoConfig": "x.Y"}}, "allow_custom_code is off"),
        ({"model_type": "our_own"}, "does not know it"),
        ({"model_type": None}, "names no model_type"),
        ({"model_type": "vit"}, "no causal language model"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantised"),
        ({"hidden_size": "wide"}, "config.json"),
        ({"num_attention_heads": 0}, "config.json: integer"),
        ({"model_type": "mistral", "sliding_window": -1}, "makes no sense"),
    ],
    ids=[
        "custom-code",
        "unknown",
        "unnamed",
        "vision",
        "quantised",
        "nonsense",
        "headless",
        "window",
    ],
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


_CUSTOM_MODEL = """
from transformers import LlamaConfig, LlamaForCausalLM

class OwnConfig(LlamaConfig):
    model_type = "our_own"

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
"""


@pytest.mark.parametrize("is_dtype_stated", [True, False])
def test_a_models_own_code_is_run_where_the_node_allows_it(
    tmp_path: Path,
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    monkeypatch: pytest.MonkeyPatch,
    is_dtype_stated: bool,
) -> None:
    modules = "transformers.dynamic_module_utils.HF_MODULES_CACHE"
    monkeypatch.setattr(modules, str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    llama, own = checkpoint("llama"), tmp_path / "own"
    shutil.copytree(llama, own)
    (own / "own.py").write_text(_CUSTOM_MODEL)
    config = json.loads((llama / "config.json").read_text())
    if not is_dtype_stated:
        del config["dtype"]
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnForCausalLM"}
    (own / "config.json").write_text(
        json.dumps({**config, "model_type": "our_own", "auto_map": auto_map})
    )
    setup = dataclasses.replace(make_setup(own), allow_custom_code=True)

    engine, _ = _bind(setup, stored_weights(own))

    expected, _ = _bind(make_setup(llama), stored_weights(llama))
    assert _answer(engine, (5, 6)).token_ids == _answer(expected, (5, 6)).token_ids


@pytest.mark.parametrize(
    "content",
    [None, "[1]", "{", '{"a":' * 100_000],
    ids=["absent", "list", "cut", "deep"],
)
def test_a_config_file_that_is_none_is_refused(
    tmp_path: Path, make_setup: Setups, content: str | None
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)

    with pytest.raises(UnsupportedModel, match=r"config\.json"):
        TransformersEngine().prepare(make_setup(tmp_path))


def test_what_a_configuration_says_of_outputs_and_infinity_does_no_harm(
    tmp_path: Path, checkpoint: Checkpoints, make_setup: Setups, stored_weights: WeightsOf
) -> None:
    llama = checkpoint("llama")
    shutil.copy(llama / "model.safetensors", tmp_path)
    config = json.loads((llama / "config.json").read_text())
    changes = {"return_dict": False, "output_attentions": True, "limits": [0.0, float("inf")]}
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))

    engine, _ = _bind(make_setup(tmp_path), stored_weights(tmp_path))

    expected, _ = _bind(make_setup(llama), stored_weights(llama))
    assert _answer(engine, (5, 6)).token_ids == _answer(expected, (5, 6)).token_ids


def test_an_unknown_dtype_is_refused(checkpoint: Checkpoints, make_setup: Setups) -> None:
    with pytest.raises(UnsupportedModel, match="known: auto, float64"):
        TransformersEngine().prepare(make_setup(checkpoint("llama"), dtype="int3"))


def test_options_that_make_no_sense_are_refused(
    checkpoint: Checkpoints, make_setup: Setups
) -> None:
    setup = make_setup(checkpoint("llama"), engine_options={"prefil_chunk": "64"})

    with pytest.raises(InvalidOption, match="did you mean 'prefill_chunk'"):
        TransformersEngine().prepare(setup)


def test_preloading_runs_what_it_can_and_names_the_rest(
    tmp_path: Path,
    checkpoint: Checkpoints,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = _count_answers(monkeypatch)
    stateful, unknown = tmp_path / "stateful", tmp_path / "unknown"
    for directory, model_type in ((stateful, "mamba"), (unknown, "no-such-model")):
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps({"model_type": model_type}))

    TransformersEngine.preload([*map(checkpoint, (*DENSE, "mixtral")), stateful, unknown])

    kinds = len(DENSE) + 1
    assert len(answered) == kinds * 2  # A sampled request and a greedy one of each.
    assert [record.getMessage().split()[0] for record in caplog.records] == ["stateful", "unknown"]


def test_a_preloaded_model_is_built_but_once(
    checkpoint: Checkpoints,
    make_setup: Setups,
    stored_weights: WeightsOf,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    directory = checkpoint("qwen3")
    TransformersEngine.preload([directory])
    with monkeypatch.context() as patched:
        patched.setattr(blueprints, "build_model", None)

        engine, _ = _bind(make_setup(directory), stored_weights(directory))

    another, _ = _bind(make_setup(directory), stored_weights(directory))
    assert _answer(engine, (5, 6)).token_ids == _answer(another, (5, 6)).token_ids


def test_preloading_leaves_out_what_the_library_can_not_build(
    tmp_path: Path,
    checkpoint: Checkpoints,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answered = _count_answers(monkeypatch)
    for model_type in ("zamba2", "reformer"):
        (tmp_path / model_type).mkdir()
        (tmp_path / model_type / "config.json").write_text(json.dumps({"model_type": model_type}))

    # One breaks a rule for its configuration, the other an assertion.
    TransformersEngine.preload([tmp_path / "zamba2", tmp_path / "reformer", checkpoint("gpt2")])

    assert len(answered) == 2 + 2  # The first one broke over its first token.
    messages = [record.getMessage() for record in caplog.records]
    assert [name for message in messages for name in ("zamba2", "reformer") if name in message]
    assert not any("\n" in message for message in messages)


def test_preloading_writes_no_files(
    tmp_path: Path, checkpoint: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    answered = _count_answers(monkeypatch)

    TransformersEngine.preload([checkpoint("gpt2")])

    assert len(answered) == 2


def test_the_version_names_what_computes() -> None:
    version = TransformersEngine.version()

    assert "transformers-5" in version
    assert f"torch-{torch.__version__}" in version
