"""Makes checkpoints of real architectures, with random weights and a real tokenizer."""
# pyright: basic
# transformers comes without types.

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pilotlight.process.lifeline import die_with_parent
from pilotlight.process.page_cache import flush_to_disk
from pilotlight.scheduler.demo.errors import DemoFailed

VOCABULARY = 8192
CONTEXT_TOKENS = 2048

RECIPE = "3"
"""Grows when what is made changes, so that kept checkpoints are made anew."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL_TOKENS = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One checkpoint: a model class's configuration, and how it is written."""

    name: str
    config: str
    """Class in transformers."""
    sizes: Mapping[str, Any]
    shard_bytes: int | None = None
    is_packed: bool = False


def _llama_sizes(hidden: int, layers: int, heads: int, *, tied: bool = False) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": hidden * 8 // 3 // 64 * 64,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "max_position_embeddings": CONTEXT_TOKENS,
        "tie_word_embeddings": tied,
    }


RECIPES = (
    Recipe(name="llama-25m", config="LlamaConfig", sizes=_llama_sizes(448, 8, 8)),
    Recipe(
        name="llama-120m",
        config="LlamaConfig",
        sizes=_llama_sizes(896, 12, 14),
        shard_bytes=160_000_000,
    ),
    Recipe(
        name="qwen-22m",
        config="Qwen3Config",
        sizes=_llama_sizes(448, 8, 8, tied=True) | {"head_dim": 64},
    ),
    Recipe(
        name="qwen-65m",
        config="Qwen3Config",
        sizes=_llama_sizes(704, 10, 11, tied=True) | {"head_dim": 64, "num_key_value_heads": 11},
    ),
    Recipe(
        name="opt-42m",
        config="OPTConfig",
        sizes={
            "hidden_size": 576,
            "word_embed_proj_dim": 576,
            "ffn_dim": 2304,
            "num_hidden_layers": 9,
            "num_attention_heads": 9,
            "max_position_embeddings": CONTEXT_TOKENS,
        },
        is_packed=True,
    ),
    Recipe(
        name="gpt2-30m",
        config="GPT2Config",
        sizes={"n_embd": 512, "n_layer": 8, "n_head": 8, "n_positions": CONTEXT_TOKENS},
    ),
)


def make_checkpoints(directory: Path, *, say: Callable[[str], None]) -> None:
    """Make what is missing below `directory`, in a process of its own.

    A folder that is there is whole: it is renamed into place when it is done.

    Raises:
        DemoFailed: a checkpoint could not be made; says what the process said last.
    """
    directory.mkdir(parents=True, exist_ok=True)
    missing = [recipe for recipe in RECIPES if not _is_made(recipe, directory)]
    if not missing:
        return
    # This process stays small: it need not import torch.
    command = [sys.executable, "-P", "-m", "pilotlight.scheduler.demo.checkpoints"]
    with subprocess.Popen(
        [*command, str(directory), str(os.getpid())],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as making:
        try:
            say(f"making {len(missing)} checkpoints below {directory}")
            said, _ = making.communicate()
        finally:
            # With what it has started itself, where this one is interrupted.
            if making.returncode is None:
                os.killpg(making.pid, signal.SIGKILL)
                making.wait()
    if making.returncode:
        last = said.strip().splitlines()[-1:] or ["it said nothing"]
        raise DemoFailed(f"making checkpoints failed: {last[0]}")


def _is_made(recipe: Recipe, directory: Path) -> bool:
    mark = _mark(recipe, directory)
    return (
        (directory / recipe.name).is_dir() and mark.exists() and mark.read_text() == _digest(recipe)
    )


def _mark(recipe: Recipe, directory: Path) -> Path:
    return directory / f".{recipe.name}.recipe"


def _make_missing(directory: Path) -> None:
    import transformers

    logging: Any = transformers.utils.logging
    logging.disable_progress_bar()
    for recipe in RECIPES:
        if not _is_made(recipe, directory):
            _replace(directory / recipe.name, recipe)
            _mark(recipe, directory).write_text(_digest(recipe))


def _digest(recipe: Recipe) -> str:
    return hashlib.sha256(f"{RECIPE} {recipe!r}".encode()).hexdigest()


def _replace(target: Path, recipe: Recipe) -> None:
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    _make(recipe, partial)
    shutil.rmtree(target, ignore_errors=True)
    os.rename(partial, target)


def _make(recipe: Recipe, folder: Path) -> None:
    if not recipe.is_packed:
        _write(recipe, folder)
        return
    plain = folder.with_name(f"{folder.name}.plain")
    try:
        _write(recipe, plain)
        pack = [sys.executable, "-P", "-m", "pilotlight.scheduler.cli", "pack"]
        subprocess.run([*pack, str(plain), str(folder)], check=True, stdout=subprocess.DEVNULL)
    finally:
        shutil.rmtree(plain, ignore_errors=True)


def _write(recipe: Recipe, folder: Path) -> None:
    import torch
    import transformers

    auto: Any = transformers.AutoModelForCausalLM
    tokenizer = make_tokenizer()
    end = tokenizer.convert_tokens_to_ids(SPECIAL_TOKENS[0])
    # Wide weights keep the output of a random model from collapsing into a loop.
    config = getattr(transformers, recipe.config)(
        vocab_size=VOCABULARY,
        initializer_range=0.15,
        bos_token_id=end,
        eos_token_id=end,
        pad_token_id=end,
        **{"init_std": 0.15} if recipe.config == "OPTConfig" else {},
        **recipe.sizes,
    )
    torch.manual_seed(int(_digest(recipe)[:8], 16))
    model = auto.from_config(config, dtype=torch.float32)
    shards = {"max_shard_size": recipe.shard_bytes} if recipe.shard_bytes else {}
    model.save_pretrained(folder, **shards)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        flush_to_disk(file)


def make_tokenizer() -> Any:
    """Train a byte-level BPE tokenizer on the Python documentation that every Python carries."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_english(), trainer=trainer)
    fast: Any = PreTrainedTokenizerFast
    return fast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL_TOKENS[0],
        bos_token=SPECIAL_TOKENS[0],
        pad_token=SPECIAL_TOKENS[0],
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT_TOKENS,
    )


def _english() -> Iterator[str]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        yield topics[name]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[2]))
    _make_missing(Path(sys.argv[1]))
