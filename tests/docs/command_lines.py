"""Whether a command line fits the commands that there are: its sub-command, options and choices.

Nothing is run. `galen` is read from the Typer programs themselves, its tools' and services'
included, `make` from the Makefile, and `docker compose` from docker-compose.yml.
"""

import importlib
import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

import typer
from pydantic_settings import BaseSettings
from typer.main import get_command

from evaluation.jobs.settings import JobSettings
from modeling.tool_errors import with_default
from services.cli import app
from services.gateway.settings import GatewaySettings
from services.ui.settings import UiSettings
from services.worker.settings import WorkerSettings
from tests.contracts.source_tree import ROOT
from tests.deploy.compose_file import services

_DEFAULTS = {"evaluation.command": "run", "training.command": "run"}
_SERVICES: Mapping[str, type[BaseSettings]] = {
    "gateway": GatewaySettings,
    "worker": WorkerSettings,
    "jobs": JobSettings,
    "ui": UiSettings,
}
_BECOMES = re.compile(r'_become\("([\w.]+)"')
_COMPOSE: Mapping[str, Mapping[str, bool]] = {
    "up": {"--detach": False, "--build": False, "--no-recreate": False, "--scale": True},
    "down": {"--volumes": False},
    "exec": {"-T": False},
    "run": {"--rm": False, "-T": False, "--entrypoint": True},
    "build": {},
    "config": {},
    "logs": {"--tail": True},
    "ps": {},
    "restart": {},
    "stop": {},
}
"""The commands of Compose that the documents use: each option, and whether a value follows it."""
_OF_ONE_SERVICE = frozenset({"exec", "run"})
"""What comes after the service is a command of its own."""
_HELP = frozenset({"-h", "--help"})
_LEFT_OUT = frozenset({"...", "…"})


def mistake_in(words: Sequence[str], *, is_whole: bool = True) -> str | None:
    """Return what is wrong with a command; None where nothing is, or it is not one of ours.

    Args:
        words: of the command line.
        is_whole: False for a mention in a text, which leaves out arguments and values.
    """
    match words:
        case ["galen", *rest]:
            return _galen([word for word in rest if word not in _LEFT_OUT], is_whole=is_whole)
        case ["make", *rest]:
            return _make(rest)
        case ["docker", "compose", verb, *rest]:
            return _compose(verb, rest, is_whole=is_whole)
        case _:
            return None


def _make(words: Sequence[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    wrong = [word for word in words if "=" not in word and word not in targets]
    if wrong:
        return f"make has no target {wrong[0]}"
    named = [part for word in words for part in word.partition("=")[2].split()]
    missing = [each for each in named if each.startswith("tests/") and not (ROOT / each).exists()]
    return f"there is no {missing[0]}" if missing else None


def _compose(verb: str, words: Sequence[str], *, is_whole: bool) -> str | None:
    if verb not in _COMPOSE:
        return f"the documents know no docker compose {verb}: add it, or correct it"
    named: list[str] = []
    waiting = list(words)
    while waiting and not (verb in _OF_ONE_SERVICE and named):
        word = waiting.pop(0)
        if set(word) & set("<>"):
            break
        if not word.startswith("-"):
            named.append(word)
        elif word not in _COMPOSE[verb]:
            return f"docker compose {verb} has no option {word} here"
        elif _COMPOSE[verb][word]:
            value = waiting.pop(0)
            named += [value.partition("=")[0]] if word == "--scale" else []
    if wrong := set(named) - set(services()):
        return f"docker-compose.yml has no service {', '.join(sorted(wrong))}"
    return _inside(verb, named, waiting, is_whole=is_whole)


def _inside(verb: str, named: Sequence[str], words: list[str], *, is_whole: bool) -> str | None:
    """Look at a command that runs in a container, where it is one of ours."""
    match verb, named, words:
        case ("exec", _, ["galen", *rest]) | ("run", ["training"], rest):
            return mistake_in(["galen", *rest], is_whole=is_whole)
        case _:
            return None


def _galen(words: Sequence[str], *, is_whole: bool) -> str | None:
    command, words = _descend(get_command(app), words)
    if command is None:
        return f"galen has no command {words[0]}"
    if command.name in _SERVICES:
        known = {f"--{name.replace('_', '-')}" for name in _SERVICES[command.name].model_fields}
        return _unknown(words, known | {"--config"})
    if callback := command.callback:
        source = inspect.getsource(inspect.unwrap(callback))
        if module := _BECOMES.search(source):
            return _tool(module[1], words, is_whole=is_whole)
    return _options(command, words, is_whole=is_whole)


def _tool(module: str, words: Sequence[str], *, is_whole: bool) -> str | None:
    tool: typer.Typer = importlib.import_module(module).app
    if default := _DEFAULTS.get(module):
        words = with_default(tool, default, words)
    command, words = _descend(get_command(tool), words)
    if command is None:
        return f"{module} has no command {words[0]}"
    return _options(command, words, is_whole=is_whole)


def _descend(command: Any, words: Sequence[str]) -> tuple[Any, Sequence[str]]:
    """Return the sub-command and its words; None and the rest where there is no such."""
    # Any: Typer carries a copy of click, whose types it does not show
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        if words[0] not in command.commands:
            return None, words
        command, words = command.commands[words[0]], words[1:]
    return command, words


def _options(command: Any, words: Sequence[str], *, is_whole: bool) -> str | None:
    """Let a command's own parser read the words, and look at their number and choices."""
    if _HELP & set(words):
        return None
    if not is_whole:
        return _unknown(words, {o for p in command.params for o in (*p.opts, *p.secondary_opts)})
    context = command.context_class(command, info_name=command.name)
    try:
        values, left, _ = command.make_parser(context).parse_args(list(words))
    except typer.TyperException as error:
        return error.format_message()
    if left:
        return f"{command.name} takes no {left[0]!r}"
    found = [_value(param, values.get(param.name)) for param in command.params]
    return next(filter(None, found), None)


def _value(param: Any, value: object) -> str | None:
    choices = param.type_descriptor.choices
    if not value and param.required:
        return f"{param.name} is missing"
    if choices and isinstance(value, str) and value not in choices:
        # a word in capitals stands for a value
        return None if value.isupper() else f"{param.name} is none of {[*choices]}: {value}"
    return None


def _unknown(words: Sequence[str], known: set[str]) -> str | None:
    given = [word.partition("=")[0] for word in words if word.startswith("--")]
    wrong = [option for option in given if option not in known | _HELP]
    return f"there is no option {wrong[0]}" if wrong else None
