"""Our bytes before readers that share no code with us.

    interop.py WRITER       WRITER is the example write_partition of the crate commitlog

Each check prints a line; the last line sums up.
"""

import shutil
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from kafka_broker import Broker, Connection
from kafka_partition import Broken, Partition, Record, read_partition

TOPIC = "interop"
CONSUME_SECONDS_MAX = 30


def read_expected(path: Path) -> list[Record]:
    """A record a line: offset, timestamp, key, value, header names and values; hex, - for null."""

    def unhex(field: str) -> bytes | None:
        return None if field == "-" else bytes.fromhex(field)

    records = []
    for line in path.read_text().splitlines():
        offset, timestamp, key, value, *headers = line.split("\t")
        pairs = [(bytes.fromhex(n).decode(), unhex(v)) for n, v in zip(headers[::2], headers[1::2])]
        records.append(Record(int(offset), int(timestamp), unhex(key), unhex(value), pairs))
    return records


def assert_same(have: list[Record], expected: list[Record]) -> None:
    assert len(have) == len(expected), f"{len(have)} records, expected {len(expected)}"
    for one, other in zip(have, expected):
        assert one == other, f"\n have     {one}\n expected {other}"


def a_partition_directory_of_ours_is_kafkas(folder: Path, _: Broker) -> None:
    partition = read_partition(folder / "interop-0")
    assert_same(partition.records, read_expected(folder / "expected.tsv"))
    assert len(partition.segments) > 3 and partition.snapshots > 3, "too few segments to tell"
    assert partition.index_entries == len(partition.batches), "an entry for each batch"
    assert partition.time_entries > 0


def the_reader_finds_what_is_broken(folder: Path, _: Broker) -> None:
    """Else the check above would say nothing."""
    victims = sorted(path for path in (folder / "interop-0").iterdir() if path.suffix != ".checkpoint")
    for victim in victims:
        for at in {0, victim.stat().st_size // 2, victim.stat().st_size - 1}:
            with tempfile.TemporaryDirectory() as copy:
                broken = Path(copy) / "interop-0"
                shutil.copytree(folder / "interop-0", broken)
                data = bytearray((broken / victim.name).read_bytes())
                data[at] ^= 1
                (broken / victim.name).write_bytes(data)
                try:
                    read_partition(broken)
                except (Broken, ValueError):
                    continue
                raise AssertionError(f"byte {at} of {victim.name} was flipped and nobody saw it")


def a_broker_takes_our_batches_verbatim(folder: Path, broker: Broker) -> None:
    partition = read_partition(folder / "interop-0")
    create_topic(broker)
    connection = Connection(broker)
    for batch in partition.batches:
        offset = connection.produce(TOPIC, batch.raw)
        assert offset == batch.base_offset, f"offset {offset}, expected {batch.base_offset}"
    check_fetched(connection, partition)
    assert_same(consume(broker, len(partition.records)), read_expected(folder / "expected.tsv"))


def create_topic(broker: Broker) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    for created in admin.create_topics([NewTopic(TOPIC, 1, 1)]).values():
        created.result(timeout=20)


def check_fetched(connection: Connection, partition: Partition) -> None:
    """The broker may set base offset and leader epoch, the first 16 bytes but the length; no more."""
    stored = b""
    end = partition.batches[-1].last_offset + 1
    for batch in partition.batches:
        if len(stored) == 0:
            stored = connection.fetch(TOPIC, batch.base_offset)
        raw, stored = stored[: len(batch.raw)], stored[len(batch.raw) :]
        assert raw[:12] == batch.raw[:12], f"base offset or length at {batch.base_offset} of {end}"
        assert raw[16:] == batch.raw[16:], f"the batch at {batch.base_offset} of {end} was changed"


def consume(broker: Broker, count: int) -> list[Record]:
    """All records, by librdkafka, which checks the CRCs."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "interop",
                         "check.crcs": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    records: list[Record] = []
    while len(records) < count:
        messages = consumer.consume(count - len(records), timeout=CONSUME_SECONDS_MAX)
        assert messages, f"{len(records)} of {count} records, then none for {CONSUME_SECONDS_MAX} s"
        for message in messages:
            assert message.error() is None, message.error()
            records.append(Record(message.offset(), message.timestamp()[1], message.key(),
                                  message.value(), message.headers() or []))
    consumer.close()
    return records


CHECKS: list[Callable[[Path, Broker], None]] = [
    a_partition_directory_of_ours_is_kafkas,
    the_reader_finds_what_is_broken,
    a_broker_takes_our_batches_verbatim,
]


def run(folder: Path, broker: Broker) -> int:
    """Runs all checks and answers how many failed."""
    failed = 0
    for check in CHECKS:
        try:
            check(folder, broker)
            print(f"ok      {check.__name__}", flush=True)
        except Exception:
            failed += 1
            print(f"FAILED  {check.__name__}", flush=True)
            traceback.print_exc()
    return failed


def main() -> None:
    with tempfile.TemporaryDirectory() as name, Broker(Path(name)) as broker:
        # A broker takes batches of producers that it knows, so it gives out the ids.
        ids = [str(Connection(broker).new_producer_id()) for _ in range(2)]
        subprocess.run([sys.argv[1], name, *ids], check=True)
        failed = run(Path(name), broker)
    print(f"{len(CHECKS) - failed} passed, {failed} failed, 0 skipped")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
