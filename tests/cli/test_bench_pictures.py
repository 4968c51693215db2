"""`pyengine bench agreement` and `neighbours`: what the models that ship draw."""

import json
import os
from pathlib import Path

import pytest

from pyengine.bench import agreement, neighbours
from pyengine.pipelines.shipped_names import shipped_names

pytestmark = pytest.mark.usefixtures("forked")


# --- devices --------------------------------------------------------------------------------------


def test_the_cpu_agrees_with_itself(run, tmp_path):
    given = ("--pictures", "1", "--threads", "1", "--save", tmp_path / "a.json")
    status, out, err = run("bench", "agreement", *given)
    assert status == 0, err
    facts = json.loads((tmp_path / "a.json").read_text())
    assert [p["model"] for p in facts["pictures"]] == list(shipped_names())
    assert all(p["same"] and p["psnr"] == 200 for p in facts["pictures"])
    other_tokens = {p["model"]: p["other_tokens"] for p in facts["pictures"]}
    assert other_tokens["emoji"] is None
    assert other_tokens["emoji-ar"] == other_tokens["emoji-masked"] == 0
    assert out.count("same bits") == len(facts["pictures"])
    assert "least PSNR 200.0 dB" in out


def test_pictures_that_differ_end_with_an_error(run, monkeypatch):
    """Told with the table: the worst of them decides."""

    def pair(decibels):
        return agreement.Pair("emoji", "a cat", 1, decibels, False, None, 0.1, 0.1)

    found = agreement.Agreement([pair(52.0), pair(38.0)])
    monkeypatch.setattr(agreement, "measure", lambda *_: found)
    status, out, err = run("bench", "agreement")
    assert status == 1
    assert "38.0 dB" in out
    assert "emoji, 'a cat': 38.0 dB between the CPU and the device, expected at least 40" in err
    found.pairs = found.pairs[:1]
    assert run("bench", "agreement")[0] == 0


# --- busy neighbours ------------------------------------------------------------------------------


def busy_children():
    """CPU seconds of this process's children that do what neighbours do."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode().split("\0")
            fields = (process / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        if neighbours.BUSY in command and int(fields[1]) == os.getpid() and fields[0] != "Z":
            found[process.name] = int(fields[11]) / os.sysconf("SC_CLK_TCK")
    return found


def test_a_picture_beside_busy_processes(run, tmp_path):
    given = ("-m", "emoji-ar", "--busy", "1", "--quick", "--threads", "1")
    status, out, err = run("bench", "neighbours", *given, "--save", tmp_path / "n.json")
    assert status == 0, err
    (row,) = json.loads((tmp_path / "n.json").read_text())["models"]
    assert (row["model"], row["busy"]) == ("emoji-ar", 1)
    assert len(row["alone"]) == len(row["beside"]) == 1
    assert row["ratio"] == pytest.approx(row["beside"][0] / row["alone"][0])
    assert f"{row['ratio']:.2f}x" in out


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_neighbours_are_busy_and_end_with_their_block(monkeypatch):
    monkeypatch.setattr(neighbours, "SETTLE", 0.5)
    with neighbours.neighbours(2):
        children = busy_children()
        assert len(children) == 2
        assert all(seconds > 0 for seconds in children.values())
    assert not busy_children()


@pytest.mark.parametrize(
    ("cores", "threads", "busy", "fair"),
    [
        (2, 2, 2, 2.0),
        (2, 2, 1, 1.5),
        (2, 1, 1, 1.0),
        (4, 2, 2, 1.0),
        (2, 4, 2, 1.5),
        (2, 2, 0, 1.0),
    ],
)
def test_the_fair_share(monkeypatch, cores, threads, busy, fair):
    monkeypatch.setattr(neighbours, "cores", lambda: cores)
    assert neighbours.fair_share(threads, busy) == fair
