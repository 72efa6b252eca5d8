"""The bytes that operations move, on texts that are checked by hand."""

from tests.hlo_text import counted


def test_names_for_values_are_free():
    assert not counted(
        "%p = (f32[8]{0}, f32[8]{0}) parameter(0)",
        "%a = f32[8]{0} get-tuple-element(%p), index=0",
        "%b = f32[2,4]{1,0} bitcast(%a)",
        "%c = f32[8]{0} constant({...})",
        "%d = token[] after-all()",
        '%e = f32[8]{0} custom-call(), custom_call_target="AllocateBuffer"',
        "%f = (f32[2,4]{1,0}, f32[8]{0}, f32[8]{0}) tuple(%b, %c, %e)",
    )


def test_operands_are_read_and_results_written_each_once():
    assert counted(
        "%x = f32[4,8]{1,0} parameter(0)",
        "%y = bf16[8,2]{1,0} parameter(1)",
        "%view = f32[8,4]{1,0} bitcast(%x)",
        "%dot = f32[4,2]{1,0} dot(%x, %y), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
        "%twice = f32[4,4]{1,0} dot(%x, %view), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
    ) == {"dot": (4 * 32 + 2 * 16, 4 * 8), "twice": (4 * 32, 4 * 16)}


def test_other_memories_than_the_main_one_cost_nothing():
    assert counted(
        "%x = f32[8,128]{1,0:T(8,128)} parameter(0)",
        "%near = f32[8,128]{1,0:T(8,128)S(1)} copy(%x)",
        "%sum = f32[8,128]{1,0:T(8,128)S(1)} add(%near, %x)",
        "%out = f32[8,128]{1,0:T(8,128)} negate(%sum)",
    ) == {"near": (4096, 0), "sum": (4096, 0), "out": (0, 4096)}


def test_slices_and_gathers_read_what_they_take():
    assert counted(
        "%x = f32[10,16]{1,0} parameter(0)",
        "%i = s32[] parameter(1)",
        "%many = s32[3]{0} parameter(2)",
        "%a = f32[4,16]{1,0} slice(%x), slice={[2:6], [0:16]}",
        "%b = f32[5,16]{1,0} slice(%x), slice={[0:10:2], [0:16]}",
        "%c = f32[10,4]{1,0} slice(%x), slice={[0:10], [0:16:4]}",
        "%d = f32[1,16]{1,0} dynamic-slice(%x, %i, %i), dynamic_slice_sizes={1,16}",
        "%e = f32[3,16]{1,0} gather(%x, %many), offset_dims={1}, slice_sizes={1,16}",
        "%f = f32[30,16]{1,0} gather(%x, %many), offset_dims={1}, slice_sizes={10,16}",
    ) == {
        "a": (256, 256),
        "b": (320, 320),
        "c": (640, 160),  # elements that lie side by side are not skipped
        "d": (64 + 4, 64),
        "e": (192 + 12, 192),
        "f": (640 + 12, 1920),
    }


def test_slices_are_rounded_to_tiles():
    assert counted(
        "%x = f32[32,256]{1,0:T(8,128)} parameter(0)",
        "%row = f32[1,256]{1,0:T(1,128)S(1)} slice(%x), slice={[3:4], [0:256]}",
        "%some = f32[8,128]{1,0:T(8,128)S(1)} slice(%x), slice={[0:32:4], [0:128]}",
    ) == {"row": (8 * 256 * 4, 0), "some": (32 * 128 * 4, 0)}


def test_updates_write_what_they_replace():
    assert counted(
        "%x = f32[10,16]{1,0} parameter(0)",
        "%u = f32[2,16]{1,0} parameter(1)",
        "%i = s32[] parameter(2)",
        "%many = s32[2]{0} parameter(3)",
        "%a = f32[10,16]{1,0} dynamic-update-slice(%x, %u, %i, %i)",
        "%b = f32[10,16]{1,0} scatter(%a, %many, %u), to_apply=%add, update_window_dims={1}",
        computations="""
            %add (a: f32[], b: f32[]) -> f32[] {
              %a = f32[] parameter(0)
              %b = f32[] parameter(1)
              ROOT %sum = f32[] add(%a, %b)
            }
            """,
    ) == {"a": (128 + 4, 128), "b": (128 + 8 + 128, 128)}


