"""What is measured: a gateway (or the mock engine itself) behind one port, with its processes."""

from dataclasses import dataclass

from benchmarks.processes import Role

DIRECT = "direct"
NGINX = "nginx"
VLLM_ROUTER = "vllm-router"
LITELLM = "litellm"
GALEN = "galen"


@dataclass(frozen=True, slots=True)
class Party:
    """A running gateway.

    Args:
        version: of the program, for the report.
        roles: its processes; none overlaps with another.
        loadgen_args: what the load generator needs to talk to it (a key).
        health_path: a cheap GET route.
        metrics_url: where it exports Prometheus metrics, if it does.
        is_slow: needs seconds, not tenths, before its figures are steady.
    """

    name: str
    version: str
    port: int
    roles: tuple[Role, ...]
    loadgen_args: tuple[str, ...] = ()
    health_path: str = "/health"
    metrics_url: str | None = None
    is_slow: bool = False

    def url(self, path: str) -> str:
        """Return the address of `path`."""
        return f"http://127.0.0.1:{self.port}{path}"

    def pids(self) -> list[int]:
        """Return all its living processes."""
        return [pid for role in self.roles for pid in role.pids()]
