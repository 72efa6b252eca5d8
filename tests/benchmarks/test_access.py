"""How much of its operands and results a fusion moves, on texts that are checked by hand."""

import pytest

from benchmarks.aot.shapes import type_end
from tests.hlo_text import counted


def fused(*lines, operands, parameters):
    """Count a fusion of these lines, whose last is its root, and of parameters of these types."""
    *first, last = lines
    start = last.index(" = ") + 3
    result = last[start : type_end(last, start)]
    declared = [f"%p{i} = {type_} parameter({i})" for i, type_ in enumerate(parameters)]
    body = [f"  {line}" for line in (*declared, *first)]
    text = "\n".join(["%fused (p: f32[]) -> f32[] {", *body, f"  ROOT {last}", "}", ""])
    given = [f"%x{i} = {parameters[i]} parameter({i})" for i in sorted(set(operands))]
    names = ", ".join(f"%x{i}" for i in operands)
    fusion = f"%f = {result} fusion({names}), kind=kLoop, calls=%fused"
    return counted(*given, fusion, computations=text)["f"]


def test_what_is_inside_a_fusion_stays_on_the_chip():
    assert fused(
        "%a = f32[64]{0} add(%p0, %p1)",
        "%b = f32[64]{0} exponential(%a)",
        "%c = f32[64]{0} multiply(%b, %p0)",
        "%d = (f32[64]{0}, f32[64]{0}) tuple(%b, %c)",
        operands=[0, 1],
        parameters=["f32[64]{0}", "f32[64]{0}"],
    ) == (512, 512)


def test_an_operand_given_twice_is_read_once():
    line = "%a = f32[64]{0} add(%p0, %p1)"
    types = ["f32[64]{0}", "f32[64]{0}"]
    assert fused(line, operands=[0, 0], parameters=types) == (256, 256)
    slices = [f"%s{i} = f32[1]{{0}} slice(%p{i}), slice={{[{i}:{i + 1}]}}" for i in (0, 1)]
    both = "%a = f32[1]{0} add(%s0, %s1)"
    assert fused(*slices, both, operands=[0, 0], parameters=types) == (8, 4)


@pytest.mark.parametrize(
    ("lines", "read"),
    [
        (["%a = f32[1,64]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,64}"], 260),
        (
            [
                "%v = f32[512]{0} bitcast(%p0)",
                "%a = f32[64]{0} dynamic-slice(%v, %p1), dynamic_slice_sizes={64}",
            ],
            260,
        ),
        (
            [
                "%v = bf16[8,64]{1,0} convert(%p0)",
                "%w = bf16[64,8]{0,1} transpose(%v), dimensions={1,0}",
                "%a = bf16[64,2]{0,1} slice(%w), slice={[0:64], [3:5]}",
            ],
            512,
        ),
        (  # a reduction needs all
            [
                "%v = f32[64]{0} reduce(%p0, %p1), dimensions={0}, to_apply=%fused",
                "%a = f32[1]{0} slice(%v), slice={[3:4]}",
            ],
            2052,
        ),
        (  # so does what puts elements elsewhere
            [
                "%v = f32[8,64]{1,0} sort(%p0), dimensions={0}, to_apply=%fused",
                "%a = f32[1,64]{1,0} slice(%v), slice={[3:4], [0:64]}",
            ],
            2048,
        ),
        (  # apart from one another
            [
                "%a = f32[1,64]{1,0} slice(%p0), slice={[0:1], [0:64]}",
                "%b = f32[1,64]{1,0} slice(%p0), slice={[7:8], [0:64]}",
                "%c = f32[1,64]{1,0} add(%a, %b)",
            ],
            512,
        ),
        (  # the same
            [
                "%a = f32[1,64]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,64}",
                "%b = f32[1,64]{1,0} dynamic-slice(%p0, %p1, %p1), dynamic_slice_sizes={1,64}",
                "%c = f32[1,64]{1,0} add(%a, %b)",
            ],
            260,
        ),
        (  # the same, of which one takes less
            [
                "%a = f32[4,64]{1,0} slice(%p0), slice={[0:4], [0:64]}",
                "%b = f32[4,64]{1,0} slice(%p0), slice={[0:4], [0:64]}",
                "%c = f32[1,64]{1,0} slice(%a), slice={[0:1], [0:64]}",
                "%d = (f32[4,64]{1,0}, f32[1,64]{1,0}) tuple(%b, %c)",
            ],
            1024,
        ),
        (  # shifted against one another
            [
                "%a = f32[3,64]{1,0} slice(%p0), slice={[1:4], [0:64]}",
                "%b = f32[3,64]{1,0} slice(%p0), slice={[2:5], [0:64]}",
                "%c = f32[3,64]{1,0} slice(%p0), slice={[3:6], [0:64]}",
                "%d = f32[3,64]{1,0} add(%a, %b)",
                "%e = f32[3,64]{1,0} add(%c, %d)",
            ],
            5 * 256,
        ),
        (  # shifted against one another and the whole
            [
                "%z = f32[] constant(0)",
                "%v = f32[10,64]{1,0} pad(%p0, %z), padding=1_1x0_0",
                "%a = f32[8,64]{1,0} slice(%v), slice={[0:8], [0:64]}",
                "%b = f32[8,64]{1,0} slice(%v), slice={[2:10], [0:64]}",
                "%c = f32[8,64]{1,0} add(%a, %b)",
                "%d = f32[8,64]{1,0} add(%c, %p0)",
            ],
            2048,
        ),
        (  # shifted against one another, with zeros around
            [
                "%z = f32[] constant(0)",
                "%v = f32[10,64]{1,0} pad(%p0, %z), padding=1_1x0_0",
                "%a = f32[4,64]{1,0} slice(%v), slice={[2:6], [0:64]}",
                "%b = f32[4,64]{1,0} slice(%v), slice={[3:7], [0:64]}",
                "%c = f32[4,64]{1,0} add(%a, %b)",
            ],
            5 * 256,
        ),
        (  # a slice of a slice
            [
                "%a = f32[4,64]{1,0} slice(%p0), slice={[0:4], [0:64]}",
                "%b = f32[1,64]{1,0} slice(%a), slice={[0:1], [0:64]}",
            ],
            256,
        ),
        (  # nothing
            ["%a = f32[2]{0} constant({...})"],
            0,
        ),
    ],
)
def test_a_fusion_reads_as_far_as_its_slices_reach(lines, read):
    types = ["f32[8,64]{1,0}", "s32[]"]
    assert fused(*lines, operands=[0, 1], parameters=types)[0] == read


