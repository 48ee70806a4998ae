"""`galen audit` and `galen feedback`: their options; the rest loads when they run."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from services.launcher.admin_options import AdminKey, Url

if TYPE_CHECKING:
    from services.launcher.audit_command import AuditReader

_HELP = {"help_option_names": ["-h", "--help"]}
_EXIT_BROKEN = 3

Tenant = Annotated[str | None, typer.Option(help="Of this tenant only.")]
Key = Annotated[str | None, typer.Option(help="Of the key with this id only.")]
Model = Annotated[str | None, typer.Option(help="That asked this model only.")]
RequestId = Annotated[str | None, typer.Option(help="The request with this id only.")]
Outcome = Annotated[
    Literal["succeeded", "failed"] | None, typer.Option(help="That ended like this only.")
]
About = Annotated[
    str | None,
    typer.Option("--object", help="About the file, key, model or worker with this id only."),
]
Since = Annotated[str | None, typer.Option(help="From this moment on: 2026-11-29, or with a time.")]
Until = Annotated[str | None, typer.Option(help="Before this moment.")]

audit_app = typer.Typer(no_args_is_help=True, context_settings=_HELP)
feedback_app = typer.Typer(no_args_is_help=True, context_settings=_HELP)


@audit_app.command("list")
def list_records(  # noqa: PLR0913 - one parameter per option
    *,
    tenant: Tenant = None,
    key: Key = None,
    model: Model = None,
    request_id: RequestId = None,
    about: About = None,
    outcome: Outcome = None,
    since: Since = None,
    until: Until = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most records.")] = 50,
    url: Url = None,
    admin_key: AdminKey = None,
) -> None:
    """Show the newest records of the audit: who asked which model, and how it ended.

    For example:

    galen audit list

    galen audit list --tenant clinic --outcome failed --since 2026-11-29

    galen audit list --object galen_5f1d0c2ab3e49876
    """
    query = _query(
        tenant=tenant,
        key=key,
        model=model,
        request_id=request_id,
        object=about,
        outcome=outcome,
        since=since,
        until=until,
    )
    with _reader(url, admin_key) as reader:
        reader.show(query, limit)


@audit_app.command("export")
def export_records(  # noqa: PLR0913 - one parameter per option
    *,
    out: Annotated[
        Path | None, typer.Option(dir_okay=False, metavar="FILE", help="Default: stdout.")
    ] = None,
    form: Annotated[
        Literal["jsonl", "csv"],
        typer.Option("--format", help="csv: no cell of it is read as a formula."),
    ] = "jsonl",
    tenant: Tenant = None,
    key: Key = None,
    model: Model = None,
    request_id: RequestId = None,
    about: About = None,
    outcome: Outcome = None,
    since: Since = None,
    until: Until = None,
    url: Url = None,
    admin_key: AdminKey = None,
) -> None:
    """Write records of the audit, oldest first, however many there are.

    A file is there whole or not at all. Exit code 0: written; 1: an error; 2: misuse.

    For example:

    galen audit export --out audit.jsonl

    galen audit export --format csv --tenant clinic --until 2026-12-01 --out november.csv
    """
    query = _query(
        tenant=tenant,
        key=key,
        model=model,
        request_id=request_id,
        object=about,
        outcome=outcome,
        since=since,
        until=until,
    )
    with _reader(url, admin_key) as reader:
        reader.export(query, form, out)


@audit_app.command("verify")
def verify_chains(*, url: Url = None, admin_key: AdminKey = None) -> None:
    """Check that no record of the audit was changed, removed or put in between.

    Says where each chain ends: records that were cut off its end are noticed by comparing that with
    what was noted earlier, such as the gateway's log line `audit.ended`.

    Exit code 0: every chain holds; 1: an error; 2: misuse; 3: a chain is broken.

    For example:

    galen audit verify
    """
    with _reader(url, admin_key) as reader:
        if not reader.verify():
            raise typer.Exit(_EXIT_BROKEN)


@feedback_app.command("export")
def export_votes(
    *,
    out: Annotated[
        Path, typer.Option(file_okay=False, metavar="DIR", help="Made new; it must not exist.")
    ],
    images: Annotated[
        list[Path] | None,
        typer.Option(
            exists=True,
            file_okay=False,
            metavar="DIR",
            help="Where to look for images that votes name by SHA-256; several are taken.",
        ),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=0.9, help="Share of subjects for validation.")
    ] = 0.1,
    test: Annotated[float, typer.Option(min=0, max=0.9, help="Share of subjects for tests.")] = 0.1,
    salt: Annotated[str, typer.Option(help="Another one divides the subjects otherwise.")] = "",
) -> None:
    """Write votes with consent as training data: LLaVA-Med's records, and a folder of images.

    Reads the database and the files of the store (GALEN_STORE_...). No subject and no image is in
    two of train, validation and test; a subject stays where it is from one export to the next,
    unless new votes join it to others by an image. Images are written anew, without what they said
    beside their pixels. OUT/manifest.json counts what was written, and what was left out and why.

    Exit code 0: written; 1: an error; 2: misuse; 3: there was nothing to write.

    For example:

    galen feedback export --out ./votes

    galen feedback export --out ./votes --images ./pacs-export --validation 0.2 --test 0
    """
    from services.launcher.feedback_export import ExportPlan, run_export

    if validation + test >= 1:
        raise typer.BadParameter("--validation and --test leave nothing to train on")
    plan = ExportPlan(out, tuple(images or ()), validation, test, salt)
    raise typer.Exit(run_export(plan))


def _query(**said: str | None) -> dict[str, str]:
    return {name: value for name, value in said.items() if value is not None}


def _reader(url: str | None, admin_key: str | None) -> "AuditReader":
    from services.launcher.admin_access import find_access
    from services.launcher.audit_command import AuditReader

    return AuditReader(find_access(url, admin_key))
