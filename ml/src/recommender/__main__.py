"""`python -m recommender`: the command line without an installed entry point."""

from recommender.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
