"""An order that fails in a way that nobody thought of: refused, and the launcher goes on."""

from pathlib import Path

import pytest

from services.launcher.children import Family
from services.launcher.fleet import Fleet
from services.launcher.host_agent import HostAgent
from services.launcher.layouts import Layout, Machine
from services.launcher.terminal import Terminal
from services.protocol.admin import HostOrder, LoadModel


class BrokenFleet(Fleet):
    def plan(self, wish: LoadModel) -> Layout:
        raise ZeroDivisionError(f"no plan for\n{wish.model_id}")


async def test_order_that_fails_unexpectedly_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal = Terminal(["worker"])
    agent = HostAgent(
        f"unix://{tmp_path}/nowhere.sock", BrokenFleet(Family(terminal), terminal, Machine(), {})
    )
    reply = await agent._obey(HostOrder(1, "1", LoadModel("chest", "/somewhere")))
    await agent.close()

    assert reply.refusal == "the order failed (ZeroDivisionError: no plan for chest)"
    assert reply.refusal in "".join(capsys.readouterr()).replace("\n", " ")
