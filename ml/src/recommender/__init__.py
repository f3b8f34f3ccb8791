"""Train, evaluate, register and serve a Surprise recommender."""

import contextlib
import os
import tempfile

__version__ = "1.0.0"

# Importing Surprise creates ~/.surprise_data and fails in a read-only home.
if not os.access(os.path.expanduser("~"), os.W_OK):
    # A served image has no folder to write to, and no Surprise.
    with contextlib.suppress(FileNotFoundError):
        os.environ.setdefault("SURPRISE_DATA_FOLDER", tempfile.gettempdir())
