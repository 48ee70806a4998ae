"""The agent of `galen up`: it tells Redis what this host has, and obeys orders to load and unload.

Refusals go back in one line; what runs is not touched by them. While Redis is away it waits. What
does *not* live here: who may order (`gateway/routes/admin.py`).
"""

import asyncio
import contextlib
import secrets
import socket
from typing import assert_never

import psutil

from services.launcher.fleet import Fleet
from services.launcher.layouts import host_cards
from services.launcher.terminal import CommandError
from services.protocol.admin import (
    AdminOrders,
    HostOrder,
    HostOrders,
    HostRecord,
    HostReply,
    LoadModel,
    UnloadModel,
)
from services.protocol.connection import REDIS_AWAY, Backoff, open_wire
from services.protocol.worker_directory import WorkerDirectory

_BEAT_S = 1.0
_MOST_SAID = 300


class HostAgent:
    """See the module's text."""

    def __init__(self, redis_url: str, fleet: Fleet) -> None:
        self._fleet = fleet
        self._host_id = f"{socket.gethostname()}-{secrets.token_hex(3)}"
        self._wire = open_wire(redis_url)
        self._blocking = open_wire(redis_url, blocking=True)
        self._orders = HostOrders(self._wire, self._blocking, self._host_id)
        self._admin = AdminOrders(self._wire)
        self._directory = WorkerDirectory(self._wire)
        self._unloading: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._beat_forever())
            group.create_task(self._obey_forever())

    async def close(self) -> None:
        """Take the host out of the list, so that nobody orders anything more."""
        for task in self._unloading:
            task.cancel()
        with contextlib.suppress(*REDIS_AWAY):  # else the lease ends by itself
            await self._orders.leave()
        await self._wire.aclose()
        await self._blocking.aclose()

    async def _beat_forever(self) -> None:
        backoff = Backoff()
        while True:
            try:
                self._fleet.establish(await self._directory.workers())
                await self._orders.renew(await self._record())
                backoff.reset()
                await asyncio.sleep(_BEAT_S)
            except REDIS_AWAY:
                await backoff.wait()

    async def _obey_forever(self) -> None:
        backoff = Backoff()
        while True:
            try:
                order = await self._orders.next_order()
                if order is not None:
                    reply = await self._obey(order)
                    await self._orders.renew(await self._record())
                    await self._orders.reply(order.order_id, reply)
                backoff.reset()
            except REDIS_AWAY:
                await backoff.wait()

    async def _obey(self, order: HostOrder) -> HostReply:
        try:
            match order.order:
                case LoadModel():
                    return await self._load(order.order)
                case UnloadModel():
                    return self._unload(order.order)
                case _:
                    assert_never(order.order)
        except CommandError as error:
            return HostReply(refusal=error.message)
        except Exception as error:  # noqa: BLE001 - whatever is ordered, what runs goes on
            what = " ".join(str(error).split())[:_MOST_SAID]
            refusal = f"the order failed ({type(error).__name__}: {what})"
            self._fleet.report(refusal)
            return HostReply(refusal=refusal)

    async def _load(self, wish: LoadModel) -> HostReply:
        layout = await asyncio.to_thread(self._fleet.plan, wish)
        await self._fleet.start(wish, layout, is_first=False)
        return HostReply(note=layout.reason)

    def _unload(self, order: UnloadModel) -> HostReply:
        if not self._fleet.has(order.model_id):
            return HostReply(refusal=f"the model {order.model_id!r} is not loaded here")
        task = asyncio.create_task(self._finish_unload(order))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        return HostReply()

    async def _finish_unload(self, order: UnloadModel) -> None:
        await self._fleet.unload(order.model_id, order.timeout_s)
        backoff = Backoff()
        while True:  # a worker that was loading may have registered at the last moment
            try:
                served = {record.model.id for record in await self._directory.workers()}
                if order.model_id not in served and not self._fleet.has(order.model_id):
                    await self._admin.unload_model(order.model_id)
                await self._orders.renew(await self._record())
            except REDIS_AWAY:
                await backoff.wait()
            else:
                return

    async def _record(self) -> HostRecord:
        memory = psutil.virtual_memory()
        return HostRecord(
            host_id=self._host_id,
            host=socket.gethostname(),
            total_memory_bytes=memory.total,
            free_memory_bytes=memory.available,
            cards=await asyncio.to_thread(host_cards),
            models=self._fleet.models(),
        )
