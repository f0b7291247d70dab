"""The entry point of `hvaeood` and of `python -m hvaeood_cli`."""

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn

# Objects between two looks at what may be freed. Loading libraries makes many, and all stay: with
# Python's 700, a tenth of that time is spent on looking.
_BETWEEN_LOOKS = 50_000


def main() -> None:
    """Run the command line. Ctrl-C while it is still loading ends the program quietly."""
    gc.set_threshold(_BETWEEN_LOOKS)
    try:
        from hvaeood_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:
        _end(130)
    except SystemExit as ended:
        _end(ended.code)


def _end(code: str | int | None) -> NoReturn:
    """End the process as Python does, but leave its memory to the system.

    Once PyTorch is loaded, to take everything apart lasts most of a second, and touches 100 MiB
    that nothing had needed.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if isinstance(code, str) or not all(thread.daemon for thread in others):
        sys.exit(code)
    atexit._run_exitfuncs()
    try:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:  # closed by the shell: `>&-`
                stream.flush()
    except OSError:
        sys.exit(code)  # Python says what it could not write
    os._exit(code or 0)


if __name__ == "__main__":
    main()
