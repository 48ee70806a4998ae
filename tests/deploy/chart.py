"""The Helm chart, rendered by Helm's own library, as objects that tests look at.

pods = render(EXAMPLES["everything"]).pods()
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helm_python
import yaml

Object = Mapping[str, Any]

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "helm" / "galen"
EXAMPLES: dict[str, dict[str, Any]] = {
    "defaults": {},
    **{
        file.stem: yaml.safe_load(file.read_text(encoding="utf-8"))
        for file in sorted((ROOT / "deploy" / "helm" / "examples").glob("*.yaml"))
    },
}
RELEASE, NAMESPACE = "galen", "clinic"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod template and the object that makes such pods."""

    owner: Object
    labels: Mapping[str, str]
    spec: Object

    @property
    def component(self) -> str:
        """Which part of Galen it is."""
        return self.labels["app.kubernetes.io/component"]

    @property
    def container(self) -> Object:
        """Its one container."""
        (container,) = self.spec["containers"]
        return container

    @property
    def is_ours(self) -> bool:
        """Whether it runs an image of ours."""
        return self.container["image"].rpartition("/")[2].startswith("galen-")

    def environment(self) -> dict[str, str]:
        """Return its variables; each may stand once."""
        entries = self.container.get("env", ())
        names = [each["name"] for each in entries]
        assert len(names) == len(set(names)), names
        return {each["name"]: each["value"] for each in entries}

    def secret_files(self) -> dict[str, str]:
        """Return which secrets are mounted: file -> key of the Secret."""
        items = [v["secret"]["items"] for v in self.spec["volumes"] if "secret" in v]
        return {item["path"]: item["key"] for group in items for item in group}

    def mounts(self) -> dict[str, str]:
        """Return where its volumes are mounted: volume -> path."""
        return {each["name"]: each["mountPath"] for each in self.container["volumeMounts"]}

    def ports(self) -> set[int]:
        """Return what it listens on."""
        return {each["containerPort"] for each in self.container.get("ports", ())}


@dataclass(frozen=True, slots=True)
class Manifests:
    """All objects of a release."""

    objects: tuple[Object, ...]

    def of(self, kind: str) -> list[Object]:
        """Return the objects of a kind."""
        return [each for each in self.objects if each["kind"] == kind]

    def pods(self) -> list[Pod]:
        """Return the templates of all pods."""
        return list(self._pods())

    def pod(self, component: str) -> Pod:
        """Return the template of the one kind of pod of a component."""
        (pod,) = [pod for pod in self.pods() if pod.component == component]
        return pod

    def _pods(self) -> Iterator[Pod]:
        for owner in self.objects:
            if owner["kind"] in ("Deployment", "StatefulSet", "Job"):
                template = owner["spec"]["template"]
                yield Pod(owner, template["metadata"]["labels"], template["spec"])


def render(values: Mapping[str, Any], name: str = RELEASE, folder: Path = CHART) -> Manifests:
    """Return what Helm would install; raises helm_python.HelmError where it would refuse."""
    with helm_python.Chart.load(str(folder)) as chart:
        chart.validate_schema(chart.merge_values(dict(values)))
        texts = chart.render(dict(values), name=name, namespace=NAMESPACE)
    files = [text for path, text in sorted(texts.items()) if path.endswith(".yaml")]
    objects = [each for text in files for each in yaml.safe_load_all(text) if each]
    return Manifests(tuple(objects))
