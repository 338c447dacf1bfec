"""Keeper, lease and embedded broker with real processes: commands at once, kill -9 of each and of the broker."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from mesh import keeper, platform
from mesh.errors import Conflict, DiskFull, EnvironmentUnfit
from mesh.keeper import KeeperLease, Note
from mesh.server import Server, find_program
from mesh.setting_tree import BrokerSettings, KeeperSettings, Settings

pytestmark = [pytest.mark.process, pytest.mark.server]
ROOT = Path(__file__).parents[2]
DEADLINE_S = 30.0


@pytest.fixture
async def settings(tmp_path: Path) -> AsyncIterator[Settings]:
    """A home folder; whatever keeper and broker a test leaves behind is killed, by the ids in its own files."""
    found = Settings(
        home=tmp_path / "home", keeper=KeeperSettings(linger_s=0.2), broker=BrokerSettings(start_timeout_s=10)
    )
    yield found
    note = Note.read(found)
    for pid in filter(None, [note.pid if note else None, broker_pid(found)]):
        with contextlib.suppress(psutil.Error):
            if str(found.home) in " ".join([*psutil.Process(pid).cmdline(), *psutil.Process(pid).environ().values()]):
                psutil.Process(pid).kill()


def broker_pid(settings: Settings) -> int | None:
    try:
        return int((settings.home / "broker" / "nats-server.pid").read_text())
    except (OSError, ValueError):
        return None


def keeper_pid(settings: Settings) -> int:
    note = Note.read(settings)
    assert note is not None
    return note.pid


def answers(url: str) -> bool:
    """Whether a nats-server with JetStream greets at this address."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 5.0) as connection:
        greeting = connection.makefile("rb").readline()
        return greeting.startswith(b"INFO ") and json.loads(greeting[5:])["jetstream"] is True
    return False


def said_to(url: str, who: dict[str, str]) -> str:
    """The server's complaint about a client with these credentials; '' when it is let in."""
    host, _, port = url.removeprefix("nats://").rpartition(":")
    with socket.create_connection((host, int(port)), 5.0) as connection, connection.makefile("rb") as lines:
        lines.readline()
        connection.sendall(f"CONNECT {json.dumps({'verbose': False} | who)}\r\nPING\r\n".encode())
        answer = lines.readline().decode()
        return "" if answer == "PONG\r\n" else answer


def lives(pid: int | None) -> bool:
    with contextlib.suppress(psutil.Error):
        return pid is not None and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


async def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "the awaited state did not come"
        await asyncio.sleep(0.01)


def replaced(settings: Settings, before: int) -> bool:
    """Whether another broker than `before` runs on the same port."""
    return broker_pid(settings) not in (None, before) and answers(f"nats://127.0.0.1:{port_of(settings)}")


def port_of(settings: Settings) -> int:
    return int((settings.home / "broker" / "port").read_text())


HOLDER = """
import asyncio, dataclasses, sys
from pathlib import Path
from mesh.keeper import KeeperLease
from mesh.setting_tree import KeeperSettings, Settings

async def main():
    lease = await KeeperLease.acquire(Settings(home=Path(sys.argv[1]), keeper=KeeperSettings(linger_s=0.2)))
    print(lease.url, flush=True)
    await asyncio.sleep(300)

asyncio.run(main())
"""


