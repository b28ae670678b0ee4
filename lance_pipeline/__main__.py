"""The command line: ``python -m lance_pipeline``."""

import argparse
import sys

from lance_pipeline.errors import InputError


def main() -> int:
    """Run a subcommand; returns the exit status."""
    parser = argparse.ArgumentParser(prog="lance-pipeline", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    summary = commands.add_parser("summary", help="tell what the latest materializations of a dataset came to")
    summary.add_argument("dataset", help="the dataset's name, such as digits")
    reproduce = commands.add_parser("reproduce", help="train again from an MLflow run's record, and compare")
    reproduce.add_argument("run_id", help="the MLflow run of a finished training")
    databases = commands.add_parser("databases", help="tell whether the databases of Dagster and MLflow are damaged")
    databases.add_argument("--replace", action="store_true", help="move damaged ones aside for empty ones")
    ui = commands.add_parser("ui", help="serve the Dagster UI and the MLflow UI on loopback until Ctrl-C")
    ui.add_argument("--port", type=int, default=3000, help="of the Dagster UI (default: %(default)s)")
    ui.add_argument("--mlflow-port", type=int, default=5000, help="of the MLflow UI (default: %(default)s)")
    ui.add_argument("--workspace", default=None, help="a workspace.yaml (default: the project's)")
    arguments = parser.parse_args()
    try:
        if arguments.command == "summary":
            from lance_pipeline.orchestration.summary import print_summary

            print_summary(arguments.dataset)
            return 0
        if arguments.command == "reproduce":
            from lance_pipeline.orchestration.reproduction import reproduce as reproduced

            return 0 if reproduced(arguments.run_id) else 1
        if arguments.command == "databases":
            from lance_pipeline.orchestration.databases import check_databases

            return 0 if check_databases(replace=arguments.replace) else 1
        from lance_pipeline.orchestration.ui import serve

        return serve(arguments.port, arguments.mlflow_port, arguments.workspace)
    except InputError as error:
        print(f"lance-pipeline: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
