"""`python -m hvaeood_cli` is `hvaeood`."""

from hvaeood_cli.cli.app import main

if __name__ == "__main__":
    main()
