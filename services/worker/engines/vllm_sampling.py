"""Our choice of tokens inside vLLM: the same seeds, draws and penalties as on every other engine.

vLLM makes a `TokenChooser` in each of its worker processes. It chooses the token of every row that
is not simply greedy with the functions of `sampling.py`, and leaves a row of logits in which that
token alone is possible; vLLM itself always takes the best token. So a draw depends on the seed and
on the token's place in the answer only, and any worker continues it. Rows arrive with the mask of a
JSON schema already applied, and with that of `min_tokens` where there is no schema.

A JSON schema's grammar lives in vLLM's engine core. There `ResumingScheduler` advances that of a
resumed answer to where it broke off.

The chooser sees the rows of all requests, so it also finds those whose logits are not finite: their
requests end with an error (`vllm_faults.py`). So may a later one, which vLLM gives a block of the
KV cache that has NaN in it: attention multiplies what it masks by 0. That is found in the same way.

Shapes: B rows of the batch, R of them ours, V entries of the vocabulary.
"""

# pyright: reportMissingImports=false
# (vLLM lives in a virtual environment of its own)

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from vllm import SamplingParams as VllmSamplingParams
from vllm.config import VllmConfig
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request
from vllm.v1.sample.logits_processor import (
    BatchUpdate,
    LogitsProcessor,
    process_dict_updates,
)
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.structured_output.backend_types import StructuredOutputGrammar

from services.protocol.messages import SamplingParams
from services.worker.engines.sampling import SamplingRow, choose_tokens
from services.worker.engines.vllm_faults import report

CHOOSER = f"{__name__}:TokenChooser"
SCHEDULER = f"{__name__}.ResumingScheduler"
"""How vLLM finds these classes in its own processes."""

_EXTRA = "galen"


class ChooserArgs(msgspec.Struct, frozen=True):
    """What `TokenChooser` has to know of a request.

    Args:
        number: tells it from every other request of this engine.
        faults: path of the `FaultLog`.
        num_resumed: how many tokens at the prompt's end belong to the answer.
        min_tokens: up to so many tokens, a guided answer does not end, where it can go on.
        params: None where vLLM's own choice, the best token, is right.
    """

    number: int
    faults: str
    num_resumed: int = 0
    min_tokens: int = 0
    params: SamplingParams | None = None


def extra_args(
    params: SamplingParams, *, number: int, faults: str, num_resumed: int
) -> dict[str, Any]:
    """Return what vLLM hands on to `TokenChooser`; see `ChooserArgs`."""
    min_tokens = 0 if params.json_schema is None else params.min_tokens
    args = ChooserArgs(number, faults, num_resumed, min_tokens, _chosen_by(params))
    return {_EXTRA: msgspec.to_builtins(args)}


def _chosen_by(params: SamplingParams) -> SamplingParams | None:
    row = SamplingRow(params, (), ())
    if row.is_greedy and not row.has_penalties:
        return None
    # Log-probabilities are vLLM's, stop strings and lengths are checked outside.
    return SamplingParams(
        temperature=params.temperature,
        top_p=params.top_p,
        top_k=params.top_k,
        seed=params.seed,
        presence_penalty=params.presence_penalty,
        frequency_penalty=params.frequency_penalty,
        repetition_penalty=params.repetition_penalty,
        logit_bias=params.logit_bias,
    )


@dataclass(slots=True)
class _Row:
    """One request.

    Args:
        prompt_ids: with the resumed tokens at their end.
        output_ids: vLLM's live list of what it generated here.
        stop_ids: tokens that end the answer.
    """

    args: ChooserArgs
    prompt_ids: Sequence[int]
    output_ids: Sequence[int]
    stop_ids: Sequence[int]
    is_reported: bool = False

    @property
    def is_short(self) -> bool:
        return self.args.num_resumed + len(self.output_ids) < self.args.min_tokens

    def now(self, params: SamplingParams) -> SamplingRow:
        num_prompt = len(self.prompt_ids) - self.args.num_resumed
        resumed = self.prompt_ids[num_prompt:]
        return SamplingRow(params, self.prompt_ids[:num_prompt], [*resumed, *self.output_ids])


