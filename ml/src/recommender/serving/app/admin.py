"""The service's command; every verb but `serve` needs root.

An environment's service is the units model-server-ENVIRONMENT@N.service on one socket. Its settings stand in
/etc/model-server/ENVIRONMENT/settings.json.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from recommender.errors import RecommenderError
from recommender.serving.app import deploy, service
from recommender.serving.app.service import Service

# The exit code of a candidate that must not be served.
REFUSED = 3


def _serve(arguments: argparse.Namespace) -> None:
    import asyncio
    import logging

    from recommender.serving.app import counts, server

    logging.basicConfig(
        level=os.environ.get("MODEL_SERVER_LOG", "INFO"), format="%(message)s", stream=sys.stdout
    )
    counts.share(arguments.number)
    asyncio.run(
        server.run(
            server.Settings(
                bundles=arguments.bundles,
                clients=arguments.clients,
                state=arguments.state,
                control=arguments.control,
                number=arguments.number,
                keep_requests=not arguments.forget,
                port=arguments.port,
                hosts=tuple(arguments.host),
            )
        )
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="model-server", description=__doc__)
    parser.set_defaults(tries=False)
    verbs = parser.add_subparsers(required=True, metavar="verb")

    def verb(
        name: str, does: Callable[[Service, argparse.Namespace], Any], words: str
    ) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=words)
        made.add_argument("environment")
        made.set_defaults(
            run=lambda arguments: does(Service(arguments.environment), arguments), tries=name == "accept"
        )
        return made

    accept = verb("accept", lambda s, a: s.accept(a.model, a.golden, a.labels), "lay out a model and try it")
    accept.add_argument("--model", type=Path, required=True, help="folder of a saved recommender")
    accept.add_argument("--golden", type=Path, required=True, help="golden.json of its training")
    accept.add_argument("--labels", required=True, help="JSON: what the version is")
    switch = verb(
        "switch", lambda s, a: s.switch(a.bundle), "serve a bundle that was accepted, in every process"
    )
    switch.add_argument("bundle")
    verb("status", lambda s, a: s.status(), "the served version and its processes")
    verb("faults", lambda s, a: print("\n".join(s.faults())), "what is wrong, a line each")
    verb("drop", lambda s, a: s.drop(), "serve nothing")
    verb("renew", lambda s, a: s.renew(), "restart the processes without losing a request")
    verb(
        "keys",
        lambda s, a: {client: [*of] for client, of in s.keys().items()},
        "ids of the keys of each client",
    )
    add = verb("add-key", lambda s, a: s.add_key(a.client), "make a key for a client; it is shown once")
    add.add_argument("client")
    remove = verb("remove-key", lambda s, a: s.remove_key(a.id), "make a key invalid")
    remove.add_argument("id")

    proved = verbs.add_parser("prove", help="try a copy of a bundle that lies elsewhere, and serve nothing")
    proved.add_argument("folder", type=Path, help="the copy, named as the bundle is")
    proved.set_defaults(run=lambda arguments: service.prove(arguments.folder))

    applied = verbs.add_parser(
        "apply", help="run the services as their files say, and no others; site.yml does this"
    )
    applied.add_argument("environments", nargs="*")
    applied.set_defaults(
        run=lambda arguments: {"changed": deploy.apply(deploy.RELEASE, arguments.environments)}
    )

    serve = verbs.add_parser("serve", help="serve until SIGTERM; the units do this")
    serve.add_argument(
        "--bundles", type=Path, required=True, help="folder of bundles, and of the link current"
    )
    serve.add_argument("--clients", type=Path, help="folder of clients.json and keys.json")
    serve.add_argument("--state", type=Path, help="folder for the last requests and the clients' rates")
    serve.add_argument("--control", type=Path, help="socket that takes switch, clients and status")
    serve.add_argument("--number", default="1", help="of this process")
    serve.add_argument("--forget", action="store_true", help="keep no requests")
    serve.add_argument("--host", action="append", default=[], help="further name that it may be called by")
    serve.add_argument("--port", type=int, default=8000, help="where systemd passes no socket")
    serve.set_defaults(run=_serve)
    return parser


def _stop(message: str) -> NoReturn:
    sys.exit(f"model-server: {message}")


def main() -> int:
    """Read the command line and run a verb; its result is a line of JSON."""
    arguments = _parser().parse_args()
    try:
        found = arguments.run(arguments)
    except RecommenderError as error:
        _stop(str(error))
    except OSError as error:
        if not isinstance(error, PermissionError):
            _stop(str(error))
        _stop(f"{error}. It is root's: sudo model-server …")
    if found is not None:
        print(json.dumps(found))
        return REFUSED if arguments.tries and found["refused"] else 0
    return 0
