"""What several tabs use of Gradio in the same way.

Lives here: how events run, how answers are shown safely, the input of a question. What does *not*
live here: what a tab does with them.
"""

from typing import Any

import gradio as gr

from services.ui.pictures import FILE_TYPES

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Of an event: nothing covers the page while it runs, and no other program can call it."""
EMPTY_QUESTION: dict[str, Any] = {"text": "", "files": []}
SAFE_CHAT: dict[str, Any] = {
    "sanitize_html": True,
    "allow_tags": False,
    "allow_file_downloads": False,
    "group_consecutive_messages": False,
    "latex_delimiters": [{"left": "$$", "right": "$$", "display": True}],
}
"""Of a chat: what a model writes is shown, and runs nothing."""

Given = dict[Any, Any]
"""Values by the component that they are of, as Gradio gives a set of inputs."""


def question_input(
    label: str, placeholder: str, elem_id: str, *, autofocus: bool = False
) -> gr.MultimodalTextbox:
    """Return an input for a question with its images."""
    return gr.MultimodalTextbox(
        label=label,
        show_label=False,
        placeholder=placeholder,
        sources=["upload"],
        file_count="multiple",
        file_types=list(FILE_TYPES),
        max_plain_text_length=100_000,
        lines=1,
        autofocus=autofocus,
        elem_id=elem_id,
    )
