from __future__ import annotations

from pilotlight.store_node.errors import InvalidOption, UnsupportedModel, WeightsMismatch
from pilotlight.store_node.protocol.refusals import ENGINE_CODES, FINAL_CODES


def test_what_engines_say_of_what_they_can_t_run_is_final() -> None:
    codes = {InvalidOption.code, UnsupportedModel.code, WeightsMismatch.code}

    assert codes == set(ENGINE_CODES)
    assert codes <= FINAL_CODES
