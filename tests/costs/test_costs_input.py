"""Costs: technologies, activities and measurements from files, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from gaincell.arrays.refresh import Refresh
from gaincell.chips.design_file import load_design
from gaincell.costs import storage
from gaincell.costs.activity import Activity, HeadActivity
from gaincell.costs.cost import Cost
from gaincell.costs.gpus import published, read_measured
from gaincell.costs.head import assumed_head
from gaincell.costs.result import comparison
from gaincell.costs.roll_up import of_head
from gaincell.costs.size import ModelSize
from gaincell.costs.technology import Technology, inputs_of_technology, list_technologies, load_technology
from gaincell.errors import DesignError, GaincellError, InputError
from gaincell.integrations.hf.size import cost
from gaincell.reports import system_costs
from gaincell.results import read, write
from gaincell.results.activity import ActivityResult
from gaincell.results.codec import from_json, to_json
from gaincell.results.cost import CostResult
from gaincell.results.system_cost import Measured
from gaincell.text import sha256
from gaincell.units import with_scale

COSTS = Path(__file__).parents[2] / "docs" / "results" / "costs"
ACTIVITY, BASELINE, COST = (
    COSTS / f"{name}.json" for name in ("activity-tiny", "baseline-cpu", "cost-mistral-7b")
)
DESIGN, TECHNOLOGY = load_design("leroux2025"), load_technology("28nm")
HEAD = assumed_head(DESIGN, TECHNOLOGY)
SPICE = Path(__file__).parents[2] / "docs" / "results" / "spice" / "energy-freepdk45.json"
numbers = st.floats(0, 1e6, allow_subnormal=False)


def test_shipped_technologies_load_and_state_what_is_assumed() -> None:
    assert list_technologies() == ["14nm", "28nm"]
    projected = load_technology("14nm")
    assert projected.adder_bit < TECHNOLOGY.adder_bit
    assert TECHNOLOGY.provenance["capacitor_density"].note.startswith("assumed")
    assert not TECHNOLOGY.provenance["supply"].note.startswith("assumed")
    assert of_head(assumed_head(DESIGN, projected)).bottom_up.energy < of_head(HEAD).bottom_up.energy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('supply = { value = 0.9, unit = "mV", source = "U", range = [0, 1] }', "unit 'mV' is not accepted"),
        ("supply = 0.9", "is a bare value"),
        ('supply = { value = -1.0, unit = "V", source = "U", range = [0.1, 1] }', "out of range"),
        ('suply = { value = 0.9, unit = "V", source = "U", range = [0, 1] }', "did you mean 'supply'"),
        ('supply = { value = 0.9, unit = "V", source = "L", range = [0, 1] }', "no reference in its note"),
        (
            'storage = { value = -1e-15, unit = "F", source = "U", range = [-1, 1] }',
            r"mine\.toml: storage = -1e-15 F is out of range; allowed: 1e-18 to 1e-12 F",
        ),
        (
            'amplifier_area = { value = -1e-12, unit = "m^2", source = "U", range = [-1, 1] }',
            "amplifier_area = -1e-12",
        ),
        (
            'utilisation = { value = 0.0, unit = "1", source = "U", range = [0, 1] }',
            "utilisation = 0.0 is out",
        ),
        (
            'transconductance_efficiency = { value = 0.0, unit = "1/V", source = "U", range = [0, 1] }',
            "transconductance_efficiency = 0.0 1/V is out of range",
        ),
    ],
)
def test_a_wrong_technology_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'extends = "28nm"\n{text}\n')
    with pytest.raises(DesignError, match=message):
        load_technology(str(file))


def test_technologies_are_found_by_name_and_may_be_changed() -> None:
    with pytest.raises(DesignError, match="did you mean '28nm'"):
        load_technology("28nn")
    with pytest.raises(DesignError, match="did you mean 'supply'"):
        TECHNOLOGY.replace(suply=1.0)
    with pytest.raises(DesignError, match="out of range"):
        TECHNOLOGY.replace(supply=-1.0)
    changed: Technology = TECHNOLOGY.replace(supply=0.8)
    assert changed.provenance["supply"].source == "U"


def test_a_changed_technology_does_not_pass_for_the_one_it_extends(tmp_path: Path) -> None:
    supply = 'supply = { value = 0.7, unit = "V", source = "U", range = [0.1, 5] }'
    mine, named = tmp_path / "mine.toml", tmp_path / "named.toml"
    mine.write_text(f'extends = "28nm"\n{supply}\n')
    found = load_technology(mine)
    assert found.name == "mine"
    assert found.description == f"{TECHNOLOGY.description}, changed by mine.toml: supply"
    named.write_text(f'extends = "mine.toml"\nname = "ours"\ndescription = "Low voltage"\n{supply}\n')
    assert (load_technology(named).name, load_technology(named).description) == ("ours", "Low voltage")
    named.write_text(f'extends = "mine.toml"\nname = "mine"\n{supply}\n')
    with pytest.raises(DesignError, match=r"named\.toml: name = 'mine' is that of what it extends"):
        load_technology(named)
    assert inputs_of_technology(str(mine)) == {"technology mine.toml": sha256(mine)}
    assert inputs_of_technology("28nm") == {}


@pytest.mark.parametrize("number", [-1.0, float("nan"), float("inf")])
def test_a_negative_or_infinite_cost_is_refused(number: float) -> None:
    with pytest.raises(InputError, match="energy = "):
        Cost(energy=number)


def test_what_is_no_configuration_is_refused() -> None:
    with pytest.raises(InputError, match="model is str; give the configuration of one"):
        cost(DESIGN, "gpt2")  # type: ignore[arg-type]


def test_sizes_that_do_not_exist_are_refused() -> None:
    with pytest.raises(InputError, match="head_dim = 0"):
        replace(HEAD, head_dim=0)
    with pytest.raises(InputError, match="no multiple of kv_heads"):
        ModelSize("odd", "made up", 1, 3, 2, 64, 128, 1000, 100, 1024)
    with pytest.raises(DesignError, match="window"):
        replace(HEAD, design=DESIGN.replace(window=1000))


def test_a_schedule_longer_than_the_retention_time_is_said_with_the_cost_of_refresh() -> None:
    assert "WARNING" not in (storage.note(HEAD, 1) or "")
    long = replace(HEAD, design=DESIGN.replace(window=8192))
    note = storage.note(long, 144) or ""
    assert note.startswith("WARNING: a token is held for 6.39 ms, longer than the retention time of 5 ms")
    refreshed = replace(long, refresh=Refresh("copy", every_seconds=770e-6))
    cost = storage.refresh(storage.paced(refreshed, long.design.token_period), 770e-6)
    energy, time = with_scale(144 * cost.energy, "J"), with_scale(cost.latency, "s")
    assert (
        f"after 770 µs it may have drifted by half a storage level; refreshing in time costs {energy}" in note
    )
    assert f"{energy} (all layers and heads) and {time} a token" in note
    every = float(note.partition("--refresh-seconds ")[2].rstrip(")"))  # which is enough
    assert storage.note(replace(long, refresh=Refresh("copy", every_seconds=every)), 144) is None
    gated = replace(long, sliding_window=512)
    assert storage.held(gated) == pytest.approx(512 * DESIGN.token_period)
    assert storage.note(gated, 144) is None
    with pytest.raises(InputError, match="rewriting 1024 columns takes"):
        of_head(replace(HEAD, refresh=Refresh("copy", every_seconds=1e-9)))
    hopeless = replace(HEAD, design=DESIGN.replace(retention_time=1e-6))
    assert "would take longer" in (storage.note(hopeless, 1) or "")


def activity_json() -> dict[str, Any]:
    return to_json(Activity("a text", 7, (replace(HEAD.activity, layer=1, head=2),)))


def test_an_activity_is_read_from_the_results_that_have_one(tmp_path: Path) -> None:
    file, result = tmp_path / "activity.json", read(ACTIVITY, ActivityResult)
    ours = Activity("a text", 7, (replace(HEAD.activity, layer=1, head=2),))
    write(replace(result, activity=ours), file)
    found = Activity.read(file)
    assert found == replace(ours, design=result.provenance.design_hash)
    assert not found.is_assumed
    assert found.mean() == replace(HEAD.activity, layer=0, head=0)
    write(replace(result, activity=replace(ours, design="another")), file)
    assert Activity.read(file).design == "another"
    assumed = read(COST, CostResult)
    assert Activity.read(COST) == Activity(assumed.activity.source, 0, assumed.activity.heads)


def test_a_result_without_an_activity_or_its_design_is_refused(tmp_path: Path) -> None:
    file, entry = tmp_path / "activity.json", json.loads(ACTIVITY.read_text())
    with pytest.raises(InputError, match=r"baseline-cpu\.json holds no activity; give the result of"):
        Activity.read(BASELINE)
    entry["activity"].pop("design", None)
    entry["provenance"]["design_hash"] = None
    file.write_text(json.dumps(entry))
    with pytest.raises(InputError, match=r"activity\.json does not say which design"):
        Activity.read(file)
    file.write_text(json.dumps({"activity": activity_json()}))
    with pytest.raises(InputError, match=r"activity\.json is not a result of this version"):
        Activity.read(file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e: e["heads"]["key_level"].update(unit="mV"), "unit 'mV' is not accepted"),
        (lambda e: e["heads"].update(key_level=[0.1]), "key_level lacks unit or kind"),
        (lambda e: e["heads"]["query_pulse"].update(value=[-0.5]), "query_pulse = -0.5 is out of range"),
        (lambda e: e["heads"]["score_active"].update(value=[1.5]), "score_active = 1.5 is out of range"),
        (
            lambda e: e["heads"].pop("score_negative"),
            "allowed are the columns .*score_negative.*; make it again",
        ),
        (
            lambda e: e["heads"].update(query_puls=e["heads"]["query_pulse"]),
            "allowed are the columns layer, head, query_pulse",
        ),
        (lambda e: e.pop("tokens"), "lacks 'tokens'; make it again"),
    ],
)
def test_a_wrong_activity_is_refused(change: Any, message: str) -> None:
    entry = activity_json()
    change(entry)
    with pytest.raises(GaincellError, match=message):
        from_json(Activity, entry)


def test_other_designs_have_an_assumed_activity_too() -> None:
    continuous = DESIGN.replace(storage_levels=None, query_levels=None)
    head: HeadActivity = Activity.assumed(continuous).mean()
    assert head.key_level == pytest.approx(0.225)
    assert head.key_square == pytest.approx(0.9**2 / 12)
    assert of_head(assumed_head(continuous, TECHNOLOGY)).bottom_up.energy > 0
    with pytest.raises(InputError, match="at least one head"):
        Activity("nothing", 0, ())


def test_measurements_are_read_from_a_result(tmp_path: Path) -> None:
    content = json.loads(BASELINE.read_text())
    mine = to_json(Measured("here", 12, 12, 64, 1024, 1e-5, source="a machine"))
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps({**content, "machines": [content["machines"][0], mine]}))
    (found,) = read_measured(file)
    assert (found.title, found.latency, found.energy, found.heads) == ("here", 1e-5, None, 12)
    generic = {**mine, "title": "this cpu, matmul float32, batch 1"}
    file.write_text(json.dumps({**content, "machines": [generic]}))
    (found,) = read_measured(file)
    assert found.title == f"{content['provenance']['hardware']['cpu']}, matmul float32, batch 1"
    mine["latency"]["unit"] = "us"
    file.write_text(json.dumps({**content, "machines": [mine]}))
    with pytest.raises(InputError, match="unit 'us' is not accepted"):
        read_measured(file)
    file.write_text("{}")
    with pytest.raises(InputError, match="is not a result of this version"):
        read_measured(file)


def test_machines_of_other_sizes_have_no_ratio() -> None:
    wider = [replace(run, head_dim=128) for run in published().values()]
    rows = comparison(of_head(HEAD), 12, wider)
    assert all(row.latency_over_cited is None and row.energy_over_bottom_up is None for row in rows)


def test_the_time_of_a_batch_is_compared_with_no_latency() -> None:
    """But the published one, which the paper compares; the caption says how times were taken."""
    rows = {}
    for batch in (1, 8):
        timed = Measured("here", 12, 12, 64, 1024, 1e-5, 1e-3, batch=batch)
        (rows[batch],) = comparison(of_head(HEAD), 12, [timed])
    assert rows[1].latency_over_cited == pytest.approx(1e-5 / 65e-9)
    assert rows[8].latency_over_cited is rows[8].latency_over_bottom_up is None
    assert rows[8].energy_over_cited == rows[1].energy_over_cited
    (paper, *_) = comparison(of_head(HEAD), 12, [published()["rtx-4090"]])
    assert paper.latency_over_cited == pytest.approx(344, abs=0.5)
    result = read(BASELINE.with_name("cost-gpt2.json"), CostResult)
    caption = system_costs.machines(replace(result, machines=(rows[1], rows[8]))).caption
    assert "time by the clock, or, where that is less, of its one thread on the processor" in caption
    assert "With a batch above 1 it is the time of a step over the batch, no latency" in caption
    assert "other sizes" not in caption