def test_scratch_memory_of_cuda_libraries_is_not_counted():
    operands = "%x = s8[64]{0} parameter(0)", "%y = s8[64]{0} parameter(1)"
    result = "(s8[64]{0}, s8[4096]{0}) custom-call(%x, %y), custom_call_target"
    assert counted(*operands, f'%c = {result}="__cublas$lt$matmul"') == {"c": (128, 64)}
    assert counted(*operands, f'%c = {result}="__gpu$xla.gpu.triton"') == {"c": (128, 64 + 4096)}
    single = '%c = s8[64]{0} custom-call(%x, %y), custom_call_target="__cudnn$convForward"'
    assert counted(*operands, single) == {"c": (128, 64)}


def test_what_runs_aside_is_counted_at_its_start():
    assert counted(
        "%x = f32[64,128]{1,0:T(8,128)} parameter(0)",
        "%in = (f32[64,128]{1,0:T(8,128)S(1)}, f32[64,128]{1,0:T(8,128)}, u32[]{:S(2)})"
        " copy-start(%x)",
        "%near = f32[64,128]{1,0:T(8,128)S(1)} copy-done(%in)",
        "%out = (f32[64,128]{1,0:T(8,128)}, f32[64,128]{1,0:T(8,128)S(1)}, u32[]{:S(2)})"
        " copy-start(%near)",
        "%far = f32[64,128]{1,0:T(8,128)} copy-done(%out)",
        "%cut = ((f32[64,128]{1,0:T(8,128)}), f32[16,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)})"
        " slice-start(%far), slice={[0:16], [0:128]}",
        "%piece = f32[16,128]{1,0:T(8,128)S(1)} slice-done(%cut)",
        "%wrapped = ((f32[16,128]{1,0:T(8,128)S(1)}), f32[16,128]{1,0:T(8,128)}, u32[]{:S(2)})"
        " async-start(%piece), calls=%aside",
        "%update = ((f32[16,128]{1,0:T(8,128)S(1)}), f32[16,128]{1,0:T(8,128)}, u32[]{:S(2)})"
        " async-update(%wrapped)",
        "%last = f32[16,128]{1,0:T(8,128)} async-done(%update)",
        "%reduced = f32[16,128]{1,0:T(8,128)} all-reduce-start(%last), to_apply=%none",
        "%done = f32[16,128]{1,0:T(8,128)} all-reduce-done(%reduced)",
        computations="""
            %aside (p: f32[16,128]) -> f32[16,128] {
              %p = f32[16,128]{1,0:T(8,128)S(1)} parameter(0)
              ROOT %minus = f32[16,128]{1,0:T(8,128)} negate(%p)
            }, execution_thread="other"

            %none () -> f32[] {
              ROOT %zero = f32[] constant(0)
            }
            """,
    ) == {
        "in": (64 * 512, 0),
        "out": (0, 64 * 512),
        "cut": (16 * 512, 0),
        "wrapped": (0, 16 * 512),
        "reduced": (16 * 512, 16 * 512),
    }


def test_calls_are_looked_into_and_of_branches_the_dearest_counts():
    text = """
        %small (p: f32[]) -> f32[] {
          %a = f32[64]{0} parameter(0)
          ROOT %little = f32[8]{0} slice(%a), slice={[0:8]}
        }

        %large (p: f32[]) -> f32[] {
          %b = f32[64]{0} parameter(0)
          %much = f32[64]{0} negate(%b)
          ROOT %rest = f32[8]{0} slice(%much), slice={[0:8]}
        }
        """
    before = "%x = f32[64]{0} parameter(0)", "%i = s32[] parameter(1)"
    assert counted(*before, "%c = f32[8]{0} call(%x), to_apply=%small", computations=text) == {
        "little": (32, 32)
    }
    branches = "f32[8]{0} conditional(%i, %x, %x), branch_computations={%small, %large}"
    either = "true_computation=%large, false_computation=%small"
    dearest = {"much": (256, 256), "rest": (32, 32)}
    assert counted(*before, f"%c = {branches}", computations=text) == dearest
    other = f"%c = f32[8]{{0}} conditional(%i, %x, %x), {either}"
    assert counted(*before, other, computations=text) == dearest
