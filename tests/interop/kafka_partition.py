"""Reads a Kafka 4.x partition directory, knowing nothing of our code: only Kafka's formats.

    kafka_partition.py FOLDER       checks FOLDER and prints what it holds

Every file is read in full and held against the others: batches follow each other without holes and
their checksums are true, each index entry points at the batch it names, time index and producer
snapshots say what the records say. The first thing that does not fit is a `Broken`.
"""

import struct
import sys
from dataclasses import dataclass, field
from pathlib import Path

import zstandard

# baseOffset, batchLength, partitionLeaderEpoch, magic, crc, attributes, lastOffsetDelta,
# baseTimestamp, maxTimestamp, producerId, producerEpoch, baseSequence, recordCount
HEADER = struct.Struct(">qiibIhiqqqhii")
CRC_FROM = 21
CODEC_ZSTD = 4


class Broken(Exception):
    """Something in the directory is not as Kafka would have written it."""


@dataclass
class Record:
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]


@dataclass
class Batch:
    position: int
    raw: bytes
    base_offset: int
    leader_epoch: int
    max_timestamp: int
    producer: tuple[int, int, int]
    records: list[Record]

    @property
    def last_offset(self) -> int:
        return self.base_offset + len(self.records) - 1

    @property
    def is_compressed(self) -> bool:
        return HEADER.unpack_from(self.raw)[5] == CODEC_ZSTD

    @property
    def last_sequence(self) -> int:
        return (self.producer[2] + len(self.records) - 1) & 0x7FFF_FFFF


@dataclass
class Segment:
    base: int
    batches: list[Batch]


@dataclass
class Partition:
    segments: list[Segment] = field(default_factory=list)
    index_entries: int = 0
    time_entries: int = 0
    snapshots: int = 0

    @property
    def batches(self) -> list[Batch]:
        return [batch for segment in self.segments for batch in segment.batches]

    @property
    def records(self) -> list[Record]:
        return [record for batch in self.batches for record in batch.records]


def check(holds: bool, what: str) -> None:
    if not holds:
        raise Broken(what)


def make_crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = make_crc_table()


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc = CRC_TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


class Cursor:
    """Takes varints and bytes off a record."""

    def __init__(self, data: bytes):
        self.data = data
        self.at = 0

    def varint(self) -> int:
        folded = shift = 0
        while True:
            check(self.at < len(self.data), "a number is cut short")
            byte = self.data[self.at]
            self.at += 1
            folded |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return (folded >> 1) ^ -(folded & 1)

    def take(self, length: int) -> bytes:
        check(0 <= length <= len(self.data) - self.at, f"{length} bytes pass the end")
        self.at += length
        return self.data[self.at - length : self.at]

    def nullable(self) -> bytes | None:
        length = self.varint()
        return None if length == -1 else self.take(length)

    def is_at_end(self) -> bool:
        return self.at == len(self.data)


def read_record(cursor: Cursor, base_offset: int, base_timestamp: int) -> Record:
    body = Cursor(cursor.take(cursor.varint()))
    check(body.take(1) == b"\0", "record attributes are not 0")
    timestamp = base_timestamp + body.varint()
    offset = base_offset + body.varint()
    key, value = body.nullable(), body.nullable()
    headers = []
    for _ in range(body.varint()):
        name = body.take(body.varint()).decode()
        headers.append((name, body.nullable()))
    check(body.is_at_end(), f"record {offset} is longer than its fields")
    return Record(offset, timestamp, key, value, headers)


def read_batch(data: bytes, position: int) -> Batch:
    check(len(data) - position >= HEADER.size, f"a torn header at {position}")
    (base_offset, length, leader_epoch, magic, crc, attributes, last_delta, base_timestamp,
     max_timestamp, producer_id, producer_epoch, base_sequence, count) = HEADER.unpack_from(data, position)
    check(magic == 2, f"magic {magic} at {position}")
    raw = data[position : position + 12 + length]
    check(len(raw) == 12 + length, f"a torn batch at {position}")
    check(crc32c(raw[CRC_FROM:]) == crc, f"a wrong CRC at {position}")
    check(attributes in (0, CODEC_ZSTD), f"attributes {attributes:#x} at {position}")
    check(count == last_delta + 1 >= 1, f"{count} records, last delta {last_delta} at {position}")
    payload = raw[HEADER.size :]
    if attributes == CODEC_ZSTD:
        size = zstandard.get_frame_parameters(payload).content_size
        check(size != zstandard.CONTENTSIZE_UNKNOWN, f"a frame without its size at {position}")
        payload = zstandard.ZstdDecompressor().decompress(payload, allow_extra_data=False)
    cursor = Cursor(payload)
    records = [read_record(cursor, base_offset, base_timestamp) for _ in range(count)]
    check(cursor.is_at_end(), f"bytes after the records at {position}")
    offsets = [record.offset for record in records]
    check(offsets == list(range(base_offset, base_offset + count)), f"offset deltas at {position}")
    latest = max(record.timestamp for record in records)
    check(latest == max_timestamp, f"maxTimestamp {max_timestamp}, latest {latest} at {position}")
    producer = (producer_id, producer_epoch, base_sequence)
    return Batch(position, raw, base_offset, leader_epoch, max_timestamp, producer, records)


