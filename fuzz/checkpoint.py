"""Damages a tiny checkpoint at random until something other than our own errors comes out.

    python fuzz/checkpoint.py --seconds 60 [--seed 1]

Each round changes one file of a copy (bytes of any file; tokens of a JSON file or of a safetensors
header), loads every part and, where all of it loads, runs nothing. A finding is an exception that
is no CheckpointError, a load of more than two seconds of CPU time or of more than 256 MB; it is
printed with its seed and the damaged file is kept.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import struct
import sys
import tempfile
import time
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "weights")]

SECONDS, MEMORY = 2.0, 256 << 20
TOKENS = [
    "0",
    "1",
    "-1",
    "2",
    "7",
    "1e9",
    "1e308",
    "1e-320",
    "0.5",
    "-0.0",
    "99999999999",
    "2147483648",
    "true",
    "false",
    "null",
    '""',
    '"a"',
    '"relu"',
    '"diffusers"',
    '"\\ud800"',
    '"\\u0000"',
    "[]",
    "{}",
    "[1]",
    "[[[[]]]]",
    '{"a": 1}',
    "[0, 0]",
    "NaN",
    ",",
    "9" * 40,
]
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[\d.]+(?:[eE][+-]?\d+)?|true|false|null|[\[\]{},:]')


def change_bytes(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        at = rng.randrange(len(out)) if rng.random() < 0.5 else rng.randrange(min(len(out), 400))
        kind = rng.randrange(4)
        if kind == 0:
            out[at] = rng.randrange(256)
        elif kind == 1:
            del out[at : at + rng.choice([1, 4, 100])]
        elif kind == 2:
            out[at:at] = out[at : at + rng.choice([1, 8, 64])]
        else:
            del out[at + 1 :]
        if not out:
            break
    return bytes(out)


def change_json(text: str, rng: random.Random) -> str:
    for _ in range(rng.choice([1, 1, 1, 3])):
        spans = [m.span() for m in TOKEN.finditer(text)]
        if not spans:
            return text
        begin, end = rng.choice(spans)
        other = rng.choice(spans)
        new = rng.choice([rng.choice(TOKENS), rng.choice(TOKENS), text[slice(*other)], ""])
        text = text[:begin] + new + text[end:]
    return text


def damage(path: Path, rng: random.Random) -> None:
    data = path.read_bytes()
    if path.suffix == ".json" and rng.random() < 0.8:
        new = change_json(data.decode(), rng).encode("utf-8", "surrogatepass")
    elif path.suffix == ".safetensors" and rng.random() < 0.7:
        (n,) = struct.unpack("<Q", data[:8])
        # A few entries are enough, and quicker to cut into tokens than hundreds.
        header = change_json(data[8 : 8 + n].decode(), rng).encode()
        new = struct.pack("<Q", len(header)) + header + data[8 + n :]
    else:
        new = change_bytes(data, rng)
    path.write_bytes(new)


def peak_memory(reset: bool = False) -> int:
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("out/fuzz"))
    options = parser.parse_args()

    import tiny
    import torch
    from original_layout import WIDE, write_original
    from scaled import store_fp8
    from whole import load

    from pyengine.errors import CheckpointError

    work = Path(tempfile.mkdtemp(prefix="fuzz-"))
    xl = tiny.write_sdxl(work / "xl", **WIDE["sdxl"])
    tiny.write_tokenizer(work / "file" / "tokenizer")
    single = write_original(xl, work / "file" / "model.safetensors", "sdxl")
    narrow = tiny.write_sd1(work / "fp8")
    store_fp8(narrow / "unet" / "diffusion_pytorch_model.safetensors", torch.float8_e4m3fn, True)
    good = [
        tiny.write_sd1(work / "sd1"),
        tiny.write_sd2(work / "s", max_shard_size="200KB"),
        tiny.write_refiner(work / "refiner"),
        narrow,
        single,
    ]
    rounds = refused = findings = 0
    end, seed = time.monotonic() + options.seconds, options.seed
    while time.monotonic() < end:
        rng = random.Random(seed)
        source = rng.choice(good)
        copy = work / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(source.parent if source.is_file() else source, copy)
        files = sorted(p for p in copy.rglob("*") if p.is_file())
        target = rng.choice(
            files if rng.random() < 0.3 else [f for f in files if ".json" in f.name] or files
        )
        damage(target, rng)
        before, start = peak_memory(reset=True), time.process_time()
        problem = None
        try:
            load(copy / source.name if source.is_file() else copy)
        except CheckpointError as e:
            refused += 1
            if not str(e).isprintable():
                problem = f"control characters in {str(e)!a}"
        except Exception:
            problem = traceback.format_exc()
        if time.process_time() - start > SECONDS:
            problem = f"{time.process_time() - start:.1f} s of CPU time"
        if peak_memory() - before > MEMORY:
            problem = f"{(peak_memory() - before) >> 20} MB"
        if problem:
            findings += 1
            options.keep.mkdir(parents=True, exist_ok=True)
            kept = options.keep / f"{seed}-{target.parent.name}-{target.name}"
            shutil.copy(target, kept)
            print(f"seed {seed}: {target.relative_to(copy)} kept as {kept}\n{problem}", flush=True)
        rounds, seed = rounds + 1, seed + 1
    shutil.rmtree(work)
    print(json.dumps({"rounds": rounds, "refused": refused, "findings": findings}))
    return min(findings, 1)


if __name__ == "__main__":
    sys.exit(main())