async def command(settings: Settings) -> tuple[asyncio.subprocess.Process, str]:
    """Another process that holds a lease, and the address it was given."""
    process = await platform.spawn_group_async(
        [sys.executable, "-P", "-c", HOLDER, str(settings.home)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        die_with_parent=True,
    )
    assert process.stdout is not None
    return process, (await asyncio.wait_for(process.stdout.readline(), DEADLINE_S)).decode().strip()


# -- the lease --------------------------------------------------------------------------------------------------------


async def test_a_lease_brings_a_broker_and_its_end_ends_it(settings: Settings) -> None:
    assert keeper.peek(settings) is None
    async with await KeeperLease.acquire(settings) as lease:
        assert answers(lease.url)
        found = await asyncio.to_thread(keeper.peek, settings)
        assert found is not None
        assert found.servers == lease.nats.servers == (lease.url,)
        pids = keeper_pid(settings), broker_pid(settings)
        assert os.getsid(pids[0]) == pids[0]  # a Ctrl-C in our terminal does not reach it
        assert (settings.home / "broker" / "keeper.json").stat().st_mode & 0o777 == 0o600
    await until(lambda: not any(map(lives, pids)))
    assert keeper.peek(settings) is None
    assert not Note.path(settings).exists()
    assert "stopping: unused" in (settings.home / "logs" / "keeper.log").read_text()


async def test_what_was_stored_is_there_again(settings: Settings) -> None:
    import nats

    async with await KeeperLease.acquire(settings) as lease:
        client = await nats.connect(lease.url)
        await client.jetstream().add_stream(name="T", subjects=["t"])
        await client.jetstream().publish("t", b"kept")
        await client.close()
        pid = keeper_pid(settings)
    await until(lambda: not lives(pid))
    async with await KeeperLease.acquire(settings) as lease:
        client = await nats.connect(lease.url)
        assert (await client.jetstream().get_msg("T", 1)).data == b"kept"
        await client.close()


async def test_many_commands_at_once_get_one_broker(settings: Settings) -> None:
    starting = asyncio.create_task(command(settings))
    leases = await asyncio.gather(*(KeeperLease.acquire(settings) for _ in range(4)))
    process, url = await starting
    assert {lease.url for lease in leases} == {url}
    pid = keeper_pid(settings)
    for lease in leases:
        await lease.release()
        await lease.release()  # harmless
    assert answers(url)
    process.kill()  # the last user dies without a word
    await process.wait()
    await until(lambda: not lives(pid))


async def test_the_keeper_outlives_the_command_that_started_it(settings: Settings) -> None:
    process, url = await command(settings)
    async with await KeeperLease.acquire(settings) as lease:
        assert lease.url == url
        platform.kill_group(process.pid, hard=True)
        await process.wait()
        pid = keeper_pid(settings)
        async with await KeeperLease.acquire(settings) as another:
            assert another.url == url
        assert answers(url)
        assert keeper_pid(settings) == pid


async def test_a_broker_that_is_killed_comes_back_on_the_same_port(settings: Settings) -> None:
    async with await KeeperLease.acquire(settings) as lease:
        for _ in range(2):
            before = broker_pid(settings)
            assert before is not None
            os.kill(before, signal.SIGKILL)
            await until(functools.partial(replaced, settings, before))
            assert answers(lease.url)
        found = await asyncio.to_thread(keeper.peek, settings)
        assert found is not None
        assert found.url == lease.url


async def test_a_broker_that_keeps_dying_is_given_up_with_a_sentence(settings: Settings) -> None:
    async with await KeeperLease.acquire(settings) as lease:
        pid = keeper_pid(settings)
        killed: set[int] = set()

        def kill_the_next() -> bool:
            found = broker_pid(settings)
            if found is not None and found not in killed:
                killed.add(found)
                with contextlib.suppress(ProcessLookupError):
                    os.kill(found, signal.SIGKILL)
            return not lives(pid)

        failure = asyncio.create_task(lease.failed())
        await until(kill_the_next)
        error = await asyncio.wait_for(failure, DEADLINE_S)
        assert isinstance(error, EnvironmentUnfit)
        assert "it died 5 times in a row: see" in str(error)


async def test_a_killed_keeper_takes_the_broker_along_and_the_lease_starts_another(settings: Settings) -> None:
    async with await KeeperLease.acquire(settings) as lease:
        pids, url = (keeper_pid(settings), broker_pid(settings)), lease.url
        os.kill(pids[0], signal.SIGKILL)
        await until(lambda: not any(map(lives, pids)) and keeper_pid(settings) != pids[0] and answers(url))
        assert lease.url == url


async def test_what_a_killed_keeper_left_behind_is_repaired(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "ANSWER_TIMEOUT_S", 0.3)
    process, url = await command(settings)
    pids = keeper_pid(settings), broker_pid(settings)
    process.kill()
    os.kill(pids[0], signal.SIGKILL)
    await process.wait()
    await until(lambda: not any(map(lives, pids)))
    assert Note.path(settings).exists()
    assert keeper.peek(settings) is None
    with socket.create_server(("127.0.0.1", keeper_note_port(settings))):  # a stranger sits where the note points to
        async with await KeeperLease.acquire(settings) as lease:
            assert answers(lease.url)
            assert lease.url == url


def keeper_note_port(settings: Settings) -> int:
    note = Note.read(settings)
    assert note is not None
    return note.port


async def test_a_wrong_token_gets_nothing(settings: Settings) -> None:
    async with await KeeperLease.acquire(settings):
        reader, writer = await asyncio.open_connection("127.0.0.1", keeper_note_port(settings))
        writer.write(keeper.line({"token": "guess", "want": "lease"}))
        assert await asyncio.wait_for(reader.read(), DEADLINE_S) == b""
        writer.close()
        await writer.wait_closed()


async def test_asked_to_stop_the_keeper_stops_in_order(settings: Settings) -> None:
    process, _ = await command(settings)
    pid = keeper_pid(settings)
    process.kill()
    await process.wait()
    os.kill(pid, signal.SIGTERM)
    await until(lambda: not lives(pid))
    assert not Note.path(settings).exists()
    assert broker_pid(settings) is None


# -- a broker that other machines may reach ---------------------------------------------------------------------------


def listening(settings: Settings, **choices: Any) -> Settings:
    return dataclasses.replace(settings, broker=dataclasses.replace(settings.broker, listen="127.0.0.1:0", **choices))


async def test_a_listening_broker_gives_everybody_here_an_identity(settings: Settings) -> None:
    from mesh import broker
    from mesh.subjects import Subjects

    async with await KeeperLease.acquire(listening(settings)) as lease:
        assert lease.guarded
        assert lease.url.startswith("tls://127.0.0.1:")
        planner, worker = await lease.nats_of("planner"), await lease.nats_of("worker", "ws1")
        assert [(one.name, Path(one.nkey).name) for one in (lease.nats, planner, worker)] == [
            ("operator", "operator.nk"), ("planner", "planner.nk"), ("ws1", "worker.ws1.nk"),
        ]  # fmt: skip
        for nats in (lease.nats, planner, worker):
            async with broker.connection(nats, Subjects(), name=nats.name) as connected:
                assert connected.connected
        with pytest.raises(Conflict, match="'ws1' is the name of another agent"):
            await lease.nats_of("planner", "ws1")
        with pytest.raises(EnvironmentUnfit, match="There is no role 'king'"):
            await lease.nats_of("king")
        other = dataclasses.replace(settings, prefix="lab")
        with pytest.raises(EnvironmentUnfit, match="guarded for the mesh 'mesh', not for 'lab'"):
            await asyncio.to_thread(keeper.peek, other)


async def test_a_home_that_has_listened_asks_for_keys_on_loopback_too(settings: Settings) -> None:
    async with await KeeperLease.acquire(listening(settings)):
        pid = keeper_pid(settings)
    await until(lambda: not lives(pid))
    async with await KeeperLease.acquire(settings) as lease:
        assert lease.guarded
        assert '"listen":"127.0.0.1:' in (settings.home / "broker" / "nats-server.conf").read_text()


async def test_a_broker_makes_way_for_one_that_listens_unless_it_is_used(settings: Settings) -> None:
    patient = dataclasses.replace(settings, keeper=KeeperSettings(linger_s=60.0))
    async with await KeeperLease.acquire(patient) as lease:
        with pytest.raises(EnvironmentUnfit, match="runs already and listens on loopback only: end what uses it"):
            await KeeperLease.acquire(listening(patient))
        assert answers(lease.url)
    async with await KeeperLease.acquire(listening(patient)) as lease:
        assert lease.guarded
        pid = keeper_pid(settings)
    os.kill(pid, signal.SIGTERM)
    await until(lambda: not lives(pid))


async def test_the_next_keeper_listens_where_the_killed_one_did(settings: Settings) -> None:
    config = settings.home / "broker" / "nats-server.conf"
    on = dataclasses.replace(settings, broker=dataclasses.replace(settings.broker, listen="localhost:0"))
    first = await KeeperLease.acquire(on)
    async with await KeeperLease.acquire(settings) as lease:
        await first.release()
        before = keeper_pid(settings)
        os.kill(before, signal.SIGKILL)
        await until(lambda: keeper_pid(settings) != before and lease.url.startswith("tls://localhost:"))
        assert '"listen":"localhost:' in config.read_text()
        assert lease.guarded


async def test_nobody_is_invited_to_an_open_broker(settings: Settings) -> None:
    async with await KeeperLease.acquire(settings):
        with pytest.raises(EnvironmentUnfit, match="bin/agent up --listen"):
            await asyncio.to_thread(keeper.ask, settings, "invite")


# -- what can not work, in one sentence -------------------------------------------------------------------------------


async def refused(settings: Settings, class_: type[Exception] = EnvironmentUnfit) -> str:
    with pytest.raises(class_) as error:
        await KeeperLease.acquire(settings)
    assert "\n" not in str(error.value)
    return str(error.value)


async def test_a_port_that_is_taken(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = dataclasses.replace(settings, broker=BrokerSettings(port=port))
        assert f"Port {port} of 127.0.0.1 must be free for the broker" in await refused(taken)


async def test_a_home_that_is_no_folder(settings: Settings) -> None:
    settings.home.parent.mkdir(exist_ok=True)
    settings.home.write_text("a file")
    assert "must be writable" in await refused(settings)


async def test_a_broker_program_that_is_none(settings: Settings, tmp_path: Path) -> None:
    missing = dataclasses.replace(settings, broker=BrokerSettings(binary=str(tmp_path / "nowhere")))
    assert "must be a program, but" in await refused(missing)
    for body, wanted in (
        ("echo something else", "it says it is none"),
        ("echo nats-server: v2.9.1", "or newer, not 2.9"),
    ):
        program = tmp_path / "program"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        assert wanted in await refused(dataclasses.replace(settings, broker=BrokerSettings(binary=str(program))))


async def test_a_server_that_does_not_start_is_quoted(settings: Settings, tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {find_program("")} --version\nexit 3\n')
    program.chmod(0o755)
    sentence = await refused(dataclasses.replace(settings, broker=BrokerSettings(binary=str(program))))
    assert "must start, but it ended at once" in sentence


async def test_a_keeper_that_is_stopped_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "START_EXTRA_S", 0.0)
    monkeypatch.setattr(keeper, "ANSWER_TIMEOUT_S", 0.2)
    process, _ = await command(settings)
    pid = keeper_pid(settings)
    os.kill(pid, signal.SIGSTOP)
    try:
        patient = dataclasses.replace(settings, broker=BrokerSettings(start_timeout_s=1))
        assert f"process {pid} keeps it" in await refused(patient)
    finally:
        os.kill(pid, signal.SIGCONT)
        process.kill()
        await process.wait()
    await until(lambda: not lives(pid))


# -- the server itself ------------------------------------------------------------------------------------------------


def server(home: Path, **choices: Any) -> Server:
    return Server(home / "broker", BrokerSettings(**choices), home / "logs" / "nats-server.log")


async def test_one_store_has_one_server(tmp_path: Path) -> None:
    one, other = server(tmp_path), server(tmp_path)
    await one.start()
    with pytest.raises(EnvironmentUnfit, match=f"but process {os.getpid()} uses it"):
        await other.start()
    await one.stop()
    await one.stop()  # harmless
    one.release()
    await other.start()
    assert answers(other.url)
    await other.stop()
    other.release()


async def test_an_orphan_on_the_store_is_ended_first(tmp_path: Path) -> None:
    one = server(tmp_path)
    await one.start()
    orphan = one.pid
    one.release()  # as if the keeper had been killed where no parent-death signal exists
    other = server(tmp_path)
    await other.start()
    assert not lives(orphan)
    assert answers(other.url)
    await other.stop()
    other.release()
    await one.stop()


async def test_the_pid_of_a_stranger_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "broker").mkdir()
    (tmp_path / "broker" / "nats-server.pid").write_text(str(os.getpid()))
    one = server(tmp_path)
    await one.start()
    await one.stop()
    one.release()


async def test_the_configuration_is_private_and_as_decided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "disk_free", lambda path: 10 << 30)
    one = server(tmp_path / "with 'quotes' and ünïcode")
    await one.start()
    path = one.folder / "nats-server.conf"
    assert path.stat().st_mode & 0o777 == 0o600
    config = json.loads(path.read_text())
    assert config["jetstream"]["sync_interval"] == "always"
    assert config["jetstream"]["max_file_store"] == int((10 << 30) * 0.2)
    assert not said_to(one.url, {})  # this machine may come in
    assert not said_to(one.url, {"user": "system", "pass": one.system_password})
    assert "Authorization Violation" in said_to(one.url, {"user": "system", "pass": "guess"})
    await one.stop()
    one.release()


async def test_a_full_disk_is_said_before_anything_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "disk_free", lambda path: 5 << 20)
    one = server(tmp_path)
    with pytest.raises(DiskFull, match=r"needs at least 256MiB of free disk at .*, there are 5 MiB"):
        await one.start()
    one.release()


async def test_a_patience_that_ends_leaves_nothing_running(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\n[ "$1" = --version ] && exec {find_program("")} --version\nsleep 300\n')
    program.chmod(0o755)
    one = server(tmp_path, binary=str(program), start_timeout_s=0.5, stop_timeout_s=1.0)
    with pytest.raises(EnvironmentUnfit, match=r"was not ready within 0\.5 s"):
        await one.start()
    assert one.pid is None
    one.release()
