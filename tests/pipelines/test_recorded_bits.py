"""What every kind of pipeline draws is, bit for bit, what is on record: see recorded_bits.py."""

import json

import pytest
import recorded_bits

from pyengine import ops


@pytest.mark.slow
@pytest.mark.parametrize("isa", ["portable", "avx2", "avx512"])
def test_pictures_and_tokens_have_the_bits_on_record(isa):
    reason = ops.isas().get(isa, "is not in this build")
    if reason:
        pytest.skip(f"{isa} {reason}")
    recorded = json.loads(recorded_bits.RECORD.read_text())[isa]
    drawn = recorded_bits.digests_of(isa)
    assert recorded.keys() <= drawn.keys()
    assert [name for name in recorded if drawn[name] != recorded[name]] == []
    new = sorted(drawn.keys() - recorded.keys())
    if new:
        pytest.skip(f"all on record are as recorded; {isa} has no record yet of {', '.join(new)}")
