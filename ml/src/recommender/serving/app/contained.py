"""The image's command: serve the one bundle that is in it, until SIGTERM.

PORT is the port. RECOMMENDER_CLIENTS, or the file RECOMMENDER_CLIENTS_FILE, has the clients, as clients.Given
reads them; without any, nobody has a key. RECOMMENDER_OPEN=yes answers without keys. RECOMMENDER_HOSTS (names
with commas between them) refuses other names.
"""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

# Seconds from SIGTERM to the end; managed targets kill after 10.
DRAIN = 9
BUNDLES = Path("/srv/bundles")


def main() -> None:
    """Serve. Exits with a sentence where it cannot."""
    # The first process of a container ignores what it does not handle, and imports take a second.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    from recommender.errors import InputError
    from recommender.serving.app import clients, server

    logging.basicConfig(
        level=os.environ.get("MODEL_SERVER_LOG", "INFO"), format="%(message)s", stream=sys.stdout
    )
    get = os.environ.get
    try:
        given = clients.Given(
            get("RECOMMENDER_CLIENTS", ""), get("RECOMMENDER_CLIENTS_FILE", "/run/secrets/clients"),
            required=get("RECOMMENDER_OPEN") != "yes",
        )  # fmt: skip
        settings = server.Settings(
            BUNDLES, address="0.0.0.0", port=int(get("PORT", "8000")), given=given, drain=DRAIN,
            hosts=tuple(get("RECOMMENDER_HOSTS", "*").split(",")),
        )  # fmt: skip
        asyncio.run(server.run(settings))
    except (InputError, OSError, ValueError) as error:
        sys.exit(f"recommender: {error}")


if __name__ == "__main__":
    main()
