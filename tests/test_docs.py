"""Sources of the documentation: notebooks without outputs, links between files that lead somewhere."""

from __future__ import annotations

import ast
import inspect
import json
import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file

import gaincell

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def links(text: str) -> list[str]:
    """Targets of Markdown links and pictures outside code."""
    text = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", text)


def test_every_page_of_the_site_is_in_a_table_of_contents() -> None:
    """The site's build refuses one that is not."""
    docs = ROOT / "docs"
    listed = {"index"}
    for page in docs.rglob("*.md"):
        for block in re.findall(r"```{toctree}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            names = [line.strip() for line in block.splitlines() if line.strip() and not line.startswith(":")]
            listed |= {(page.parent / name).resolve().relative_to(docs).as_posix() for name in names}
    pages = {path.relative_to(docs).with_suffix("").as_posix() for path in docs.rglob("*.md")}
    assert not pages - listed


def test_pages_link_to_no_page_or_folder_outside_the_site() -> None:
    """Files are copied into the site; other pages and folders cannot be, unless in place of a page's text."""
    for path in (ROOT / "docs").rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        if text.startswith("The site takes the text of this page from "):
            continue
        targets = [(path.parent / link.partition("#")[0]) for link in links(text)]
        outside = [target for target in targets if not target.resolve().is_relative_to(ROOT / "docs")]
        assert not [target for target in outside if target.suffix == ".md" or target.is_dir()], path.name


@pytest.mark.parametrize("path", [*PAGES, ROOT / "docs" / "report.html"], ids=lambda path: path.name)
def test_pages_hold_no_objects_of_python(path: Path) -> None:
    assert not re.search("bound method| object at 0x", path.read_text(encoding="utf-8"))


README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_is_for_strangers() -> None:
    """Short, with what `.ci/run` and CONTRIBUTING.md call, one picture, and where everything else is."""
    assert len(README.splitlines()) <= 120
    assert README.count("![") == 1
    for word in (
        "make demo",
        "make test",
        "make docs",
        ".venv/bin/activate",
        "'.[eval,train]'",
        "gaincell doctor",
    ):
        assert word in README
    for address in (
        "https://arxiv.org/abs/2409.19315",
        "CITATION.cff",
        "docs/limits.md",
        "docs/installation.md",
    ):
        assert f"]({address})" in README


@pytest.mark.slow
def test_the_example_of_the_readme_runs_as_it_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Twelve lines; what it prints is near the result of the whole mapping, on other text."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 12
    monkeypatch.chdir(tmp_path)
    exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "runs" / "python" / "hardware.safetensors").is_file()
    stages = json.loads((ROOT / "docs" / "results" / "tiny.json").read_text(encoding="utf-8"))["stages"]
    adapted = next(stage["perplexity"]["value"] for stage in stages if stage["name"] == "adapted")
    assert float(capsys.readouterr().out) == pytest.approx(adapted, rel=0.15)


