"""Token buckets on a clock of their own."""

from upmt_nf.datapath.buckets import Bucket, BucketTable


def taken(bucket: Bucket, tries: int, now: float) -> int:
    """How many of so many tries at one time get a unit."""
    count = 0
    for _ in range(tries):
        if bucket.has(now):
            bucket.take(now)
            count += 1
    return count


def test_a_bucket_gives_its_burst_at_once_and_its_rate_later() -> None:
    bucket = Bucket(10, 30)
    assert taken(bucket, 100, 1000.0) == 30
    assert taken(bucket, 100, 1000.5) == 5
    assert taken(bucket, 100, 5000.0) == 30


def test_what_is_overdrawn_is_paid_for_by_waiting() -> None:
    bucket = Bucket(10, 10)
    bucket.take(0.0, 100)
    assert not bucket.has(8.9)
    assert bucket.has(9.2)


def test_a_table_keeps_keys_apart_and_stays_as_large_as_it_is() -> None:
    table = BucketTable(1, 5, b"salt")
    hostile, other = table.place(b"hostile"), table.place(b"other")
    for _ in range(1000):
        table.take(hostile, 0.0)
    assert not table.has(hostile, 0.0)
    assert table.has(other, 0.0)
    places = {table.place(number.to_bytes(4, "big")) for number in range(10_000)}
    assert max(places) < 1 << 16
    assert len(places) > 9000, "keys are spread"


def test_another_salt_puts_keys_that_shared_a_bucket_apart() -> None:
    one, two = (BucketTable(1, 5, salt, bits=4) for salt in (b"one", b"two"))
    together = [bytes((n,)) for n in range(256) if one.place(bytes((n,))) == 0]
    assert len({two.place(key) for key in together}) > 4
