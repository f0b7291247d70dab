"""Ten thousand damaged images of every format: each is decoded or refused, in bounded memory."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hvaeood_cli.images.decode import EXTENSIONS, FORMATS, decode
from tests.hostile.forked import ROOT, byte_damages, needs_linux

EXAMPLES = sorted((ROOT / "examples" / "mixed").glob("*.png"))
OPTIONS = {
    "PNG": [{}, {"bits": 4}, {"compress_level": 0}],
    "JPEG": [{}, {"progressive": True}, {"quality": 5}],
    "BMP": [{}],
    "GIF": [{}, {"save_all": True}],
    "TIFF": [
        {"compression": name} for name in (None, "tiff_lzw", "tiff_deflate", "packbits", "jpeg")
    ],
    "WEBP": [{}, {"lossless": True}],
    "PPM": [{}],
}
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "BMP": ("1", "L", "P", "RGB"),
    "GIF": ("L", "P"),
    "TIFF": ("1", "L", "RGB", "RGBA", "I;16", "F"),
    "WEBP": ("RGB", "RGBA"),
    "PPM": ("1", "L", "RGB", "I;16"),
}
MEBIBYTES = 1024  # 64 million pixels in colour, decoded, and once more on the way to grey


def seeds() -> Iterator[tuple[str, bytes]]:
    """The example images in every format, mode and way of compressing that is read."""
    images = [Image.open(path).convert("L") for path in EXAMPLES[:4]]
    for kind in FORMATS:
        for mode in MODES[kind]:
            for options in OPTIONS[kind]:
                if "jpeg" in options.values() and mode not in ("L", "RGB"):
                    continue  # refused by libtiff, and Pillow then spoils its own memory
                for image in images[:2]:
                    file = io.BytesIO()
                    more = {"append_images": images[2:]} if "save_all" in options else {}
                    try:
                        image.convert(mode).save(file, kind, **options, **more)
                    except (OSError, ValueError, KeyError):  # a mode that this way has not
                        continue
                    yield f"{kind} {mode} {options}", file.getvalue()


def sizes(data: bytes) -> Iterator[bytes]:
    """The file with numbers in its first bytes made large: widths, heights, lengths, offsets."""
    for place in range(min(64, len(data))):
        for number in (b"\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\0"):
            yield data[:place] + number + data[place + len(number) :]


def fuzz(n: int, seed: int) -> None:
    """Decode n damaged files, and print what became of them. What a child process runs."""
    from hvaeood_cli.errors import ImageError

    whole = list(seeds())
    found: dict[str, int] = {}
    random = np.random.default_rng(seed)
    tried = 0
    while tried < n:
        what, data = whole[int(random.integers(len(whole)))]
        large = list(sizes(data))
        picked = [large[int(i)] for i in random.integers(0, len(large), 4)]
        damaged = [one for _, one in byte_damages(data, 12, int(random.integers(1 << 31)))]
        for one in [*picked, *damaged][: n - tried]:
            tried += 1
            try:
                pixels = decode(one).pixels
                assert pixels.dtype == np.uint8 and pixels.ndim in (2, 3), what
                outcome = "decoded"
            except ImageError as error:
                outcome = error.code
            found[outcome] = found.get(outcome, 0) + 1
    status = Path("/proc/self/status").read_text()  # ru_maxrss counts the parent's, too
    peak = int(status.partition("VmHWM:")[2].split()[0]) >> 10
    print(json.dumps({"files": tried, "kinds": len(whole), "MiB": peak} | found))


def run(n: int, seed: int) -> dict[str, int]:
    code = f"from tests.hostile.test_decoding import fuzz; fuzz({n}, {seed})"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", code],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"seed {seed}: exit code {done.returncode}: {done.stderr[-2000:]}"
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(f"\ndecoding: {found}")
    return found


@needs_linux
def test_some_damaged_images():
    found = run(300, 0)
    assert found["files"] == 300 and found["MiB"] < MEBIBYTES and found["decoded"] > 10


@pytest.mark.hostile
@needs_linux
def test_ten_thousand_damaged_images():
    total = [run(2_500, seed) for seed in range(1, 5)]
    assert sum(found["files"] for found in total) == 10_000
    assert max(found["MiB"] for found in total) < MEBIBYTES


def test_every_format_is_tried_and_no_other_is_read():
    kinds = {what.split()[0] for what, _ in seeds()}
    assert kinds == set(FORMATS)
    Image.init()
    others = sorted(set(Image.SAVE) - set(FORMATS) - {"PDF", "JPEG2000"})
    for kind in others:
        file = io.BytesIO()
        try:
            Image.new("RGB", (16, 16)).save(file, kind)
        except Exception:
            continue
        if file.getvalue().startswith((b"\xff\xd8", b"II*\0", b"\x89PNG")):
            continue  # MPO is a JPEG, and PNG another name of PNG
        with pytest.raises(Exception, match=r"cannot identify|image"):
            decode(file.getvalue())
    assert b".eps" not in EXTENSIONS and b".svg" not in EXTENSIONS


def test_no_module_reads_pickles():
    """What the lint bans by name, and the doors that it does not see."""
    banned = (
        "pickle.load",
        "torch.load",
        "joblib",
        "allow_pickle=True",
        "yaml.load",
        "shelve",
        "dill",
    )
    for path in (ROOT / "hvaeood_cli").rglob("*.py"):
        text = path.read_text()
        assert not [word for word in banned if word in text], path
        for line in text.splitlines():
            if "np.load(" in line:
                assert "allow_pickle=False" in line, (path, line)
    rules = (ROOT / "pyproject.toml").read_text()
    assert '"torch.load".msg' in rules and '"pickle".msg' in rules
    assert Path(EXAMPLES[0]).exists()
