"""Which URLs may be fetched: a corpus of those that may not, and no surprise from any text."""

import ipaddress
import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.url_policy import (
    check_url,
    may_dial,
    read_rule,
)
from services.protocol.errors import ErrorCode, RequestError

RULES = [
    read_rule(text)
    for text in ("images.example.org", "*.pacs.local:8443", "http://10.0.0.5:8042", "[2001:db8::5]")
]

REFUSED = [
    # other schemes
    "file:///etc/passwd", "ftp://images.example.org/a.png", "gopher://images.example.org/",
    "data:text/plain,hello", "javascript:alert(1)", "dict://images.example.org:2628/",
    "ldap://images.example.org/", "jar:https://images.example.org/a!/b", "//images.example.org/a",
    "https:images.example.org/a", "https:/images.example.org/a", "blob:https://images.example.org",
    "http://images.example.org/a.png",  # https only
    # this machine
    "https://127.0.0.1/", "https://localhost/", "https://[::1]/", "https://0.0.0.0/", "https://0/",
    "https://127.1/", "https://0x7f.1/", "https://2130706433/", "https://0177.0.0.1/",
    "https://127.0.0.1.nip.io/", "https://localhost.localdomain/", "https://[::]/",
    "https://0x7f000001/", "https://017700000001/", "https://127.000.000.001/",
    "https://[0:0:0:0:0:0:0:1]/", "https://[::ffff:127.0.0.1]/", "https://[::ffff:7f00:1]/",
    # metadata of clouds
    "https://169.254.169.254/latest/meta-data", "https://metadata.google.internal/",
    "https://[fd00:ec2::254]/", "https://[::ffff:169.254.169.254]/", "https://2852039166/",
    "https://[64:ff9b::a9fe:a9fe]/", "https://[2002:7f00:1::]/", "https://[2002:a9fe:a9fe::]/",
    "https://0xa9fea9fe/", "https://169.254.43518/", "https://100.100.100.200/",
    "https://192.0.0.192/", "https://instance-data/", "https://metadata/",
    # two parsers, two hosts
    "https://127.0.0.1:6666\\@1.1.1.1/", "https://images.example.org\\@127.0.0.1/",
    "https://user@images.example.org/", "https://user:secret@images.example.org/",
    "https://images.example.org@127.0.0.1/", "https://127.0.0.1@images.example.org/",
    "https://images.example.org#@127.0.0.1/", "https://127.0.0.1#images.example.org",
    "https://images.example.org/a#b", "https://images.example.org:443@127.0.0.1/",
    "https://127.0.0.1?@images.example.org/", "https://images.example.org%00.evil.org/",
    "https://images.example.org%2f@127.0.0.1/", "https://images.example.org;.evil.org/",
    # hosts in other letters
    "https://①②⑦.⓪.⓪.①/", "https://\uff49mages.example.org/", "https://images。example。org/",
    "https://images.example.org./", "https://127.0.0.1./", "https://%31%32%37.0.0.1/",
    "https://images%2eexample.org/", "https://bücher.example.org/", "https://images.exam\u00adple.org/",
    "https://.images.example.org/", "https://images..example.org/", "https://-images.example.org/",
    # blanks and lines
    " https://images.example.org/", "https://images.example.org/ ",
    "https://images.example.org/a b",
    "https://images.example.org/\r\nHost: evil", "https://images.example.org\t/",
    "https://\n127.0.0.1",
    "https://images.example.org/\x00", "https://images.example.org/ä",
    # hosts and ports that nobody named
    "https://example.org/", "https://images.example.org.evil.org/", "https://evilimages.example.org/",
    "https://images.example.org:22/", "https://images.example.org:6379/",
    "https://images.example.org:80/", "https://images.example.org:99999/",
    "https://images.example.org:0/", "https://images.example.org:0443/", "https://images.example.org:443443/",
    "https://pacs.local:8443/", "https://x.pacs.local/", "https://x.pacs.local:8444/",
    "https://xpacs.local:8443/", "https://10.0.0.5:8042/", "http://10.0.0.5/",
    "http://10.0.0.6:8042/", "http://0x0a.0.0.5:8042/", "http://167772165:8042/",
    "https://[2001:db8::6]/", "https://[2001:db8:0::5]/", "https://2001:db8::5/",
    "", "https://", "https:///a", "https://images.example.org" + "/a" * 1100,
]  # fmt: skip


