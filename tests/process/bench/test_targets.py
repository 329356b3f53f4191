from __future__ import annotations

from pilotlight.process.bench.targets import Target, target_row


def test_a_target_is_the_most_or_the_least_that_a_figure_should_be() -> None:
    most = Target(figure="f", value=2, target=2)
    least = Target(figure="g", value=1.9, target=2, is_least=True)

    assert most.is_met
    assert not least.is_met
    assert target_row(most)["target"] == "≤ 2"
    assert target_row(least) == {"figure": "g", "value": 1.9, "target": "≥ 2", "is_met": "NO"}
