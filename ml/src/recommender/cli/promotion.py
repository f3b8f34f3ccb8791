"""Define the commands that move versions: export, promote, rollback, models."""

import argparse
from pathlib import Path

from recommender.cli import options
from recommender.errors import InputError


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
    options.add_tracking(verb)
    verb.set_defaults(command=_promote)

    verb = commands.add_parser("rollback", help="make previous, or the version named, champion again")
    options.add_model(verb, "--environment")
    verb.add_argument("--version", metavar="NUMBER", help="default: previous")
    verb.set_defaults(command=_rollback)

    verb = commands.add_parser("models", help="print versions, aliases, metrics, and where they came from")
    verb.add_argument("environments", nargs="+", metavar="ENVIRONMENT")
    options.add_tracking(verb)
    verb.set_defaults(command=_models)


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
        )
    )


def _rollback(arguments: argparse.Namespace) -> None:
    from recommender.promotion import promote
    from recommender.tracking import stores

    stores.connect(arguments.tracking_uri)
    print(promote.rollback(arguments.environment, options.model(arguments), arguments.version or None))


def _models(arguments: argparse.Namespace) -> None:
    from recommender.promotion import versions
    from recommender.tracking import stores

    stores.connect(arguments.tracking_uri)
    print("\n".join(versions.versions_table(environment) for environment in arguments.environments))
