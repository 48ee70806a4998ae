"""What is in the images, and what is not."""

import json
from typing import Any

import pytest

from tests.compose.composition import IMAGES, Composition, docker, inspect

pytestmark = pytest.mark.usefixtures("images")

MOST_MB = {"gateway": 400, "ui": 650}
WITHOUT_TORCH = ("gateway", "ui", "jobs")
OURS = [service for service in IMAGES if service != "proxy"]
_LOOK = """
import importlib.util, json, os, pathlib, sys
folders = ("/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/sbin")
print(json.dumps({
    "programs": sorted(
        {name for each in folders if os.path.isdir(each) for name in os.listdir(each)}
    ),
    "torch": importlib.util.find_spec("torch") is not None,
    "pip": importlib.util.find_spec("pip") is not None,
    "uid": os.getuid(),
    "packages": sorted(
        ".".join(each.parts[2:]) for each in pathlib.Path("/app").glob("*/*") if each.is_dir()
    ),
    "licences": len(list(pathlib.Path("/usr/share/doc").glob("*/copyright"))),
    "writable": [
        each for each in ("/", "/app", "/opt/galen", "/etc", "/usr") if os.access(each, os.W_OK)
    ],
}))
"""


@pytest.fixture(scope="module")
def images(built: Composition) -> None:
    """All images but the one for cards."""
    built.build(["training"])


def name_of(service: str) -> str:
    return f"{IMAGES[service]}:compose-test"


def look_into(service: str) -> dict[str, Any]:
    return json.loads(
        docker("run", "--rm", "--network", "none", "--entrypoint", "python", name_of(service),
               "-c", _LOOK)
    )  # fmt: skip


@pytest.mark.parametrize("service", OURS)
def test_nobody_is_root_and_nothing_is_writable(service: str) -> None:
    seen = look_into(service)

    assert seen["uid"] == 10001
    assert seen["writable"] == []
    assert inspect(name_of(service))["Config"]["User"] == "10001:10001"


@pytest.mark.parametrize("service", OURS)
def test_there_is_no_shell_and_no_package_manager(service: str) -> None:
    seen = look_into(service)

    assert [each for each in seen["programs"] if not each.startswith("python")] == []
    assert not seen["pip"]


@pytest.mark.parametrize("service", OURS)
def test_the_licences_of_debians_packages_are_in_it(service: str) -> None:
    assert look_into(service)["licences"] > 50


@pytest.mark.parametrize("service", WITHOUT_TORCH)
def test_there_is_no_torch(service: str) -> None:
    assert not look_into(service)["torch"]


def test_each_image_has_its_own_packages_only() -> None:
    packages = {service: set(look_into(service)["packages"]) for service in OURS}

    assert "services.gateway" in packages["gateway"]
    for service in ("ui", "worker", "jobs"):
        assert "services.gateway" not in packages[service]
        assert not any(name.startswith("training") for name in packages[service])
    assert "services.ui" not in packages["worker"] | packages["jobs"]


@pytest.mark.parametrize("service", MOST_MB)
def test_images_are_small(service: str) -> None:
    assert inspect(name_of(service))["Size"] <= MOST_MB[service] * 1_000_000


@pytest.mark.parametrize("service", IMAGES)
def test_labels_say_what_it_is(service: str) -> None:
    labels = inspect(name_of(service))["Config"]["Labels"]

    assert labels["org.opencontainers.image.title"] == IMAGES[service]
    assert labels["org.opencontainers.image.version"] == "compose-test"
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"


@pytest.mark.parametrize("service", OURS)
def test_a_bill_of_materials_is_in_it(service: str) -> None:
    read = "print(open('/opt/galen/sbom.cdx.json').read())"
    said = docker("run", "--rm", "--entrypoint", "python", name_of(service), "-c", read)
    names = {each["name"].lower() for each in json.loads(said)["components"]}

    assert {"pydantic", "redis"} <= names
    assert ("torch" in names) == (service not in WITHOUT_TORCH)
