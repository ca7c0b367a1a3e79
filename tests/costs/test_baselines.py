"""The measured baseline: what is computed, how time and energy are taken, and what is refused.

There is no GPU here: NVML is a double of the module pynvml, torch's device is the CPU.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gaincell.cli import main
from gaincell.costs.baselines.attention import PUBLISHED, Cache, implementation, quantised, reference
from gaincell.costs.baselines.grid import LARGEST_CACHE, measure_here, sweep
from gaincell.costs.baselines.measurement import measure
from gaincell.costs.baselines.meters import Meter, Nvml, Rapl, meter_for
from gaincell.costs.baselines.protocol import protocol
from gaincell.costs.baselines.timing import Timed, mean_power
from gaincell.costs.gpus import read_measured
from gaincell.errors import InputError
from gaincell.reports.baseline import baseline_figure, baseline_rows, per_token, was_shared
from gaincell.reports.style import save
from gaincell.results import read
from gaincell.results.codec import to_json
from gaincell.results.system_cost import BaselineResult

CPU = torch.device("cpu")
BASELINE = Path(__file__).parents[2] / "docs" / "results" / "costs" / "baseline-cpu.json"
SMALL = {"heads": 4, "kv_heads": 2, "head_dim": 16, "context": 48, "batch": 3, "seconds": 0.02, "runs": 3}


def signals(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    q = torch.randn(3, 4, 1, 16)
    k, v = torch.randn(2, 3, 2, 48, 16).unbind(0)
    return q.to(dtype), k.to(dtype), v.to(dtype)


class Clock:
    """A time that passes in `sleep` alone; threads that wait for an event are woken in between,
    each at its own time, and it goes on once they wait again.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.threads = 0
        self.due: dict[object, float] = {}
        self.changed = threading.Condition()

    def perf_counter(self) -> float:
        return self.now

    process_time = perf_counter

    def settle(self) -> None:
        """Let all threads wait; `changed` is held."""
        assert self.changed.wait_for(lambda: len(self.due) == self.threads, 120)

    def sleep(self, seconds: float) -> None:
        end = self.now + seconds
        with self.changed:
            self.settle()
            while self.due and min(self.due.values()) <= end:
                event = min(self.due, key=lambda event: self.due[event])
                self.now = self.due.pop(event)
                self.changed.notify_all()
                self.settle()
            self.now = end

    def event(self) -> threading.Event:
        clock = self

        class Event(threading.Event):
            def wait(self, timeout: float | None = None) -> bool:
                assert timeout is not None
                with clock.changed:
                    if not self.is_set():
                        clock.due[self] = clock.now + timeout
                        clock.changed.notify_all()
                        clock.changed.wait_for(lambda: self not in clock.due)
                    return self.is_set()

            def set(self) -> None:
                with clock.changed:
                    super().set()
                    clock.due.pop(self, None)
                    clock.changed.notify_all()

        return Event()

    def thread(self, target: Callable[[], None], daemon: bool) -> threading.Thread:
        clock = self

        class Thread(threading.Thread):
            def start(self) -> None:
                with clock.changed:
                    clock.threads += 1
                    super().start()
                    clock.settle()

            def run(self) -> None:
                try:
                    super().run()
                finally:
                    with clock.changed:
                        clock.threads -= 1
                        clock.changed.notify_all()

        return Thread(target=target, daemon=daemon)


class FakeNvml:
    """A GPU that draws `idle` watts, and `load` more while work is going on; its counter is exact."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM = 1, 2

    class NVMLError(Exception):
        pass

    def __init__(self, idle: float = 50.0, load: float = 200.0, counter: bool = True) -> None:
        self.idle, self.load, self.counter = idle, load, counter
        self.clock, self.calls, self.threads = Clock(), 0, set[int]()
        self.busy_since: float | None = None
        self.worked = 0.0

    def nvmlInit(self) -> None:
        self.calls += 1

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if not self.counter:
            raise self.NVMLError("Not Supported")
        now = self.clock.now
        work = self.worked + (0.0 if self.busy_since is None else now - self.busy_since)
        return round(1e3 * (self.idle * now + self.load * work))

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        self.threads.add(threading.get_ident())
        return round(1e3 * (self.idle + (0.0 if self.busy_since is None else self.load)))

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return {1: 1980, 2: 2619}[kind]

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        raise self.NVMLError("Not Supported")


def with_meter(monkeypatch: pytest.MonkeyPatch, meter: Meter | None, why: str = "") -> None:
    """In place of the machine's own."""
    monkeypatch.setattr("gaincell.costs.baselines.measurement.meter_for", lambda _: (meter, why))


