"""Choosing the next token of every row: penalties, temperature, top-k, top-p, seeded draws.

Pure: logits in, tokens out. A draw depends on the seed and on the token's place in the answer
only, so another worker continues a sampled answer with the same tokens. The warpers are those of
transformers, in the order of its `generate`; the penalties over output tokens are OpenAI's:
logit - count * frequency_penalty - (count > 0) * presence_penalty. A logit bias is added last.

Shapes: B rows, G rows with equal parameters, V entries of the vocabulary.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from services.protocol.messages import SamplingParams

# Below this, dividing by the temperature leaves float32; the result is the greedy one anyway.
_GREEDY_BELOW = 1e-5


@dataclass(frozen=True, slots=True)
class SamplingRow:
    """What the choice of one row's token depends on, besides its logits.

    Args:
        prompt_ids: for `repetition_penalty` only; may be empty where that is 1.
        output_ids: the answer so far, earlier attempts included; the row's live list.
    """

    params: SamplingParams
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]

    @property
    def is_greedy(self) -> bool:
        """Whether the most probable token is taken."""
        return self.params.temperature < _GREEDY_BELOW

    @property
    def has_penalties(self) -> bool:
        """Whether the logits are changed: by the tokens so far, or by a bias."""
        return (
            self.params.repetition_penalty != 1.0
            or self.params.presence_penalty != 0.0
            or self.params.frequency_penalty != 0.0
            or bool(self.params.logit_bias)
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """A chosen token.

    Args:
        logprob: natural log, of the raw logits; None where it was not asked for.
        top: the most probable tokens with their log-probabilities, best first.
    """

    token_id: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


@torch.inference_mode()
def choose_tokens(
    logits_BV: torch.Tensor, rows: Sequence[SamplingRow], masked_BV: torch.Tensor | None = None
) -> list[Choice | None]:
    """Choose one token per row; None where the row's logits are not finite.

    Args:
        logits_BV: float32 [B, V]; not changed. Log-probabilities are those of these.
        masked_BV: the same with -inf for tokens that may not come; chosen from, where given.
    """
    raw_BV = logits_BV
    if masked_BV is not None:
        logits_BV = masked_BV
    best_B, best_ids_B = logits_BV.max(dim=-1)  # NaN and +inf win a max, so this finds them
    finite_B = torch.isfinite(best_B)
    if masked_BV is not None:
        finite_B &= torch.isfinite(raw_BV.max(dim=-1).values)
    finite = finite_B.tolist()
    token_ids: list[int] = best_ids_B.tolist()
    sampled: dict[tuple[float, int, float], list[int]] = defaultdict(list)
    scores: dict[int, torch.Tensor] = {}
    for index, row in enumerate(rows):
        if not finite[index] or (row.is_greedy and not row.has_penalties):
            continue
        scores[index] = _penalised(logits_BV[index], row) if row.has_penalties else logits_BV[index]
        if row.is_greedy:
            token_ids[index] = int(scores[index].argmax())
        else:
            params = row.params
            sampled[params.temperature, params.top_k, params.top_p].append(index)
    for (temperature, top_k, top_p), indexes in sampled.items():
        warped_GV = _warped(torch.stack([scores[i] for i in indexes]), temperature, top_k, top_p)
        uniforms = [uniform_at(rows[i].params.seed, len(rows[i].output_ids)) for i in indexes]
        for index, token_id in zip(indexes, draw(warped_GV, uniforms), strict=True):
            token_ids[index] = token_id
    return [
        _with_logprobs(raw_BV[index], token_ids[index], row.params.logprobs) if ok else None
        for index, (row, ok) in enumerate(zip(rows, finite, strict=True))
    ]


def uniform_at(seed: int, position: int) -> float:
    """Return the uniform number in [0, 1) for the token at `position` of an answer.

    The same on every machine: 48 bits of BLAKE2b (RFC 7693) over seed and position.
    """
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=6).digest()
    return int.from_bytes(digest) / 2**48


def draw(scores_GV: torch.Tensor, uniforms: Sequence[float]) -> list[int]:
    """Draw a token per row by inverting the cumulated softmax at its uniform number."""
    cumulated_GV = scores_GV.double().softmax(dim=-1).cumsum(dim=-1)
    total_G1 = cumulated_GV[:, -1:]
    targets_G1 = torch.tensor(uniforms, dtype=torch.double, device=scores_GV.device)[:, None]
    # right=True: the first entry beyond the target, never one of probability 0
    found_G1 = torch.searchsorted(cumulated_GV, targets_G1 * total_G1, right=True)
    return found_G1[:, 0].clamp(max=scores_GV.shape[-1] - 1).tolist()


def _penalised(logits_V: torch.Tensor, row: SamplingRow) -> torch.Tensor:
    params = row.params
    size = logits_V.shape[-1]
    scores_1V = logits_V.clone()[None]
    if params.repetition_penalty != 1.0:
        # an image placeholder's id may lie beyond the vocabulary
        seen = {i for i in (*row.prompt_ids, *row.output_ids) if i < size}
        seen_1S = torch.tensor([sorted(seen)], dtype=torch.long, device=logits_V.device)
        processor = RepetitionPenaltyLogitsProcessor(params.repetition_penalty)
        scores_1V = processor(seen_1S, scores_1V)  # type: ignore[arg-type]  # LongTensor in the stub
    if row.output_ids and (params.presence_penalty or params.frequency_penalty):
        counts = Counter(i for i in row.output_ids if i < size)
        ids_S = torch.tensor(list(counts), dtype=torch.long, device=logits_V.device)
        counts_S = torch.tensor(list(counts.values()), device=logits_V.device).to(scores_1V.dtype)
        scores_1V[0, ids_S] -= params.presence_penalty + params.frequency_penalty * counts_S
    if params.logit_bias:
        ids, biases = zip(*params.logit_bias, strict=True)
        bias_S = torch.tensor(biases, dtype=scores_1V.dtype, device=logits_V.device)
        scores_1V[0, torch.tensor(ids, device=logits_V.device)] += bias_S
    return scores_1V[0]


def _warped(scores_GV: torch.Tensor, temperature: float, top_k: int, top_p: float) -> torch.Tensor:
    no_ids = torch.empty(0, dtype=torch.long)
    if temperature != 1.0:
        scores_GV = TemperatureLogitsWarper(temperature)(no_ids, scores_GV)  # type: ignore[arg-type]
    if top_k > 0:
        scores_GV = TopKLogitsWarper(top_k)(no_ids, scores_GV)  # type: ignore[arg-type]
    if top_p < 1.0:
        scores_GV = TopPLogitsWarper(top_p)(no_ids, scores_GV)  # type: ignore[arg-type]
    return scores_GV


def _with_logprobs(logits_V: torch.Tensor, token_id: int, num_top: int | None) -> Choice:
    if num_top is None:
        return Choice(token_id)
    logprobs_V = logits_V.log_softmax(dim=-1)
    values_K, ids_K = logprobs_V.topk(min(num_top, logits_V.shape[-1]))
    top = tuple(zip(ids_K.tolist(), values_K.tolist(), strict=True))
    return Choice(token_id, float(logprobs_V[token_id]), top)
