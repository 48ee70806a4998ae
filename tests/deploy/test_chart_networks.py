"""Who may speak to whom: the policies of the chart, applied as Kubernetes applies them."""

import ipaddress
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

import pytest

from tests.deploy.chart import EXAMPLES, Manifests, Object, Pod, render

_TALKS = {
    ("gateway", "redis"), ("gateway", "postgres"),
    ("worker", "redis"),
    ("jobs", "redis"), ("jobs", "postgres"), ("jobs", "gateway"),
    ("migrations", "postgres"),
    ("ui", "gateway"),
}  # fmt: skip
_INGRESS = {"kubernetes.io/metadata.name": "ingress-nginx"}
_MONITORING = {"kubernetes.io/metadata.name": "monitoring"}


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    assert selector.keys() <= {"matchLabels"}
    return selector.get("matchLabels", {}).items() <= labels.items()


def policies_of(manifests: Manifests, pod: Pod, direction: str) -> list[Object]:
    return [
        policy["spec"]
        for policy in manifests.of("NetworkPolicy")
        if matches(policy["spec"]["podSelector"], pod.labels)
        and direction in policy["spec"]["policyTypes"]
    ]


def rules_for(
    manifests: Manifests, pod: Pod, direction: str, other: Mapping[str, str]
) -> Iterator[set[int]]:
    """Yield the ports of each rule that lets a pod of this release speak to, or hear, another."""
    side = "from" if direction == "Ingress" else "to"
    for policy in policies_of(manifests, pod, direction):
        for rule in policy.get(direction.lower(), ()):
            peers = rule.get(side)
            same_namespace = [p for p in peers or () if p.keys() == {"podSelector"}]
            if peers is None or any(matches(p["podSelector"], other) for p in same_namespace):
                yield {port["port"] for port in rule["ports"]}


def may_connect(manifests: Manifests, client: Pod, server: Pod) -> set[int]:
    """Return the ports that both sides' policies allow."""
    out = set[int]().union(*rules_for(manifests, client, "Egress", server.labels))
    into = set[int]().union(*rules_for(manifests, server, "Ingress", client.labels))
    return out & into


def test_everybody_is_denied_everything_by_default(manifests: Manifests) -> None:
    for pod, direction in product(manifests.pods(), ("Ingress", "Egress")):
        denies = [p for p in policies_of(manifests, pod, direction) if direction.lower() not in p]
        assert denies, pod.component


def test_who_speaks_to_whom_and_nobody_else(manifests: Manifests) -> None:
    pods = manifests.pods()
    for client, server in product(pods, pods):
        is_meant = (client.component, server.component) in _TALKS
        expected = server.ports() if is_meant else set[int]()
        talk = (client.component, server.component)
        assert may_connect(manifests, client, server) == expected, talk


def test_neither_side_allows_more_than_is_meant(manifests: Manifests) -> None:
    # either side alone would keep strangers out; each is to hold by itself
    pods = manifests.pods()
    for client, server in product(pods, pods):
        if (client.component, server.component) not in _TALKS:
            assert not [*rules_for(manifests, client, "Egress", server.labels)]
            for policy in policies_of(manifests, server, "Ingress"):
                named = [p for rule in policy.get("ingress", ()) for p in rule.get("from", ())]
                selectors = [p["podSelector"] for p in named if p.keys() == {"podSelector"}]
                assert not any(matches(each, client.labels) for each in selectors)


def test_services_lead_to_ports_that_are_listened_on(manifests: Manifests) -> None:
    for service in manifests.of("Service"):
        selector = service["spec"]["selector"]
        (pod,) = [pod for pod in manifests.pods() if selector.items() <= pod.labels.items()]
        (port,) = service["spec"]["ports"]
        assert port["port"] in pod.ports()
        assert port["targetPort"] in {each["name"] for each in pod.container["ports"]}


def test_addresses_of_services_are_those_of_the_chart(rendered: dict[str, Manifests]) -> None:
    services = {
        f"{each['metadata']['name']}:{each['spec']['ports'][0]['port']}"
        for each in rendered["defaults"].of("Service")
    }
    (secret,) = rendered["defaults"].of("Secret")
    texts = [*secret["stringData"].values()]
    texts += [v for pod in rendered["defaults"].pods() for v in pod.environment().values()]
    named = {
        text.split("://")[1].rpartition("@")[2].split("/")[0] for text in texts if "://" in text
    }

    assert named == {"galen-gateway:8000", "galen-redis:6379", "galen-postgres:5432"}
    assert named <= services


def test_all_who_speak_to_somebody_may_ask_for_names(manifests: Manifests) -> None:
    dns = {"matchLabels": {"k8s-app": "kube-dns"}}
    for pod in manifests.pods():
        rules = [r for p in policies_of(manifests, pod, "Egress") for r in p.get("egress", ())]
        asks = [r for r in rules if any(to.get("podSelector") == dns for to in r["to"])]
        assert len(asks) == (pod.component not in ("redis", "postgres"))


