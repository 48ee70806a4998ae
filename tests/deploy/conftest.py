import pytest

from tests.deploy.chart import EXAMPLES, Manifests, render


@pytest.fixture(scope="session")
def rendered() -> dict[str, Manifests]:
    """Every example, rendered once."""
    return {name: render(values) for name, values in EXAMPLES.items()}


@pytest.fixture(params=sorted(EXAMPLES))
def manifests(request: pytest.FixtureRequest, rendered: dict[str, Manifests]) -> Manifests:
    """Return one example after the other."""
    return rendered[request.param]