def read_segment(path: Path) -> Segment:
    data = path.read_bytes()
    batches: list[Batch] = []
    position = 0
    while position < len(data):
        batch = read_batch(data, position)
        batches.append(batch)
        position += len(batch.raw)
    return Segment(int(path.stem), batches)


def check_index(path: Path, segment: Segment) -> int:
    """Each entry: a batch's last offset less the segment's base, and where the batch begins."""
    data = path.read_bytes()
    check(len(data) % 8 == 0, f"{path.name} has a torn entry")
    places = {batch.last_offset: batch.position for batch in segment.batches}
    entries = list(struct.iter_unpack(">ii", data))
    for relative, position in entries:
        offset = segment.base + relative
        check(places.get(offset) == position, f"{path.name} says {offset} ends at {position}")
    check(entries == sorted(set(entries)), f"{path.name} is not in order")
    return len(entries)


def check_time_index(path: Path, segment: Segment, is_closed: bool) -> int:
    """Each entry: a time later than all before it, and the last offset of the batch that bears it.

    Kafka takes the last entry of a closed segment for the segment's latest timestamp.
    """
    data = path.read_bytes()
    check(len(data) % 12 == 0, f"{path.name} has a torn entry")
    maxima = {}
    latest = None
    for batch in segment.batches:
        if latest is None or batch.max_timestamp > latest:
            latest = batch.max_timestamp
            maxima[batch.last_offset] = latest
    entries = list(struct.iter_unpack(">qi", data))
    for timestamp, relative in entries:
        offset = segment.base + relative
        check(maxima.get(offset) == timestamp, f"{path.name} says {timestamp} at {offset}")
    check(entries == sorted(set(entries)), f"{path.name} is not in order")
    if is_closed:
        check(bool(entries) and entries[-1][0] == latest, f"{path.name} does not end with {latest}")
    return len(entries)


def check_snapshot(path: Path, batches: list[Batch]) -> None:
    """The producers' last batches before the offset in the file's name."""
    end = int(path.stem)
    data = path.read_bytes()
    version, crc, count = struct.unpack_from(">hIi", data)
    check(version == 1, f"{path.name} has version {version}")
    check(crc32c(data[6:]) == crc, f"{path.name} has a wrong CRC")
    entry = struct.Struct(">qhiqiqiq")
    check(len(data) == 10 + count * entry.size, f"{path.name} has another length than {count} producers")
    said = {}
    for at in range(count):
        fields = entry.unpack_from(data, 10 + at * entry.size)
        producer, epoch, sequence, offset, delta, _, coordinator, transaction = fields
        check((coordinator, transaction) == (-1, -1), f"{path.name} knows a transaction")
        said[producer] = (epoch, sequence, offset, delta)
    true = {}
    for batch in batches:
        if batch.base_offset < end and batch.producer[0] >= 0:
            identity, epoch, _ = batch.producer
            true[identity] = (epoch, batch.last_sequence, batch.last_offset, len(batch.records) - 1)
    check(said == true, f"{path.name} says {said}, the log {true}")


def check_leader_epochs(path: Path, batches: list[Batch]) -> None:
    """Version 0, a count, then epoch and first offset a line."""
    *lines, end = path.read_text().split("\n")
    check(end == "" and lines[0] == "0" and int(lines[1]) == len(lines) - 2, f"{path.name}: {lines}")
    epochs = [tuple(map(int, line.split())) for line in lines[2:]]
    for batch in batches:
        epoch = max((start, epoch) for epoch, start in epochs if start <= batch.base_offset)[1]
        check(batch.leader_epoch == epoch, f"epoch {batch.leader_epoch} at offset {batch.base_offset}")


def read_partition(folder: Path) -> Partition:
    partition = Partition()
    next_offset = None
    for path in sorted(folder.glob("*.log")):
        check(len(path.stem) == 20, f"{path.name} is no name of a segment")
        segment = read_segment(path)
        check(next_offset in (None, segment.base), f"{path.name} follows offset {next_offset}")
        next_offset = segment.base
        for batch in segment.batches:
            check(batch.base_offset == next_offset, f"offset {batch.base_offset} follows {next_offset}")
            next_offset = batch.last_offset + 1
        partition.segments.append(segment)
    check(bool(partition.segments), f"no .log in {folder}")
    for segment in partition.segments:
        name = f"{segment.base:020}"
        partition.index_entries += check_index(folder / f"{name}.index", segment)
        partition.time_entries += check_time_index(
            folder / f"{name}.timeindex", segment, is_closed=segment is not partition.segments[-1]
        )
    for path in folder.glob("*.snapshot"):
        check_snapshot(path, partition.batches)
        partition.snapshots += 1
    check_leader_epochs(folder / "leader-epoch-checkpoint", partition.batches)
    return partition


def main() -> None:
    try:
        partition = read_partition(Path(sys.argv[1]))
    except Broken as broken:
        sys.exit(f"broken: {broken}")
    print(f"{len(partition.segments)} segments, {len(partition.batches)} batches, "
          f"{len(partition.records)} records, {partition.index_entries} index entries, "
          f"{partition.time_entries} time index entries, {partition.snapshots} snapshots")


if __name__ == "__main__":
    main()
