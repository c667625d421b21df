"""Our bytes before readers that share no code with us.

    interop.py WRITER PROGRAMS      WRITER is the example write_partition of the crate commitlog,
                                    PROGRAMS the folder of weir and weir-agent

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
from kafka_partition import Batch, Broken, Record, read_partition
from spooled import HOST, Spooled, spool
from spooled import TOPIC as SPOOLED

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
    produce_verbatim(broker, TOPIC, partition.batches)
    assert_same(consume(broker, TOPIC, len(partition.records)), read_expected(folder / "expected.tsv"))


def a_broker_takes_what_an_agent_spooled_verbatim(folder: Path, broker: Broker) -> None:
    spooled = spool(folder, Path(sys.argv[2]), Connection(broker).new_producer_id())
    assert len(spooled.batches) > 2, "too few batches to tell"
    assert any(batch.is_compressed for batch in spooled.batches), "no batch is compressed"
    produce_verbatim(broker, SPOOLED, spooled.batches)
    count = sum(len(lines) for lines in spooled.lines.values())
    records = consume(broker, SPOOLED, count)
    # What librdkafka makes of the bytes is what the independent reader does, timestamps among it.
    assert_same(records, [record for batch in spooled.batches for record in batch.records])
    check_lines(records, spooled)


def check_lines(records: list[Record], spooled: Spooled) -> None:
    """The records are the lines of each file, in its order, with what was configured and no more."""
    have: dict[str, list[bytes | None]] = {}
    positions = 0
    for at, record in enumerate(records):
        headers = dict(record.headers)
        assert len(headers) == len(record.headers), f"a header twice in record {at}"
        path = headers.pop("log.file.path").decode()
        have.setdefault(path, []).append(record.value)
        positions += headers.pop("weir.position", None) is not None
        assert headers == {"host.name": HOST.encode(), "env": b"interop"}, f"{headers} in record {at}"
        assert record.offset == at and record.key is None
        assert spooled.began_ms <= record.timestamp <= spooled.ended_ms, f"time of record {at}"
    assert have == spooled.lines, "the lines are not those that were written"
    assert positions >= len(spooled.lines), "no positions, so not what an agent spools"


def produce_verbatim(broker: Broker, topic: str, batches: list[Batch]) -> None:
    create_topic(broker, topic)
    connection = Connection(broker)
    for batch in batches:
        offset = connection.produce(topic, batch.raw)
        assert offset == batch.base_offset, f"offset {offset}, expected {batch.base_offset}"
    check_fetched(connection, topic, batches)


def create_topic(broker: Broker, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.address})
    for created in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        created.result(timeout=20)


def check_fetched(connection: Connection, topic: str, batches: list[Batch]) -> None:
    """The broker may set base offset and leader epoch, the first 16 bytes but the length; no more."""
    stored = b""
    end = batches[-1].last_offset + 1
    for batch in batches:
        if len(stored) == 0:
            stored = connection.fetch(topic, batch.base_offset)
        raw, stored = stored[: len(batch.raw)], stored[len(batch.raw) :]
        assert raw[:12] == batch.raw[:12], f"base offset or length at {batch.base_offset} of {end}"
        assert raw[16:] == batch.raw[16:], f"the batch at {batch.base_offset} of {end} was changed"


def consume(broker: Broker, topic: str, count: int) -> list[Record]:
    """All records, by librdkafka, which checks the CRCs."""
    consumer = Consumer({"bootstrap.servers": broker.address, "group.id": "interop",
                         "check.crcs": True, "enable.auto.commit": False})
    consumer.assign([TopicPartition(topic, 0, 0)])
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
    a_broker_takes_what_an_agent_spooled_verbatim,
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
