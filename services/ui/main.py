"""Entry point of `galen ui`: the page as a process.

python -m services.ui.main
"""

import os
import sys

import uvicorn
from setproctitle import setproctitle

from services.private_folder import private_folder
from services.settings_guard import settings_or_exit
from services.telemetry import configure_logging
from services.ui.settings import UiSettings, prepare_gradio

_GRACE_S = 3
_FOLDER_PREFIX = "galen-ui-"


def main() -> None:
    """Serve until SIGTERM or SIGINT; uploads are gone afterwards."""
    settings = settings_or_exit(UiSettings, "ui")
    configure_logging("ui", settings.log_format, settings.log_level)
    setproctitle("galen ui")
    os.umask(0o077)  # what is uploaded may be patients' data
    with private_folder(_FOLDER_PREFIX, settings.temp_dir) as folder:
        prepare_gradio(folder)
        from services.ui.app import create_app  # noqa: PLC0415 - Gradio reads the environment

        config = uvicorn.Config(
            create_app(settings, folder),
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            lifespan="on",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_GRACE_S,
        )
        server = uvicorn.Server(config)
        server.run()
    sys.exit(0 if server.started else 1)


if __name__ == "__main__":
    main()
