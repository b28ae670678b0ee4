"""The command line: ``python -m lance_pipeline``."""

import argparse
import sys

_DEFINITIONS = "lance_pipeline.definitions"


def main() -> int:
    """Run a subcommand; returns the exit status."""
    arguments = _parser().parse_args()
    # Dagster is imported only by commands that need it.
    from lance_pipeline.orchestration.own_process import keep_to_the_user

    keep_to_the_user()
    # What it raises is shown as any error of a process of the pipeline's own.
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lance-pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="materialize a dataset, or some of its assets")
    run.set_defaults(run=_run)
    run.add_argument("dataset", help="the dataset's name, such as digits")
    run.add_argument("assets", nargs="*", help="such as raw_images or resnet34 (default: all)")
    run.add_argument("-m", "--module-name", default=_DEFINITIONS, help="of the definitions (default: %(default)s)")
    trial = commands.add_parser(
        "try", help="train with other settings, without changing anything; list what was tried; adopt it"
    )
    trial.set_defaults(run=_try)
    trial.add_argument("dataset", help="the dataset's name, such as digits")
    trial.add_argument(
        "settings", nargs="*", help="such as recipe.epochs=30; several values are searched, recipe.mixup=0,0.2,0.4"
    )
    trial.add_argument("--seeds", type=int, default=1, help="how often each is trained, with other seeds (default: 1)")
    trial.add_argument("--test", action="store_true", help="measure the test split too; for one recipe only")
    trial.add_argument("--list", action="store_true", help="show what was tried, beside the current model")
    trial.add_argument("--adopt", metavar="NAME", help="write what a trial has changed into the defs.yaml")
    trial.add_argument("-m", "--module-name", default=_DEFINITIONS, help="of the definitions (default: %(default)s)")
    summary = commands.add_parser("summary", help="tell what the latest materializations of a dataset came to")
    summary.set_defaults(run=_summary)
    summary.add_argument("dataset", help="the dataset's name, such as digits")
    reproduce = commands.add_parser("reproduce", help="train again from an MLflow run's record, and compare")
    reproduce.set_defaults(run=_reproduce)
    reproduce.add_argument("run_id", help="the MLflow run of a finished training")
    verify = commands.add_parser("verify", help="compare all stored rows with their digests, and repair them")
    verify.set_defaults(run=_verify)
    verify.add_argument("target", help="a dataset, such as digits, or the path or URI of one of its Lance datasets")
    verify.add_argument(
        "--repair",
        action="store_true",
        help="write damaged rows again from their image files or, given a path, restore them from older versions",
    )
    databases = commands.add_parser("databases", help="tell whether the databases of Dagster and MLflow are damaged")
    databases.set_defaults(run=_databases)
    databases.add_argument("--replace", action="store_true", help="move damaged ones aside for empty ones")
    disk = commands.add_parser("disk", help="tell what takes how much on the disk, and what may go")
    disk.set_defaults(run=_disk)
    disk.add_argument("dataset", nargs="?", help="the dataset's name (default: all)")
    disk.add_argument("--json", action="store_true", help="for programs; sizes in bytes")
    disk.add_argument("-m", "--module-name", default=_DEFINITIONS, help="of the definitions (default: %(default)s)")
    ui = commands.add_parser("ui", help="serve Dagster, MLflow and reports on one port of loopback until Ctrl-C")
    ui.set_defaults(run=_ui)
    ui.add_argument("--port", type=int, default=3000, help="the port (default: %(default)s)")
    ui.add_argument("--workspace", default=None, help="a workspace.yaml (default: the project's)")
    ui.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME:PORT",
        help="another name by which browsers open it, as through an SSH tunnel; repeatable, or LANCE_PIPELINE_UI_HOSTS",
    )
    ui.add_argument("--mlflow-port", help=argparse.SUPPRESS)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.run import run

    return run(arguments.dataset, arguments.assets, arguments.module_name)


def _try(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.trials import command

    if arguments.adopt:
        command.adopt_trial(arguments.dataset, arguments.adopt, arguments.module_name)
        return 0
    if arguments.list:
        command.print_trials(arguments.dataset, arguments.module_name)
        return 0
    return command.try_recipes(
        arguments.dataset, arguments.settings, arguments.module_name, arguments.seeds, test=arguments.test
    )


def _summary(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.summary import print_summary

    print_summary(arguments.dataset)
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.reproduction import reproduce

    return 0 if reproduce(arguments.run_id) else 1


def _verify(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.verify import verify

    return 0 if verify(arguments.target, repair=arguments.repair) else 1


def _databases(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.databases import check_databases

    return 0 if check_databases(replace=arguments.replace) else 1


def _disk(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.disk import print_disk

    print_disk(arguments.dataset, arguments.module_name, as_json=arguments.json)
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.ui.launcher import serve

    if arguments.mlflow_port:
        print("MLflow has no port of its own any more: --mlflow-port (MLFLOW_PORT) is ignored.", file=sys.stderr)
    return serve(arguments.port, arguments.workspace, arguments.allow_host)


if __name__ == "__main__":
    sys.exit(main())