def test_the_commands_are_on_one_page() -> None:
    page = (ROOT / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")
    for path in (ROOT / "src" / "gaincell" / "cli").glob("[a-z]*.py"):
        assert f"gaincell {path.stem.replace('_', '-')} " in page, path.stem
    adapt = "".join(re.findall(r"^    gaincell adapt .*$", page, re.MULTILINE))
    for option in ("--cell KIND|DEVICE.toml|CURVE.csv", "--start", "--rule", "--iterations"):
        assert option in adapt


def test_the_glossary_explains_our_words() -> None:
    """Those of tables, options and stage names that the field does not use, in alphabetical order."""
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```{glossary}\n(.*?)```", page, re.DOTALL)
    terms = [line for line in block.splitlines() if line and not line.startswith(" ")]
    assert terms == sorted(terms, key=str.lower)
    ours = (
        "activity adapter attached chip code continued design device draw fidelity lap linear-hardware-model "
    )
    ours += (
        "mapping mixing neutral-start nominal normaliser paired-rows pause protocol recipe refresh ring RUN "
    )
    ours += "scaling-stage silent step sub-tile surrogate sweep token-period unadapted virtual-chip yield"
    assert not {word.replace("-", " ") for word in ours.split() if word != "sub-tile"} - set(terms)
    assert "sub-tile" in terms


def test_the_examples_for_clusters_start_a_training(tmp_path: Path) -> None:
    """The Slurm script, with programs that only say what they were called with; the file for accelerate."""
    for name, said in (("srun", 'echo "$@"'), ("scontrol", "echo node0; echo node1")):
        (tmp_path / name).write_text(f"#!/bin/bash\n{said}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {
        "SLURM_JOB_NODELIST": "node[0-1]",
        "SLURM_NNODES": "2",
        "SLURM_GPUS_ON_NODE": "8",
        "SLURM_JOB_ID": "7",
    }
    done = subprocess.run(
        ["bash", str(ROOT / "docs/cluster/train.sbatch"), "recipes/gpt2.toml", "TEXT", "runs/gpt2"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"} | slurm, capture_output=True, text=True, check=True,
    )  # fmt: skip
    launched, _, command = done.stdout.strip().partition(" -m gaincell ")
    assert launched.startswith("torchrun --nnodes 2 --nproc_per_node 8 ")
    assert launched.endswith("--rdzv_endpoint node0:29500")
    assert command == "train recipes/gpt2.toml --text TEXT --out runs/gpt2 --device cuda"
    config = load_config_from_file(str(ROOT / "docs/cluster/accelerate.yaml"))
    assert (config.num_machines, config.num_processes) == (2, 16)


def test_a_large_model_stays_within_its_memory() -> None:
    """Peak resident sizes of benchmarks/memory.py, and the page that shows them."""
    bench = json.loads((ROOT / "benchmarks" / "results" / "memory.json").read_text(encoding="utf-8"))
    assert bench["limit_bytes"] == 1.25 * bench["weights_bytes"] + 1.5 * 2**30
    for step in ("load", "fit", "map", "evaluate", "generate"):
        assert bench["weights_bytes"] < bench["steps"][step]["peak_bytes"] <= bench["limit_bytes"], step
    page = (ROOT / "docs" / "large_models.md").read_text(encoding="utf-8")
    for step in bench["steps"].values():
        assert f"| {step['peak_bytes'] / 2**30:.2f} |" in page, "python docs/readme.py"


def test_cheaper_gradients_are_as_near_in_every_layer_as_the_page_says() -> None:
    from training_page import gradients_by_layer

    bench = json.loads((ROOT / "benchmarks" / "results" / "gradients.json").read_text(encoding="utf-8"))
    assert len(bench["off"]["bf16"]) == len(bench["off"]["surrogate"]) == 6
    for layer, surrogate in zip(bench["off"]["bf16"], bench["off"]["surrogate"], strict=True):
        assert all(0.0 < layer[part] < 0.012 for part in "qkv")
        assert all(layer[part] < 0.1 * surrogate[part] for part in layer)
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    assert gradients_by_layer(bench) in page, "python docs/readme.py"


def test_the_demo_ends_by_saying_what_comes_next() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ndemo:")[2].partition("\n\n")[0]
    after = recipe.partition("gaincell map tiny")[2]
    assert ".venv/bin/activate" in after.replace("$(BIN)", ".venv/bin")
    assert "gaincell generate runs/demo" in after


def test_every_public_name_stands_on_the_page_of_the_python_interface() -> None:
    page = (ROOT / "docs" / "api" / "index.md").read_text(encoding="utf-8")
    home = {name: getattr(gaincell, name).__module__ for name in gaincell.__all__ if name != "__version__"}
    missing = [name for name, module in home.items() if f"`{name} <{module}.{name}>`" not in page]
    assert not missing
    assert "`__version__`" in page


def test_there_are_three_notebooks() -> None:
    assert len(NOTEBOOKS) >= 3


@pytest.mark.parametrize(
    "path", ["setup.py", "src/gaincell/cli/__init__.py", "README.md", "docs/installation.md"]
)
def test_the_repository_has_one_address(path: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    text = (ROOT / path).read_text(encoding="utf-8")
    found = re.findall(r"https://github\.com/[\w-]+/gaincell\b", text)
    assert set(found) == {project["urls"]["Repository"]}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_open_in_colab(path: Path) -> None:
    """At the address of the repository; the first code that runs installs what is missing of what the others
    import.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    place = project["urls"]["Repository"].replace(
        "https://github.com", "https://colab.research.google.com/github"
    )
    first, install, *others = json.loads(path.read_text(encoding="utf-8"))["cells"]
    assert f"]({place}/blob/main/notebooks/{path.name})" in "".join(first["source"])
    installs = "".join(install["source"])
    assert 'find_spec("gaincell") is None:\n    %pip' in installs or '("gaincell", "pandas")' in installs
    assert "%pip install --quiet" in installs
    assert ("pandas" in installs) == any("import pandas" in "".join(cell["source"]) for cell in others)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_hold_no_outputs(path: Path) -> None:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_notebooks_call_what_there_is(path: Path) -> None:
    """Every name that a notebook takes from here is there, and takes the arguments that it is given."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = "".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "code")
    tree, known, checked = ast.parse(re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", code)), dict[str, object](), 0
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)) and "gaincell" in ast.unparse(node):
            exec(ast.unparse(node), known)
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(call.func)
        if not re.fullmatch(r"[\w.]+", name) or name.partition(".")[0] not in known:
            continue
        if any(isinstance(one, ast.Starred) for one in call.args) or not all(k.arg for k in call.keywords):
            continue
        of = eval(name, known)
        inspect.signature(of).bind(*call.args, **{str(word.arg): word for word in call.keywords})
        checked += 1
    assert checked


@pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_lead_somewhere(path: Path) -> None:
    """As the repository is read, on a disk or on a web page of it."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
        text = "\n".join("".join(cell["source"]) for cell in cells)
    here = path.parent
    local = [link.partition("#")[0] for link in links(text) if not link.startswith(("http", "#", "mailto"))]
    assert not [link for link in local if not (here / link).exists()]
