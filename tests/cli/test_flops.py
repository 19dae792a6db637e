"""What `flops` builds, counts, shows and writes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from lightning_weightwatch.cli import flops
from lightning_weightwatch.cli.built_model import parsed_arguments
from lightning_weightwatch.cli.main import main
from tests.cli.commands import (
    help_of,
    process,
    unread,
    with_a_full_disk,
)
from tests.cli.test_terminal import ESCAPE, on_a_terminal

MODELS = Path(__file__).with_name("models_to_build.py")
NET = ["flops", f"{MODELS}:Net", "--init", "width=10", "--input", "8,2"]


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command that succeeds prints; on stderr only what the file of the models does."""
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.err in ("", "loading the models\n")
    return said.out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The one line of ours that a person is told."""
    assert main(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    (line,) = said.err.removeprefix("loading the models\n").splitlines()
    before, _, message = line.partition("lightning-weightwatch: error: ")
    assert before == ""
    assert message.isprintable()
    return message


def counted(capsys: pytest.CaptureFixture[str], model: str, *arguments: str) -> Any:
    """The JSON of a model of the file."""
    return json.loads(printed(capsys, "flops", f"{MODELS}:{model}", *arguments, "--json", "-"))


def test_a_class_is_built_with_its_arguments_and_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = counted(capsys, "Net", "--init", "width=10", "--init", "act=tanh", "--input", "8,2")
    assert found["summary"]["forward_flops"] == 8 * 2 * (2 * 10 + 10 * 3)
    assert found["summary"]["training_step_flops"] == 3 * 8 * 2 * (2 * 10 + 10 * 3)
    assert found["summary"]["parameters"] == 2 * 10 + 10 + 10 * 3 + 3
    assert found["file"] == f"{MODELS}:Net"
    assert found["settings"]["arguments"] == {"width": 10, "act": "tanh"}
    assert found["settings"]["inputs"] == ["8,2"]
    assert (found["device"], found["batch_size"], found["ran"]) == ("meta", 8, "forward")
    types = {row["name"]: row["type"] for row in found["modules"]}
    assert types["body.1"] == "Tanh"
    assert {row["name"]: row["forward"] for row in found["modules"]}["head"] == 8 * 2 * 30
    assert [item["operation"] for item in found["uncounted"]] == ["aten.tanh"]


@pytest.mark.parametrize(
    ("texts", "arguments"),
    [
        (["a=1", "b=-2.5", "c=1e-3"], {"a": 1, "b": -2.5, "c": 0.001}),
        (["a=[2,2]", 'b={"x": null}'], {"a": [2, 2], "b": {"x": None}}),
        (["a=true", "b=True", "c=None", "d=null"], {"a": True, "b": True, "c": None, "d": None}),
        (["a=relu", "b=", "c=a=b", 'd="3"'], {"a": "relu", "b": "", "c": "a=b", "d": "3"}),
    ],
)
def test_arguments_are_json_or_texts(texts: list[str], arguments: dict[str, Any]) -> None:
    assert parsed_arguments(texts) == arguments


@pytest.mark.parametrize(
    ("model", "given", "expected"),
    [
        ("Words", ["ids=2,3:int64", "mask=2,3"], 2 * 3 * 2 * 4 * 10),
        ("Words", ["2,3:long", "mask=2,3:bool"], 2 * 3 * 2 * 4 * 10),
        ("Words", ["2,3:long", "2,3:bool"], 2 * 3 * 2 * 4 * 10),
        ("Batch", ["x=2,4"], 2 * 2 * 4),
        ("deep", ["7,4"], 7 * 300 * 2 * 16),
        ("ready", ["3,4"], 3 * 2 * 16),
        ("Steps", ["3,4", "3:int64"], 3 * 2 * 8),
        ("Lit", ["3,4"], 3 * 2 * 8),
        ("Lit", [], 5 * 2 * 8),
    ],
)
def test_inputs_reach_the_model_by_place_and_by_name(
    model: str, given: list[str], expected: int, capsys: pytest.CaptureFixture[str]
) -> None:
    found = counted(capsys, model, *(part for text in given for part in ("--input", text)))
    assert found["summary"]["forward_flops"] == expected
    assert found["ran"] == ("training_step" if model == "Steps" else "forward")


def test_the_batch_is_the_first_dimension_of_the_first_input(
    capsys: pytest.CaptureFixture[str],
) -> None:
    made = ["torch.nn:MultiheadAttention", "--init", "embed_dim=8", "--init", "num_heads=2"]
    inputs = ["--input", "query=4,2,8", "--input", "key=5,2,8", "--input", "value=5,2,8"]
    found = json.loads(printed(capsys, "flops", *made, *inputs, "--json", "-"))
    assert found["batch_size"] == 4


@pytest.mark.parametrize("separator", [":", "."])
def test_an_import_path_is_looked_for_in_the_current_folder_first(
    separator: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = f"zoo_{ord(separator)}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("from .birds import birds\n")
    (tmp_path / package / "birds.py").write_text(
        "from torch import nn\n"
        "class Nest:\n"
        "    @staticmethod\n"
        "    def made(size=2):\n"
        "        return nn.Linear(size, 1)\n"
        "birds = Nest.made\n"
    )
    monkeypatch.chdir(tmp_path)
    path = list(sys.path)
    for name in (f"{package}.birds{separator}Nest.made", f"{package}{separator}birds"):
        text = printed(capsys, "flops", name, "--init", "size=50", "--input", "1,50")
        assert text.startswith(f"{name} on 1×50\n")
        assert "100 FLOP = 50 MAC" in text
    assert sys.path == path
    told = refused(capsys, "flops", f"{package}.birds.nest", "--input", "1,2")
    assert "Did you mean Nest" in told
    over = ["--csv", f"{package}/birds.py"]
    told = refused(capsys, "flops", f"{package}.birds:Nest.made", "--input", "1,2", *over)
    assert "it is the file that is read" in told


def test_a_file_finds_what_lies_beside_it_and_leaves_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "width_of_it.py").write_text("WIDTH = 3\n")
    (tmp_path / "net.py").write_text(
        "from torch import nn\nfrom width_of_it import WIDTH\nnet = nn.Linear(WIDTH, 1)\n"
    )
    printed(capsys, "flops", f"{tmp_path / 'net.py'}:net", "--input", "1,3")
    assert "net" not in sys.modules


def test_a_model_of_terabytes_takes_no_memory(capsys: pytest.CaptureFixture[str]) -> None:
    found = counted(capsys, "Huge", "--input", "2,1000000")
    assert found["summary"]["forward_flops"] == 2 * 2 * 10**12
    assert found["summary"]["parameter_bytes"] == 4 * 10**12
    told = refused(capsys, "flops", f"{MODELS}:Huge", "--input", "2,7")
    assert "cannot be run on 2×7 in fc (Linear): RuntimeError: " in told


def test_a_model_that_asks_for_values_is_built_and_run_for_real(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = printed(capsys, "flops", f"{MODELS}:Asks", "--input", "3,4")
    assert "48 FLOP = 24 MAC" in text
    assert "Counted on cpu and not on the meta device: " in text


def test_a_profile_has_the_times_of_modules(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [*NET[1:], "--profile", "--device", "cpu"]
    text = printed(capsys, "flops", *arguments)
    assert text.startswith(f"{MODELS}:Net on 8×2, timed on cpu\n")
    assert " a forward pass, " in text
    found = json.loads(printed(capsys, "flops", *arguments, "--json=-"))
    times = {row["name"]: row["seconds"] for row in found["modules"]}
    assert 0 < times["body.0"] < times["body"] < times["Net"] == found["summary"]["seconds"]


def test_steps_and_samples_are_told_of_with_their_costs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    asked = ["--steps", "2000", "--samples", "3"]
    text = printed(capsys, *NET, *asked)
    assert "2,000 training steps  4.800 MFLOP\n" in text
    assert "3 samples             300 FLOP forward\n" in text
    found = json.loads(printed(capsys, *NET, *asked, "--json=-"))
    assert found["training_flops"] == 2000 * 3 * 800
    assert found["inference_flops"] == 3 * 100
    plain = json.loads(printed(capsys, *NET, "--json=-"))
    assert {"training_flops", "inference_flops"}.isdisjoint(plain)


def test_an_operation_of_unknown_cost_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "flops", f"{MODELS}:Spectrum", "--input", "1,64")
    assert "Not counted, of unknown cost: aten._fft_r2c ×1." in text


def test_the_csv_has_a_row_for_each_module_with_what_the_json_has(
    capsys: pytest.CaptureFixture[str],
) -> None:
    modules = json.loads(printed(capsys, *NET, "--json", "-"))["modules"]
    rows = list(csv.DictReader(io.StringIO(printed(capsys, *NET, "--csv", "-"))))
    assert [row["name"] for row in rows] == ["Net", "body", "body.0", "body.1", "head"]
    for row, module in zip(rows, modules, strict=True):
        assert int(row["forward"]) == module["forward"]
        assert float(row["parameters_share"]) == module["parameters_share"]


@pytest.mark.parametrize("extension", ["png", "PNG", "svg", "pdf"])
def test_the_figure_is_written_in_the_format_of_its_name(
    extension: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / f"hot.{extension}"
    text = printed(capsys, *NET, "--figure", str(target))
    assert text.endswith(f"The hot spots are in {target}.\n")
    content = target.read_bytes()
    if extension == "svg":
        assert ElementTree.fromstring(content).tag == "{http://www.w3.org/2000/svg}svg"
    else:
        assert content.startswith(b"%PDF-" if extension == "pdf" else b"\x89PNG\r\n")


def test_markdown_has_the_tables_under_a_heading(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "net.md"
    printed(capsys, *NET, "--markdown", str(target))
    text = printed(capsys, *NET, "--markdown", "-")
    assert text == target.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "| body.0 | Linear | 8×10 | 30 |" in text


def test_300_modules_fill_a_terminal_and_a_pipe_has_all(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown, _, code = on_a_terminal("stdout", 80, "flops", f"{MODELS}:deep", "--input", "1,4")
    lines = ESCAPE.sub("", shown).split("\n")
    assert code == 0
    assert max(map(len, lines)) <= 80
    assert "321 of 361 modules are not shown; --depth 2 shows all." in lines
    assert len(lines) < 70
    assert any(line.startswith("  0 ") for line in lines)
    text = printed(capsys, "flops", f"{MODELS}:deep", "--input", "1,4")
    assert "\n59.4" in text
    assert "not shown" not in text
    told = printed(capsys, "flops", f"{MODELS}:deep", "--input", "1,4", "--depth", "1")
    assert "300 of 361 modules are not shown; --depth 2 shows all." in told
    assert "\n59.4" not in told


def test_the_number_of_hot_spots_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    for top in (1, 7):
        text = printed(
            capsys, "flops", f"{MODELS}:deep", "--input", "1,4", "--depth", "0", "--top", str(top)
        )
        assert text.count(" #1") == 2 * top


def test_the_figure_has_as_many_hot_spots_as_are_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = []
    for top in ("1", "12"):
        target = tmp_path / f"{top}.svg"
        deep = ["flops", f"{MODELS}:deep", "--input", "1,4", "--depth", "0"]
        printed(capsys, *deep, "--top", top, "--figure", str(target))
        sizes.append(float(ElementTree.parse(target).getroot().attrib["height"].rstrip("pt")))
    assert sizes[1] > 2 * sizes[0]


def test_code_that_goes_elsewhere_and_sets_the_dtype_is_followed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "far.py").write_text(
        "import os, torch\n"
        "torch.set_default_dtype(torch.float64)\n"
        "os.chdir('elsewhere')\n"
        "class Net(torch.nn.Linear):\n"
        "    def __init__(self):\n"
        "        super().__init__(4, 3)\n"
        "    def forward(self, x):\n"
        "        assert x.dtype == torch.float64\n"
        "        return super().forward(x)\n"
    )
    monkeypatch.chdir(tmp_path)
    try:
        for extra in ([], ["--profile"]):
            printed(capsys, "flops", "far.py:Net", "--input", "2,4", "--json", "far.json", *extra)
            found = json.loads((tmp_path / "far.json").read_text(encoding="utf-8"))
            assert found["summary"]["forward_flops"] == 2 * 2 * 4 * 3
            assert found["fallback"] == ""
            assert Path.cwd() == tmp_path
    finally:
        torch.set_default_dtype(torch.float32)
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize("output", ["table", "--json", "--csv", "--markdown"])
def test_hostile_names_do_no_harm_anywhere(
    output: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = [] if output == "table" else [output, "-"]
    figure = ["--figure", str(tmp_path / "a.png")]
    text = printed(capsys, "flops", f"{MODELS}:hostile", "--input", "1,4", *asked, *figure)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "[red]a" in text.replace("\\[", "[").replace("\\]", "]")
    if output == "--csv":
        assert "\n'=cmd" in text
    if output == "--markdown":
        assert "<b>" not in text


WRONG: list[tuple[Sequence[str], str]] = [
    (["flops"], "required: MODEL"),
    (["flops", "NET:Batch"], "say what it is run on, with --input SHAPE"),
    (["flops", "NET:Ne"], "has no Ne. Did you mean Net?"),
    (["flops", "NET:Transformer"], "has no Transformer. There are: Asks, Batch, "),
    (["flops", "NET"], "a module; give MODULE:NAME. There are: Asks, Batch, Fault, "),
    (["flops", "torch.nn"], "a module; give MODULE:NAME. There are: "),
    (["flops", "no.such:Net"], "there is no module no.such"),
    (["flops", "nosuch.Net"], "there is no module nosuch"),
    (["flops", "nosuch.py:Net"], "nosuch.py: no such file"),
    (["flops", "a b:Net"], "must be package.module:Name or file.py:Name"),
    (["flops", "NET:Size"], "is a class, but not of nn.Module"),
    (["flops", "NET:number"], "is of type int: give a class or a function"),
    (["flops", "NET:table"], "returned a value of type dict, not an nn.Module"),
    (["flops", "NET:leaves"], "cannot be built: SystemExit: gone"),
    (["flops", "NET:ready", "--init", "a=1"], "is a model already: --init is for"),
    (["flops", "NET:Nothing", "--input", "1"], "neither a forward nor a training_step"),
    (["flops", "NET:Net", "--init", "width=0"], "ValueError: width must be positive, (models_to"),
    (
        ["flops", "NET:Net", "--init", "width=1", "--init", "wide=0"],
        "unexpected keyword argument 'wide'",
    ),
    (["flops", "NET:Net", "--init", "3=0"], "--init 3=0: must be NAME=VALUE"),
    (["flops", "NET:Net", "--init", "width"], "--init width: must be NAME=VALUE"),
    (["flops", "NET:Net", "--init", "a=1", "--init", "a=2"], "a is given twice"),
    (["flops", "NET:ready", "--input", "1,x"], "must be sizes with commas"),
    (["flops", "NET:ready", "--input", "1,0"], "Sizes are 1 or more"),
    (["flops", "NET:ready", "--input=-1,4"], "Sizes are 1 or more"),
    (["flops", "NET:ready", "--input", ""], "must be sizes with commas"),
    (["flops", "NET:ready", "--input", "1,4:int46"], "'int46' is no dtype. There are: float32, "),
    (["flops", "NET:ready", "--input", "1,4:nn"], "'nn' is no dtype"),
    (["flops", "NET:ready", "--input", "1-2=1,4"], "a name before an equals sign"),
    (["flops", "NET:ready", "--input", "a=1", "--input", "a=2"], "--input a=...: given twice"),
    (["flops", "NET:ready", "--input", "9" * 30], "too large for the memory"),
    (["flops", "NET:ready", "--input", "1,4", "--input", "1"], "too many positional arguments"),
    (["flops", "NET:ready", "--input", "x=1,4"], "forward(input: torch.Tensor): missing a"),
    (["flops", "NET:ready", "--input", "2,5"], "cannot be run on 2×5: RuntimeError: mat1 and"),
    (["flops", "NET:Batch", "--input", "y=2,5"], "KeyError: 'x' (models_to_build.py, line 5"),
    (["flops", "NET:Faulty", "--input", "2,4"], "in blocks.1 (Fault): LookupError: no \\x1b[31m["),
    (["flops", "NET:ready", "--device", "cpu"], "--device is for --profile"),
    (["flops", "NET:ready", "--device", "meta", "--profile"], "--device meta: "),
    (["flops", "NET:ready", "--device", "abacus", "--profile"], "--device abacus: "),
    (["flops", "NET:ready", "--depth", "-1"], "--depth"),
    (["flops", "NET:ready", "--top", "0"], "integer of 1 or more, got '0'"),
    (["flops", "NET:ready", "--steps", "many"], "integer of 1 or more, got 'many'"),
    (["flops", "NET:ready", "--figure", "a.gif"], "must end in .png, .svg, .pdf"),
    (["flops", "NET:ready", "--figure", "no/a.png"], "No such file"),
    (["flops", "NET:ready", "--json", "NET"], "it is the file that is read"),
    (["flops", "NET:ready", "--csv", "."], "it is a folder"),
    (["flops", "NET:ready", "--json", "a", "--csv", "a"], "the same file"),
    (["flops", "NET:ready", "--layers", "a"], "--layers"),
]


@pytest.mark.parametrize(("arguments", "told"), WRONG, ids=[" ".join(row[0]) for row in WRONG])
def test_what_cannot_be_done_is_told_in_one_line(
    arguments: Sequence[str],
    told: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    content = MODELS.read_bytes()
    assert told in refused(capsys, *(text.replace("NET", str(MODELS)) for text in arguments))
    assert list(tmp_path.iterdir()) == []
    assert MODELS.read_bytes() == content


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import no_such_package", "ModuleNotFoundError: No module named 'no_such_package'"),
        ("from . import sizes", "parent package (net.py, line 1). Give it as package.module:Name"),
        ("import sys\nsys.exit(3)", "SystemExit: 3 (net.py, line 2)"),
        ("def f(:", "SyntaxError: invalid syntax"),
        ("1 / 0", "ZeroDivisionError: division by zero (net.py, line 1)"),
    ],
)
@pytest.mark.parametrize("how", ["file", "module"])
def test_a_file_that_cannot_be_imported_is_told_in_one_line(
    code: str,
    told: str,
    how: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(code)
    message = refused(capsys, "flops", "net.py:Net" if how == "file" else "net:Net")
    assert "cannot be imported" in message
    assert told.partition(". Give")[0] in message


def test_ctrl_c_ends_without_a_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(flops, "count_flops", interrupt)
    assert main([*NET, "--json", str(tmp_path / "a.json")]) == 130
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file_and_shows_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = with_a_full_disk(capsys, tmp_path / "a.png", *NET, "--figure")
    assert "800 FLOP = 400 MAC" in shown
    assert "The hot spots are in" not in shown


@pytest.mark.skipif(sys.platform == "win32", reason="no closed pipes like this")
def test_a_reader_that_goes_away_is_no_fault() -> None:
    assert unread(*NET) == (141, b"loading the models\n")


def test_what_the_file_of_a_model_prints_does_not_get_into_the_numbers() -> None:
    done = process(*NET, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "loading the models\n")
    assert json.loads(done.stdout)["summary"]["macs"] == 400


def test_help_fits_a_terminal_of_80_columns_and_says_that_code_is_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = help_of(capsys, "flops")
    assert "usage: lightning-weightwatch flops MODEL [options]" in text
    for option in ("input", "init", "profile", "device", "depth", "top", "steps", "samples"):
        assert f"--{option} " in text
    for option in ("json", "csv", "markdown", "figure"):
        assert f"--{option} F" in text
    assert "Its code is run" in text
    assert "<" not in text


LOADED = """
import sys
from lightning_weightwatch.cli.main import main
try:
    main({arguments!r})
except SystemExit:
    pass
heavy = ("torch", "lightning", "torchmetrics", "tensorboard", "matplotlib")
print(*(name for name in heavy if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize("what", ["--help", "counts", "draws"])
def test_no_more_is_loaded_than_is_needed(what: str, tmp_path: Path) -> None:
    arguments = ["flops", "torch.nn:Linear", "--init", "in_features=3", "--init", "out_features=2"]
    arguments += ["--input", "1,3"]
    arguments += ["--help"] * (what == "--help")
    arguments += ["--figure", str(tmp_path / "a.png")] * (what == "draws")
    code = LOADED.format(arguments=arguments)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    expected = {"--help": [], "counts": ["torch"], "draws": ["torch", "matplotlib"]}[what]
    assert done.stderr.split() == expected
