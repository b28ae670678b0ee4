"""The command line: ``python -m lance_pipeline``."""

import argparse
import sys
from collections.abc import Callable
from typing import Any

_DEFINITIONS = "lance_pipeline.definitions"
_FORMAT = argparse.RawDescriptionHelpFormatter


def main() -> int:
    """Run a subcommand; returns the exit status."""
    try:
        return _main()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        # A shell's exit status for a command ended by Ctrl-C.
        return 130


def _main() -> int:
    arguments = _parser().parse_args()
    # Commands that do not need Dagster must not import it.
    from lance_pipeline.orchestration.runtime.instance import use_env_file
    from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user

    keep_to_the_user()
    use_env_file()
    # Errors raised here are shown like those of all the pipeline's own processes.
    return arguments.run(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lance-pipeline",
        description="Train an image classifier on folders of images, and see what came of it.\n"
        "What there is to train is set by lance_pipeline/defs/<dataset>/defs.yaml.",
        epilog=_examples(
            "lance-pipeline run digits       # train the demo: about 3 minutes on 2 cores",
            "lance-pipeline new flowers ~/photos/flowers   # a dataset of your own",
            "lance-pipeline summary digits   # how good is it, and where is everything?",
            "lance-pipeline ui               # look at it in the browser",
            "lance-pipeline run --help       # more on one command",
        ),
        formatter_class=_FORMAT,
    )
    commands = parser.add_subparsers(title="commands", metavar="<command>", required=True)
    dataset = "name of the dataset, such as digits"
    module = "Python module with the definitions, if they are not this project's (default: %(default)s)"

    run = _command(
        commands,
        "run",
        _run,
        "make a dataset and train on it",
        "Read the images of a dataset, train a model, and measure it, or do a part of that. Shows a line for each "
        "thing\nworth knowing. Ctrl-C saves the training; the same command resumes it.",
        "lance-pipeline run digits                        # everything",
        "lance-pipeline run digits resnet34 metrics_val   # only train, and measure on the validation split",
    )
    run.add_argument("dataset", help=dataset)
    run.add_argument("assets", nargs="*", default=[], help="parts to make, such as resnet34 (default: all)")
    run.add_argument("-m", "--module-name", default=_DEFINITIONS, help=module)

    new = _command(
        commands,
        "new",
        _new,
        "make a dataset of a folder of images",
        "Look at a folder of images, and write the defs.yaml of a dataset of them. Read it, change it, run it.\n"
        "The folder holds a folder for each class or, in folders such as train, val and test, one for each class.",
        "lance-pipeline new flowers ~/photos/flowers",
        "lance-pipeline new flowers ~/photos/flowers image_size=64 recipe.epochs=5",
    )
    new.add_argument("dataset", help="name of the dataset: letters, digits and _")
    new.add_argument("folder", help="folder of the images, or an address such as s3://bucket/flowers")
    new.add_argument("settings", nargs="*", default=[], help="such as image_size=64 or recipe.epochs=5")
    new.add_argument("--draw", action="store_true", help="draw train, val and test, whatever folders there are")
    new.add_argument("-m", "--module-name", default=_DEFINITIONS, help=module)

    trial = _command(
        commands,
        "try",
        _try,
        "train with other settings, without changing anything",
        "Train on the data that is there with other settings. Nothing but MLflow knows of it, until it is adopted.",
        "lance-pipeline try flowers recipe.epochs=30 recipe.mixup=0.2   # one trial",
        "lance-pipeline try flowers recipe.mixup=0,0.2,0.4 --seeds 3    # a search, each value with three seeds",
        "lance-pipeline try flowers --list                              # what was tried, beside the current model",
        "lance-pipeline try flowers --adopt flowers-0012                # write it into the defs.yaml",
    )
    trial.add_argument("dataset", help=dataset)
    trial.add_argument("settings", nargs="*", default=[], help="such as recipe.epochs=30; several values are searched")
    trial.add_argument("--seeds", type=int, default=1, help="how often each is trained, with other seeds (default: 1)")
    trial.add_argument("--test", action="store_true", help="measure the test split too; for one recipe only")
    trial.add_argument("--list", action="store_true", help="show what was tried, beside the current model")
    trial.add_argument("--adopt", metavar="NAME", help="write what a trial has changed into the defs.yaml")
    trial.add_argument("-m", "--module-name", default=_DEFINITIONS, help=module)

    summary = _command(
        commands,
        "summary",
        _summary,
        "show how good the latest model is",
        "Show the accuracy of the latest model of a dataset, how many images it saw, and where everything is.",
        "lance-pipeline summary digits",
    )
    summary.add_argument("dataset", help=dataset)
    summary.add_argument("-m", "--module-name", default=_DEFINITIONS, help=module)

    reproduce = _command(
        commands,
        "reproduce",
        _reproduce,
        "repeat a training and compare",
        "Train again on the same data with the same settings, and compare environment, metrics and weights.",
        "lance-pipeline reproduce 5a4e4f1123134ec5815e9fa12ed5b6b5   # `summary` shows the MLflow run",
    )
    reproduce.add_argument("run_id", help="MLflow run of a finished training")

    verify = _command(
        commands,
        "verify",
        _verify,
        "find damaged images in the stored data, and repair them",
        "Read all stored images of a dataset, and list those whose bytes have changed since they were stored.",
        "lance-pipeline verify digits",
        "lance-pipeline verify digits --repair                          # from the image files",
        "lance-pipeline verify data/lance/digits_train.lance --repair   # from older versions",
    )
    verify.add_argument("target", help="name of a dataset, or path or URI of one of its Lance datasets")
    verify.add_argument("--repair", action="store_true", help="write damaged images again, and list what is lost")

    databases = _command(
        commands,
        "databases",
        _databases,
        "find damaged databases of Dagster and MLflow",
        "Tell which databases of Dagster and MLflow are damaged, and what is lost with each.",
        "lance-pipeline databases",
        "lance-pipeline databases --replace   # stop `make ui` and runs first",
    )
    databases.add_argument("--replace", action="store_true", help="move damaged ones aside for empty ones")

    disk = _command(
        commands,
        "disk",
        _disk,
        "show what takes how much space, and what may go",
        "Show what takes how much space on the disk, what may be removed, and by which command.",
        "lance-pipeline disk",
        "lance-pipeline disk digits --json",
    )
    disk.add_argument("dataset", nargs="?", help=f"{dataset} (default: all)")
    disk.add_argument("--json", action="store_true", help="print JSON for programs, with sizes in bytes")
    disk.add_argument("-m", "--module-name", default=_DEFINITIONS, help=module)

    ui = _command(
        commands,
        "ui",
        _ui,
        "look at everything in the browser",
        "Serve the pages of Dagster and MLflow on this machine until Ctrl-C. The last line shows the address.",
        "lance-pipeline ui",
        "lance-pipeline ui --port 3001",
        "lance-pipeline ui --allow-host localhost:8888   # opened through: ssh -L 8888:127.0.0.1:3000 <this machine>",
    )
    ui.add_argument("--port", type=int, default=3000, help="port of the pages (default: %(default)s)")
    ui.add_argument("--workspace", default=None, help="file that names what to load (default: workspace.yaml here)")
    ui.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME:PORT",
        help="other address in the browser's address bar; repeatable, or LANCE_PIPELINE_UI_HOSTS",
    )
    ui.add_argument("--mlflow-port", help=argparse.SUPPRESS)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int], summary: str, description: str, *examples: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        epilog=_examples(*examples),
        formatter_class=_FORMAT,
    )
    parser.set_defaults(run=run)
    return parser


