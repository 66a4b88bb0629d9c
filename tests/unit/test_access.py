"""API keys: their form, and what a stored entry must look like to count as one."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bdlab.access import KEY_FORM, ApiKey, hash_of, new_secret

_NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,39}", fullmatch=True)
_NOW = datetime(2026, 11, 26, tzinfo=UTC)
_STORED: dict[str, Any] = {
    "name": "shop",
    "hash": "0" * 64,
    "scopes": ["predict", "read"],
    "created_at": "2026-11-26T12:00:00Z",
    "expires_at": None,
    "rate": None,
}


@given(_NAMES)
def test_a_key_splits_into_its_name_and_its_secret_in_one_way(name: str) -> None:
    secret = new_secret()
    found = KEY_FORM.fullmatch(f"bdlab_{name}_{secret}")
    assert found
    assert (found["name"], found["secret"]) == (name, secret)


@pytest.mark.parametrize(
    "key", ["", "bdlab_shop_", "bdlab_shop_" + "a" * 42, "bdlab_Shop_" + "a" * 43, "bdlab__" + "a" * 43]
)
def test_what_has_not_the_form_of_a_key_is_none(key: str) -> None:
    assert not KEY_FORM.fullmatch(key)


def test_a_hash_is_that_of_sha256sum() -> None:
    assert hash_of("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_key_is_read_again_as_it_was_stored() -> None:
    key = msgspec.convert(_STORED | {"expires_at": "2026-11-27T00:00:00Z", "rate": 0.5}, ApiKey)
    assert msgspec.convert(msgspec.to_builtins(key), ApiKey) == key


@pytest.mark.parametrize(
    "slip",
    [
        {"name": "Shop"},
        {"name": "shop\n"},
        {"hash": "0" * 63},
        {"hash": "0" * 64 + "\n"},
        {"hash": None},
        {"scopes": ["predict", "everything"]},
        {"scopes": "read"},
        {"created_at": "2026-11-26T12:00:00"},
        {"expires_at": "tomorrow"},
        {"expires_on": "2026-11-27T00:00:00Z"},
        {"rate": 0},
        {"rate": "100"},
    ],
)
def test_a_slip_in_a_stored_entry_makes_it_no_key(slip: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(_STORED | slip, ApiKey)


@pytest.mark.parametrize("field", sorted(_STORED))
def test_an_entry_without_one_of_its_fields_is_no_key(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.convert({name: value for name, value in _STORED.items() if name != field}, ApiKey)


def test_a_key_has_expired_from_the_moment_on_that_it_names() -> None:
    key = msgspec.convert(_STORED | {"expires_at": _NOW}, ApiKey)
    assert key.expired(_NOW)
    assert not key.expired(_NOW - timedelta(microseconds=1))
    assert not msgspec.structs.replace(key, expires_at=None).expired(_NOW)
