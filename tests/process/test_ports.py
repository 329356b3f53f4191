from __future__ import annotations

import pytest

from pilotlight.process.errors import AddressUnavailable, InvalidAddress
from pilotlight.process.ports import Address, listen, parse_address, require_free


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:50051", "127.0.0.1", 50051),
        ("localhost:0", "localhost", 0),
        (":8000", "127.0.0.1", 8000),
        ("[::1]:8000", "::1", 8000),
    ],
)
def test_reads_addresses(text: str, host: str, port: int) -> None:
    assert parse_address(text) == Address(host=host, port=port)


@pytest.mark.parametrize(
    "text", ["", "localhost", "a:b", "a:70000", "::1:80", "a:-1", "a:\u00b2", "a:\u0663"]
)
def test_refuses_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidAddress, match="HOST"):
        parse_address(text)


def test_a_default_port_is_taken_where_none_is_given() -> None:
    assert parse_address("node-7", default_port=50051) == Address(host="node-7", port=50051)
    assert parse_address("[::1]", default_port=50051) == Address(host="::1", port=50051)


def test_an_address_is_written_as_it_is_read() -> None:
    assert str(parse_address("[::1]:8000")) == "[::1]:8000"


@pytest.mark.integration
def test_a_port_in_use_is_named() -> None:
    with listen(Address(host="127.0.0.1", port=0)) as taken:
        address = Address(host="127.0.0.1", port=taken.getsockname()[1])

        with pytest.raises(AddressUnavailable) as refused:
            require_free(address)

    assert str(refused.value) == f"can't listen on {address}: another process listens there"
    require_free(address)  # the check itself holds nothing


@pytest.mark.integration
def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(AddressUnavailable, match="this machine has no such address"):
        listen(Address(host="192.0.2.1", port=8000))  # TEST-NET-1 belongs to nobody
