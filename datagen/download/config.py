"""Where articles really lie: rewritten URLs and mirrors, from a YAML file and from options.

What does *not* live here: when a mirror's turn comes (`turns.py`).
"""

from collections.abc import Sequence
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from datagen.errors import DataError

_SCHEMES = ("http://", "https://")


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rewrite(_Entry):
    """URLs that begin so begin otherwise: the first entry that fits counts."""

    prefix: str = Field(alias="from", min_length=1)
    to: str

    @field_validator("to")
    @classmethod
    def _is_url(cls, value: str) -> str:
        return _checked(value)


class Mirrors(_Entry):
    """Where else URLs that begin so are found, once rewritten; tried in this order."""

    prefix: str = Field(alias="from", min_length=1)
    to: tuple[str, ...]

    @field_validator("to")
    @classmethod
    def _are_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(_checked(each) for each in value)


class Places(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    rewrite: tuple[Rewrite, ...] = ()
    mirrors: tuple[Mirrors, ...] = ()

    def urls_of(self, url: str) -> list[str]:
        """Return where an article is looked for, in order, each once."""
        for rule in self.rewrite:
            if url.startswith(rule.prefix):
                url = rule.to + url.removeprefix(rule.prefix)
                break
        found = [url]
        for group in self.mirrors:
            if url.startswith(group.prefix):
                found += [to + url.removeprefix(group.prefix) for to in group.to]
        return list(dict.fromkeys(found))


def read_places(file: Path | None, rewrites: Sequence[str]) -> Places:
    """Return the places of a config file; FROM=TO of options come before its own.

    Raises:
        DataError: the file, or an option, is none of these.
    """
    places = Places() if file is None else _read(file)
    first: list[Rewrite] = []
    for text in rewrites:
        prefix, equals, to = text.partition("=")
        if not equals or not prefix or not to.startswith(_SCHEMES):
            raise DataError(
                "--rewrite must be FROM=TO, the beginning of a URL and what stands there "
                "instead, such as https://old.example/pub=https://new.example/pub"
            )
        first.append(Rewrite.model_validate({"from": prefix, "to": to}))
    return places.model_copy(update={"rewrite": (*first, *places.rewrite)})


def _read(file: Path) -> Places:
    try:
        content: object = yaml.safe_load(file.read_text("utf-8"))
        return Places.model_validate({} if content is None else content)
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); give a YAML file") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{file}: {place or 'the whole'}: {first['msg']}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise DataError(f"{file} is no YAML: {' '.join(str(error).split())}") from error


def _checked(url: str) -> str:
    if not url.startswith(_SCHEMES):
        raise ValueError("must begin with http:// or https://")
    return url
