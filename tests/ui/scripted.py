"""What the fake engine says in these tests, by words of the question."""

import json

from tests.support.browser import MARK

_MARKDOWN = "A **bold** word\n\n| side | size |\n|---|---|\n| left | small |\n\n- first\n- second"


def script(beacon: int) -> str:
    """Return the file of answers.

    Args:
        beacon: port that hostile answers call where they are more than text.
    """
    act = f"document.title='{MARK}'"
    evil = (
        f'Before <script>{act}</script> <img src=http://127.0.0.1:{beacon}/image onerror="{act}">'
        f' <a href="javascript:{act}">link</a> [link](javascript:{act})'
        f' <iframe srcdoc="<script>parent.{act}</script>"></iframe> <svg onload="{act}"></svg>'
        f" ![x](http://127.0.0.1:{beacon}/markdown) after"
    )
    lines = (
        {"match": "what is hostile", "answer": evil},
        {"match": "what is markdown", "answer": _MARKDOWN},
        {"match": "which sentence", "answer": "The left lung is clear."},
    )
    return "\n".join(map(json.dumps, lines))
