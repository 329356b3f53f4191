from __future__ import annotations

import dataclasses
import enum
import typing
from collections.abc import Mapping
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st

from pilotlight.store_node.protocol import (
    CheckpointStatus,
    CommandHeader,
    FinishReason,
    GenerateRequest,
    Hello,
    Incarnation,
    NodeReport,
    NodeUpdate,
    ReplicaId,
    ReplicaState,
    ReplicaStatus,
    ReplicaSummary,
    Sampling,
    StartOutcome,
    StartReplicaRequest,
    TokenBatch,
    store_node_pb2,
    values,
    wire,
)

VALUES: list[Any] = [
    each
    for each in vars(values).values()
    if dataclasses.is_dataclass(each) and each.__module__ == values.__name__
]
"""Every class of values; Any, because what they have in common is their form."""

RANGES = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
    FieldDescriptor.TYPE_INT32: (-(2**31), 2**31 - 1),
}


def _message_of(value_type: Any) -> Any:
    """Return the message class that a value class mirrors."""
    return getattr(store_node_pb2, value_type.__name__)


def _values_of(value_type: Any) -> st.SearchStrategy[Any]:
    hints = typing.get_type_hints(value_type)
    fields = {
        field.name: _content_of(
            _message_of(value_type).DESCRIPTOR.fields_by_name[field.name], hints[field.name]
        )
        for field in dataclasses.fields(value_type)
    }
    return st.builds(value_type, **fields)


def _content_of(descriptor: Any, hint: Any) -> st.SearchStrategy[Any]:
    options = typing.get_args(hint)
    if type(None) in options:
        return st.none() | _content_of(descriptor, options[0])
    if typing.get_origin(hint) is tuple:
        return st.lists(_content_of(descriptor, options[0]), max_size=3).map(tuple)
    if typing.get_origin(hint) in (dict, Mapping):
        parts = descriptor.message_type.fields_by_name
        keys = _content_of(parts["key"], options[0])
        return st.dictionaries(keys, _content_of(parts["value"], options[1]), max_size=3)
    if dataclasses.is_dataclass(hint):
        return _values_of(hint)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return st.sampled_from(hint)
    if descriptor.type in RANGES:
        return st.integers(*RANGES[descriptor.type])
    return {
        FieldDescriptor.TYPE_DOUBLE: st.floats(allow_nan=False),
        FieldDescriptor.TYPE_BOOL: st.booleans(),
        FieldDescriptor.TYPE_STRING: st.text(),
    }[descriptor.type]


def _carried(value: object) -> Any:
    """Return a value as the other side reads it."""
    written = wire.to_message(value, _message_of(type(value))).SerializeToString()
    return wire.from_message(_message_of(type(value)).FromString(written), type(value))


@pytest.mark.property
@pytest.mark.parametrize("value_type", VALUES, ids=lambda each: each.__name__)
@settings(max_examples=25)
@given(data=st.data())
def test_every_value_survives_the_wire(value_type: Any, data: st.DataObject) -> None:
    value = data.draw(_values_of(value_type))

    assert _carried(value) == value


@pytest.mark.parametrize("value_type", VALUES, ids=lambda each: each.__name__)
def test_every_field_of_a_message_is_a_field_of_its_value(value_type: Any) -> None:
    named = {field.name for field in dataclasses.fields(value_type)}

    assert {field.name for field in _message_of(value_type).DESCRIPTOR.fields} == named


@pytest.mark.parametrize(
    ("value_type", "field"),
    [
        (Sampling, "logprobs"),
        (ReplicaSummary, "kv_tokens_free"),
        (StartOutcome, "prefill_seconds"),
        (GenerateRequest, "compatibility"),
        (ReplicaStatus, "compatibility"),
        (ReplicaStatus, "outcome"),
        (NodeReport, "accounts"),
        (NodeUpdate, "accounts"),
        (StartOutcome, "checksum"),
        (TokenBatch, "finish_reason"),
    ],
)
def test_what_a_message_leaves_unset_is_none(value_type: Any, field: str) -> None:
    message = _message_of(value_type)()
    for enum_field in message.DESCRIPTOR.fields:
        if enum_field.enum_type is not None and enum_field.name != field:
            setattr(message, enum_field.name, 1)

    assert getattr(wire.from_message(message, value_type), field) is None


@pytest.mark.parametrize(
    ("value_type", "field", "value"),
    [
        (Sampling, "logprobs", 0),
        (ReplicaSummary, "kv_tokens_free", 0),
        (StartOutcome, "prefill_seconds", 0.0),
    ],
)
def test_zero_is_not_unset(value_type: Any, field: str, value: float) -> None:
    message = _message_of(value_type)()
    if value_type is StartOutcome:
        message.tier = store_node_pb2.TIER_SSD
    setattr(message, field, value)

    assert getattr(wire.from_message(message, value_type), field) == value


