"""LLaMA's and Mistral's tokenizer files as a fast tokenizer that gives the ids of the old slow one.

The slow tokenizer of 2023 cut a text at its added tokens, took white space away on both sides of
each, and gave each stretch a space of its own at the front; weights were trained so (LLaVA-Med
v1.0: `use_fast=False`; transformers 4.28.1, tokenization_utils.py, `PreTrainedTokenizer.tokenize`).
The fast one here does the same. Ids are never assumed: releases differ in the order of their added
tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
from transformers.tokenization_utils_base import generate_merges

from modeling.checkpoint_files import CheckpointError, read_json

SENTENCEPIECE = "tokenizer.model"
_FAST = "tokenizer.json"
_ADDED = "added_tokens.json"
_SPACE = "▁"
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
# Texts on which a tokenizer that was converted wrongly shows it.
_PROBES = (
    "What does this image show?",
    "  two spaces, then a tab\t and a line\nbreak\n\nand 12.5 mm",
    "### Assistant: naïve Größe, μm, 胸部X線, \U0001fac1 </done>",
    " ",
)


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """A checkpoint's tokenizer.

    Args:
        tokenizer: knows all added tokens, as special ones.
        special: tokens by their role, such as bos_token; roles that no file names are left out.
        bos_from: the file that named the beginning-of-sequence token.
    """

    tokenizer: Tokenizer
    special: Mapping[str, str]
    bos_from: str

    def id_of(self, token: str) -> int | None:
        """Return the id of a token; None where the tokenizer has none of that name."""
        return self.tokenizer.token_to_id(token)

    def known_id(self, token: str) -> int:
        """Return the id of a token that is known to be there."""
        found = self.tokenizer.token_to_id(token)
        assert found is not None  # noqa: S101 - whoever calls has looked
        return found

    def special_id(self, role: str) -> int | None:
        """Return the id of the token with that role, such as eos_token."""
        return self.id_of(self.special[role]) if role in self.special else None

    def needed_special(self, path: Path) -> dict[str, str]:
        """Return the tokens by their role; raises CheckpointError where begin or end is missing.

        Args:
            path: the directory that they are from.
        """
        for role in ("bos_token", "eos_token"):
            if role not in self.special:
                raise CheckpointError(
                    f"{path} names no {role} (special_tokens_map.json, tokenizer_config.json): "
                    "copy these files from where the weights are from"
                )
        return dict(self.special)

    @property
    def size(self) -> int:
        """Number of ids, added tokens included."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)


def read_tokenizer(path: Path, *, swallows_spaces: bool = False) -> TokenizerFiles:
    """Read tokenizer.model (or tokenizer.json) and the added and special tokens beside it.

    special_tokens_map.json wins over tokenizer_config.json, as in the release that wrote them.

    Args:
        swallows_spaces: added tokens take the white space around them away, as in 2023.

    Raises:
        CheckpointError: there is none, or its files contradict one another.
    """
    if (path / SENTENCEPIECE).is_file():
        tokenizer = _from_sentencepiece(path / SENTENCEPIECE)
    elif (path / _FAST).is_file():
        tokenizer = _from_json(path / _FAST)
    else:
        raise CheckpointError(
            f"{path} has no tokenizer ({SENTENCEPIECE} or {_FAST}): copy it from where the weights "
            "are from"
        )
    _add_tokens(path / _ADDED, tokenizer, swallows_spaces=swallows_spaces)
    special, bos_from = _special_tokens(path)
    special = {role: token for role, token in special.items() if _is_known(token, tokenizer)}
    known = tokenizer.get_added_tokens_decoder()
    missing = {t for t in special.values() if tokenizer.token_to_id(t) not in known}
    tokenizer.add_special_tokens([_special(token) for token in sorted(missing)])
    return TokenizerFiles(tokenizer, special, bos_from)


def _from_sentencepiece(file: Path) -> Tokenizer:
    try:
        slow = SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError) as error:
        raise CheckpointError(f"{file} is damaged; copy it again") from error
    pieces = [slow.id_to_piece(i) for i in range(slow.get_piece_size())]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    scores = {piece: slow.get_score(index) for index, piece in enumerate(pieces)}
    control = [i for i in range(len(pieces)) if slow.is_control(i) or slow.is_unknown(i)]
    merges = generate_merges(vocab, scores, skip_tokens={pieces[i] for i in control})
    unk = pieces[slow.unk_id()]
    tokenizer = Tokenizer(
        models.BPE(vocab, merges, unk_token=unk, fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(_SPACE, " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    for text in _PROBES:
        if tokenizer.encode(text, add_special_tokens=False).ids != slow.encode(text):
            raise CheckpointError(
                f"{file} is no byte-pair tokenizer like LLaMA's and Mistral's: a fast one would "
                "give other ids, so it is not converted"
            )
    tokenizer.add_special_tokens([_special(pieces[index]) for index in control])
    return tokenizer


def _from_json(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise CheckpointError(f"{file} is damaged; copy it again") from error


def _add_tokens(file: Path, tokenizer: Tokenizer, *, swallows_spaces: bool) -> None:
    """Add tokens in the order of their ids; each must get the id that the file says."""
    if not file.is_file():
        return
    added = read_json(file)
    if not isinstance(added, dict) or not all(type(index) is int for index in added.values()):
        raise CheckpointError(f"{file} is no table of tokens and ids")
    for token, index in sorted(added.items(), key=lambda item: item[1]):
        tokenizer.add_special_tokens([_special(token, swallows_spaces=swallows_spaces)])
        found = tokenizer.token_to_id(token)
        if found != index:
            raise CheckpointError(
                f"{file} gives {token!r} the id {index}, behind the vocabulary comes {found}: "
                "tokenizer and added tokens are not of one checkpoint"
            )


def _special_tokens(path: Path) -> tuple[dict[str, str], str]:
    found: dict[str, str] = {}
    bos_from = ""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):  # the later one wins
        file = path / name
        entries: Any = read_json(file) if file.is_file() else {}
        if not isinstance(entries, dict):
            raise CheckpointError(f"{file} holds no JSON object")
        for role in _ROLES:
            token = entries.get(role)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token:
                found[role] = token
                bos_from = name if role == "bos_token" else bos_from
    return found, bos_from


def _is_known(token: str, tokenizer: Tokenizer) -> bool:
    return tokenizer.token_to_id(token) is not None


def _special(token: str, *, swallows_spaces: bool = False) -> AddedToken:
    return AddedToken(
        token, normalized=False, special=True, lstrip=swallows_spaces, rstrip=swallows_spaces
    )
