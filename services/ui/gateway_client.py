"""One user's side of the gateway: the OpenAI client, and our own routes through it.

What does *not* live here: what errors mean (`problems.py`), and what is shown of the answers.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import httpx2
from openai import AsyncOpenAI, DefaultAsyncHttpxClient, omit
from openai.types import FileObject, Model
from openai.types.chat import ChatCompletionMessageParam

from services.ui.problems import GatewayError, Problem, problems_told

_CONNECT_TIMEOUT_S = 5.0
_SHORT_TIMEOUT_S = 15.0
_NO_KEY = "none"
"""The client insists on a key; a gateway that asks for none passes it over."""

Json = dict[str, Any]  # what our own routes answer, of any shape until it is shown


@dataclass(frozen=True, slots=True)
class Sampling:
    """How an answer is drawn; None: as the gateway has it."""

    temperature: float | None = None
    top_p: float | None = None
    max_tokens: int | None = None
    seed: int | None = None


@dataclass(slots=True)
class Piece:
    """What came of an answer.

    Args:
        text: new text, perhaps none.
        request_id: what a vote names.
        finish_reason: in the last piece.
    """

    text: str = ""
    request_id: str = ""
    finish_reason: str | None = None


class Gateway:
    """The gateway, asked with one key.

    Every call raises GatewayError.
    """

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client

    async def models(self) -> list[Model]:
        """Return what is served, adapters included, with our own fields in `model_extra`."""
        with problems_told():
            return (await self._quick.models.list()).data

    async def answer(
        self, model: str, messages: Sequence[ChatCompletionMessageParam], sampling: Sampling
    ) -> AsyncGenerator[Piece]:
        """Yield an answer as it comes; closing the generator ends the request at the gateway."""
        with problems_told():
            stream = await self._client.chat.completions.create(
                model=model,
                messages=messages,
                stream=True,
                temperature=_or_omit(sampling.temperature),
                top_p=_or_omit(sampling.top_p),
                max_tokens=_or_omit(sampling.max_tokens),
                seed=_or_omit(sampling.seed),
            )
            try:
                async for chunk in stream:
                    for choice in chunk.choices:
                        yield Piece(choice.delta.content or "", chunk.id, choice.finish_reason)
            finally:
                await stream.close()

    async def preview(self, model: str, image_url: Json) -> Json:
        """Return what a model sees of an image; see `POST /v1/galen/preview`."""
        return await self.post("/galen/preview", {"model": model, "image_url": image_url})

    async def vote(self, vote: Json) -> Json:
        """Vote on an answer; see `POST /v1/feedback`."""
        return await self.post("/feedback", vote)

    async def upload(self, name: str, content: bytes, purpose: str) -> FileObject:
        """Upload a file for one of the gateway's purposes."""
        with problems_told():
            return await self._client.files.create(
                file=(name, content), purpose=cast("Any", purpose)
            )

    async def delete(self, file_id: str) -> None:
        """Delete a file."""
        with problems_told():
            await self._client.files.delete(file_id)

    async def content(self, file_id: str) -> bytes:
        """Download a file."""
        with problems_told():
            return (await self._client.files.content(file_id)).content

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Json:
        """Read one of our own routes, such as `/admin/status`."""
        options = cast("Any", {} if query is None else {"params": dict(query)})
        with problems_told():
            return cast("Json", await self._quick.get(path, cast_to=object, options=options))

    async def post(self, path: str, body: Json) -> Json:
        """Post to one of our own routes, such as `/evaluations`."""
        with problems_told():
            return cast("Json", await self._client.post(path, body=body, cast_to=object))

    @property
    def _quick(self) -> AsyncOpenAI:
        return self._client.with_options(timeout=_SHORT_TIMEOUT_S)


class Gateways:
    """Makes a `Gateway` for each key, over one pool of connections."""

    def __init__(self, url: str, answer_timeout_s: float) -> None:
        self.url = url
        timeout = httpx2.Timeout(answer_timeout_s, connect=_CONNECT_TIMEOUT_S)
        self._http = DefaultAsyncHttpxClient(timeout=timeout, trust_env=False)
        self._timeout = timeout

    def of(self, key: str | None) -> Gateway:
        """Return the gateway as the holder of a key sees it."""
        return Gateway(
            AsyncOpenAI(
                base_url=self.url,
                api_key=key or _NO_KEY,
                http_client=self._http,
                timeout=self._timeout,
                max_retries=0,  # the page says what is wrong, and its user decides
            )
        )

    async def metrics(self, key: str | None) -> str:
        """Return the gateway's Prometheus metrics; raises GatewayError."""
        url = httpx2.URL(self.url).copy_with(path="/metrics")
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        with problems_told():
            answer = await self._http.get(url, headers=headers, timeout=_SHORT_TIMEOUT_S)
        if not answer.is_success:
            raise GatewayError(Problem(f"The metrics are refused: status {answer.status_code}."))
        return answer.text

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()


def _or_omit(value: Any) -> Any:
    return omit if value is None else value
