"""Run the command line as `python -m recommender`, without an installed entry point."""

from recommender.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
