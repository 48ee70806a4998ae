"""Files of the chart that have their source elsewhere: Helm reads nothing outside of a chart.

    python -m deploy.helm.make_chart_files

Redis's configuration and users are compose's; rules and dashboards are those of deploy/prometheus
and deploy/grafana. Change them there. What does *not* live here: what the chart makes of them
(`galen/templates`), and `galen/files/start_redis.sh`, which is the chart's own.
"""

from pathlib import Path

from deploy.compose.setup_secrets import ACL_RULES, acl_of_hashes

_DEPLOY = Path(__file__).parents[1]
FOLDER = _DEPLOY / "helm" / "galen" / "files"
OWN = {"start_redis.sh"}
"""Files of `FOLDER` that are made by hand."""
_COPIED = {"rules": ("prometheus/rules", "*.yml"), "dashboards": ("grafana/dashboards", "*.json")}
_COMPOSE_ACL, _CHART_ACL = "aclfile /run/secrets/users.acl", "aclfile /run/redis/users.acl"


def files() -> dict[str, str]:
    """Return every made file's path within `FOLDER` and its text."""
    config = (_DEPLOY / "compose" / "redis.conf").read_text(encoding="utf-8")
    made = {
        "redis.conf": config.replace(_COMPOSE_ACL, _CHART_ACL),
        # start_redis.sh puts hashes of the release's passwords in
        "users.acl": acl_of_hashes({user: f"SHA256_OF_{user}" for user in ACL_RULES}),
    }
    for folder, (source, pattern) in _COPIED.items():
        for file in sorted((_DEPLOY / source).glob(pattern)):
            made[f"{folder}/{file.name}"] = file.read_text(encoding="utf-8")
    return made


def main() -> None:
    """Write the files anew, and take away those that nothing makes any more."""
    made = files()
    for path, text in made.items():
        file = FOLDER / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    for file in present() - made.keys() - OWN:
        (FOLDER / file).unlink()


def present() -> set[str]:
    """Return the paths of all files within `FOLDER`."""
    return {str(file.relative_to(FOLDER)) for file in FOLDER.rglob("*") if file.is_file()}


if __name__ == "__main__":
    main()
