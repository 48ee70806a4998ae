"""Our conversation templates as Jinja text, which transformers and vLLM render by themselves.

It is saved with a converted checkpoint, so that every library writes the prompts of `prompt.py` to
the byte.
"""

import json
from collections.abc import Iterable

from modeling.conversation_templates import (
    ConversationTemplate,
    ImagePiece,
    Piece,
    SpecialPiece,
    TextPiece,
    turn_pieces,
)

# <<name>> is filled in.
_OUTLINE = """\
{%- macro render(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}
{%- for part in content -%}
{%- if part['type'] == 'image' -%}<<image>>{%- else -%}{{- part['text'] -}}{%- endif -%}
{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- set system = <<system>> -%}
{%- set turns = messages -%}
{%- if messages and messages[0]['role'] == 'system' -%}
{%- set system = render(messages[0]['content']) -%}
{%- set turns = messages[1:] -%}
{%- endif -%}
{{- bos_token -}}<<header>><<greeting>>
{%- for turn in turns -%}
{%- if turn['role'] != ['user', 'assistant'][loop.index0 % 2] -%}
{{- raise_exception('user and assistant take turns; the user begins') -}}
{%- endif -%}
{%- if turn['role'] == 'user' -%}
<<before_question>><<asked_header>>{{- render(turn['content']) -}}<<after_question>>
{%- else -%}
<<before_answer>>{{- render(turn['content']) -}}<<after_answer>>
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}<<opening>>{%- else -%}<<end>>{%- endif -%}"""


def jinja_of(template: ConversationTemplate, image_text: str) -> str:
    """Return the chat template that writes what `conversation_templates.write` writes.

    Args:
        image_text: what stands for one image, such as `<im_start><im_patch><im_end>`; the
            checkpoint's processor makes as many tokens of it as an image has.
    """
    header = "{{- system + " + json.dumps(template.after_system) + " -}}"
    asked = "{%- if loop.first and system -%}" + header + "{%- endif -%}"
    image = _quoted(image_text)
    values = {
        "image": image,
        "system": json.dumps(template.system),
        "header": "" if template.is_system_asked else header,
        "asked_header": asked if template.is_system_asked else "",
        "greeting": "".join(
            _fixed(turn_pieces(template, turn), image) for turn in template.greeting
        ),
        "before_question": _fixed(template.before_question),
        "after_question": _fixed(template.after_question),
        "before_answer": _fixed(template.before_answer),
        "after_answer": _fixed(template.after_answer),
        "opening": _quoted(template.opening),
        "end": _fixed(template.end),
    }
    text = _OUTLINE
    for name, value in values.items():
        text = text.replace(f"<<{name}>>", value)
    return text


def _fixed(pieces: Iterable[Piece], image: str = "") -> str:
    texts: list[str] = []
    for piece in pieces:
        match piece:
            case TextPiece(text=text):
                texts.append(_quoted(text))
            case SpecialPiece(token=token):
                texts.append("{{- " + token + "_token -}}")
            case ImagePiece():
                texts.append(image)
    return "".join(texts)


def _quoted(text: str) -> str:
    return "{{- " + json.dumps(text) + " -}}" if text else ""
