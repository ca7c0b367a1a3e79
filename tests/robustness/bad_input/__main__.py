"""The cases of a seed that did not end as they must, and how many there were."""

import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path

from tests.robustness.bad_input.commands import Place
from tests.robustness.bad_input.runner import failures

warnings.simplefilter("ignore")
logging.disable(logging.CRITICAL)
os.environ |= {"HF_HUB_OFFLINE": "1"}
with tempfile.TemporaryDirectory() as folder:
    os.environ["XDG_CACHE_HOME"] = folder + "/cache"
    ready = Place(Path(folder))
    start, wrong = time.monotonic(), 0
    for line in failures(ready, int(sys.argv[1]), int(sys.argv[2])):
        wrong += 1
        print(line, flush=True)
    print(f"{sys.argv[2]} cases of seed {sys.argv[1]}: {wrong} ended badly, {time.monotonic() - start:.0f} s")
