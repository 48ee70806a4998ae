"""What holds for every pod of the chart: nobody's privileges, bounds, and time to end."""

import pytest

from services.gateway.media.decode_process import MEMORY_HEADROOM_BYTES
from services.gateway.settings import GatewaySettings
from services.worker.settings import WorkerSettings
from tests.deploy.chart import EXAMPLES, Manifests, Pod, render

_LAST_WORDS_S = 3  # of a gateway: the last error events, and what its server waits longer
_KILL_S = 5  # a worker's parent waits so long for an engine that does not end


def seconds(pod: Pod, name: str) -> float:
    return float(pod.environment()[name])


def test_nobody_has_privileges(manifests: Manifests) -> None:
    for pod in manifests.pods():
        who = pod.spec["securityContext"]
        assert who["runAsNonRoot"] is True
        assert who["runAsUser"] == (10001 if pod.is_ours else 999), pod.component
        assert who["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert not {"hostNetwork", "hostPID", "hostIPC"} & pod.spec.keys()


def test_nobody_has_a_token_of_the_cluster(manifests: Manifests) -> None:
    assert [a["automountServiceAccountToken"] for a in manifests.of("ServiceAccount")] == [False]
    assert all(pod.spec["automountServiceAccountToken"] is False for pod in manifests.pods())


def test_no_service_of_the_cluster_becomes_a_setting(manifests: Manifests) -> None:
    # a Service `galen-gateway` would set GALEN_GATEWAY_PORT=tcp://..., which no gateway starts with
    assert all(pod.spec["enableServiceLinks"] is False for pod in manifests.pods())


def test_only_data_and_tmp_are_written_to(manifests: Manifests) -> None:
    for pod in manifests.pods():
        if pod.is_ours:
            mounts = {
                m["mountPath"] for m in pod.container["volumeMounts"] if not m.get("readOnly")
            }
            assert mounts <= {"/data", "/data/files", "/tmp", "/dev/shm"}
            assert {"/data", "/tmp"} <= mounts


def test_empty_volumes_have_bounds(manifests: Manifests) -> None:
    volumes = [v for pod in manifests.pods() for v in pod.spec["volumes"] if "emptyDir" in v]
    assert all("sizeLimit" in volume["emptyDir"] for volume in volumes)


def test_every_volume_is_there_and_used(manifests: Manifests) -> None:
    for pod in manifests.pods():
        templates = pod.owner["spec"].get("volumeClaimTemplates", ())
        there = [v["name"] for v in (*pod.spec["volumes"],)]
        there += [claim["metadata"]["name"] for claim in templates]
        assert sorted(there) == sorted(m["name"] for m in pod.container["volumeMounts"])


def test_images_are_of_one_version_and_never_the_latest(manifests: Manifests) -> None:
    images = {pod.container["image"] for pod in manifests.pods()}
    tags = {
        image.rpartition(":")[2]
        for image in images
        if image.rpartition("/")[2].startswith("galen-")
    }
    assert tags == {"0.1.0"}
    assert all(":" in image and not image.endswith(":latest") for image in images)


def test_no_image_of_ours_is_of_somebody_else_s_registry(rendered: dict[str, Manifests]) -> None:
    for name, manifests in rendered.items():
        ours = [pod.container["image"] for pod in manifests.pods() if pod.is_ours]
        assert ours
        if name != "everything":  # which names one
            assert all("/" not in image for image in ours)


def test_images_are_those_that_are_built(rendered: dict[str, Manifests]) -> None:
    images = {p.container["image"] for m in rendered.values() for p in m.pods() if p.is_ours}
    names = {image.rpartition("/")[2].partition(":")[0] for image in images}
    assert names == {
        "galen-evaluation", "galen-gateway", "galen-ui", "galen-worker", "galen-worker-cuda",
    }  # fmt: skip


def test_resources_are_asked_for_and_bounded(manifests: Manifests) -> None:
    for pod in manifests.pods():
        resources = pod.container["resources"]
        assert {"cpu", "memory"} <= resources["requests"].keys()
        assert "memory" in resources["limits"]


def test_a_gateway_and_its_decoders_fit_into_its_memory(manifests: Manifests) -> None:
    # Kubernetes kills all of a container that has no more, not the decoder that took it
    pod = manifests.pod("gateway")
    own = int(pod.environment()["GALEN_GATEWAY_MEMORY_LIMIT_BYTES"])
    decoders = GatewaySettings.model_fields["decoder_processes"].default
    limit = pod.container["resources"]["limits"]["memory"]

    assert limit.endswith("Gi")
    assert own + decoders * MEMORY_HEADROOM_BYTES <= int(limit[:-2]) << 30


def test_gateways_page_and_stores_are_probed(manifests: Manifests) -> None:
    for pod in manifests.pods():
        probes = {"startupProbe", "livenessProbe", "readinessProbe"} & pod.container.keys()
        match pod.component:
            case "worker":  # its own parent judges its life
                assert probes == {"startupProbe", "readinessProbe"}
            case "jobs":  # its parent does, too; it takes no task while Redis is away
                assert probes == {"readinessProbe"}
            case "migrations":
                assert probes == set()
            case _:
                assert len(probes) == 3, pod.component


def test_gateways_stay_in_their_service_without_a_worker(manifests: Manifests) -> None:
    # what the route then says: tests/end_to_end/test_without_a_worker.py
    probe = manifests.pod("gateway").container["readinessProbe"]["httpGet"]
    assert probe["path"] == "/readyz?worker=optional"


def test_ports_that_are_probed_are_listened_on(manifests: Manifests) -> None:
    for pod in manifests.pods():
        names = {port["name"] for port in pod.container.get("ports", ())}
        for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
            probe = pod.container.get(kind, {})
            asked = probe.get("httpGet") or probe.get("tcpSocket")
            assert asked is None or asked["port"] in names


def test_a_gateway_outlives_its_longest_answer(manifests: Manifests) -> None:
    pod = manifests.pod("gateway")
    longest = seconds(pod, "GALEN_GATEWAY_REQUEST_TIMEOUT_S")
    drain = seconds(pod, "GALEN_GATEWAY_DRAIN_TIMEOUT_S")
    delay = GatewaySettings.model_fields["drain_delay_s"].default
    sleep = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]

    assert drain > longest
    assert sleep + delay + drain + _LAST_WORDS_S < pod.spec["terminationGracePeriodSeconds"]
    assert sleep < pod.spec["terminationGracePeriodSeconds"]