def test_corpus_is_large() -> None:
    assert len(set(REFUSED)) >= 100


@pytest.mark.parametrize("url", REFUSED)
def test_refused(url: str) -> None:
    with pytest.raises(RequestError) as caught:
        check_url(url, RULES, "here")
    assert caught.value.code == ErrorCode.URL_NOT_ALLOWED
    assert caught.value.param == "here"


@pytest.mark.parametrize(
    ("url", "target"),
    [
        ("https://images.example.org", ("https", "images.example.org", 443, "/")),
        ("HTTPS://Images.Example.ORG/A", ("https", "images.example.org", 443, "/A")),
        ("https://images.example.org:443/?a=%20", ("https", "images.example.org", 443, "/?a=%20")),
        ("https://images.example.org?a=b", ("https", "images.example.org", 443, "/?a=b")),
        ("https://a.b.pacs.local:8443/x", ("https", "a.b.pacs.local", 8443, "/x")),
        ("http://10.0.0.5:8042/instances/1", ("http", "10.0.0.5", 8042, "/instances/1")),
        ("https://[2001:db8::5]/x", ("https", "2001:db8::5", 443, "/x")),
    ],
)
def test_named_hosts(url: str, target: tuple[str, str, int, str]) -> None:
    assert check_url(url, RULES, "here") == target


def test_without_rules_nothing_passes() -> None:
    with pytest.raises(RequestError):
        check_url("https://images.example.org/", (), "here")


@given(st.text(max_size=60))
def test_any_text_is_refused_or_names_a_listed_host(text: str) -> None:
    for url in (text, f"https://{text}", f"https://images.example.org{text}"):
        target = None
        with suppress(RequestError):
            target = check_url(url, RULES, "here")
        if target is not None:
            assert any(rule.covers(target.scheme, target.host, target.port) for rule in RULES)
            assert target.path.startswith("/")
            assert re.fullmatch(r"[!-~]+", target.path)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "192.0.0.8", "192.0.2.1", "198.18.0.1", "203.0.113.7", "224.0.0.1",
        "255.255.255.255", "::1", "::", "fe80::1", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
        "168.63.129.16", "1000::1", "4000::1", "::1:0:0",
        "2002:7f00:1::", "2001::1", "2001:db8::1", "::7f00:1", "fec0::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_dialled(address: str) -> None:
    assert not may_dial(ipaddress.ip_address(address), ())


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.215.14", "2606:4700::1111", "8.8.8.8"])
def test_public_addresses_are_dialled(address: str) -> None:
    assert may_dial(ipaddress.ip_address(address), ())


def test_operator_opens_a_private_network_and_no_other() -> None:
    networks = [ipaddress.ip_network("10.1.0.0/16")]
    assert may_dial(ipaddress.ip_address("10.1.2.3"), networks)
    assert may_dial(ipaddress.ip_address("::ffff:10.1.2.3"), networks)
    assert not may_dial(ipaddress.ip_address("10.2.2.3"), networks)
    assert not may_dial(ipaddress.ip_address("169.254.169.254"), networks)


def test_a_broad_network_does_not_open_the_metadata_of_clouds() -> None:
    address = ipaddress.ip_address("169.254.169.254")
    assert not may_dial(address, [ipaddress.ip_network("0.0.0.0/0")])
    assert may_dial(address, [ipaddress.ip_network("169.254.169.254/32")])


@pytest.mark.parametrize(
    "text",
    ["", "*", "*.*.org", "https://", "a b", "ftp://a.org", "a.org/path", "u@a.org", "a.org:0",
     "a.org:99999", "*.10.0.0.1", "127.1", "0x7f.0.0.1", "[::g]", "a.*.org"],
)  # fmt: skip
def test_bad_rules_say_what_a_rule_is(text: str) -> None:
    with pytest.raises(ValueError, match="host"):
        read_rule(text)
