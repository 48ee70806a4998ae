"""Shell commands that the launcher prints for the user to paste: pure.

A key goes through a variable or a pipe: who lists processes sees what stands in a command line.
They ask at temperature 0: drawn answers of the demo's tiny model are wrong more often.
"""

import json
import shlex
import shutil
import sys
from pathlib import Path

DEFAULT_URL = "http://127.0.0.1:8000/v1"

_HERE_GOES_THE_IMAGE = "\0"


def curl_command(
    url: str, model: str, image: Path, mime: str, question: str, key: str | None = None
) -> str:
    """Return one line for bash or zsh; the image is read from its file and may be of any size.

    The body goes through stdin: an argument ends at 128 KiB (MAX_ARG_STRLEN, execve(2)).
    """
    image_url = f"data:{mime};base64,{_HERE_GOES_THE_IMAGE}"
    content = [
        {"type": "image_url", "image_url": {"url": image_url}},
        {"type": "text", "text": question},
    ]
    body = {
        "model": model,
        "stream": True,
        "temperature": 0,
        "messages": [{"role": "user", "content": content}],
    }
    before, after = json.dumps(body).split(json.dumps(_HERE_GOES_THE_IMAGE).strip('"'))
    read_image = f"\"$(base64 < {shlex.quote(str(image))} | tr -d '\\n')\""
    header = "" if key is None else f"-H @<(echo 'authorization: Bearer {key}') "
    return (
        f"curl -sSN {url}/chat/completions {header}-H 'content-type: application/json' -d @- "
        f"<<< {shlex.quote(before)}{read_image}{shlex.quote(after)}"
    )


def ask_command(
    url: str, model: str | None, image: Path, question: str, key: str | None = None
) -> str:
    """Return a `galen ask` that works in the user's shell, even where `galen` is not on PATH.

    Args:
        model: None: the only one there is, which needs no name.
    """
    words = [*_galen(), "ask", "--temperature", "0", "--image", str(image)]
    if model is not None:
        words += ["--model", model]
    if url != DEFAULT_URL:
        words += ["--url", url]
    variable = "" if key is None else f"GALEN_API_KEY={key} "
    return variable + shlex.join([*words, question])


def _galen() -> list[str]:
    started_as = Path(sys.argv[0])
    if started_as.name != "galen":
        return [sys.executable, "-m", "services.cli"]
    found = shutil.which("galen")
    is_on_path = found is not None and Path(found).resolve() == started_as.resolve()
    return ["galen"] if is_on_path else [str(started_as)]