@pytest.mark.parametrize(
    "dns",
    [
        {"to": [{"ipBlock": {"cidr": "169.254.20.10/32"}}], "port": 53},
        {
            "to": [
                {
                    "namespaceSelector": {
                        "matchLabels": {"kubernetes.io/metadata.name": "openshift-dns"}
                    },
                    "podSelector": {
                        "matchLabels": {"dns.operator.openshift.io/daemonset-dns": "default"}
                    },
                }
            ],
            "port": 5353,
        },
    ],
    ids=["NodeLocal DNS", "OpenShift"],
)
def test_who_tells_addresses_can_be_another(dns: dict[str, Any]) -> None:
    manifests = render({"networkPolicy": {"dns": dns}})
    expected = [{"protocol": name, "port": dns["port"]} for name in ("UDP", "TCP")]
    for pod in manifests.pods():
        rules = [r for p in policies_of(manifests, pod, "Egress") for r in p.get("egress", ())]
        asks = [rule["ports"] for rule in rules if rule["to"] == dns["to"]]
        assert asks == ([] if pod.component in ("redis", "postgres") else [expected])
        assert "kube-dns" not in str(rules)


def test_who_traces_reaches_the_collector_and_nobody_else_does(
    rendered: dict[str, Manifests],
) -> None:
    collector = [{"namespaceSelector": {"matchLabels": {"team": "tracing"}}}]
    traced = render(
        {
            "tracing": {"url": "http://otel.tracing:80/v1/traces"},
            "networkPolicy": {"tracesTo": collector, "tracesPort": 14318},
        }
    )

    def ways(manifests: Manifests, peers: list[Any]) -> dict[str, list[Any]]:
        return {
            pod.component: [
                rule["ports"]
                for policy in policies_of(manifests, pod, "Egress")
                for rule in policy.get("egress", ())
                if rule["to"] == peers
            ]
            for pod in manifests.pods()
        }

    way = [[{"protocol": "TCP", "port": 14318}]]
    found = ways(traced, collector)
    senders = {pod.component for pod in traced.pods() if "TRACES_URL" in str(pod.environment())}
    assert senders == {"gateway", "worker"}
    assert found == {component: way if component in senders else [] for component in found}
    # without an address nobody sends anything, and nobody may
    assert "4318" not in str(rendered["defaults"].of("NetworkPolicy"))


def external(manifests: Manifests, component: str) -> dict[str, set[int]]:
    """Return what a component may reach outside of the cluster: network -> ports."""
    rules = [
        (to["ipBlock"]["cidr"], {port["port"] for port in rule["ports"]})
        for policy in policies_of(manifests, manifests.pod(component), "Egress")
        for rule in policy.get("egress", ())
        for to in rule["to"]
        if "ipBlock" in to
    ]
    assert all(ipaddress.ip_network(cidr) for cidr, _ in rules)
    return dict(rules)


def test_services_outside_are_reached_where_they_are(rendered: dict[str, Manifests]) -> None:
    manifests = rendered["external-services"]
    redis, postgres, objects = (
        {"10.20.0.0/24": {6380}},
        {"10.20.1.0/24": {5432}},
        {"10.20.2.0/24": {443}},
    )

    assert external(manifests, "gateway") == redis | postgres | objects
    assert external(manifests, "worker") == redis
    assert external(manifests, "migrations") == postgres
    assert external(manifests, "ui") == {}


def test_nothing_outside_is_reached_by_default(rendered: dict[str, Manifests]) -> None:
    manifests = rendered["defaults"]
    assert all(external(manifests, pod.component) == {} for pod in manifests.pods())


def namespaces_let_in(manifests: Manifests, component: str) -> list[Any] | None:
    """Return which namespaces reach a component; None: whoever reaches the cluster."""
    rules = [
        rule
        for policy in policies_of(manifests, manifests.pod(component), "Ingress")
        for rule in policy.get("ingress", ())
    ]
    if any("from" not in rule for rule in rules):
        return None
    peers = [peer for rule in rules for peer in rule["from"] if "namespaceSelector" in peer]
    return [peer["namespaceSelector"]["matchLabels"] for peer in peers]


@pytest.mark.parametrize("component", ["gateway", "ui"])
def test_a_front_door_can_be_closed_to_all_but_the_proxy(
    rendered: dict[str, Manifests], component: str
) -> None:
    assert namespaces_let_in(rendered["defaults"], component) is None
    let_in = namespaces_let_in(rendered["everything"], component) or []
    assert [each for each in let_in if each != _MONITORING] == [_INGRESS]


def test_only_prometheus_hears_from_workers(rendered: dict[str, Manifests]) -> None:
    assert namespaces_let_in(rendered["defaults"], "worker") == []
    monitored = render(
        {**EXAMPLES["defaults"], "monitoring": {"enabled": True, "openMetrics": True}}
    )
    assert namespaces_let_in(monitored, "worker") == [_MONITORING]


def test_policies_can_be_left_to_the_cluster() -> None:
    assert render({"networkPolicy": {"enabled": False}}).of("NetworkPolicy") == []