class TokenChooser(LogitsProcessor):
    """Forces the tokens that `sampling.choose_tokens` chooses."""

    def __init__(
        self,
        vllm_config: VllmConfig,  # noqa: ARG002 (vLLM's interface)
        device: torch.device,
        is_pin_memory: bool,  # noqa: ARG002, FBT001 (vLLM's interface)
    ) -> None:
        self._device = device
        self._rows: dict[int, _Row] = {}  # by place in the batch

    def is_argmax_invariant(self) -> bool:
        """Greedy choices change: every token is forced that way."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow requests that join, leave, or change places."""
        process_dict_updates(self._rows, batch_update, _new_row)

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """Force one token in each of our rows; `logits` float32 [B, V], changed in place."""
        rows = {place: row for place, row in self._rows.items() if place < len(logits)}
        self._report_faults(logits, rows)
        for place, row in rows.items():
            if row.is_short:
                _hold_end_back(logits[place], row.stop_ids)
        ours = [
            (place, row.now(row.args.params))
            for place, row in rows.items()
            if row.args.params is not None
        ]
        if not ours:
            return logits
        places_R = torch.tensor([place for place, _ in ours], device=logits.device)
        chosen = choose_tokens(logits[places_R], [row for _, row in ours])
        forced = [
            (p, choice.token_id) for (p, _), choice in zip(ours, chosen, strict=True) if choice
        ]
        if forced:
            forced_rows = torch.tensor([place for place, _ in forced], device=logits.device)
            token_ids = torch.tensor([token_id for _, token_id in forced], device=logits.device)
            logits[forced_rows] = float("-inf")
            logits[forced_rows, token_ids] = 0.0
        return logits

    def _report_faults(self, logits_BV: torch.Tensor, rows: dict[int, _Row]) -> None:
        """Report requests without a finite best logit (NaN and +inf win a max), each once."""
        finite_B = torch.isfinite(logits_BV.amax(dim=-1))
        if bool(finite_B.all()):
            return
        faulty: dict[str, list[int]] = defaultdict(list)
        for place in torch.nonzero(~finite_B)[:, 0].tolist():
            row = rows.get(place)
            if row is not None and not row.is_reported:
                row.is_reported = True
                faulty[row.args.faults].append(row.args.number)
        for path, numbers in faulty.items():
            report(path, numbers)


class ResumptionError(Exception):
    """The resumed tokens are no beginning of what their schema allows."""


class ResumingScheduler(Scheduler):
    """vLLM's own, in whose process a grammar is advanced by the tokens that are resumed."""

    def __init__(
        self, *args: Any, structured_output_manager: StructuredOutputManager, **options: Any
    ) -> None:
        super().__init__(*args, structured_output_manager=structured_output_manager, **options)
        create = structured_output_manager._create_grammar

        def create_and_advance(request: Request) -> StructuredOutputGrammar:
            grammar = create(request)
            advance(grammar, request)
            return grammar

        structured_output_manager._create_grammar = create_and_advance  # in its threads


def advance(grammar: StructuredOutputGrammar, request: Request) -> None:
    """Move a new grammar on by a request's resumed tokens.

    Raises:
        ResumptionError: it does not allow them; vLLM then ends this request alone.
    """
    args = _args_of(request.sampling_params)
    if args is None or args.num_resumed == 0:
        return
    resumed = list(request.prompt_token_ids or ())[-args.num_resumed :]
    # Asked first: vLLM logs what a grammar says of a token that it has to refuse.
    if len(grammar.validate_tokens(resumed)) < len(resumed):
        raise ResumptionError
    grammar.accept_tokens(request.request_id, resumed)


def _hold_end_back(logits_V: torch.Tensor, stop_ids: Sequence[int]) -> None:
    """Mask the end in place; where the grammar is complete, `min_tokens` gives way."""
    index_S = torch.tensor(stop_ids, dtype=torch.long, device=logits_V.device)
    longer_V = logits_V.index_fill(0, index_S, float("-inf"))
    if bool(torch.isfinite(longer_V).any()):
        logits_V.copy_(longer_V)


def _new_row(
    params: VllmSamplingParams, prompt_ids: list[int] | None, output_ids: list[int]
) -> _Row | None:
    args = _args_of(params)
    if args is None:
        return None
    return _Row(args, prompt_ids or (), output_ids, params.stop_token_ids or ())


def _args_of(params: VllmSamplingParams | None) -> ChooserArgs | None:
    extra = (params.extra_args if params is not None else None) or {}
    return msgspec.convert(extra[_EXTRA], ChooserArgs) if _EXTRA in extra else None
