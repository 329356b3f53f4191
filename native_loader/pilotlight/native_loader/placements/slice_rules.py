"""Which tensors tensor parallelism slices, and along which dimension."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, cast

from pilotlight.native_loader.errors import SliceRefused
from pilotlight.native_loader.placements.slices import Slice, even_slice


class Cut(StrEnum):
    """How the matrix of a module is cut; `nn.Linear` stores it as [out, in]."""

    COLUMN = "column"
    """By outputs; of a bias too."""
    ROW = "row"
    """By inputs; the bias is added once, so every device has all of it."""
    TRANSPOSED_COLUMN = "column of a matrix stored as [in, out]"
    TRANSPOSED_ROW = "row of a matrix stored as [in, out]"
    REPLICATED = "replicated"


class Heads(StrEnum):
    """Of which heads a slice must hold whole ones."""

    NONE = "none"
    QUERY = "attention heads"
    KEY_VALUE = "key/value heads"


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRule:
    """How the tensors of the modules that a name pattern fits are cut."""

    pattern: str
    """A regular expression for the end of the module's name, from a dot on."""
    cut: Cut = Cut.REPLICATED
    parts: tuple[int, ...] = (1,)
    """Relative sizes of what is stored one after another and cut part by part."""
    heads: Heads = Heads.NONE
    is_optional: bool = False
    """What does not come out even is replicated, and no error."""
    is_parameter: bool = False
    """The pattern is for a parameter's own name, which has no module: experts, when joined."""
    refusal: str = ""
    """Why such tensors can't be cut; "" where they can."""


_FUSED = "it is fused, and its name alone does not say how; give rules for it"

DEFAULT_RULES = (
    SliceRule(pattern=r"q_proj|q_b_proj", cut=Cut.COLUMN, heads=Heads.QUERY),
    SliceRule(pattern=r"kv_b_proj", cut=Cut.COLUMN, heads=Heads.QUERY),
    SliceRule(pattern=r"k_proj|v_proj", cut=Cut.COLUMN, heads=Heads.KEY_VALUE),
    SliceRule(
        pattern=r"gate_proj|up_proj|fc1|fc_in|dense_h_to_4h|experts\.\d+\.w[13]", cut=Cut.COLUMN
    ),
    SliceRule(pattern=r"o_proj|down_proj|out_proj|fc2|fc_out|dense_4h_to_h", cut=Cut.ROW),
    SliceRule(pattern=r"(attention|self_attention|self_attn)\.dense|experts\.\d+\.w2", cut=Cut.ROW),
    # GPT-2 keeps its matrices the other way round, queries, keys and values side by side.
    SliceRule(
        pattern=r"h\.\d+\.attn\.c_attn",
        cut=Cut.TRANSPOSED_COLUMN,
        parts=(1, 1, 1),
        heads=Heads.QUERY,
    ),
    SliceRule(pattern=r"h\.\d+\.mlp\.c_fc", cut=Cut.TRANSPOSED_COLUMN),
    SliceRule(pattern=r"h\.\d+\.(attn|mlp)\.c_proj", cut=Cut.TRANSPOSED_ROW),
    SliceRule(
        pattern=r"gpt_neox\.layers\.\d+\.attention\.query_key_value",
        cut=Cut.COLUMN,
        heads=Heads.QUERY,
    ),
    SliceRule(pattern=r"mlp\.gate_up_proj", cut=Cut.COLUMN, parts=(1, 1)),
    # Vocabularies are of any size; who cuts an odd one pads it, which no file can be read as.
    SliceRule(
        pattern=r"embed_tokens|wte|word_embeddings|embed_in|lm_head|embed_out",
        cut=Cut.COLUMN,
        is_optional=True,
    ),
    SliceRule(pattern=r"q_a_proj|kv_a_proj_with_mqa"),
    SliceRule(pattern=r"(mlp|block_sparse_moe|feed_forward)\.(gate|router)|shared_expert_gate"),
    SliceRule(pattern=r"wpe|embed_positions|position_embeddings|token_type_embeddings"),
    SliceRule(pattern=r"qkv_proj|query_key_value|Wqkv|qkv|c_attn|in_proj", refusal=_FUSED),
)
"""The common families; what has one dimension and no rule, such as a norm, is replicated."""

