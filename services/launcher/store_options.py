"""`galen store`: its options; the rest loads when a command runs."""

import typer

from services.launcher.key_options import DataDir

_HELP = {"help_option_names": ["-h", "--help"]}

store_app = typer.Typer(no_args_is_help=True, context_settings=_HELP)


@store_app.callback()
def _of_a_group() -> None:  # pyright: ignore[reportUnusedFunction] - keeps the name `migrate`
    """Look after the database."""


@store_app.command("migrate")
def migrate(data_dir: DataDir = None) -> None:
    """Bring the database's schema up to date, and end.

    Whoever opens the database does so, too. Done before an upgrade, a schema that cannot be
    brought up to date stops the upgrade, and not a service.

    For example:

    galen store migrate
    """
    from services.launcher.store_command import migrate_store

    typer.echo(migrate_store(data_dir))
