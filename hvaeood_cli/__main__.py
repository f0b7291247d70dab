"""The entry point of `hvaeood` and of `python -m hvaeood_cli`."""

import gc
import sys

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
        sys.exit(130)


if __name__ == "__main__":
    main()
