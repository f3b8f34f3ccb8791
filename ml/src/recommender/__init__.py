"""Trains, evaluates, registers and serves a Surprise recommender."""

import os
import tempfile

__version__ = "1.0.0"

# Importing Surprise makes ~/.surprise_data, and fails for an account whose home cannot be written.
if not os.access(os.path.expanduser("~"), os.W_OK):
    os.environ.setdefault("SURPRISE_DATA_FOLDER", tempfile.gettempdir())