def test_a_worker_outlives_its_longest_answer(manifests: Manifests) -> None:
    longest = seconds(manifests.pod("gateway"), "GALEN_GATEWAY_REQUEST_TIMEOUT_S")
    for pod in manifests.pods():
        if pod.component == "worker":
            drain = seconds(pod, "GALEN_WORKER_DRAIN_TIMEOUT_S")
            assert drain > longest
            assert drain + _KILL_S < pod.spec["terminationGracePeriodSeconds"]


def test_the_page_waits_until_nobody_is_sent_to_it(manifests: Manifests) -> None:
    pod = manifests.pod("ui")
    sleep = pod.container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert sleep + 15 < pod.spec["terminationGracePeriodSeconds"]


def test_a_worker_may_load_as_long_as_its_settings_say(manifests: Manifests) -> None:
    for pod in manifests.pods():
        if pod.component == "worker":
            probe = pod.container["startupProbe"]
            patience = probe["periodSeconds"] * probe["failureThreshold"]
            assert patience > seconds(pod, "GALEN_WORKER_START_TIMEOUT_S")
            assert pod.owner["spec"]["progressDeadlineSeconds"] > patience


def test_all_cards_of_a_pod_are_used_by_vllm(rendered: dict[str, Manifests]) -> None:
    pods = [pod for pod in rendered["gpu-models"].pods() if pod.component == "worker"]
    cards = [pod.container["resources"]["limits"]["nvidia.com/gpu"] for pod in pods]

    assert cards == [1, 2]
    shares = [pod.environment()["GALEN_WORKER_TENSOR_PARALLEL_SIZE"] for pod in pods]
    assert shares == ["1", "2"]
    assert all("galen-worker-cuda:" in pod.container["image"] for pod in pods)


def test_a_worker_without_cards_asks_for_none(rendered: dict[str, Manifests]) -> None:
    pod = rendered["defaults"].pod("worker")
    assert "nvidia.com/gpu" not in pod.container["resources"]["limits"]
    assert "galen-worker:" in pod.container["image"]


def test_replacing_pods_takes_no_gateway_away_first(manifests: Manifests) -> None:
    update = manifests.pod("gateway").owner["spec"]["strategy"]["rollingUpdate"]
    assert update == {"maxSurge": 1, "maxUnavailable": 0}


@pytest.mark.parametrize("component", ["gateway", "jobs"])
def test_files_on_a_disk_of_one_node_keep_their_users_there(
    rendered: dict[str, Manifests], component: str
) -> None:
    def is_bound(manifests: Manifests) -> bool:
        pod = manifests.pod(component)
        terms = pod.spec.get("affinity", {}).get("podAffinity", {})
        wanted = {"galen-files": "shared", "app.kubernetes.io/instance": "galen"}
        bound = [t["labelSelector"]["matchLabels"] for each in terms.values() for t in each]
        return wanted in bound and wanted.items() <= pod.labels.items()

    assert is_bound(rendered["defaults"])
    assert not is_bound(rendered["everything"])  # ReadWriteMany
    assert not is_bound(rendered["external-services"])  # an object store


def test_affinity_of_the_values_is_kept_beside_that_of_the_files() -> None:
    nodes = {
        "nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": []}
        }
    }
    pod = render({"gateway": {"affinity": nodes}}).pod("gateway")

    assert pod.spec["affinity"].keys() == {"nodeAffinity", "podAffinity"}


def test_maintenance_takes_one_pod_at_a_time(manifests: Manifests) -> None:
    selectors = [b["spec"]["selector"]["matchLabels"] for b in manifests.of("PodDisruptionBudget")]
    for pod in manifests.pods():
        if pod.component in ("gateway", "worker", "jobs"):
            (match,) = [s for s in selectors if s.items() <= pod.labels.items()]
            assert match["app.kubernetes.io/component"] == pod.component
    assert all(b["spec"]["maxUnavailable"] == 1 for b in manifests.of("PodDisruptionBudget"))


def test_selectors_find_their_own_pods_only(manifests: Manifests) -> None:
    for owner in manifests.pods():
        if owner.owner["kind"] != "Job":
            selector = owner.owner["spec"]["selector"]["matchLabels"]
            found = [p for p in manifests.pods() if selector.items() <= p.labels.items()]
            assert found == [owner]


def test_defaults_of_the_grace_follow_the_settings() -> None:
    # the chart's default is the gateway's own, so that nobody's requests change by being moved
    pod = render(EXAMPLES["defaults"]).pod("gateway")
    default = GatewaySettings.model_fields["request_timeout_s"].default
    assert seconds(pod, "GALEN_GATEWAY_REQUEST_TIMEOUT_S") == default
    loading = WorkerSettings.model_fields["start_timeout_s"].default
    worker = render(EXAMPLES["defaults"]).pod("worker")
    assert seconds(worker, "GALEN_WORKER_START_TIMEOUT_S") == loading
