"""`galen keys`: its options; the rest loads when a command runs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

_HELP = {"help_option_names": ["-h", "--help"]}

DataDir = Annotated[
    Path | None,
    typer.Option(
        file_okay=False,
        envvar="GALEN_STORE_DIR",
        help="Folder of the database; default: the user's own for data.",
    ),
]
# Hidden: what stands in a command line is seen by all who may list processes.
ApiKey = Annotated[str | None, typer.Option(envvar="GALEN_API_KEY", hidden=True)]
KeyId = Annotated[str, typer.Argument(help="Its id: galen_ and 16 digits.", show_default=False)]

keys_app = typer.Typer(no_args_is_help=True, context_settings=_HELP)


@keys_app.command("create")
def create_key(  # noqa: PLR0913 - one parameter per option
    name: Annotated[str, typer.Argument(help="What it is for.", show_default=False)],
    *,
    tenant: Annotated[
        str, typer.Option(help="Whose files, jobs and share of the workers it is about.")
    ] = "default",
    scope: Annotated[
        list[str] | None,
        typer.Option(
            help="chat, files, batches, evaluations, feedback, usage, metrics, * (all of "
            "these), admin; may be given several times; default: the first six.",
        ),
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option(min=1, help="Of prompts, images included, and answers.")
    ] = None,
    concurrent_requests: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_month: Annotated[int | None, typer.Option(min=1, help="Calendar, UTC.")] = None,
    burned_in: Annotated[
        Literal["block", "mask", "allow"] | None,
        typer.Option(help="Images with names in their pixels; default: as the gateway has it."),
    ] = None,
    expires: Annotated[
        str | None, typer.Option(metavar="30d", help="s, m, h, d; default: never.")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make a key. It is printed once, alone on stdout, and cannot be shown again.

    `galen keys` works on the database itself (GALEN_STORE_DIR, GALEN_STORE_DATABASE_URL), whether a
    gateway runs or not; those that run hear of it within 2 s.

    For example:

    galen keys create "ward 3"

    galen keys create reading-room --tenant radiology --scope chat --requests-per-minute 60

    galen keys create study --tokens-per-month 50000000 --expires 90d
    """
    from services.launcher.key_commands import KeyCommands, seconds_of

    with KeyCommands(data_dir) as commands:
        commands.create(
            {
                "name": name,
                "tenant": tenant,
                **({"scopes": scope} if scope else {}),
                "limits": {
                    "requests_per_minute": requests_per_minute,
                    "tokens_per_minute": tokens_per_minute,
                    "concurrent_requests": concurrent_requests,
                    "tokens_per_month": tokens_per_month,
                },
                "burned_in": burned_in,
                "expires_in_s": None if expires is None else seconds_of("--expires", expires),
            }
        )


@keys_app.command("list")
def list_all_keys(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only this one's.")] = None,
    data_dir: DataDir = None,
) -> None:
    """List the keys, the newest first; revoked and expired ones stay in the list.

    For example:

    galen keys list --tenant radiology
    """
    from services.launcher.key_commands import KeyCommands

    with KeyCommands(data_dir) as commands:
        commands.list(tenant)


@keys_app.command("show")
def show_key(key_id: KeyId, *, data_dir: DataDir = None) -> None:
    """Show what a key may do, as JSON.

    For example:

    galen keys show galen_5f1d0c2ab3e49876
    """
    from services.launcher.key_commands import KeyCommands

    with KeyCommands(data_dir) as commands:
        commands.show(key_id)


@keys_app.command("revoke")
def revoke_one_key(key_id: KeyId, *, data_dir: DataDir = None) -> None:
    """Let a key be of no use any more: at every gateway within 2 s.

    For example:

    galen keys revoke galen_5f1d0c2ab3e49876
    """
    from services.launcher.key_commands import KeyCommands

    with KeyCommands(data_dir) as commands:
        commands.revoke(key_id)


@keys_app.command("rotate")
def rotate_one_key(
    key_id: KeyId,
    *,
    overlap: Annotated[
        str, typer.Option(metavar="24h", help="The old key stays good so long: s, m, h, d.")
    ] = "24h",
    data_dir: DataDir = None,
) -> None:
    """Make a key like another one, which it replaces. The new one is printed once.

    For example:

    galen keys rotate galen_5f1d0c2ab3e49876 --overlap 7d
    """
    from services.launcher.key_commands import KeyCommands, seconds_of

    with KeyCommands(data_dir) as commands:
        commands.rotate(key_id, seconds_of("--overlap", overlap))
