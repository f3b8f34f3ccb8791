"""The service's command: model-server serve, and what operators and promotions do with it. See `--help`."""

import sys

from recommender.serving.app.admin import main

if __name__ == "__main__":
    sys.exit(main())