def with_load(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> None:
    """Let the fake GPU be at work while attention is computed, at 100 steps a second, and be measured."""
    with_meter(monkeypatch, Nvml(nvml, "gpu"))
    clock = nvml.clock
    monkeypatch.setattr("gaincell.costs.baselines.timing.time", clock)
    threads = SimpleNamespace(Event=clock.event, Thread=clock.thread)
    monkeypatch.setattr("gaincell.costs.baselines.timing.threading", threads)

    def slow(name: str, device: torch.device) -> Any:
        step = implementation(name, device)

        def work(q: torch.Tensor, cache: Cache) -> torch.Tensor:
            nvml.busy_since = clock.now
            clock.sleep(0.01)
            out = step(q, cache)
            nvml.worked += clock.now - nvml.busy_since
            nvml.busy_since = None
            return out

        return work

    monkeypatch.setattr("gaincell.costs.baselines.measurement.implementation", slow)


@pytest.mark.parametrize("name", ["matmul", "sdpa", "flash", "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_implementations_compute_attention(name: str, dtype: torch.dtype) -> None:
    """Against the equation in a loop over heads; grouped heads share their keys."""
    q, k, v = signals(dtype)
    wanted = torch.zeros(q.shape, dtype=torch.float64)
    for b in range(3):
        for h in range(4):
            weights = torch.softmax(k[b, h // 2].double() @ q[b, h, 0].double() / 4, 0)
            wanted[b, h, 0] = weights @ v[b, h // 2].double()
    assert torch.allclose(reference(q, k, v), wanted, atol=1e-12)
    cache = Cache(k, v)
    if name == "int8":
        (k8, k_scale), (v8, v_scale) = quantised(k, dtype), quantised(v, dtype)
        assert k8.dtype == torch.int8
        cache = Cache(k8, v8, k_scale, v_scale)
    out = implementation(name, CPU)(q, cache).double()
    tolerance = 1e-5 + 0.03 * (dtype == torch.bfloat16) + 0.03 * (name == "int8")
    assert float((out - wanted).abs().max()) < tolerance


def test_the_published_mask_leaves_the_first_key() -> None:
    q, k, v = signals()
    out = implementation(PUBLISHED, CPU)(q, Cache(k, v))
    assert torch.allclose(out, v[:, :, :1].repeat_interleave(2, 1))


def test_a_measurement_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    with_meter(monkeypatch, None, "no meter in a test")
    found = measure(**SMALL, name="flash")
    assert (found.protocol, found.device, len(found.runs), found.steps >= 1) == ("fair", "cpu", 3, True)
    assert min(found.runs) <= found.latency <= max(found.runs)
    assert found.latency_per_token == pytest.approx(found.latency / 3)
    assert found.cache_bytes == 2 * 3 * 2 * 48 * 16 * 4
    assert found.caches == 256
    assert found.bandwidth == pytest.approx(found.cache_bytes / found.latency)
    assert found.error < 1e-5
    assert (found.busy is None) == (torch.get_num_threads() > 1)
    assert found.undisturbed_per_token <= found.latency_per_token
    assert (found.energy, found.no_energy) == (None, "no meter in a test")


def test_the_published_protocol_is_wrong_and_says_so() -> None:
    found = measure(**SMALL, name=PUBLISHED)
    assert (found.protocol, found.caches, found.dtype) == ("published", 1, "float32")
    assert found.error > 0.5


@pytest.mark.parametrize("counter", [True, False], ids=["energy counter", "sampled power"])
def test_energy_above_idle_by_nvml(counter: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    nvml = FakeNvml(counter=counter)
    with_load(monkeypatch, nvml)
    sizes = SMALL | {"seconds": 0.3}
    found = measure(**sizes, name="sdpa", idle_seconds=0.1)
    assert found.meter == "NVML"
    assert {name: of.value for name, of in found.state.items()} == {
        "sm_clock": 1980e6,
        "memory_clock": 2619e6,
    }
    assert found.idle_power == pytest.approx(50, rel=0.05)
    assert found.energy is not None
    assert found.power_samples is not None
    assert found.power_samples > 3
    share = found.energy / (200.0 * found.latency_per_token)  # 200 W while it works, nearly all the time
    assert 0.7 < share < 1.05 if counter else 0.5 < share < 1.1
    assert threading.get_ident() not in nvml.threads


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ("64K", "which may stay in the last level of cache of 0.125 MiB"),
        ("32K", "which exceeds the last level of cache of 0.0625 MiB"),
        ("odd", "the machine does not say what its last level of cache holds"),
    ],
)
def test_the_protocol_says_whether_caches_stay_in_the_processor(
    size: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two last-level caches that the cores share in pairs; what cores share is counted once."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: range(4), raising=False)
    for core in range(4):
        for level, own, shared in ((2, "1K", f"{core}"), (3, size, "0-1" if core < 2 else "2-3")):
            place = tmp_path / f"cpu{core}" / "cache" / f"index{level}"
            place.mkdir(parents=True)
            for key, text in (("level", f"{level}"), ("size", own), ("shared_cpu_list", shared)):
                (place / key).write_text(f"{text}\n")
    monkeypatch.setattr("gaincell.costs.baselines.protocol.CORES", tmp_path)
    timing = replace(read(BASELINE, BaselineResult).measurements[-1], caches=2, cache_bytes=50 * 2**10)
    found = protocol([timing, replace(timing, protocol=PUBLISHED, caches=1)], CPU)
    assert f"warm-up, caches of 0.09766 MiB or more in turn ({said}), device waited for" in found
    assert "warm-up, device waited for" in protocol([], CPU)


def test_the_published_protocol_reads_power_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the run, when the GPU is idle again: nothing is left above the idle power."""
    nvml = FakeNvml()
    with_load(monkeypatch, nvml)
    found = measure(**SMALL, name=PUBLISHED, idle_seconds=0.05)
    assert (found.power_samples, found.power) == (3, 50.0)
    assert found.energy is None or found.energy < 1e-3 * 200.0 * found.latency_per_token
    if found.energy is None:
        assert found.no_energy == "the power did not rise above the idle power"


def test_power_is_integrated_over_uneven_samples() -> None:
    assert mean_power([(0.0, 10.0), (1.0, 10.0), (4.0, 40.0)]) == pytest.approx((10 + 3 * 25) / 4)
    assert mean_power([(0.0, 10.0)]) == 10.0


def test_a_gpu_is_found_by_its_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA_VISIBLE_DEVICES does not renumber it for NVML."""
    nvml, uuids = FakeNvml(), {1: SimpleNamespace(uuid="4a-7")}
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr("torch.cuda.get_device_properties", uuids.__getitem__)
    asked: list[str] = []
    monkeypatch.setattr(nvml, "nvmlDeviceGetHandleByUUID", asked.append, raising=False)
    meter, why = meter_for(torch.device("cuda:1"))
    assert (type(meter), why, nvml.calls, asked) == (Nvml, "", 1, ["GPU-4a-7"])


def test_meters_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincell.costs.baselines.meters.POWERCAP", tmp_path)
    found, why = meter_for(CPU)
    assert found is None
    assert "no RAPL counters" in why
    monkeypatch.setitem(sys.modules, "pynvml", None)
    found, why = meter_for(torch.device("cuda"))
    assert found is None
    assert "nvidia-ml-py" in why
    broken = FakeNvml()

    def fail() -> None:
        raise broken.NVMLError("Driver Not Loaded")

    monkeypatch.setattr(broken, "nvmlInit", fail)
    monkeypatch.setitem(sys.modules, "pynvml", broken)
    assert meter_for(torch.device("cuda")) == (None, "NVML does not answer (Driver Not Loaded)")


def test_rapl_adds_packages_and_wraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gaincell.costs.baselines.meters.POWERCAP", tmp_path)
    for name, energy in (("intel-rapl:0", 900), ("intel-rapl:1", 100), ("intel-rapl:0:0", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
        (tmp_path / name / "energy_uj").write_text(f"{energy}\n")
    meter, why = meter_for(CPU)
    assert isinstance(meter, Rapl)
    assert (why, meter.energy(), meter.power()) == ("", 0.0, None)
    (tmp_path / "intel-rapl:0" / "energy_uj").write_text("50\n")
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("130\n")
    assert meter.energy() == pytest.approx(180e-6)


def test_sweep_skips_with_reasons(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"heads": 2, "head_dim": 16, "seconds": 0.01, "runs": 1}
    monkeypatch.setitem(LARGEST_CACHE, "cpu", 2**20)
    steps: list[int] = []
    found = sweep([("published", "float32"), ("matmul", "float32")], (1, 300), (32, 64),
                  progress=lambda done, total, _: steps.append(total), **sizes)  # fmt: skip
    assert [(m.implementation, m.context, m.batch) for m in found.measured] == [
        ("published", 32, 1),
        ("matmul", 32, 1),
        ("matmul", 64, 1),
    ]
    once = [s for s in found.skipped if "first context alone, 32" in s.reason]
    assert {(s.implementation, s.context, s.batch) for s in once} == {("published", 64, b) for b in (1, 300)}
    others = [s for s in found.skipped if s not in once]
    assert {s.batch for s in others} == {300}
    assert all("exceeds" in s.reason for s in others)
    assert steps == [6] * 6


def test_what_gaincell_cost_measures() -> None:
    found = measure_here(2, 1, 16, 32, seconds=0.01)
    assert [(m.heads, m.head_dim, m.context, m.kind) for m in found] == [(2, 16, 32, "measured")]
    assert "batch 1" in found[0].title
    assert measure_here(64, 64, 128, 2**20) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 0}, "heads = 0: give 1 or more"),
        ({"kv_heads": 3}, "must be a multiple of kv_heads = 3"),
        ({"name": "best"}, "choose one of published, matmul"),
        ({"name": "flex"}, "needs a GPU"),
        ({"dtype": "int4"}, "allowed: float32, bfloat16, float16"),
        ({"name": "published", "dtype": "bfloat16"}, "allowed: float32"),
        ({"device": "cuda:99"}, "on cuda:99: "),
    ],
)
def test_what_cannot_be_measured(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        measure(**(SMALL | changes))


@pytest.mark.usefixtures("blank_figures")
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Table, JSON with unit and kind of every number, figure; the published GPUs are cited beside."""
    file, figure = tmp_path / "b.json", tmp_path / "b.png"
    with pytest.raises(SystemExit) as left:
        main(["baseline", "--batch", "1,2", "--context", "32,1024", "--heads", "2", "--seconds", "0.01",
              "--runs", "2", "--implementations", "published,matmul:bfloat16", "--threads", "1",
              "--json", str(file), "--figure", str(figure)])  # fmt: skip
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert "RTX 4090 (cited)" in shown
    assert "faulty" in shown
    result = json.loads(file.read_text())
    assert to_json(read(file, BaselineResult)) == result
    assert str(tmp_path) not in file.read_text()
    assert len(result["measurements"]) == 6
    assert all(m["latency"]["kind"] == "measured" for m in result["measurements"])
    cited = {entry["title"]: entry for entry in result["machines"] if entry["latency"]["kind"] == "cited"}
    assert cited["RTX 4090"]["latency"]["value"] == pytest.approx(22.37e-6, rel=1e-3)
    assert cited["Jetson Nano"]["energy"]["value"] == pytest.approx(3.246e-3, rel=1e-3)
    measured = read_measured(file)
    assert {(m.heads, m.head_dim, m.context) for m in measured} == {(2, 64, 32), (2, 64, 1024)}
    assert all("matmul bfloat16" in m.title for m in measured)
    assert figure.read_bytes().startswith(b"\x89PNG")
    for arguments, message in (
        (["--batch", "1,x"], "give whole numbers above 0"),
        (["--implementations", "fast"], "NAME one of published"),
        (["--implementations", "flash:int4"], "dtype 'int4' of 'flash': allowed: float32"),
        (["--implementations", "flash:float32,published:bfloat16"], "of 'published': allowed: float32"),
        (["--figure", str(tmp_path / "b.gif")], "ends with .png, .svg, .pdf"),
    ):
        with pytest.raises(SystemExit) as refused:
            main(["baseline", *arguments])
        assert refused.value.code == 2
        assert message in capsys.readouterr().err


def test_a_shared_processor_shows_its_own_time(tmp_path: Path) -> None:
    committed = Path(__file__).parents[2] / "docs" / "results" / "costs" / "baseline-cpu.json"
    result = read(committed, BaselineResult)
    for entry in result.measurements:
        assert entry.busy is not None
        shared = entry.busy < 0.9
        assert per_token(entry) == (entry.processor_per_token if shared else entry.latency_per_token)
    assert was_shared(result) == any(m.busy is not None and m.busy < 0.9 for m in result.measurements)
    assert len(baseline_rows(result)) == 2
    assert save(baseline_figure(result), tmp_path / "b.svg").is_file()


def test_measurement_is_what_the_costs_compare_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of processor and wall time the smaller, for a token of the batch; of several threads wall time."""
    threads = 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    timed = Timed([4.0, 8.0, 6.0], 1, [1.0, 1.5, 2.0], None, None, None, 0)
    monkeypatch.setattr("gaincell.costs.baselines.measurement.time_steps", lambda *_: timed)
    shared = measure(**SMALL)
    assert (shared.latency, shared.processor_per_token, shared.undisturbed_per_token) == (6.0, 0.5, 0.5)
    assert shared.busy == pytest.approx(4.5 / 18)
    threads = 64
    several = measure(**SMALL)
    assert (several.busy, several.undisturbed_per_token) == (None, several.latency_per_token)
    q, k, v = signals()
    made = SimpleNamespace(q=q, caches=[Cache(k, v)], k=k[:1], v=v[:1])
    monkeypatch.setattr("gaincell.costs.baselines.measurement._make", lambda *_: made)
    with_meter(monkeypatch, None, "no meter")
    gpu = measure(**SMALL, device="cuda")  # of which no processor is timed
    assert (gpu.processor, gpu.processor_per_token, gpu.busy) == ((), None, None)
    assert gpu.undisturbed_per_token == gpu.latency_per_token == 2.0
    assert (shared.as_measured().latency, shared.as_measured().batch) == (0.5, 3)
    assert to_json(shared.as_timing()).keys().isdisjoint({"device", "heads", "kv_heads", "head_dim"})
