"""`galen gateway`, `worker`, `jobs`, `ui`: each prints its own help; what they do loads later."""

import typer

_PASS_EVERYTHING_ON = {"ignore_unknown_options": True, "allow_extra_args": True}

services_app = typer.Typer()


@services_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def gateway(context: typer.Context) -> None:
    """Run a gateway alone: HTTP on one side, Redis on the other."""
    from services.launcher.service_command import run_gateway

    run_gateway(context.args)


@services_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def worker(context: typer.Context) -> None:
    """Run a worker alone: it takes requests from Redis and runs the model."""
    from services.launcher.service_command import run_worker

    run_worker(context.args)


@services_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def jobs(context: typer.Context) -> None:
    """Run a job worker alone: it does batches and evaluations through a gateway."""
    from services.launcher.service_command import run_jobs

    run_jobs(context.args)


@services_app.command(context_settings=_PASS_EVERYTHING_ON, add_help_option=False)
def ui(context: typer.Context) -> None:
    """Run the page alone: chat, comparisons, evaluations and status, over a gateway."""
    from services.launcher.service_command import run_ui

    run_ui(context.args)
