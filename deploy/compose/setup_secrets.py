"""Before anything starts: passwords for each service, each in a volume that only that service sees.

    docker compose run --rm setup                  what is missing is made; what is there stays
    docker compose run --rm setup show             their names
    docker compose run --rm setup show postgres/password
    docker compose run --rm -T setup put gateway/galen_store_key_pepper < FILE      of a backup

Only the standard library. Passwords are 256 random bits; Redis keeps their SHA-256 alone. What does
*not* live here: API keys (`docker compose exec gateway galen keys create NAME`).
"""

import argparse
import hashlib
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

FOLDER = Path("/secrets")
_BYTES = 32
_REDIS = "redis://{user}:{password}@redis:6379/0"
_POSTGRES = "postgresql+asyncpg://galen:{password}@postgres:5432/galen"

ACL_RULES = {
    # All keys of the wire, and Celery's queue; nothing that administers the server or looks at
    # keys one does not know.
    "gateway": "~galen:* resetchannels &galen:* +@all -@admin -@dangerous",
    "jobs": "~galen:* resetchannels &galen:* +@all -@admin -@dangerous",
    # No limits of keys, no orders to hosts, no jobs.
    "worker": (
        "~galen:leases ~galen:workers ~galen:models ~galen:work:* ~galen:turns:* ~galen:given:* "
        "~galen:depth ~galen:claimed ~galen:bell:* ~galen:wake:* ~galen:alone-owner:* "
        "~galen:affine:* ~galen:affine_workers:* ~galen:running:* ~galen:control:* "
        "~galen:inflight:* ~galen:gateway:* ~galen:events:* ~galen:image:* ~galen:unloaded "
        "~galen:dead ~galen:epoch ~galen:fenced_writes ~galen:fenced_renewals resetchannels "
        "+@all -@admin -@dangerous"
    ),
}
"""Of each user of Redis; `health` may say PING, and nobody else may say anything."""

KEPT = {
    "audit_key": ("gateway/galen_gateway_audit_key",),
    "key_pepper": ("gateway/galen_store_key_pepper", "jobs/galen_store_key_pepper"),
}
"""What data depend on, and where it stands: a backup has it (docs/recovery.md)."""


def acl_file(passwords: dict[str, str]) -> str:
    """Return Redis's list of users.

    Args:
        passwords: by user, of all in `ACL_RULES`.
    """
    return acl_of_hashes(
        {user: hashlib.sha256(word.encode()).hexdigest() for user, word in passwords.items()}
    )


def acl_of_hashes(hashes: dict[str, str]) -> str:
    """Return Redis's list of users; deploy/helm/make_chart_files.py makes the chart's of it.

    Args:
        hashes: SHA-256 of passwords by user, of all in `ACL_RULES`.
    """
    # Nobody can log in as `default`, but Redis reads its own file as it: without these rights it
    # drops every transaction there, the scripts' too, and says nothing (redis issue 14541).
    lines = ["user default off ~* &* +@all", "user health on nopass -@all +ping"]
    lines += [f"user {user} on #{hashes[user]} {rules}" for user, rules in ACL_RULES.items()]
    return "\n".join(lines) + "\n"


def _is_there(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def missing_secrets(folder: Path) -> dict[str, str]:
    """Return what is not there yet, by its path within `folder`.

    Passwords of Redis are made all together, where one or its list of users is missing. The list is
    written anew where a release has other rules; Redis reads it when it starts.
    """
    made: dict[str, str] = {}
    users = {user: f"{user}/galen_{user}_redis_url" for user in ACL_RULES}
    list_file = folder / "redis/users.acl"
    if _is_there(list_file) and all(_is_there(folder / path) for path in users.values()):
        addresses = {user: (folder / path).read_text("utf-8") for user, path in users.items()}
        passwords = {user: urlsplit(address).password or "" for user, address in addresses.items()}
    else:
        passwords = {user: secrets.token_hex(_BYTES) for user in ACL_RULES}
        for user, path in users.items():
            made[path] = _REDIS.format(user=user, password=passwords[user])
    rules = acl_file(passwords)
    if not list_file.is_file() or list_file.read_text("utf-8") != rules:
        made["redis/users.acl"] = rules
    for paths in KEPT.values():
        present = [folder / path for path in paths if _is_there(folder / path)]
        kept = present[0].read_text("utf-8") if present else secrets.token_hex(_BYTES)
        made |= {path: kept for path in paths if not _is_there(folder / path)}
    password_file = folder / "postgres/password"
    if _is_there(password_file):
        password = password_file.read_text("utf-8")
    else:
        password = secrets.token_hex(_BYTES)
        made["postgres/password"] = password
    for user in ("gateway", "jobs"):
        path = f"{user}/galen_store_database_url"
        if not _is_there(folder / path):
            made[path] = _POSTGRES.format(password=password)
    if not _is_there(folder / "grafana/password"):
        made["grafana/password"] = secrets.token_hex(_BYTES)
    return made


def write(folder: Path, made: dict[str, str]) -> None:
    """Write each file whole or not at all; who mounts its volume may read it, nobody may change it.

    Redis's list of users comes last: where this is cut short, all of them are made anew.
    """
    for path in sorted(made, key=lambda path: path == "redis/users.acl"):
        file = folder / path
        draft = file.with_name(f".{file.name}.draft")
        with draft.open("w", encoding="utf-8") as out:
            out.write(made[path])
            out.flush()
            os.fsync(out.fileno())
        draft.chmod(0o444)
        draft.replace(file)


def restored(name: str, value: str) -> dict[str, str]:
    """Return what `put` writes: a secret of a backup, in each of its places.

    Raises:
        ValueError: it is none of those that are kept, or there is nothing in it.
    """
    places = next((paths for paths in KEPT.values() if name in paths), None)
    if places is None:
        known = ", ".join(paths[0] for paths in KEPT.values())
        raise ValueError(f"{name} is drawn anew, and nothing depends on it; put takes {known}")
    if not value.strip():
        raise ValueError(f"nothing came in for {name}; give its file: put {name} < FILE")
    return dict.fromkeys(places, value.strip())


def main(arguments: Sequence[str] | None = None) -> None:
    """Make what is missing, print one secret, or write one."""
    parser = argparse.ArgumentParser(description="Make the services' passwords.")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="one folder per service")
    commands = parser.add_subparsers(dest="command")
    show = commands.add_parser("show", help="print a secret, such as postgres/password")
    show.add_argument("name", nargs="?", help="without it: print the names of all")
    put = commands.add_parser("put", help="write a secret of a backup, from stdin")
    put.add_argument("name")
    options = parser.parse_args(arguments)
    if options.command == "show":
        sys.stdout.write(_shown(options.folder, options.name))
        return
    if options.command == "put":
        try:
            made = restored(options.name, sys.stdin.read())
        except ValueError as error:
            sys.exit(str(error))
    else:
        made = missing_secrets(options.folder)
    write(options.folder, made)
    said = f"made {', '.join(sorted(made))}" if made else "all secrets are there"
    sys.stdout.write(f"setup: {said}\n")


def _shown(folder: Path, name: str | None) -> str:
    known = sorted(str(path.relative_to(folder)) for path in folder.glob("*/*") if path.is_file())
    if name is None:
        return "".join(f"{each}\n" for each in known)
    if name not in known:
        sys.exit(f"there is no {name}; there are {', '.join(known) or 'none yet'}")
    return (folder / name).read_text("utf-8")


if __name__ == "__main__":
    main()
