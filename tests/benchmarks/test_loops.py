"""How often loops run, on texts that are checked by hand."""

import pytest

from benchmarks.aot import traffic
from tests.hlo_text import program


def loop(condition, step, start="constant(0)", attributes=""):
    """Make a program of a loop whose state is counter, data, limit."""
    return program(
        f"%zero = s32[] {start}",
        "%limit = s32[] constant(12)",
        "%x = f32[64]{0} parameter(0)",
        "%copied = s32[] copy(%zero)",
        "%state = (s32[], f32[64]{0}, s32[]) tuple(%copied, %x, %limit)",
        "%loop = (s32[], f32[64]{0}, s32[]) while(%state), condition=%goes_on, body=%turn"
        + attributes,
        computations=f"""
        %advance (p: s32[]) -> s32[] {{
          %c = s32[] parameter(0)
          %s = s32[] constant(2)
          ROOT %n = s32[] {step}
        }}

        %turn (p: s32[]) -> s32[] {{
          %p = (s32[], f32[64]{{0}}, s32[]) parameter(0)
          %i = s32[] get-tuple-element(%p), index=0
          %data = f32[64]{{0}} get-tuple-element(%p), index=1
          %most = s32[] get-tuple-element(%p), index=2
          %next = s32[]{{:S(6)}} fusion(%i), kind=kLoop, calls=%advance
          %more = f32[64]{{0}} negate(%data)
          ROOT %t = (s32[], f32[64]{{0}}, s32[]) tuple(%next, %more, %most)
        }}

        %goes_on (p: s32[]) -> pred[] {{
          %q = (s32[], f32[64]{{0}}, s32[]) parameter(0)
          %i = s32[] get-tuple-element(%q), index=0
          %most = s32[] get-tuple-element(%q), index=2
          %five = s32[] constant(5)
          %away = s32[] add(%i, %five)
          ROOT %holds = pred[] {condition}
        }}
        """,
    )


@pytest.mark.parametrize(
    ("condition", "step", "start", "count"),
    [
        ("compare(%i, %most), direction=LT", "add(%c, %s)", "constant(0)", 6),
        ("compare(%i, %most), direction=LT", "add(%s, %c)", "constant(1)", 6),
        ("compare(%i, %most), direction=LT", "add(%c, %s)", "constant(12)", 0),
        ("compare(%i, %most), direction=LE", "add(%c, %s)", "constant(0)", 7),
        ("compare(%i, %most), direction=LE", "add(%c, %s)", "constant(1)", 6),
        ("compare(%i, %most), direction=NE", "add(%c, %s)", "constant(-4)", 8),
        ("compare(%most, %i), direction=GT", "add(%c, %s)", "constant(0)", 6),
        ("compare(%i, %five), direction=LT", "add(%c, %s)", "constant(0)", 3),
        ("compare(%away, %most), direction=LT", "add(%c, %s)", "constant(0)", 4),
        ("compare(%i, %five), direction=GT", "subtract(%c, %s)", "constant(20)", 8),
        ("compare(%i, %five), direction=GE", "subtract(%c, %s)", "constant(21)", 9),
    ],
)
def test_loops_are_counted_by_their_counters(condition, step, start, count):
    operations = traffic.operations(loop(condition, step, start))
    assert [each for each in operations if each.name == "more"] == (
        [traffic.Operation("more", "negate", count, 256, 256)] if count else []
    )
    assert traffic.total(operations).launches == 1 + 2 * count


def test_a_count_that_is_written_down_is_taken():
    known = ', backend_config={"known_trip_count":{"n":"7"},"known_init_step":{"init":"0"}}'
    unknown = "compare(%i, %i), direction=LT", "multiply(%c, %s)"
    operations = traffic.operations(loop(*unknown, attributes=known))
    assert traffic.total(operations) == (15, 4 + 7 * (256 + 4), 4 + 7 * 256)
    assert traffic.total(operations).moved == 8 + 7 * 516


