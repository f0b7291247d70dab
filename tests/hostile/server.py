"""Runs commands of this program one after the other, each in a child of a process that has loaded
everything: a tenth of a second each, and not four.

A line of JSON on standard input is a task, a line on standard output how it ended. With
`tests/hostile/faults.c` in front of the C library, a task may ask for a fault.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from tests.hostile.built import build


def load() -> None:
    """Import whatever a command may import."""
    import h5py  # noqa: F401
    import lightning_fabric  # noqa: F401
    import scipy.stats  # noqa: F401
    import sklearn.mixture  # noqa: F401
    import torch
    from PIL import Image

    Image.init()
    torch.set_num_threads(1)
    torch.set_num_interop_threads(1)
    build()


def run(task: dict[str, Any]) -> int:
    """What the child does; returns the exit code."""
    os.chdir(task["cwd"])
    os.environ.update(task.get("env", {}))
    for number, name in ((0, "stdin"), (1, "stdout"), (2, "stderr")):
        how = os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        descriptor = os.open(task[name], how, 0o666)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # whoever runs the tests may be under nohup
    for name in task.get("ignore", ()):
        signal.signal(signal.Signals[name], signal.SIG_IGN)
    there, at_first = set(sys.modules), resident()
    signal.alarm(int(task.get("seconds", 300)))
    prepare(task)
    try:
        if "call" in task:
            module, _, name = task["call"].partition(":")
            getattr(importlib.import_module(module), name)(*task.get("arguments", ()))
            return 0
        from hvaeood_cli.cli.app import main

        sys.argv = ["hvaeood", *task["arguments"]]
        main()
    except SystemExit as ended:
        return int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        with contextlib.suppress(OSError), open(task["modules"], "w") as file:
            file.write(f"{at_first}\n")
            file.writelines(f"{name}\n" for name in sys.modules.keys() - there)


def prepare(task: dict[str, Any]) -> None:
    """Set what the task asks for: values of modules, and faults."""
    for place, value in task.get("patch", {}).items():
        module, _, name = place.rpartition(".")
        setattr(importlib.import_module(module), name, value)
    fault = task.get("fault")
    if fault:
        shim = ctypes.CDLL(None)
        shim.faults_jump(int(fault.get("jump", 0)))
        log = -1
        if fault.get("log"):
            log = os.open(fault["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        shim.faults_arm(os.fsencode(fault["under"]), int(fault["at"]), int(fault["what"]), log)


def serve() -> None:
    load()
    print(json.dumps({"ready": True}), flush=True)
    children: dict[int, dict[str, Any]] = {}
    for line in sys.stdin:
        tasks = json.loads(line)  # those of one line run at once
        for task in tasks:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = run(task)
                finally:
                    os._exit(code)
            children[child] = task
        ends = []
        while children:
            child, status, usage = os.wait4(-1, 0)
            task = children.pop(child)
            ends.append(
                {
                    "id": task["id"],
                    "code": os.waitstatus_to_exitcode(status),
                    "seconds": usage.ru_utime + usage.ru_stime,
                    "grown": usage.ru_maxrss - import_too(task["modules"]),
                }
            )
        print(json.dumps(ends), flush=True)


def import_too(report: str) -> int:
    """Import what a child had to import, so that the next need not.

    report: a file of the memory that it began with, KiB, and of the modules' names. Returns that
    memory; 0 where a fault ended it first.
    """
    at_first = 0
    with contextlib.suppress(OSError):
        with open(report) as file:
            at_first, *names = file.read().split()
        Path(report).unlink()
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)
        if names:
            gc.collect()
            gc.freeze()  # the less a child writes to, the less is copied
    return int(at_first)


def resident() -> int:
    """The memory of this process, KiB."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


if __name__ == "__main__":
    serve()
