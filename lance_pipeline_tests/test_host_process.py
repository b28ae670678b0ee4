"""A library leaves its process alone: whatever it does, the settings of the whole process stay as they were."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lance_pipeline_tests.conftest import PLAIN_PACKAGES

# Libraries change settings of their own when they are imported; what is measured is what this package changes.
USES = """
import ctypes, gc, importlib, json, locale, logging, os, pkgutil, platform, random, resource, signal, socket, sys
import tempfile, threading, warnings
import cv2, lance, matplotlib, numpy as np, pandas, PIL.Image, PIL.ImageFile, psutil, pyarrow as pa, requests
import safetensors.torch, simplejpeg, sklearn.metrics, threadpoolctl, torch, torch.utils.data, torchvision
import torch._dynamo, matplotlib.figure, pyarrow.dataset, pyarrow.fs

work, PACKAGES = sys.argv[1], sys.argv[2].split(",")
cv2.setNumThreads(2)
torch.set_num_threads(2)
os.umask(0o027)
random.seed(1); np.random.seed(2); torch.manual_seed(3)

def settings():
    numpy_state = np.random.get_state()
    return {
        "cv2 threads": cv2.getNumThreads(),
        "torch threads": torch.get_num_threads(),
        "torch interop threads": torch.get_num_interop_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": [torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark, torch.backends.cudnn.enabled],
        "matmul": torch.get_float32_matmul_precision(),
        "tf32": [torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32],
        "dtype": str(torch.get_default_dtype()),
        "gradients": torch.is_grad_enabled(),
        "arrow threads": [pa.cpu_count(), pa.io_thread_count()],
        "socket timeout": socket.getdefaulttimeout(),
        "environment": dict(os.environ),
        "signals": {int(one): repr(signal.getsignal(one)) for one in signal.valid_signals()},
        "warnings": [repr(one) for one in warnings.filters],
        "log level": [logging.getLogger().level, len(logging.getLogger().handlers), logging.root.manager.disable],
        "record factory": repr(logging.getLogRecordFactory()),
        "hooks": [repr(sys.excepthook), repr(threading.excepthook), repr(sys.displayhook)],
        "locale": locale.setlocale(locale.LC_ALL),
        "python's random numbers": hash(random.getstate()),
        "numpy's random numbers": [hash(numpy_state[1].tobytes()), *numpy_state[2:]],
        "torch's random numbers": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy's errors": np.geterr(),
        "collector": [gc.isenabled(), gc.get_threshold()],
        "limits": [resource.getrlimit(one) for one in (resource.RLIMIT_NOFILE, resource.RLIMIT_AS)],
        "folder": os.getcwd(),
        "path": list(sys.path),
        "umask": [os.umask(0o027), os.umask(0o027)],
        "pillow": [PIL.Image.MAX_IMAGE_PIXELS, PIL.ImageFile.LOAD_TRUNCATED_IMAGES],
        "plots": {key: repr(value) for key, value in matplotlib.rcParams.items() if key != "backend"},
        "affinity": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [],
        "switch interval": sys.getswitchinterval(),
        "recursion limit": sys.getrecursionlimit(),
    }

def maps_large_blocks():
    '''Whether glibc maps a block of 64 MiB of its own, which M_MMAP_MAX turns off.'''
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    block = ctypes.c_void_p(libc.malloc(64 << 20))
    start = ctypes.cast(ctypes.c_void_p(block.value - 8), ctypes.POINTER(ctypes.c_size_t)).contents.value
    libc.free(block)
    # The second bit of the size before a block says that it is mapped.
    return bool(start & 2)

before = settings()
for name in PACKAGES:
    package = importlib.import_module(f"lance_pipeline.{name}")
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
imported = settings()

from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from lance_pipeline.evaluation.metrics import classification_metrics
from lance_pipeline.evaluation.plots import confusion_picture, learning_curve
from lance_pipeline.evaluation.prediction import evaluation_loader, predict, write_predictions
from lance_pipeline.images import Augment, CachePlace, ImageDataset, ImageLoader, LanceSplit, ingest_split
from lance_pipeline.ingest.maintenance import tidy
from lance_pipeline.sources.download import fetch
from lance_pipeline.sources.layout import layout_of
from lance_pipeline.storage.addresses import Address
from lance_pipeline.storage.verification import verify_rows
from lance_pipeline.training.device import choose_device
from lance_pipeline.training.fit import fit_network
from lance_pipeline.training.inputs import TrainingInputs
from lance_pipeline.training.model import _download
from lance_pipeline.training.recipe import Recipe
from lance_pipeline.training.weights import load_model, save_model
from lance_pipeline_tests.arenas import arenas
from lance_pipeline_tests.image_folders import write_image_folder

