"""The text of compiled programs, as it is read."""

import pytest

from benchmarks.aot import hlo
from benchmarks.aot.shapes import Array, parse_type


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[3,5]{1,0}", 60),
        ("f32[3,5]", 60),
        ("f32[]", 4),
        ("pred[7]{0}", 7),
        ("s4[7]{0}", 4),
        ("u4[4,4]{1,0:T(8,128)(8,1)E(4)}", 8 * 128 // 2),
        ("f8e4m3fn[10]{0}", 10),
        ("c128[2]{0}", 32),
        ("token[]", 0),
        ("f32[0,5]{1,0}", 0),
        ("f32[<=6,5]{1,0}", 120),
        ("f32[]{:T(128)S(6)}", 512),
        ("f32[9,129]{1,0:T(8,128)}", 16 * 256 * 4),
        ("f32[9,129]{0,1:T(8,128)}", 136 * 128 * 4),
        ("bf16[2,9,129]{2,1,0:T(8,128)(2,1)}", 2 * 16 * 256 * 2),
        ("bf16[2,9,129]{2,0,1:T(8,128)(2,1)}", 9 * 8 * 256 * 2),
        ("bf16[1,129]{1,0:T(1,128)(2,1)}", 2 * 256 * 2),
        ("bf16[300]{0:T(1024)(128)(2,1)}", 2048),
    ],
)
def test_the_bytes_of_an_array_are_padded_to_its_tiles(text, size):
    assert parse_type(text).bytes == size


def test_types_are_read_whole():
    bf16 = Array("bf16", (4, 6), (0, 1), ((8, 128), (2, 1)), 1, 16)
    assert parse_type("bf16[4,6]{0,1:T(8,128)(2,1)S(1)}") == bf16
    nested = parse_type("(s32[], /*index=5*/(bf16[4,6]{0,1:T(8,128)(2,1)S(1)}, ()), token[])")
    assert nested[1] == (bf16, ())
    assert [type(each) for each in nested] == [Array, tuple, Array]


@pytest.mark.parametrize("text", ["f32", "f32[2", "wide[3]", "f32[3]{1,0}", "(f32[], ", "(f32[] )"])
def test_what_is_no_type_is_refused(text):
    with pytest.raises(ValueError, match=r"type|bracket|layout"):
        parse_type(text)


ANNOTATED = """\
HloModule jit_f, is_scheduled=true, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

FileNames
1 "a { file.py"

StackFrames
1 {file_location_id=1 parent_frame_id=1}


%double (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0), metadata={op_name="x\x0c, calls=%none }"}
  ROOT %add = f32[2]{0} add(%p, /*index=1*/%p), sharding={replicated}
}

ENTRY %main.1 (x: f32[2]) -> (f32[2], s32[]) {
  %one = s32[] constant(1)
  %x = f32[2]{0} parameter(0), frontend_attributes={mesh = m<["d"=1]>}, metadata={op_name="\\"x\\""}
  %twice.3 = f32[2]{0} fusion(%x), kind=kLoop, calls=%double, backend_config={"a":{"b":["1"]}}
  ROOT %both = (f32[2]{0}, s32[]) tuple(%twice.3, %one)
}
"""


def test_a_module_is_read_whole():
    read = hlo.parse(ANNOTATED)
    assert (read.name, read.entry.name, list(read.computations)) == (
        *("jit_f", "main.1"),
        ["double", "main.1"],
    )
    one, x, twice, both = read.entry.instructions.values()
    assert (one.literal, x.opcode, x.attributes) == ("1", "parameter", {})
    assert twice.attributes["backend_config"] == '{"a":{"b":["1"]}}'
    assert read.called(twice).root.operands == ("p", "p")
    assert read.called(twice, "calls").parameters[0].attributes == {}
    assert both == read.entry.root
    assert both.operands == ("twice.3", "one")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", is_scheduled=true", "", "not the header of a scheduled HLO module: HloModule jit_f"),
        ("HloModule", "module @jit_f", "not the header"),
        ("FileNames", "Names", "neither a computation nor a table of sources: Names"),
        ("ENTRY ", "", "no ENTRY"),
        ("  %one = s32[] constant(1)", "  garbage", "not an instruction:   garbage"),
        ("s32[] constant(1)", "s32 constant(1)", "not a type:   %one = s32 constant"),
        ("s32[] constant(1)", "i32[] constant(1)", r"unknown type i32.*%one = i32"),
        ("s32[] constant(1)", "s32[] (1)", r"no opcode after the type:   %one = s32\[\] \(1\)"),
        ("constant(1)", "constant(1", "bracket is not closed:   %one"),
        ("constant(1)", "constant(1) and more", "not an attribute after the operands:   %one"),
        ('["1"]}}', '["1"]}', "brackets of backend_config do not match:   %twice"),
        ("(%twice.3, %one)", "(%twice.4, %one)", r"twice.4 is used before.*ROOT %both"),
        ("  ROOT %add", "  %add", "double has no ROOT"),
        ("  ROOT %both = (f32[2]{0}, s32[]) tuple(%twice.3, %one)\n}\n", "", "does not end"),
        ("calls=%double", "calls=%triple", "twice.3 calls triple, which is not there"),
    ],
)
def test_a_text_that_does_not_fit_is_refused_with_its_line(old, new, message):
    assert old in ANNOTATED
    with pytest.raises(ValueError, match=rf"(?s){message}"):
        hlo.parse(ANNOTATED.replace(old, new))


def test_an_empty_text_is_refused():
    with pytest.raises(ValueError, match="not the header"):
        hlo.parse("")