def test_a_nested_value_of_defaults_is_not_unset() -> None:
    status = ReplicaStatus(
        replica_id=ReplicaId("r"),
        model=values.ModelId("m"),
        reference=values.Reference("m"),
        state=ReplicaState.READY,
        compatibility=values.CompatibilityKey(
            content="", engine="", engine_version="", dtype="", parallelism=0
        ),
    )

    assert _carried(status) == status


@pytest.mark.parametrize(
    ("value_type", "field"),
    [
        (ReplicaStatus, "state"),
        (StartOutcome, "tier"),
        (StartOutcome, "checksum"),
        (TokenBatch, "finish_reason"),
    ],
)
def test_an_enum_number_of_a_later_version_is_refused(value_type: Any, field: str) -> None:
    message = _message_of(value_type)()
    if field == "checksum":
        message.tier = store_node_pb2.TIER_SSD
    setattr(message, field, 99)

    with pytest.raises(ValueError, match="has no value 99"):
        wire.from_message(message, value_type)


@pytest.mark.parametrize(
    ("value_type", "field"), [(ReplicaStatus, "State"), (StartOutcome, "Tier")]
)
def test_an_enum_that_must_be_said_is_refused_where_it_is_not(value_type: Any, field: str) -> None:
    with pytest.raises(ValueError, match=f"{field} has no value 0"):
        wire.from_message(_message_of(value_type)(), value_type)


def test_a_nonsense_enum_deep_in_a_report_is_refused() -> None:
    report = store_node_pb2.NodeReport(node_id="a")
    report.replicas.add(replica_id="r", state=store_node_pb2.REPLICA_STATE_UNSPECIFIED)

    with pytest.raises(ValueError, match="ReplicaState has no value 0"):
        wire.from_message(report, NodeReport)


def test_enums_have_the_numbers_of_the_proto() -> None:
    batch = TokenBatch(
        request_id=values.RequestId("q"),
        attempt=1,
        seq=0,
        token_ids=(),
        finish_reason=FinishReason.LENGTH,
    )

    message = wire.to_message(batch, store_node_pb2.TokenBatch)

    assert message.finish_reason == store_node_pb2.FINISH_REASON_LENGTH


def test_a_field_that_a_later_version_has_is_passed_over() -> None:
    # Field 15, a varint: a NodeUpdate of this version ends with field 9.
    written = store_node_pb2.NodeUpdate(has_summaries=True).SerializeToString() + b"\x78\x01"

    update = wire.from_message(store_node_pb2.NodeUpdate.FromString(written), NodeUpdate)

    assert update == NodeUpdate(has_summaries=True)


def test_a_value_with_a_field_that_its_message_lacks_is_a_mistake_of_ours() -> None:
    with pytest.raises(TypeError, match=r"Hello lacks fields of its value: \['reference'"):
        wire.to_message(
            CheckpointStatus(reference=values.Reference("m"), path="", layout_id="", size_bytes=0),
            store_node_pb2.Hello,
        )


@pytest.mark.parametrize("number", [-1, 2**64])
def test_a_number_that_does_not_fit_its_field_is_refused(number: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        wire.to_message(
            Hello(node_id=values.NodeId("a"), incarnation=Incarnation("1"), epoch=number),
            store_node_pb2.Hello,
        )


def test_the_keys_of_a_map_stay_numbers() -> None:
    sampling = Sampling(logit_bias={0: -100.0, 2**32 - 1: 0.25})

    carried = _carried(sampling)

    assert carried == sampling
    assert type(carried.logit_bias) is dict


@pytest.mark.parametrize("token_id", [-1, 2**32])
def test_a_key_that_does_not_fit_its_map_is_refused(token_id: int) -> None:
    with pytest.raises(ValueError, match="out of range"):
        wire.to_message(Sampling(logit_bias={token_id: 1.0}), store_node_pb2.Sampling)


def test_a_command_keeps_its_header() -> None:
    header = CommandHeader(epoch=7, incarnation=Incarnation("i"), idempotency_key="7/d/s")
    command = StartReplicaRequest(
        header=header,
        spec=values.ReplicaSpec(
            replica_id=ReplicaId("r"),
            model=values.ModelId("m"),
            reference=values.Reference("m"),
            engine_options={"threads": "2"},
        ),
        priority=-3,
        evict=(values.Reference("old"),),
    )

    message: Message = wire.to_message(command, store_node_pb2.StartReplicaRequest)

    assert wire.from_message(message, StartReplicaRequest) == command