def _examples(*commands: str) -> str:
    return "\n  ".join(["examples:" if len(commands) > 1 else "example:", *commands])


def _run(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.cli.run import run

    return run(arguments.dataset, arguments.assets, arguments.module_name)


def _new(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.cli.new import new_dataset

    new_dataset(arguments.dataset, arguments.folder, arguments.settings, arguments.module_name, draw=arguments.draw)
    return 0


def _try(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.cli import try_recipes as command

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
    from lance_pipeline.orchestration.cli.summary import print_summary

    print_summary(arguments.dataset, arguments.module_name)
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.cli.reproduction import reproduce

    return 0 if reproduce(arguments.run_id) else 1


def _verify(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.cli.verify import verify

    return 0 if verify(arguments.target, repair=arguments.repair) else 1


def _databases(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.runtime.databases import check_databases

    return 0 if check_databases(replace=arguments.replace) else 1


def _disk(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.cli.disk import print_disk

    print_disk(arguments.dataset, arguments.module_name, as_json=arguments.json)
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    from lance_pipeline.orchestration.ui.launcher import serve

    if arguments.mlflow_port:
        print("MLflow has no port of its own any more: --mlflow-port (MLFLOW_PORT) is ignored.", file=sys.stderr)
    return serve(arguments.port, arguments.workspace, arguments.allow_host)


if __name__ == "__main__":
    sys.exit(main())
