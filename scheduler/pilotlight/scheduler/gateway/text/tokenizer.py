"""A model's tokenizer: text to ids as transformers does it, and ids to text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import asdict, replace
from tokenizers import AddedToken, Tokenizer, pre_tokenizers

from pilotlight.scheduler.errors import UnreadableExecutionFile
from pilotlight.scheduler.gateway.text.execution_files import TokenEntry, TokenizerConfig, read_json

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"

_SPECIAL_TOKENS_FILE = "special_tokens_map.json"
_NAMED_SPECIAL_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextTokenizer:
    """Encodes prompts and decodes tokens; thread-safe, for nothing in it changes."""

    backend: Tokenizer
    special_tokens: Mapping[str, str]
    """The named ones, such as "bos_token", as chat templates refer to them."""
    special_ids: frozenset[int] = field(repr=False)
    """Tokens that have no text."""
    byte_ids: frozenset[int] = field(repr=False)
    """Tokens such as `<0xE2>`: each stands for a byte, and consecutive ones make text."""
    is_byte_level: bool
    """Tokens are written in an alphabet of 256 characters, one for each byte."""

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return a text's ids; holds the interpreter for up to a microsecond a character."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_released(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Do the same with the interpreter released, for large texts in a thread of their own."""
        encodings = self.backend.encode_batch_fast([text], add_special_tokens=add_special_tokens)
        return encodings[0].ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens included."""
        return self.backend.decode(ids, skip_special_tokens=False)

    def has_text(self, token_id: int) -> bool:
        """Tell whether a token is known and not special."""
        return token_id not in self.special_ids and self.backend.id_to_token(token_id) is not None

    def token_text(self, token_id: int) -> str:
        """Return one token's text as it reads inside a sentence."""
        # Decoders drop the leading space of a first token, so the second of two is looked at.
        once = self.decode([token_id])
        return self.decode([token_id, token_id])[len(once) :]

    def token_bytes(self, token_id: int) -> bytes:
        """Return one token's bytes, also where they are only part of a character."""
        token = self.backend.id_to_token(token_id)
        if token is None:
            return b""
        if token_id in self.byte_ids:
            return bytes([int(token[3:5], 16)])
        if self.is_byte_level and all(character in _BYTE_LEVEL for character in token):
            return bytes(_BYTE_LEVEL[character] for character in token)
        return self.token_text(token_id).encode()


def load_tokenizer(directory: Path) -> TextTokenizer | None:
    """Read the tokenizer of a folder of execution files; None where it has no tokenizer.json.

    Encoding adds the special tokens that tokenizer.json's post-processor names,
    and those that only tokenizer_config.json knows join the vocabulary, as
    transformers' AutoTokenizer has it.

    Raises:
        UnreadableExecutionFile: a file is broken.
    """
    path = directory / TOKENIZER_FILE
    if not path.is_file():
        return None
    backend = _read_backend(path)
    named = _complete_special_tokens(backend, directory)
    added = backend.get_added_tokens_decoder()
    return TextTokenizer(
        backend=backend,
        special_tokens=named,
        special_ids=frozenset(token_id for token_id, token in added.items() if token.special),
        byte_ids=_byte_ids(backend),
        is_byte_level=_is_byte_level(backend),
    )


def _read_backend(path: Path) -> Tokenizer:
    try:
        backend = Tokenizer.from_file(str(path))
    except Exception as exc:  # the library raises nothing narrower
        raise UnreadableExecutionFile(path.name, str(exc)) from exc
    backend.no_truncation()
    backend.no_padding()
    return backend


def _complete_special_tokens(backend: Tokenizer, directory: Path) -> dict[str, str]:
    """Add the tokens that only the configuration knows; return the named special ones."""
    config = read_json(directory / CONFIG_FILE, TokenizerConfig)
    listed = config.added_tokens_decoder
    if listed is None:
        config = _overlay(config, read_json(directory / _SPECIAL_TOKENS_FILE, TokenizerConfig))
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    missing: dict[str, AddedToken] = {}
    # By id: shorter numbers are smaller ones.
    for _, entry in sorted((listed or {}).items(), key=lambda item: (len(item[0]), item[0])):
        if entry.content not in known:
            missing[entry.content] = AddedToken(entry.content, **entry.flags())
    named = dict(_named_tokens(config))
    for token in (*named.values(), *_extra_tokens(config)):
        if _content(token) not in known:
            missing.setdefault(_content(token), _special_token(token))
    if missing:
        # The library's stub leaves the list's items open.
        backend.add_tokens(list(missing.values()))  # pyright: ignore[reportUnknownMemberType]
    return {name: _content(token) for name, token in named.items()}


def _overlay(under: TokenizerConfig, over: TokenizerConfig) -> TokenizerConfig:
    given = {name: value for name, value in asdict(over).items() if value is not None}
    return replace(under, **given)


def _named_tokens(config: TokenizerConfig) -> Iterator[tuple[str, str | TokenEntry]]:
    for name in _NAMED_SPECIAL_TOKENS:
        token: str | TokenEntry | None = getattr(config, name)
        if token is not None:
            yield name, token


def _extra_tokens(config: TokenizerConfig) -> Sequence[str | TokenEntry]:
    extra = config.extra_special_tokens or config.additional_special_tokens or []
    return list(extra.values()) if isinstance(extra, dict) else extra


def _special_token(token: str | TokenEntry) -> AddedToken:
    flags = token.flags() if isinstance(token, TokenEntry) else {}
    return AddedToken(_content(token), **{**flags, "special": True})


def _content(token: str | TokenEntry) -> str:
    return token.content if isinstance(token, TokenEntry) else token


def _byte_ids(backend: Tokenizer) -> frozenset[int]:
    ids = [backend.token_to_id(f"<0x{byte:02X}>") for byte in range(256)]
    letter = ids[ord("A")]
    if letter is None or backend.decode([letter], skip_special_tokens=False) != "A":
        return frozenset()
    return frozenset(token_id for token_id in ids if token_id is not None)


def _is_byte_level(backend: Tokenizer) -> bool:
    space = backend.token_to_id("Ġ")
    return space is not None and backend.decode([space], skip_special_tokens=False) == " "


def _byte_level_alphabet() -> dict[str, int]:
    """Return the byte that each character of GPT-2's alphabet stands for.

    Printable Latin-1 characters stand for themselves, those from 256 on for the
    other bytes in order.
    """
    alphabet = set(pre_tokenizers.ByteLevel.alphabet())
    itself = {chr(byte): byte for byte in range(256) if chr(byte) in alphabet}
    others = (byte for byte in range(256) if chr(byte) not in alphabet)
    return itself | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_LEVEL = _byte_level_alphabet()
