"""One event, one line: fields, context, secrets, bounds, both formats."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mesh import log, tracing
from mesh.setting_tree import LogSettings


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, raises = list(root.handlers), root.level, logging.raiseExceptions
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, logging.raiseExceptions = handlers, raises
    root.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_text_lines_say_when_who_and_what_about(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(LogSettings(), "worker")
    trace = tracing.Trace("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7")
    with tracing.within(trace), log.about(topic="t1"), log.about(task="t1-x", epoch="0-4"):
        log.get("mesh.outbox").info("%d rows sent", 3)
    log.get("mesh.outbox").debug("not shown")
    log.get("mesh.outbox").warning("alone")
    first, second = lines(capsys)
    assert re.fullmatch(
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z worker info mesh\.outbox: 3 rows sent "
        r"topic=t1 task=t1-x epoch=0-4 trace_id=4bf92f3577b34da6a3ce929d0e0e4736 span_id=00f067aa0ba902b7",
        first,
    )
    assert second.endswith("worker warning mesh.outbox: alone")


def test_json_lines_are_objects_with_the_traceback_inside(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(LogSettings(format="json", level="debug"), "planner")
    trace = tracing.begin()
    with tracing.within(trace), log.about(topic="t1"):
        try:
            raise ValueError("two\nlines")
        except ValueError:
            log.get("x").exception("it\nfailed")
    (line,) = lines(capsys)
    found = json.loads(line)
    assert (found["role"], found["level"], found["logger"], found["topic"]) == ("planner", "error", "x", "t1")
    assert (found["trace_id"], found["span_id"]) == (trace.trace_id, trace.span_id)
    assert found["message"] == "it\\nfailed"
    assert "ValueError: two\nlines" in found["traceback"]


async def test_what_a_line_is_about_follows_tasks_and_stays_in_them(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(LogSettings(), "worker")

    async def work(task: str) -> None:
        with log.about(task=task):
            await asyncio.sleep(0)
            log.get("x").info("working")

    await asyncio.gather(work("a"), work("b"))
    log.get("x").info("after")
    assert [line.partition("x: ")[2] for line in lines(capsys)] == ["working task=a", "working task=b", "after"]


def test_an_unknown_field_is_a_mistake() -> None:
    with (
        pytest.raises(ValueError, match="a log line is about topic, task, epoch; got topics"),
        log.about(topics="x"),
    ):
        pass


@pytest.mark.parametrize(
    "text",
    [
        "connected to nats://joe:hunter2@host:4222",
        "password=hunter2",
        "PASSWORD: hunter2, host: x",
        "token=hunter2;x",
        "Authorization: Bearer hunter2",
        "seed = hunter2",
    ],
)
def test_secrets_are_masked(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(LogSettings(), "worker")
    log.get("x").info(text)
    try:
        raise RuntimeError(text)
    except RuntimeError:
        log.get("x").exception("%s", text)
    shown = "\n".join(lines(capsys))
    assert "hunter2" not in shown
    assert "********" in shown


def test_an_nkey_seed_is_masked_and_plain_words_stay() -> None:
    assert log.mask("SUAMLK2ZNL35WSMW37E7UD4VZ7ELPKW7DHC3BWBSD2GCZ7IUQQXZIORRBU") == "********"
    for text in ("33 tokens a second", "the password was refused", "nats://host:4222"):
        assert log.mask(text) == text


def test_a_message_is_cut(capsys: pytest.CaptureFixture[str]) -> None:
    log.setup(LogSettings(), "worker")
    log.get("x").info("é" * 100_000)
    (line,) = lines(capsys)
    assert len(line) < log.LINE_CHARS_MAX + 200
    assert line.endswith("… (100000 characters)")


def test_a_file_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "FILE_BYTES_MAX", 2_000)
    log.setup(LogSettings(), "keeper", file=tmp_path / "keeper.log")
    for number in range(200):
        log.get("x").info("line %d of a log that goes on and on", number)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == ["keeper.log", "keeper.log.1", "keeper.log.2"]
    assert all(path.stat().st_size <= 2_000 for path in files)
    assert "line 199" in files[0].read_text()
