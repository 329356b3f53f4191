from __future__ import annotations

from typing import Any

import pytest

from pilotlight.estimators import Residency
from pilotlight.scheduler.core.copies import copy_on, is_copy_of, residency_of
from pilotlight.scheduler.testing.case import Case
from pilotlight.scheduler.testing.reports import GIGABYTE, copy_of, load_of, model_of
from pilotlight.scheduler.testing.stage import Stage
from pilotlight.store_node.protocol import CheckpointStatus, ModelId, Reference


def _case(*copies: CheckpointStatus, content_id: str = "") -> Case:
    case = Case()
    case.model("m", content_id=content_id)
    case.node("a")
    case.state.nodes[case.nodes[0].id].checkpoints = {copy.reference: copy for copy in copies}
    return case


def _found(case: Case) -> str | None:
    (model,), (node,) = case.state.models.values(), case.state.nodes.values()
    copy = copy_on(case.state, model, node)
    return copy.reference if copy else None


@pytest.mark.parametrize(
    ("model_content", "copy_content", "reference", "layout", "is_copy"),
    [
        ("", "", "m", "layout-m", True),
        ("", "", "m", "other", False),
        ("", "", "other", "layout-m", False),
        ("", "c", "m", "layout-m", True),
        ("c", "", "m", "layout-m", True),
        ("c", "c", "other", "other", True),
        ("c", "d", "m", "layout-m", False),
    ],
)
def test_content_decides_where_it_is_known_else_path_and_layout(
    model_content: str, copy_content: str, reference: str, layout: str, is_copy: bool
) -> None:
    model = model_of("m", content_id=model_content)
    copy = copy_of("m", reference=reference, layout_id=layout, content_id=copy_content)

    assert is_copy_of(model, copy) is is_copy


def test_a_node_without_a_copy_has_none() -> None:
    assert _found(_case(copy_of("other"))) is None


def test_a_quarantined_copy_is_none() -> None:
    assert _found(_case(copy_of("m", quarantine="chunk 3 is corrupt"))) is None


def test_a_copy_of_the_same_content_elsewhere_is_found() -> None:
    moved = copy_of("m", reference=Reference("moved"), layout_id="packed", content_id="c")

    assert _found(_case(moved, content_id="c")) == "moved"


def test_another_copy_serves_where_the_first_is_quarantined() -> None:
    bad = copy_of("m", content_id="c", quarantine="chunk 3 is corrupt")
    also_bad = copy_of("m", reference=Reference("2"), content_id="c", quarantine="chunk 4")
    good = copy_of("m", reference=Reference("3"), layout_id="packed", content_id="c")

    assert _found(_case(bad, also_bad, good, content_id="c")) == "3"


def test_a_copy_whose_bytes_differ_from_those_first_served_is_none() -> None:
    case = _case(copy_of("m", bytes_digest="two"))
    case.state.digests[ModelId("m")] = "one"

    assert _found(case) is None


def test_a_copy_whose_bytes_were_never_read_is_used() -> None:
    case = _case(copy_of("m"))
    case.state.digests[ModelId("m")] = "one"

    assert _found(case) == "m"


def test_digests_of_different_layouts_say_nothing_of_each_other() -> None:
    case = _case(
        copy_of("m", layout_id="packed", content_id="c", bytes_digest="two"), content_id="c"
    )
    case.state.digests[ModelId("m")] = "one"

    assert _found(case) == "m"


@pytest.mark.parametrize(
    ("fields", "flags"),
    [
        ({}, Residency.SSD),
        ({"dram_bytes": GIGABYTE}, Residency.SSD | Residency.DRAM),
        ({"dram_bytes": GIGABYTE - 1}, Residency.SSD),
        ({"bound_bytes": GIGABYTE}, Residency.SSD | Residency.DRAM | Residency.BOUND),
        (
            {"dram_bytes": GIGABYTE // 2, "bound_bytes": GIGABYTE // 2},
            Residency.SSD | Residency.DRAM | Residency.BOUND,
        ),
        ({"pinned": True}, Residency.SSD | Residency.PINNED),
        ({"quarantine": "corrupt", "dram_bytes": GIGABYTE}, Residency(0)),
    ],
)
def test_residency_says_where_a_whole_copy_lies(fields: dict[str, Any], flags: Residency) -> None:
    case = _case(copy_of("m", **fields))
    (model,), (node,) = case.state.models.values(), case.state.nodes.values()

    assert residency_of(case.state, model, node) == flags


def test_a_load_in_flight_shows_in_residency() -> None:
    case = _case(copy_of("m"))
    (model,), (node,) = case.state.models.values(), case.state.nodes.values()
    node.loads = (load_of("m"),)

    assert residency_of(case.state, model, node) == Residency.SSD | Residency.LOADING


def test_the_first_digest_that_is_learned_rules_all_copies() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", bytes_digest="one")])
    stage.join("b", holds=[copy_of("m", bytes_digest="two")])

    assert stage.core.snapshot(stage.now).residency.tolist() == [[1, 0]]


def test_a_digest_that_was_known_before_a_model_is_deployed_rules_too() -> None:
    stage = Stage()
    stage.join("a", holds=[copy_of("m", bytes_digest="one")])
    stage.join("b", holds=[copy_of("m", bytes_digest="two")])

    stage.deploy("m")

    assert stage.core.snapshot(stage.now).residency.tolist() == [[1, 0]]


def test_a_quarantined_copy_says_nothing_of_what_the_bytes_should_be() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", bytes_digest="bad", quarantine="chunk 3 is corrupt")])
    stage.join("b", holds=[copy_of("m", bytes_digest="good")])

    assert stage.core.snapshot(stage.now).residency.tolist() == [[0, 1]]


def test_a_copy_with_other_bytes_is_not_started_from() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", bytes_digest="one")])
    stage.join("b", holds=[copy_of("m", bytes_digest="two", dram_bytes=GIGABYTE)])
    stage.demand("m", 1)

    stage.settle()

    # From memory "b" would be sooner.
    assert [send.node for send in stage.sends] == ["a"]


def test_a_copy_that_changed_says_so_and_is_taken_where_it_is_deployed_again() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", bytes_digest="one")])
    stage.update("a", checkpoints=(copy_of("m", bytes_digest="two"),))

    changed = stage.core.snapshot(stage.now)
    assert changed.residency.tolist() == [[0]]
    assert changed.fault_reasons == ("m has changed since it was first served; deploy it again",)

    stage.deploy("m")

    again = stage.core.snapshot(stage.now)
    assert (again.residency.tolist(), again.fault_reasons) == ([[1]], ())


def test_another_checkpoint_at_a_models_path_says_so() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", layout_id="another")])

    (fault,) = stage.core.snapshot(stage.now).fault_reasons

    assert fault == "m is another checkpoint than was deployed; deploy it again"


def test_a_model_deployed_otherwise_learns_its_digest_anew() -> None:
    stage = Stage()
    stage.deploy("m")
    stage.join("a", holds=[copy_of("m", bytes_digest="one")])

    stage.deploy("m", layout_id="repacked")
    stage.update("a", checkpoints=(copy_of("m", layout_id="repacked", bytes_digest="two"),))

    assert stage.core.snapshot(stage.now).residency.tolist() == [[1]]