def test_slices_in_nested_fusions_are_seen():
    text = """
        %inner (p: f32[]) -> f32[] {
          %a = f32[8,64]{1,0} parameter(0)
          ROOT %b = f32[2,64]{1,0} slice(%a), slice={[2:4], [0:64]}
        }

        %outer (p: f32[]) -> f32[] {
          %c = f32[8,64]{1,0} parameter(0)
          %d = f32[2,64]{1,0} fusion(%c), kind=kLoop, calls=%inner
          ROOT %e = f32[1,64]{1,0} slice(%d), slice={[0:1], [0:64]}
        }
        """
    read = counted(
        "%x = f32[8,64]{1,0} parameter(0)",
        "%f = f32[1,64]{1,0} fusion(%x), kind=kLoop, calls=%outer",
        computations=text,
    )
    assert read == {"f": (256, 256)}


UPDATE = "%u = f32[8,64]{1,0} dynamic-update-slice(%p0, %p1, %p2, %p2)"
UPDATED = ["f32[8,64]{1,0}", "f32[1,64]{1,0}", "s32[]"]


@pytest.mark.parametrize(
    ("lines", "moved"),
    [
        ([UPDATE], (260, 256)),
        ([UPDATE, "%v = f32[512]{0} bitcast(%u)"], (260, 256)),
        (  # two updates, and another result
            [
                UPDATE,
                "%i = s32[] constant(3)",
                "%w = f32[8,64]{1,0} dynamic-update-slice(%u, %p1, %i, %i)",
                "%n = f32[1,64]{1,0} negate(%p1)",
                "%t = (f32[8,64]{1,0}, f32[1,64]{1,0}) tuple(%w, %n)",
            ],
            (260, 768),
        ),
        (  # also sliced
            [
                "%s = f32[1,64]{1,0} dynamic-slice(%p0, %p2, %p2), dynamic_slice_sizes={1,64}",
                "%a = f32[1,64]{1,0} add(%s, %p1)",
                "%u = f32[8,64]{1,0} dynamic-update-slice(%p0, %a, %p2, %p2)",
            ],
            (516, 256),
        ),
        # not in place
        ([UPDATE, "%n = f32[8,64]{1,0} negate(%u)"], (2048 + 260, 2048)),
        (["%n = f32[8,64]{1,0} negate(%p0)", UPDATE.replace("p0", "n")], (2048 + 260, 2048)),
    ],
)
def test_an_update_in_place_moves_the_update_alone(lines, moved):
    assert fused(*lines, operands=[0, 1, 2], parameters=UPDATED) == moved


def test_scratch_memory_inside_a_fusion_is_not_counted():
    assert fused(
        "%s = f32[1,64]{1,0} dynamic-slice(%p0, %p2, %p2), dynamic_slice_sizes={1,64}",
        '%c = (f32[1,64]{1,0}, s8[4096]{0}) custom-call(%s), custom_call_target="__cublas$gemm"',
        "%g = f32[1,64]{1,0} get-tuple-element(%c), index=0",
        "%scratch = s8[4096]{0} get-tuple-element(%c), index=1",
        "%u = f32[8,64]{1,0} dynamic-update-slice(%p1, %g, %p2, %p2)",
        "%t = (f32[8,64]{1,0}, f32[1,64]{1,0}, s8[4096]{0}) tuple(%u, %g, %scratch)",
        operands=[0, 1, 2],
        parameters=["f32[8,64]{1,0}", "f32[8,64]{1,0}", "s32[]"],
    ) == (260, 512)
