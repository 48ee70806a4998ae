"""docker-compose.yml as it is run here: built, brought up, asked, broken, and brought down.

A project of its own, on ports that are free. What does *not* live here: what is right (the tests).
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from tests.support.program import ROOT, free_port
from tests.support.waiting import wait_until

PROJECT = "galen-compose-test"
PROJECT_WORDS = (
    *("--project-name", PROJECT),
    *("--file", "docker-compose.yml", "--file", "tests/compose/override.yml"),
)
"""What every compose command of the project begins with."""
FAKE_MODEL, MINIATURE = "fake-vlm", "galen-mini"
SERVICES = ("redis", "postgres", "gateway", "worker", "worker-fake", "jobs", "ui")
BUILT = ("gateway", "worker", "jobs", "ui", "proxy")
"""Services whose images the platform needs; the others are published ones, or wanted by cards."""
IMAGES = {
    "gateway": "galen-gateway", "worker": "galen-worker", "jobs": "galen-evaluation",
    "ui": "galen-ui", "proxy": "galen-proxy", "training": "galen-training",
}  # fmt: skip
UP_LIMIT_S = 120.0
_BUILD_LIMIT_S = 3600.0
_WHEELS = ROOT / "deploy" / "docker" / "wheels"


_COMPOSE_1 = ["docker-compose"]


def compose_command() -> list[str]:
    """Return how compose is called here: the plugin, or Debian's program."""
    has_plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if has_plugin.returncode == 0 else _COMPOSE_1


@dataclass(slots=True)
class Composition:
    """The project; `environment` is what a user writes into `.env`."""

    environment: dict[str, str] = field(default_factory=dict)
    profiles: str = ""

    def __post_init__(self) -> None:
        ports = {"GATEWAY": free_port(), "UI": free_port()}
        self.environment = {
            "GALEN_GATEWAY_PUBLISH": f"127.0.0.1:{ports['GATEWAY']}",
            "GALEN_UI_PUBLISH": f"127.0.0.1:{ports['UI']}",
            "GALEN_VERSION": "compose-test",
            # Compose 1.29 builds as this machine reaches its package index; BuildKit refuses that.
            "GALEN_BUILD_NETWORK": "host" if compose_command() == _COMPOSE_1 else "default",
            **self.environment,
        }

    # --- the commands ---

    def compose(
        self, *words: str, limit_s: float = 300.0, check: bool = True, profiles: str | None = None
    ) -> str:
        """Run one compose command; returns what it printed on stdout.

        Args:
            profiles: for this command; None: those of the project.
        """
        command = [*compose_command(), *PROJECT_WORDS, *words]
        variables = self.all_variables()
        if profiles is not None:
            variables["COMPOSE_PROFILES"] = profiles
        return _run(command, variables, limit_s, check=check)

    def build(self, services: Sequence[str] = BUILT) -> None:
        """Build images, one by one: memory. torch comes from where pip finds it here."""
        if not list(_WHEELS.glob("torch-*.whl")) and "GALEN_TORCH_INDEX" not in self.environment:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(_WHEELS)]
            _run([*pip, "torch==2.13.0+cpu"], self.all_variables(), _BUILD_LIMIT_S, check=False)
        if list(_WHEELS.glob("torch-*.whl")):
            self.environment.setdefault("GALEN_TORCH_INDEX", "")
        for service in services:
            self.compose("build", service, limit_s=_BUILD_LIMIT_S, profiles="tls,training")

    def up(self, *services: str, limit_s: float = UP_LIMIT_S) -> None:
        """Bring services up (all of them without a name), and wait until they are healthy."""
        self.compose("up", "--detach", "--no-build", *services)
        self.wait_healthy(limit_s=limit_s)

    def down(self, *, with_data: bool = True) -> None:
        """Bring everything down."""
        data = ["--volumes"] if with_data else []
        self.compose("down", "--remove-orphans", *data, profiles="tls,observability,training")

    def logs(self, service: str) -> str:
        """What a service's containers have said."""
        return self.compose("logs", "--no-color", "--tail", "40", service, check=False)

    def galen(self, *words: str) -> str:
        """Run `galen` in the gateway's container."""
        return self.compose("exec", "-T", "gateway", "galen", *words).strip()

    # --- containers ---

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, the oldest first."""
        label = f"label=com.docker.compose.service={service}"
        project = f"label=com.docker.compose.project={PROJECT}"
        found = docker("ps", "--quiet", "--no-trunc", "--filter", label, "--filter", project)
        ids = found.split()
        return sorted(ids, key=lambda each: str(inspect(each)["Created"]))

    def health(self, service: str) -> list[str]:
        """`healthy`, `unhealthy`, `starting`, or the state where it has no check."""
        states = [inspect(each)["State"] for each in self.containers(service)]
        return [state.get("Health", {}).get("Status", state["Status"]) for state in states]

    def wait_healthy(self, services: Sequence[str] = SERVICES, limit_s: float = UP_LIMIT_S) -> None:
        """Wait until all containers of all services are healthy."""

        def are_healthy() -> bool:
            return all(
                states and set(states) == {"healthy"} for states in map(self.health, services)
            )

        try:
            wait_until(are_healthy, "healthy containers", limit_s)
        except AssertionError as error:
            for service in services:
                if set(self.health(service)) != {"healthy"}:
                    error.add_note(f"{service}: {self.health(service)}\n{self.logs(service)}")
            raise

    def kill(self, service: str, number: int = 0) -> None:
        """SIGKILL to a container's first process, as the kernel does when memory runs out.

        Docker's own `kill` counts as an order to stay down. Returns when Docker has noticed.
        """
        container = self.containers(service)[number]
        before = inspect(container)
        psutil.Process(before["State"]["Pid"]).kill()

        def is_noticed() -> bool:
            return inspect(container)["State"]["StartedAt"] != before["State"]["StartedAt"]

        wait_until(is_noticed, f"another start of {service}", 30.0)

    def address(self, service: str, port: int) -> str:
        """HOST:PORT where a service is published on this machine."""
        (newest, *_) = reversed(self.containers(service))
        bound = inspect(newest)["NetworkSettings"]["Ports"][f"{port}/tcp"][0]
        return f"{bound['HostIp']}:{bound['HostPort']}"

    def gateway_url(self) -> str:
        """Where the API is published; its port may be another after each `up`."""
        return f"http://{self.address('gateway', 8000)}/v1"

    def all_variables(self) -> dict[str, str]:
        """What compose's environment holds."""
        outer = os.environ  # noqa: TID251 - a child's environment is made here
        kept = {name: value for name, value in outer.items() if not name.startswith("GALEN_")}
        return {**kept, **self.environment, "COMPOSE_PROFILES": self.profiles}


def docker(*words: str) -> str:
    """Run `docker`; returns what it printed."""
    return _run(["docker", *words], None, 300.0, check=True)


def inspect(name: str) -> dict[str, Any]:
    """Return what Docker knows of a container or an image."""
    return json.loads(docker("inspect", name))[0]


def has_docker() -> bool:
    """Whether there is an engine to talk to."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def _run(
    command: list[str], environment: Mapping[str, str] | None, limit_s: float, *, check: bool
) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=limit_s, check=False,
    )  # fmt: skip
    if check and done.returncode != 0:
        tail = (done.stdout + done.stderr)[-3000:]
        raise AssertionError(f"{' '.join(command[:12])} ended with {done.returncode}:\n{tail}")
    return done.stdout


def folder_of_logs() -> Path:
    """Where a failed run leaves what its services said."""
    folder = ROOT / "build" / "compose-test"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
