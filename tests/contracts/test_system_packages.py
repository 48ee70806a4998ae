"""Debian packages for tests: installed, or one line that names the command."""

import pytest

import system_packages


def test_nothing_wanted_asks_nothing() -> None:
    assert system_packages.ensure([]) is None
    assert system_packages.ensure(["sh"]) is None  # a program that no package is named after


def test_only_whole_installations_count() -> None:
    listing = (
        "chromium installed\npostgresql config-files\nlibpq5 half-installed\n"
        "dpkg-query: no packages found matching nowhere\n"
    )

    assert system_packages.installed_packages(listing) == frozenset({"chromium"})


def test_missing_packages_keep_their_order() -> None:
    missing = system_packages.missing_packages(["b", "a", "c"], frozenset({"a"}))

    assert missing == ["b", "c"]


@pytest.mark.parametrize("prefix", [[], ["/usr/bin/sudo", "-n"]])
def test_installation_asks_nothing(prefix: list[str]) -> None:
    update, install = system_packages.install_commands(["chromium"], prefix)

    assert update[: len(prefix)] == install[: len(prefix)] == prefix
    assert update[-1] == "update"
    assert install[-4:] == ["install", "--yes", "--no-install-recommends", "chromium"]
    assert "DEBIAN_FRONTEND=noninteractive" in install


def test_failure_is_one_line_that_names_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(system_packages, "root_prefix", lambda: None)

    code = system_packages.main(["galen-no-such-package"])

    assert code == 1
    error = capsys.readouterr().err
    assert "galen-no-such-package" in error
    assert len(error.splitlines()) == 1
