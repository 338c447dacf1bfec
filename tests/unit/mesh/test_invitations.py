"""The token of an invitation: what it tells, and that a torn or foreign one is told so without being repeated."""

from __future__ import annotations

import base64
import hashlib

import nkeys
import pytest

from mesh.errors import SettingsInvalid
from mesh.invitations import BEGINS, Token, id_of

SEED = nkeys.encode_seed(bytes(range(32)), nkeys.PREFIX_BYTE_USER).decode()
TOKEN = Token("mesh", ("192.0.2.7:4222", "[2001:db8::7]:4222"), hashlib.sha256(b"authority").digest(), SEED)


def test_a_token_is_one_word_and_comes_back_whole() -> None:
    text = TOKEN.text()

    assert Token.read(text) == TOKEN
    assert text == "".join(text.split())
    assert len(text) < 250


def test_a_line_break_that_a_terminal_put_in_does_not_matter() -> None:
    text = TOKEN.text()

    assert Token.read(f" {text[:70]}\n{text[70:]}\n") == TOKEN


@pytest.mark.parametrize("cut", [len(BEGINS), len(BEGINS) + 1, 60, -2, -1])
def test_a_torn_token_is_told_so(cut: int) -> None:
    with pytest.raises(SettingsInvalid, match="cut or mistyped"):
        Token.read(TOKEN.text()[:cut])


def test_every_mistyped_character_is_noticed() -> None:
    text = TOKEN.text()
    for position in range(len(BEGINS), len(text)):
        other = "A" if text[position] != "A" else "B"
        mistyped = text[:position] + other + text[position + 1 :]
        try:
            found = Token.read(mistyped)
        except SettingsInvalid as error:
            assert "cut or mistyped" in str(error)  # noqa: PT017 - most positions; the last may hold unused bits
        else:
            assert found == TOKEN


@pytest.mark.parametrize("text", ["", "hello", "SUAAAA", "https://example.org", "r1", "A" * 100_000])
def test_what_is_no_token_is_told_so(text: str) -> None:
    with pytest.raises(SettingsInvalid, match="`bin/agent invite` prints one"):
        Token.read(text)


def test_a_token_of_a_newer_form_asks_for_an_update() -> None:
    with pytest.raises(SettingsInvalid, match="update Ramify"):
        Token.read("r2." + TOKEN.text()[3:])


def test_a_valid_envelope_with_a_strange_content_is_refused() -> None:
    for content in (b"\xc0", b"\x94\xc0\xc0\xc0\xc0", b"\x94\xa4mesh\x90\xc4\x00\xc4\x00", b""):
        whole = content + hashlib.sha256(content).digest()[:4]
        with pytest.raises(SettingsInvalid):
            Token.read(BEGINS + base64.urlsafe_b64encode(whole).decode())


def test_secrets_stay_out_of_what_is_shown() -> None:
    assert SEED not in repr(TOKEN)
    with pytest.raises(SettingsInvalid) as caught:
        Token.read(TOKEN.text()[:-5])
    assert TOKEN.text()[10:30] not in str(caught.value)


def test_the_id_is_the_keys() -> None:
    key = nkeys.from_seed(SEED.encode()).public_key.decode()

    assert id_of(key) == key[1:13].lower()