@pytest.mark.parametrize(
    ("condition", "step", "start"),
    [
        ("compare(%i, %most), direction=LT", "multiply(%c, %s)", "constant(1)"),
        ("compare(%i, %most), direction=LT", "subtract(%s, %c)", "constant(1)"),
        ("compare(%i, %most), direction=LT", "add(%s, %s)", "constant(1)"),
        ("compare(%i, %most), direction=LT", "subtract(%c, %s)", "constant(1)"),
        ("compare(%i, %most), direction=NE", "add(%c, %s)", "constant(1)"),
        ("compare(%i, %most), direction=NE", "add(%c, %s)", "constant(14)"),
        ("compare(%i, %most), direction=EQ", "add(%c, %s)", "constant(12)"),
        ("compare(%i, %i), direction=LT", "add(%c, %s)", "constant(0)"),
        ("compare(%i, %most), direction=LT", "add(%c, %s)", "parameter(1)"),
        ("constant(true)", "add(%c, %s)", "constant(0)"),
    ],
)
def test_a_loop_of_unknown_count_is_refused_by_name(condition, step, start):
    with pytest.raises(ValueError, match="no trip count is known for the loop loop of main"):
        traffic.operations(loop(condition, step, start))


def test_loops_in_loops_multiply():
    operations = traffic.operations(
        program(
            "%x = f32[64]{0} parameter(0)",
            "%zero = s32[] constant(0)",
            "%limit = s32[] constant(5)",
            "%s = (s32[], s32[], f32[64]{0}) tuple(%zero, %limit, %x)",
            "%outer = (s32[], s32[], f32[64]{0}) while(%s), condition=%short, body=%around",
            computations="""
            %inside (p: s32[]) -> s32[] {
              %p = (s32[], s32[], f32[64]{0}) parameter(0)
              %i = s32[] get-tuple-element(%p), index=0
              %n = s32[] get-tuple-element(%p), index=1
              %x = f32[64]{0} get-tuple-element(%p), index=2
              %one = s32[] constant(1)
              %j = s32[]{:S(6)} add(%i, %one)
              %y = f32[64]{0} negate(%x)
              ROOT %t = (s32[], s32[], f32[64]{0}) tuple(%j, %n, %y)
            }

            %long (p: s32[]) -> pred[] {
              %p = (s32[], s32[], f32[64]{0}) parameter(0)
              %i = s32[] get-tuple-element(%p), index=0
              %n = s32[] get-tuple-element(%p), index=1
              ROOT %c = pred[] compare(%i, %n), direction=LE
            }

            %around (p: s32[]) -> s32[] {
              %p = (s32[], s32[], f32[64]{0}) parameter(0)
              %i = s32[] get-tuple-element(%p), index=0
              %n = s32[] get-tuple-element(%p), index=1
              %x = f32[64]{0} get-tuple-element(%p), index=2
              %one = s32[] constant(1)
              %s = (s32[], s32[], f32[64]{0}) tuple(%one, %n, %x)
              %inner = (s32[], s32[], f32[64]{0}) while(%s), condition=%long, body=%inside
              %y = f32[64]{0} get-tuple-element(%inner), index=2
              %j = s32[]{:S(6)} add(%i, %one)
              ROOT %t = (s32[], s32[], f32[64]{0}) tuple(%j, %n, %y)
            }

            %short (p: s32[]) -> pred[] {
              %p = (s32[], s32[], f32[64]{0}) parameter(0)
              %i = s32[] get-tuple-element(%p), index=0
              %n = s32[] constant(3)
              ROOT %c = pred[] compare(%i, %n), direction=LT
            }
            """,
        )
    )
    # The inner limit comes through the outer loop, which hands it on.
    assert [(each.name, each.launches) for each in operations] == [("j", 15), ("y", 15), ("j", 3)]
