"""Every variable and every mounted secret of the chart is a setting of ours, with a good value."""

import importlib.util
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from deploy.compose.setup_secrets import ACL_RULES
from services.launcher.settings_check import SERVICES
from services.settings_guard import unknown_variables
from tests.deploy.chart import ROOT, Manifests, Pod, render

_BY_COMPONENT = {
    "gateway": ("GatewaySettings", "StoreSettings"),
    "jobs": ("JobSettings", "StoreSettings"),
    "migrations": ("StoreSettings",),
    "ui": ("UiSettings",),
    "worker": ("WorkerSettings",),
}
_SECRETS = {
    "redis_url": "redis://:secret@redis:6379/0",
    "database_url": "postgresql+asyncpg://galen:secret@postgres:5432/galen",
}
_ANY_SECRET = "s" * 40
_PLACE = "GALEN_SECRETS_DIR"


def classes_of(pod: Pod) -> list[type[BaseSettings]]:
    return [c for c in SERVICES if c.__name__ in _BY_COMPONENT[pod.component]]


def prefix_of(settings: type[BaseSettings]) -> str:
    return settings.model_config.get("env_prefix", "")


def field_of(name: str, settings: type[BaseSettings]) -> str | None:
    """Return which field a variable or a secret's file is of, if any."""
    field = name.upper().removeprefix(prefix_of(settings)).lower()
    return field if name.upper().startswith(prefix_of(settings)) else None


@pytest.fixture(params=sorted(_BY_COMPONENT))
def pods(request: pytest.FixtureRequest, manifests: Manifests) -> list[Pod]:
    return [pod for pod in manifests.pods() if pod.component == request.param]


def test_variables_are_settings_with_good_values(
    pods: list[Pod], monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in pods:
        given = {name: v for name, v in pod.environment().items() if name != _PLACE}
        known = tuple(prefix_of(settings) for settings in classes_of(pod))
        assert all(name.startswith(known) for name in given), given
        with monkeypatch.context() as environment:
            for name, value in given.items():
                environment.setenv(name, value)
            for settings in classes_of(pod):
                assert unknown_variables(settings) == []
                settings()  # raises where a value is none


def test_secrets_are_files_of_settings(
    pods: list[Pod], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for number, pod in enumerate(pods):
        mounted = tmp_path / str(number)
        mounted.mkdir()
        with monkeypatch.context() as environment:
            environment.setenv("GALEN_SECRETS_DIR", str(mounted))
            for name in pod.secret_files():
                fields = [(c, field_of(name, c)) for c in classes_of(pod)]
                ((settings, field),) = [(c, f) for c, f in fields if f is not None]
                assert field in settings.model_fields
                value = _SECRETS.get(field, _ANY_SECRET)
                (mounted / name).write_text(value, encoding="utf-8")
                assert getattr(settings(), field).get_secret_value() == value
            assert all(unknown_variables(settings) == [] for settings in classes_of(pod))


def test_secrets_lie_where_services_look_and_no_cluster_puts_tokens(manifests: Manifests) -> None:
    # a pod's role comes as /var/run/secrets/eks.amazonaws.com/..., a link to /run/secrets in images
    for pod in manifests.pods():
        place = pod.mounts().get("secrets")
        assert not [p for p in pod.mounts().values() if p.startswith(("/run/sec", "/var/run/sec"))]
        assert (place is None) == (pod.component == "ui")
        if pod.is_ours:
            assert pod.environment().get(_PLACE) == place


def test_a_role_of_the_cloud_is_taken_by_an_annotation() -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/galen"}

    (account,) = render({"serviceAccount": {"annotations": role}}).of("ServiceAccount")

    assert account["metadata"]["annotations"] == role
    assert {pod.spec["serviceAccountName"] for pod in render({}).pods()} == {"galen", "default"}


def test_no_secret_stands_in_a_variable(manifests: Manifests) -> None:
    for pod in manifests.pods():
        for entry in pod.container.get("env", ()):
            assert entry.keys() == {"name", "value"}
            assert "://:" not in entry["value"]
            assert not entry["name"].endswith(("_KEY", "_PASSWORD", "_PEPPER"))


def test_secrets_that_are_mounted_are_in_the_secret(rendered: dict[str, Manifests]) -> None:
    (secret,) = rendered["defaults"].of("Secret")
    mounted = {key for pod in rendered["defaults"].pods() for key in pod.secret_files().values()}

    assert mounted == secret["stringData"].keys()


def test_a_secret_of_ones_own_replaces_the_drawn_one(rendered: dict[str, Manifests]) -> None:
    manifests = rendered["external-services"]
    assert manifests.of("Secret") == []
    names = {
        volume["secret"]["secretName"]
        for pod in manifests.pods()
        for volume in pod.spec["volumes"]
        if "secret" in volume
    }
    assert names == {"galen-secrets"}


def test_drawn_secrets_are_long_and_differ() -> None:
    (one,), (other,) = (render({}).of("Secret") for _ in range(2))
    drawn = {key for key in one["stringData"] if key.endswith(("-password", "-pepper", "-key"))}

    assert len(drawn) == 4 + len(ACL_RULES)
    assert all(len(one["stringData"][key]) == 40 for key in drawn)
    assert all(one["stringData"][key] != other["stringData"][key] for key in drawn)


def test_the_page_has_no_secret_at_all(manifests: Manifests) -> None:
    assert manifests.pod("ui").secret_files() == {}


def test_workers_know_no_database(manifests: Manifests) -> None:
    for pod in manifests.pods():
        if pod.component == "worker":
            assert set(pod.secret_files()) == {"galen_worker_redis_url"}


def test_commands_are_modules_of_ours(manifests: Manifests) -> None:
    for pod in manifests.pods():
        if pod.is_ours and "command" in pod.container:
            python, dash_m, module, *_ = pod.container["command"]
            assert (python, dash_m) == ("python", "-m")
            assert importlib.util.find_spec(module) is not None
        if pod.is_ours and "exec" in pod.container.get("livenessProbe", {}):
            python, dash_m, module = pod.container["livenessProbe"]["exec"]["command"]
            assert (python, dash_m) == ("python", "-m")
            assert importlib.util.find_spec(module) is not None


def test_spans_are_sent_where_the_values_say(rendered: dict[str, Manifests]) -> None:
    def traced(manifests: Manifests) -> dict[str, set[str]]:
        names = {p.component: p.environment() for p in manifests.pods()}
        return {c: {v for n, v in given.items() if "TRACES" in n} for c, given in names.items()}

    told = traced(render({"tracing": {"url": "http://collector:4318/v1/traces", "share": 0.25}}))

    assert told.pop("gateway") == {"http://collector:4318/v1/traces", "0.25"}
    assert told.pop("worker") == {"http://collector:4318/v1/traces"}
    assert not any(told.values())
    assert not any(traced(rendered["defaults"]).values())


def test_the_default_model_is_the_one_that_ships() -> None:
    path = render({}).pod("worker").environment()["GALEN_WORKER_MODEL_PATH"]

    assert (ROOT / path.removeprefix("/app/") / "config.json").is_file()


def test_a_page_with_a_name_answers_no_other(rendered: dict[str, Manifests]) -> None:
    environment = rendered["everything"].pod("ui").environment()

    assert environment["GALEN_UI_ALLOWED_HOSTS"] == "galen.example.org"
    assert environment["GALEN_UI_SECURE_COOKIE"] == "true"
