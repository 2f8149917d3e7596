"""Identifiers that are made here."""

import uuid

from eventmesh_trio.wire.headers import parse_identifier
from eventmesh_trio.wire.identifiers import new_identifier


def test_an_identifier_is_its_kind_and_a_random_uuid() -> None:
    variants = set()
    for _ in range(100):
        kind, _, text = new_identifier("req").partition("-")
        read = uuid.UUID(text)
        assert (kind, str(read)) == ("req", text)
        assert (read.version, read.variant) == (4, uuid.RFC_4122)
        variants.add(text[19])
    assert variants == set("89ab")


def test_no_two_are_equal_and_clients_may_send_them_back() -> None:
    made = [new_identifier("session") for _ in range(1000)]
    assert len(set(made)) == len(made)
    assert all(parse_identifier(name, "X-Session-ID") == name for name in made)
