"""A real agent that spools: joined to an aggregator that has left, so what it reads stays on its disk.

The programs run as users run them. What the spool holds is read by `kafka_partition`, which shares no
code with them. The one thing that is made here is the agent's producer id: a broker takes batches of
producers that it gave an id, and an agent draws its own, so its `spool.meta` is written before its
first start.
"""

import json
import os
import secrets
import signal
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from kafka_broker import free_port
from kafka_partition import Batch, Broken, crc32c, read_segment

HOST, TOPIC = "web-1", "spooled"
SPOOL_SECONDS_MAX = 30
STOP_SECONDS_MAX = 20

# Each write to a file is one group; between them the agent cuts a batch. The last byte of a group is the
# newline, which is not part of a value.
GROUPS = {
    "app.log": [
        [b"first", b"", b"\x00\xff\x1b[31m not text", "Größe 10 µs".encode()],
        [b"compresses well " * 4000],
        [b"%06d GET /index.html 200" % number for number in range(5000)],
    ],
    "noise.log": [[os.urandom(20_000).replace(b"\n", b" ")], [b"\tlast\r"]],
}


@dataclass
class Spooled:
    """What an agent was given and what its spool holds of it."""

    batches: list[Batch]
    lines: dict[str, list[bytes]]
    began_ms: int
    ended_ms: int


def spool(folder: Path, programs: Path, producer_id: int) -> Spooled:
    agent = folder / "agent"
    join_an_aggregator_that_leaves(folder, programs, agent)
    write_meta(agent, producer_id)
    files = folder / "files"
    files.mkdir()
    config = folder / "agent.yaml"
    config.write_text(json.dumps({
        "agent": {"data_dir": str(agent), "host_name": HOST, "labels": {"env": "interop"}},
        "logs": {"app": {"files": [f"{files}/*.log"], "topic": TOPIC}},
    }))
    began_ms = int(time.time() * 1000)
    with running([programs / "weir-agent", "run", "--config", config], folder / "agent.out") as process:
        count = 0
        for step in range(max(map(len, GROUPS.values()))):
            for name, groups in GROUPS.items():
                lines = groups[step] if step < len(groups) else []
                with (files / name).open("ab") as file:
                    file.writelines(line + b"\n" for line in lines)
                count += len(lines)
            await_records(agent, count, process, folder / "agent.out")
    return Spooled(
        batches=read_spool(agent),
        lines={f"{files}/{name}": sum(groups, []) for name, groups in GROUPS.items()},
        began_ms=began_ms,
        ended_ms=int(time.time() * 1000),
    )


class running:
    """A program for as long as the block lasts; it must end well when it is asked to."""

    def __init__(self, command: list[object], output: Path):
        self.output = output
        with output.open("wb") as out:
            self.process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out)

    def __enter__(self) -> subprocess.Popen:
        return self.process

    def __exit__(self, failed: object, *_: object) -> None:
        self.process.send_signal(signal.SIGKILL if failed else signal.SIGTERM)
        code = self.process.wait(STOP_SECONDS_MAX)
        if not failed and code != 0:
            raise RuntimeError(f"{self.process.args[0]} ended with {code}: {tail(self.output)}")


def join_an_aggregator_that_leaves(folder: Path, programs: Path, agent: Path) -> None:
    http, data_dir, config = free_port(), folder / "aggregator", folder / "aggregator.yaml"
    listen = {"quic": f"127.0.0.1:{free_port()}", "http": f"127.0.0.1:{http}"}
    config.write_text(json.dumps({"data_dir": str(data_dir), "listen": listen}))
    server = {"WEIR_SERVER": f"http://127.0.0.1:{http}", "WEIR_TOKEN_FILE": str(data_dir / "admin.token")}
    output = folder / "aggregator.out"
    with running([programs / "weir", "serve", "--config", config], output) as process:
        create = [programs / "weir", "token", "create"]
        deadline = time.monotonic() + SPOOL_SECONDS_MAX
        while True:
            created = subprocess.run(create, env=os.environ | server, capture_output=True, text=True)
            if created.returncode == 0:
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"no token: {created.stderr} {tail(output)}")
            time.sleep(0.05)
        join = [programs / "weir-agent", "join", created.stdout.strip(), "--data-dir", agent]
        subprocess.run(join, check=True, capture_output=True)


def write_meta(agent: Path, producer_id: int) -> None:
    """`spool.meta` with this producer id: epoch 0, nothing replaced, no topic known."""
    body = b"WEIRSPL1" + struct.pack(">qhq", producer_id, 0, -1) + secrets.token_bytes(16)
    body += struct.pack(">II", 0, 0)
    (agent / "spool").mkdir()
    (agent / "spool" / "spool.meta").write_bytes(body + struct.pack(">I", crc32c(body)))


def read_spool(agent: Path) -> list[Batch]:
    """The batches of the topic's only partition, as they lie in the `.log` files."""
    logs = sorted((agent / "spool" / f"{TOPIC}-0").glob("*.log"))
    return [batch for path in logs for batch in read_segment(path).batches]


def await_records(agent: Path, count: int, process: subprocess.Popen, output: Path) -> None:
    deadline = time.monotonic() + SPOOL_SECONDS_MAX
    while True:
        try:
            have = sum(len(batch.records) for batch in read_spool(agent))
        except Broken as torn:
            # Being written at this moment.
            have = str(torn)
        if have == count:
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{have} of {count} records in the spool: {tail(output)}")
        time.sleep(0.05)


def tail(output: Path) -> str:
    return output.read_text(errors="replace")[-2000:]
