"""The entry point of `hvaeood` and of `python -m hvaeood_cli`."""

import sys


def main() -> None:
    """Run the command line. Ctrl-C while it is still loading ends the program quietly."""
    try:
        from hvaeood_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
