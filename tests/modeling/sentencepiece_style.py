"""A tokenizer built as LLaMA's is: a dummy space before each text, byte fallback, `<s>`, `</s>`.

LLaMA's own is not at hand. What it shares with this one is what the tests are about; how many
pieces a word has is not.
"""

import json
from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

UNK_ID, BOS_ID, EOS_ID = range(3)
_SPACE = "▁"
_TEXT = (
    "### Human: What does this image show?",
    "### Assistant: The image shows a small lesion of the left lung.",
    "A curious user talks with an artificial intelligence assistant, who answers.",
    "USER: Is the heart enlarged? ASSISTANT: No, it is not. [INST] Which organ? [/INST] Liver.",
)


def sentencepiece_style(added: Sequence[str] = ()) -> Tokenizer:
    """Return the tokenizer; `added` are special tokens behind its vocabulary."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE)
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False)
    trained.train_from_iterator(list(_TEXT), trainer)
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    learned = sorted(trained.get_vocab().items(), key=lambda item: item[1])
    vocab = {token: index for index, token in enumerate([*first, *(t for t, _ in learned)])}
    merges = [(left, right) for left, right in _merges_of(trained)]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    specials = [*first[:3], *added]
    tokenizer.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in specials])
    return tokenizer


def _merges_of(tokenizer: Tokenizer) -> list[list[str]]:
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [pair if isinstance(pair, list) else pair.split(" ") for pair in merges]
