"""What every engine must do, as tests."""

from __future__ import annotations

from pilotlight.store_node.testing.held_attempts import HeldAttempts
from pilotlight.store_node.testing.shared_engine import SharedEngine
from pilotlight.store_node.testing.single_attempts import SingleAttempts


class EngineContract(SingleAttempts, HeldAttempts, SharedEngine):
    """Subclass it, give it the three fixtures, and pytest does the rest.

    The model behind it must have a context of 32 to 4096 tokens and know the ids
    of `prompt_ids` and 5 to 9; its greedy answer should not be one id over and
    over.
    Where the engine accounts for KV memory, there must be enough for a request
    as long as the context, and for short ones in all slots. One that computes
    prompts in one piece, and long ones in several steps, sets `chunks_prefill`
    to False.
    """
