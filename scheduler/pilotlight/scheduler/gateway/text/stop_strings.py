"""Stop strings, found across the pieces that a text comes in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """What may be given out of a text so far."""

    text: str
    is_stopped: bool


class StopStrings:
    """Cuts one text before the stop string that ends first, of several the longest.

    Text is held back only while it is the beginning of a stop string, so without
    any there is no delay. Each string is followed by its Knuth-Morris-Pratt
    automaton, whose state is how many of its characters the text ends with:
    linear time, and the result does not depend on how the text was divided.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        self._automata = [_Automaton(string) for string in strings]
        self._held = ""

    def push(self, text: str) -> Cut:
        """Take the next piece; return what can't be part of a stop string."""
        if not self._automata:
            return Cut(text=text, is_stopped=False)
        start = len(self._held)
        self._held += text
        for index, character in enumerate(text, start):
            matched = max(automaton.step(character) for automaton in self._automata)
            if matched:
                kept, self._held = self._held[: index + 1 - matched], ""
                return Cut(text=kept, is_stopped=True)
        held = max(automaton.state for automaton in self._automata)
        return Cut(text=self._give(len(self._held) - held), is_stopped=False)

    def flush(self) -> str:
        """Return what is still held back, when the text is over."""
        return self._give(len(self._held))

    def _give(self, n_characters: int) -> str:
        text, self._held = self._held[:n_characters], self._held[n_characters:]
        return text


class _Automaton:
    def __init__(self, string: str) -> None:
        self.state = 0
        self._string = string
        self._fallback = _borders(string)

    def step(self, character: str) -> int:
        """Take a character; return the string's length where it has just ended, else 0."""
        while self.state and self._string[self.state] != character:
            self.state = self._fallback[self.state]
        if self._string[self.state] == character:
            self.state += 1
        return self.state if self.state == len(self._string) else 0


def _borders(string: str) -> list[int]:
    """Return for each length the longest proper prefix of that prefix which also ends it."""
    borders = [0, 0]
    for character in string[1:]:
        length = borders[-1]
        while length and string[length] != character:
            length = borders[length]
        borders.append(length + 1 if string[length] == character else 0)
    return borders