_MATRIX_LEAVES = ("weight", "weight_scale", "weight_scale_inv")


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceRules:
    """All that decides how tensors are cut for several devices."""

    rules: Sequence[SliceRule] = DEFAULT_RULES
    """The first that fits a name counts."""
    heads: int = 0
    """Attention heads; 0 = not known."""
    key_value_heads: int = 0

    @classmethod
    def of_config(cls, config: Mapping[str, Any]) -> SliceRules:
        """Return the default rules with what a config.json adds: heads, and fused parts."""
        text = _object(config.get("text_config")) or config
        heads = _first_count(text, "num_attention_heads", "n_head", "num_heads")
        shared = _first_count(text, "num_key_value_heads") or heads
        fused = tuple(_fused_rules(text.get("model_type"), heads, shared))
        return cls(rules=(*fused, *DEFAULT_RULES), heads=heads, key_value_heads=shared)

    @classmethod
    def of_plan(cls, plan: Mapping[str, str], config: Mapping[str, Any]) -> SliceRules:
        """Return the rules that a transformers configuration states as `base_model_tp_plan`.

        What the plan does not name is replicated. `config` is the configuration as a
        mapping; it says how many heads there are.

        Raises:
            SliceRefused: the plan has a style that says nothing of equal slices.
        """
        known = cls.of_config(config)
        rules = [rule for pattern, style in plan.items() for rule in _of_style(pattern, style)]
        return replace(known, rules=(*rules, SliceRule(pattern=r".+", is_parameter=True)))

    def slice_of(self, name: str, shape: Sequence[int], index: int, n: int) -> Slice | None:
        """Return which slice of a tensor device `index` of `n` holds; None = all of it.

        Raises:
            SliceRefused: no rule says how, or it does not come out even.
        """
        rule, leaf = self._find(name)
        if rule is None:
            if len(shape) > 1:
                raise SliceRefused(name, "no rule says how")
            return None
        if rule.refusal:
            raise SliceRefused(name, rule.refusal)
        dim = _dimension(name, leaf, rule, shape)
        if dim is None:
            return None
        if rule.is_optional and shape[dim] % n:
            return None
        self._check(name, rule, shape, dim, n)
        return even_slice(shape, dim, rule.parts, index, n)

    def _find(self, name: str) -> tuple[SliceRule | None, str]:
        module, _, leaf = name.rpartition(".")
        for rule in self.rules:
            if re.search(rf"(^|\.)({rule.pattern})$", name if rule.is_parameter else module):
                return rule, "weight" if rule.is_parameter else leaf
        return None, leaf

    def _check(self, name: str, rule: SliceRule, shape: Sequence[int], dim: int, n: int) -> None:
        n_heads = {Heads.QUERY: self.heads, Heads.KEY_VALUE: self.key_value_heads}.get(rule.heads)
        if n_heads and n_heads % n:
            raise SliceRefused(
                name, f"{rule.cut}: {n_heads} {rule.heads} do not divide by {n} devices"
            )
        total = sum(rule.parts)
        if shape[dim] % total or any(part * (shape[dim] // total) % n for part in rule.parts):
            made_of = f" in {len(rule.parts)} parts" if len(rule.parts) > 1 else ""
            raise SliceRefused(
                name,
                f"{rule.cut}: dimension {dim} of {list(shape)}{made_of} does not divide by {n}",
            )


def _dimension(name: str, leaf: str, rule: SliceRule, shape: Sequence[int]) -> int | None:
    """Return along which dimension a tensor is cut, None where it is not."""
    # Scales of whole tensors have a single item, whatever they are called.
    if rule.cut is Cut.REPLICATED or math.prod(shape) == 1:
        return None
    if leaf == "bias" or (leaf in _MATRIX_LEAVES and len(shape) == 1):
        by_outputs = rule.cut in (Cut.COLUMN, Cut.TRANSPOSED_COLUMN)
        return 0 if by_outputs else None
    if leaf not in _MATRIX_LEAVES:
        raise SliceRefused(name, f"{rule.cut}: nothing is known of {leaf!r} tensors")
    is_first = rule.cut in (Cut.COLUMN, Cut.TRANSPOSED_ROW)
    # Experts that are stored together have a dimension in front.
    dim = len(shape) - 2 if is_first else len(shape) - 1
    _check_transposed(name, rule, shape)
    # One scale for a whole row or column goes with every slice of it.
    return None if leaf != "weight" and shape[dim] == 1 else dim


def _check_transposed(name: str, rule: SliceRule, shape: Sequence[int]) -> None:
    if rule.cut is Cut.TRANSPOSED_COLUMN and len(rule.parts) == 3 and shape[1] != 3 * shape[0]:
        raise SliceRefused(name, _FUSED)


def _of_style(pattern: str, style: str) -> Iterator[SliceRule]:
    """Translate one entry of a transformers plan, whose patterns have "*" for numbers."""
    regex = re.escape(pattern).replace(r"\*", r"\d+")
    # The library joins experts when it loads them; files have them one by one.
    one_by_one, is_joined, joined = regex.rpartition(r"\.experts\.")
    is_parameter = bool(is_joined)
    if style in _COLUMN_STYLES:
        yield SliceRule(pattern=regex, cut=Cut.COLUMN, heads=_heads_of(pattern))
    elif style in _ROW_STYLES:
        yield SliceRule(pattern=regex, cut=Cut.ROW, is_parameter=is_parameter)
        if joined == "down_proj":
            yield SliceRule(pattern=rf"{one_by_one}\.experts\.\d+\.(down_proj|w2)", cut=Cut.ROW)
    elif style in _PACKED_STYLES:
        cut = _PACKED_STYLES[style]
        yield SliceRule(pattern=regex, cut=cut, parts=(1, 1), is_parameter=is_parameter)
        if joined == "gate_up_proj":
            pattern = rf"{one_by_one}\.experts\.\d+\.(gate_proj|up_proj|w1|w3)"
            yield SliceRule(pattern=pattern, cut=cut)
    elif style in _REPLICATED_STYLES:
        yield SliceRule(pattern=regex)
    else:
        raise SliceRefused(pattern, f"the plan's style {style!r} says nothing of equal slices")


# As transformers 5 names them. Fused matrices whose output it gathers are plain columns to it.
_COLUMN_STYLES = ("colwise", "colwise_rep", "colwise_gather_output", "embedding_rowwise")
_ROW_STYLES = ("rowwise", "rowwise_rep", "rowwise_split_input", "embedding_colwise")
_PACKED_STYLES = {"packed_colwise": Cut.COLUMN, "packed_rowwise": Cut.ROW}
_REPLICATED_STYLES = (
    "replicated_with_grad_allreduce",
    "replicate",
    "replicated",
    "sequence_parallel",
    "moe_tp_experts",
    "moe_identity_expert",
    "local_params",
    "mla_kv_a_proj",
    "all_reduce",
)


def _heads_of(pattern: str) -> Heads:
    if pattern.endswith(("k_proj", "v_proj")):
        return Heads.KEY_VALUE
    return Heads.QUERY if pattern.endswith(("q_proj", "query_key_value")) else Heads.NONE


def _fused_rules(model_type: object, heads: int, key_value_heads: int) -> Iterator[SliceRule]:
    if model_type in ("phi3", "phi4_multimodal") and heads:
        yield SliceRule(
            pattern=r"self_attn\.qkv_proj",
            cut=Cut.COLUMN,
            parts=(heads, key_value_heads, key_value_heads),
            heads=Heads.KEY_VALUE,
        )
    if model_type == "bloom":
        # Of each head its query, key and value.
        yield SliceRule(
            pattern=r"self_attention\.query_key_value", cut=Cut.COLUMN, heads=Heads.QUERY
        )


def _first_count(config: Mapping[str, Any], *names: str) -> int:
    for name in names:
        value = config.get(name)
        if type(value) is int and value > 0:
            return value
    return 0


def _object(value: object) -> Mapping[str, Any] | None:
    return cast("Mapping[str, Any]", value) if isinstance(value, dict) else None
