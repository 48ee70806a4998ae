"""What the fake engine says in these tests, by a word of the question."""

import json

MARK = "it-ran"
EVIL = (
    f"Before <script>document.title='{MARK}'</script> between "
    f"<img src=x onerror=\"document.title='{MARK}'\"> "
    f"<a href=\"javascript:document.title='{MARK}'\">link</a> "
    f"[another](javascript:document.title='{MARK}') "
    f"<iframe srcdoc=\"<script>parent.document.title='{MARK}'</script>\"></iframe> "
    f"<svg onload=\"document.title='{MARK}'\"></svg> after ![x](http://192.0.2.1/picture.png)"
)
MARKDOWN = "A **bold** word\n\n| side | size |\n|---|---|\n| left | small |\n\n- first\n- second"
SCRIPT = "\n".join(
    json.dumps(line)
    for line in (
        {"match": "what is hostile", "answer": EVIL},
        {"match": "what is markdown", "answer": MARKDOWN},
        {"match": "which sentence", "answer": "The left lung is clear."},
    )
)
