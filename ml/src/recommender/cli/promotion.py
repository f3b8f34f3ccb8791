"""Define the commands that move versions: export, promote, rollback, models."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from recommender.cli import options
from recommender.errors import InputError

if TYPE_CHECKING:
    from recommender.promotion.service import Service


def add(commands: options.Commands) -> None:
    """Add this family's commands to the parser."""
    verb = commands.add_parser("export", help="write a registered version into one file")
    options.add_model(verb, "--environment")
    verb.add_argument("--version", metavar="NUMBER", help="default: the champion")
    verb.add_argument("--output", type=Path, required=True, metavar="PATH", help="the archive to write")
    verb.set_defaults(command=_export)

    verb = commands.add_parser("promote", help="check an exported version and make it champion")
    verb.add_argument("--archive", type=Path, required=True, metavar="PATH", help="archive written by export")
    verb.add_argument("--to", required=True, metavar="ENVIRONMENT", help="as in staging, prod")
    verb.add_argument(
        "--gate", default="{}", metavar="JSON", help="limits: margins, list_errors, latency_ms, size_mb"
    )
    verb.add_argument(
        "--override", default="", metavar="CHECK,…", help="checks whose failure is accepted, and recorded"
    )
    verb.add_argument("--by", default="", metavar="WHO", help="name of the promoting person; recorded")
    verb.add_argument(
        "--sandbox", action="store_true", help="try the model in a systemd unit without network; as root"
    )
    _add_service(verb)
    options.add_tracking(verb)
    verb.set_defaults(command=_promote)

    verb = commands.add_parser("rollback", help="make previous, or the version named, champion again")
    options.add_model(verb, "--environment")
    verb.add_argument("--version", metavar="NUMBER", help="default: previous")
    _add_service(verb)
    verb.set_defaults(command=_rollback)

    verb = commands.add_parser("follow", help="serve the champion, if another version is served")
    options.add_model(verb, "--environment")
    _add_service(verb, required=True)
    verb.add_argument("--lock", type=Path, metavar="PATH", help="lock of changes to the environment")
    verb.set_defaults(command=_follow)

    verb = commands.add_parser("models", help="print versions, aliases, metrics, and where they came from")
    verb.add_argument("environments", nargs="+", metavar="ENVIRONMENT")
    options.add_tracking(verb)
    verb.set_defaults(command=_models)


def _add_service(verb: argparse.ArgumentParser, required: bool = False) -> None:
    verb.add_argument(
        "--service",
        required=required,
        metavar="COMMAND",
        help="of the model server that serves the environment's champion",
    )


def _service(arguments: argparse.Namespace, environment: str) -> "Service | None":
    from recommender.promotion.service import Service

    return Service(arguments.service, environment) if arguments.service else None


def _export(arguments: argparse.Namespace) -> None:
    from recommender.promotion import promote
    from recommender.tracking import stores

    stores.connect(arguments.tracking_uri)
    options.say(
        "exported "
        + promote.export(arguments.environment, options.model(arguments), arguments.version, arguments.output)
    )


def _promote(arguments: argparse.Namespace) -> None:
    from pydantic import ValidationError

    from recommender.promotion import gate, promote
    from recommender.tracking import stores

    try:
        settings = gate.Settings.model_validate_json(arguments.gate)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
        raise InputError(f"The gate's limits are {arguments.gate}. {'; '.join(lines)}.") from error
    overridden = frozenset(filter(None, (name.strip() for name in arguments.override.split(","))))
    stores.connect(arguments.tracking_uri)
    print(
        promote.promote(
            arguments.archive.resolve(),
            arguments.to,
            settings,
            overridden,
            arguments.by,
            arguments.sandbox,
            options.say,
            _service(arguments, arguments.to),
        )
    )


def _rollback(arguments: argparse.Namespace) -> None:
    from recommender.promotion import promote
    from recommender.tracking import stores

    stores.connect(arguments.tracking_uri)
    service = _service(arguments, arguments.environment)
    print(
        promote.rollback(arguments.environment, options.model(arguments), arguments.version or None, service)
    )


def _follow(arguments: argparse.Namespace) -> None:
    from recommender import names
    from recommender.promotion.service import Service

    service = Service(arguments.service, arguments.environment)
    name = names.registered_name(arguments.environment, options.model(arguments))
    uri = arguments.tracking_uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        raise InputError(
            f"{uri or 'No address'}: not a tracking server. Give --tracking-uri http://host:port."
        )
    if told := service.follow(name, uri, arguments.lock):
        print(told)


def _models(arguments: argparse.Namespace) -> None:
    from recommender.promotion import versions
    from recommender.tracking import stores

    stores.connect(arguments.tracking_uri)
    print("\n".join(versions.versions_table(environment) for environment in arguments.environments))
