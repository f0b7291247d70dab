"""The program's beginning: `hvaeood`, and `python -m hvaeood_cli`."""

import sys


def main() -> None:
    """Run the command line; an interruption while it is still loading ends quietly too."""
    try:
        from hvaeood_cli.cli.app import main as run

        run()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