state = random.getstate(), np.random.get_state(), torch.get_rng_state()
root = write_image_folder(f"{work}/raw", {split: {"cat": 30, "dog": 30} for split in ("train", "val")}, size=40)
random.setstate(state[0]); np.random.set_state(state[1]); torch.set_rng_state(state[2])
layout_of(root)
train, val = (LanceSplit(ingest_split(root, split, f"{work}/{split}.lance").uri) for split in ("train", "val"))
ingest_split(root, "train", train.uri, repair=True)

def loader(cache, training=True):
    augment = Augment(padding=2)
    return ImageLoader(train.uri, batch_size=8, image_size=32, training=training, augment=augment, cache=cache)

place = CachePlace(folder=f"{work}/cache", budget=1 << 24)
for cache in (None, place, place):
    for one, other in zip(loader(cache), loader(cache, False)):
        assert len(one[1]) == len(other[1])
    # The first one ends before the other.
    first, second = iter(loader(cache)), iter(loader(cache))
    next(first), next(second)
    del first
    assert len(list(second)) == 7
    threads = [threading.Thread(target=lambda: list(loader(cache))) for _ in range(3)]
    for one in threads: one.start()
    for one in threads: one.join()
# Without a generator, torch itself draws from its global one.
list(torch.utils.data.DataLoader(ImageDataset(train.uri, image_size=32), batch_size=8, generator=torch.Generator()))
used = settings()

device = choose_device("cpu")
recipe = Recipe(epochs=1, batch_size=8, batches_per_epoch=1, weights="none", mixup=0.2)
trained, card = fit_network(TrainingInputs(train, val, recipe, 32), device, cache=place)
sha256 = save_model(Path(work, "model"), trained.state, card)
network, card = load_model(Path(work, "model"), sha256)
found = predict(network, evaluation_loader(val, card, device), device)
write_predictions(f"{work}/predictions.lance", found, val.paths(), val.classes, {})
verify_rows(train.dataset)
tidy(train.uri, timedelta(0))

class Serve(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"data")
    def log_message(self, *_):
        pass

server = HTTPServer(("127.0.0.1", 0), Serve)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}"
Path(work, "downloads").mkdir()
fetch(Address(f"{url}/a.zip"), None, Path(work, "downloads"), max_bytes=100, on_progress=lambda done, total: None)
_download(f"{url}/weights.pth", work)
server.shutdown()
after = settings()

for moment, now in (("imports", imported), ("loaders", used), ("everything", after)):
    for name, value in before.items():
        assert now[name] == value, (moment, name, value, now[name])
if platform.libc_ver()[0] == "glibc":
    assert maps_large_blocks()
    assert arenas(6 * os.cpu_count()) > os.cpu_count()
print("unchanged")
"""


def _run(tmp_path: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    unset = ("OPENCV_FOR_THREADS_NUM", "MALLOC_ARENA_MAX", "OMP_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    command = [sys.executable, "-c", program, str(tmp_path), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_nothing_of_the_host_process_changes(tmp_path: Path):
    finished = _run(tmp_path, USES, ",".join(PLAIN_PACKAGES))
    assert finished.stdout.endswith("unchanged\n"), finished.stdout + finished.stderr


SPEED_UP = """
import json, os, sys
if "early" in sys.argv:
    import cv2
from lance_pipeline.process_settings import speed_up_process

speed_up_process()
import cv2
print(json.dumps([cv2.getNumThreads(), os.environ["OPENCV_FOR_THREADS_NUM"]]))
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_process_of_its_own_is_sped_up(tmp_path: Path, when: str):
    assert json.loads(_run(tmp_path, SPEED_UP, when).stdout) == [1, "1"]


STEP = """
import json, os
from lance_pipeline.orchestration.runtime.own_process import keep_to_the_user

keep_to_the_user()
import cv2
from lance_pipeline import freed_memory
print(json.dumps([cv2.getNumThreads(), freed_memory._managed, os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"]]))
"""


def test_the_pipelines_own_processes_are_sped_up(tmp_path: Path):
    assert json.loads(_run(tmp_path, STEP).stdout) == [1, True, "30"]
