"""What a request's fields and query choose."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventmesh_trio.errors import ValidationError
from eventmesh_trio.wire.encoders import HTTPEncoder
from eventmesh_trio.wire.negotiation import prefers_gzip, stream_encoder


@pytest.mark.parametrize(
    ("accepted", "wanted"),
    [
        ([], False),
        ([b""], False),
        ([b"gzip"], True),
        ([b"GZip"], True),
        ([b"x-gzip"], True),
        ([b"gzip, deflate, br, zstd"], True),
        ([b"deflate", b"gzip"], True),
        ([b"deflate, br"], False),
        ([b"identity"], False),
        ([b"*"], True),
        ([b"*;q=0"], False),
        ([b"gzip;q=0"], False),
        ([b"gzip;q=0.000, *"], False),
        ([b"gzip;q=0.001"], True),
        ([b"gzip ; q=1.000 , identity;q=0"], True),
        (
            [b"identity;q=0"],
            False,
        ),  # gzip is not named: then nothing is acceptable, and this is not
        ([b"identity;q=0, *"], True),
        ([b"identity, gzip"], True),
        ([b"identity, gzip;q=0.5"], False),
        ([b"identity;q=0.5, gzip;q=0.4"], False),
        ([b"gzip;q=2"], False),
        ([b"gzip;q=x"], False),
        ([b"gzip;level=9"], False),
        ([b"gzipped"], False),
        ([b";;,,gzip,"], True),
    ],
)
def test_gzip_is_chosen_as_the_weights_say(accepted: list[bytes], wanted: bool) -> None:
    assert prefers_gzip(accepted) is wanted


@given(st.lists(st.binary(max_size=40) | st.text("gzip;q=01.,* ", max_size=40).map(str.encode)))
def test_any_accept_encoding_is_understood_or_ignored(accepted: list[bytes]) -> None:
    assert prefers_gzip(accepted) in (True, False)


@pytest.mark.parametrize("wanted", [None, ""])
def test_no_shape_is_the_routes_own(wanted: str | None) -> None:
    assert stream_encoder("sse", "preview", wanted) == HTTPEncoder("sse", "preview")


@pytest.mark.parametrize("wanted", ["nested", "flat", "both"])
def test_a_shape_can_be_asked_for(wanted: str) -> None:
    assert stream_encoder("ndjson", "both", wanted).shape == wanted


@pytest.mark.parametrize("wanted", ["preview", "round", "Both"])
def test_a_shape_that_is_not_documented_is_refused(wanted: str) -> None:
    with pytest.raises(ValidationError) as caught:
        stream_encoder("sse", "preview", wanted)
    assert caught.value.field == "shape"
