"""Tables of choices: what they decide, what they must not, and what is made of damaged ones."""

import dataclasses
import re
import threading
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flax_sepconv as fsc
from flax_sepconv.ops import context, native
from flax_sepconv.ops.choices import reading, table
from flax_sepconv.ops.choices.devices import kind_of
from flax_sepconv.ops.choices.table import TableError
from flax_sepconv.ops.lowerings import LOWERINGS
from tests import tables
from tests.tables import SHAPE, row, rows

HERE = kind_of("cpu", None)
needs_native = pytest.mark.skipif(native.ABSENCE is not None, reason="no native library")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(reading.VARIABLE, str(tmp_path))
    return tmp_path


def layer(x, k, w, b):
    return fsc.ops.separable_conv1d(x, k, w, b, padding="same")


def gradients(*operands):
    return jax.grad(lambda *o: (layer(*o) ** 2).sum(), argnums=(0, 1, 2, 3))(*operands)


def operands(shape=SHAPE, dtype="float32"):
    x, k, w, b, _ = map(jnp.asarray, shape.operands(dtype))
    return jnp.tile(x, (shape.copies, 1, 1)), k, w, b


def text_of(function, *given, platform=None):
    traced = jax.jit(lambda *o: function(*o)).trace(*given)
    return traced.lower(lowering_platforms=(platform,) if platform else None).as_text()


def asked(**more):
    kernel = (SHAPE.kernel_size, SHAPE.channels, 1)
    shape = (SHAPE.batch, SHAPE.length, SHAPE.channels)
    return fsc.ops.select_implementation(shape, kernel, filters=SHAPE.filters, **more)


@needs_native
def test_a_row_decides_where_programs_are_lowered(folder):
    tables.write(folder, HERE, *rows("shifted_sum"))
    for function in (layer, gradients):
        assert "flax_sepconv_" not in text_of(function, *operands())
        longer = SHAPE._replace(length=2 * SHAPE.length)
        assert "flax_sepconv_" in text_of(function, *operands(longer))
        assert "flax_sepconv_" in text_of(function, *operands(dtype="bfloat16"))


@needs_native
def test_a_row_is_of_one_program(folder):
    """The output alone, or the output and all gradients; parts of these are nobody's."""
    tables.write(folder, HERE, row("shifted_sum"))
    assert "flax_sepconv_" not in text_of(layer, *operands())
    assert "flax_sepconv_separable_output" in text_of(gradients, *operands())


@needs_native
def test_exports_and_named_lowerings_do_not_look(folder):
    tables.write(folder, HERE, *rows("grouped_conv"))
    exported = jax.export.export(jax.jit(layer))(*operands()).mlir_module()
    assert "stablehlo.convolution" not in exported

    def named(*o):
        return fsc.ops.separable_conv1d(*o, padding="same", implementation="native")

    assert "flax_sepconv_separable_output" in text_of(named, *operands())


@needs_native
def test_the_depthwise_stage_alone_has_rows_of_its_own(folder):
    stage = SHAPE._replace(filters=0)
    tables.write(folder, HERE, row("shifted_sum", "kernel_gradient", stage))
    x, k, *_ = operands()

    def both(x, k):
        return jax.grad(lambda *o: (fsc.ops.depthwise_conv1d(*o) ** 2).sum(), (0, 1))(x, k)

    text = text_of(both, x, k)
    assert "flax_sepconv_kernel_gradient" not in text
    assert "flax_sepconv_input_gradient" in text


@pytest.mark.parametrize("choice", ["shifted_sum", "grouped_conv", "native"])
def test_what_is_chosen_computes_the_same(folder, choice):
    if choice == "native" and native.ABSENCE is not None:
        pytest.skip("no native library")
    lengths = SHAPE._replace(limits="lengths")
    chosen = [*rows(choice), *rows(choice, shape=lengths)]
    tables.write(folder, HERE, *chosen)
    x, k, w, b = operands()
    n = jnp.array([17, 40])
    spoiled = jnp.where(jnp.arange(40)[:, None] < n[:, None, None], x, jnp.nan)

    def ragged(x, k, w, b):
        return fsc.ops.separable_conv1d(x, k, w, b, padding="same", lengths=n)

    def results(function, *given):
        loss = lambda *o: (function(*o) ** 2).sum()  # noqa: E731
        everything = jax.jit(lambda *o: (function(*o), jax.grad(loss, argnums=(0, 1, 2, 3))(*o)))
        hessian = jax.jit(jax.hessian(lambda b: loss(*given[:3], b)))
        return [*jax.tree.leaves(everything(*given)), hessian(given[3])]

    for function, given in ((layer, (x, k, w, b)), (ragged, (spoiled, k, w, b))):
        found = results(function, *given)
        with reading.trying("default"):
            expected = results(lambda *o, f=function: f(*o), *given)
        for a, e in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-4)


def test_hand_written_kernels_become_the_default_where_they_were_measured(folder, monkeypatch):
    """On a device of a fake kind; both stages, and all gradients in one."""
    shape = SHAPE._replace(channels=128, filters=128)
    tables.write(folder, "Fake TPU", *rows("mosaic", shape=shape))
    monkeypatch.setattr(context, "_device_kind", lambda axes, platform: "Fake TPU")
    given = operands(shape)
    assert text_of(layer, *given, platform="tpu").count("tpu_custom_call") == 1
    assert text_of(gradients, *given, platform="tpu").count("tpu_custom_call") >= 2
    other = operands(shape._replace(kernel_size=3))
    assert "tpu_custom_call" not in text_of(gradients, *other, platform="tpu")


@pytest.mark.parametrize("divided", [False, True])
def test_the_kind_of_device_is_known(monkeypatch, divided):
    """From what JAX tells a lowering rule, also inside a `shard_map`; not of another platform."""
    kinds, true = [], context._device_kind
    monkeypatch.setattr(
        context, "_device_kind", lambda *given: kinds.append(true(*given)) or kinds[-1]
    )
    function = layer
    if divided:
        mesh = jax.make_mesh((2,), ("d",), axis_types=(jax.sharding.AxisType.Auto,))
        specs = (jax.P("d"), jax.P(), jax.P(), jax.P())
        function = jax.shard_map(layer, mesh=mesh, in_specs=specs, out_specs=jax.P("d"))
    text_of(function, *operands())
    assert kinds
    assert set(kinds) == {jax.devices()[0].device_kind}
    kinds.clear()
    if not divided:
        text_of(function, *operands(), platform="tpu")
        assert set(kinds) == {None}


def test_a_lowering_that_declines_a_shape_of_the_class_is_not_taken(folder, monkeypatch):
    """Mosaic takes strides 1 alone."""
    shape = SHAPE._replace(channels=128, filters=128, strides=2)
    tables.write(folder, "Fake TPU", *rows("mosaic", shape=shape))
    monkeypatch.setattr(context, "_device_kind", lambda axes, platform: "Fake TPU")

    def strided(*o):
        return fsc.ops.separable_conv1d(*o, padding="same", strides=2)

    assert "tpu_custom_call" not in text_of(strided, *operands(shape), platform="tpu")


def test_select_implementation_names_the_row(folder):
    tables.write(folder, "Fake GPU", *rows("triton"))
    of_fake = asked(platform="cuda", device_kind="Fake GPU")
    assert of_fake.name == "triton"
    assert "measured on Fake GPU (fake-gpu.json, forward float32 B2 L64 C8->16 K5" in of_fake.reason
    assert "default 2 ms, triton 1 ms" in of_fake.reason
    learns = asked(platform="cuda", device_kind="Fake GPU", contraction="gradients")
    assert learns.name == "triton"
    for more in ({}, {"device_kind": "Another"}, {"device_kind": "Fake GPU", "strides": 2}):
        selected = asked(platform="cuda", **more)
        assert selected.name == "shifted_sum"
        assert "Fake" not in selected.reason
    exported = asked(platform="cuda", device_kind="Fake GPU", surroundings="exported")
    assert exported.name == "shifted_sum"


def test_what_was_not_run_chooses_among_xlas_forms_alone(folder):
    for choice in ("triton", "grouped_conv"):
        tables.write(folder, f"Fake {choice}", *rows(choice), evidence="compiled, not run")
    for choice, taken in (("triton", "shifted_sum"), ("grouped_conv", "grouped_conv")):
        selected = asked(platform="cuda", device_kind=f"Fake {choice}")
        assert selected.name == taken
    assert "compiled, not run on Fake grouped_conv" in selected.reason


def test_what_was_wrong_is_never_taken(folder):
    """Neither by default, at any shape, nor because another table has it for the best."""
    tables.write(folder, "Fake GPU", row("default", wrong=["shifted_sum"]))
    (folder / "older.json").write_text(
        table.to_json(tables.table("Fake GPU", row("shifted_sum", "forward_backward")))
    )
    selected = asked(platform="cuda", device_kind="Fake GPU")
    assert selected.name == "grouped_conv"
    assert "shifted_sum was wrong: measured on Fake GPU" in selected.reason
    assert asked(platform="cuda", device_kind="Fake GPU", strides=2).name == "grouped_conv"
    learns = asked(platform="cuda", device_kind="Fake GPU", contraction="gradients")
    assert learns.name == "grouped_conv"
    assert asked(platform="cuda", device_kind="Another").name == "shifted_sum"


@needs_native
def test_what_was_wrong_is_not_lowered(folder):
    tables.write(folder, HERE, row("shifted_sum", wrong=["native"]))
    longer = SHAPE._replace(length=2 * SHAPE.length)
    for function in (layer, gradients):
        assert "flax_sepconv_" not in text_of(function, *operands(longer))


def drop(name):
    return lambda held: held["rows"][0].pop(name)


DAMAGES = {
    "cut": lambda text: text[: len(text) // 2],
    "no JSON": lambda text: "choices",
    "binary": lambda text: "\x00\xff",
    "empty": lambda text: "",
    "nested": lambda text: "[" * 100_000,
    "foreign": lambda text: '{"name": "something else"}',
    "list": lambda text: "[1, 2]",
    "newer": lambda text: text.replace(table.FORMAT, "flax_sepconv table of choices, 9"),
    "row lacks its class": lambda text: tables.changed(text, drop("of")),
    "row lacks its choice": lambda text: tables.changed(text, drop("choice")),
    "choice was not tried": lambda text: text.replace('"shifted_sum"', '"magic"', 1),
    "time is none": lambda text: text.replace('"milliseconds": 1.0', '"milliseconds": NaN'),
    "size is a text": lambda text: text.replace('"batch": 2', '"batch": "2"'),
    "program is unknown": lambda text: text.replace('"forward"', '"backward"'),
    "kernels are no numbers": lambda text: re.sub(r'"native": (\d+)', r'"native": "\1"', text),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_table_is_one_warning_and_then_the_default(folder, damage):
    path = tables.write(folder, "Fake GPU", *rows("shifted_sum"))
    path.write_text(DAMAGES[damage](path.read_text()), encoding="latin-1")
    with pytest.raises(TableError):
        table.read(path)
    with pytest.warns(UserWarning, match="fake-gpu.json is left out, and defaults") as told:
        selected = asked(platform="cuda", device_kind="Fake GPU")
    assert len(told) == 1
    assert selected == asked(platform="cuda")  # and no second warning, which would be an error


def test_what_was_wrong_cannot_be_chosen(folder):
    path = tables.write(folder, "Fake GPU", row("native", wrong=["native"]))
    with pytest.raises(TableError, match="choice is 'native', which was wrong"):
        table.read(path)


def test_a_table_that_cannot_be_read_is_left_out(folder):
    (folder / "folder.json").mkdir()
    with pytest.warns(UserWarning, match="folder.json is left out"):
        assert asked(platform="cuda", device_kind="Fake GPU").name == "shifted_sum"


def test_rows_of_other_kernels_do_not_count(folder):
    old = tables.VERSIONS | {"triton": tables.VERSIONS["triton"] + 1}
    kept = SHAPE._replace(kernel_size=3)
    written = [*rows("triton", kernels=old), row("grouped_conv", shape=kept)]
    tables.write(folder, "Fake GPU", *written)
    with pytest.warns(UserWarning, match=r"measured with other kernels \(triton\)") as told:
        assert asked(platform="cuda", device_kind="Fake GPU").name == "shifted_sum"
    assert len(told) == 1
    other = fsc.ops.select_implementation(
        (2, 40, 8), (3, 8, 1), filters=16, platform="cuda", device_kind="Fake GPU"
    )
    assert other.name == "grouped_conv"


def test_verdicts_about_other_kernels_do_not_count(folder):
    old = tables.VERSIONS | {"native": tables.VERSIONS["native"] + 1}
    tables.write(folder, HERE, row("default", wrong=["native"], kernels=old))
    with pytest.warns(UserWarning, match="other kernels"):
        assert "wrong" not in asked(platform="cpu").reason


def test_other_kernels_that_declined_change_nothing(folder):
    old = tables.VERSIONS | {"mosaic": tables.VERSIONS["mosaic"] + 1}
    made = row("grouped_conv", kernels=old)
    declined = dict(made.candidates) | {"mosaic": {"declined": "it is for TPUs"}}
    tables.write(folder, HERE, dataclasses.replace(made, candidates=declined))
    assert asked(platform="cpu").name == "grouped_conv"  # A warning would be an error.


def test_an_empty_setting_turns_all_tables_off(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "SHIPPED", tmp_path)
    tables.write(tmp_path, "Fake GPU", *rows("triton"))
    monkeypatch.setenv(reading.VARIABLE, str(tmp_path / "none"))
    assert asked(platform="cuda", device_kind="Fake GPU").name == "triton"
    monkeypatch.setenv(reading.VARIABLE, "")
    assert asked(platform="cuda", device_kind="Fake GPU").name == "shifted_sum"


def test_the_users_tables_come_before_the_packages(tmp_path, monkeypatch):
    ours, theirs = tmp_path / "a", tmp_path / "b"
    for folder, choice in ((ours, "grouped_conv"), (theirs, "triton")):
        folder.mkdir()
        tables.write(folder, "Fake GPU", *rows(choice))
    monkeypatch.setattr(reading, "SHIPPED", ours)
    monkeypatch.setenv(reading.VARIABLE, str(theirs))
    assert asked(platform="cuda", device_kind="Fake GPU").name == "triton"


def test_the_users_folder_is_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert reading.user_folder() == tmp_path / "flax_sepconv" / "tuned"


def test_a_table_is_the_same_after_it_was_written(folder):
    written = tables.table("Fake GPU", *rows("triton"))
    path = table.file_of(folder, "Fake GPU")
    table.merge(path, written)
    assert dataclasses.replace(table.read(path), path=None) == written


def test_many_writers_lose_nothing(folder):
    path = table.file_of(folder, "Fake GPU")
    shapes = [SHAPE._replace(kernel_size=size) for size in range(1, 17)]

    def write(mine):
        for shape in mine:
            table.merge(path, tables.table("Fake GPU", row("triton", shape=shape)))

    writers = [threading.Thread(target=write, args=(shapes[i::4],)) for i in range(4)]
    for each in writers:
        each.start()
    for each in writers:
        each.join()
    assert {r.of for r in table.read(path).rows} == {s.of("forward", "float32") for s in shapes}
    assert [each for each in folder.iterdir() if each.suffix not in (".json", ".lock")] == []


def test_a_writer_does_not_wait_for_ever(folder):
    path = table.file_of(folder, "Fake GPU")
    with (
        table._locked(path.with_name(path.name + ".lock"), 1),
        pytest.raises(TimeoutError, match="another process"),
    ):
        table.merge(path, tables.table("Fake GPU", row("triton")), patience=0.05)
    assert not path.exists()


def test_newer_rows_take_the_place_of_older_ones(folder):
    path = tables.write(folder, "Fake GPU", *rows("triton"))
    table.merge(path, tables.table("Fake GPU", row("grouped_conv")))
    assert [each.choice for each in table.read(path).rows] == ["grouped_conv", "triton"]


@pytest.mark.parametrize("kind", ["Fake GPU", "Another"])
def test_what_cannot_be_merged_with_is_kept_beside(folder, kind):
    path = tables.write(folder, "Fake GPU", *rows("triton"))
    path.write_text("{" if kind == "Fake GPU" else path.read_text().replace("Fake GPU", kind))
    before = path.read_text()
    table.merge(path, tables.table("Fake GPU", row("grouped_conv")))
    assert [each.choice for each in table.read(path).rows] == ["grouped_conv"]
    assert path.with_name("fake-gpu.json.damaged").read_text() == before


def test_shipped_tables_are_sound():
    """They can be read, are of these kernels, and let nothing that was not run become a default."""
    for path in sorted(reading.SHIPPED.glob("*.json")):
        shipped = table.read(path)
        assert shipped.rows, path.name
        for each in shipped.rows:
            assert reading.is_usable(each, shipped), f"{path.name}: {each.of}"
            if shipped.evidence == "measured":
                assert not reading._stale(each), f"{path.name} is old: python -m flax_sepconv tune"


def test_reading_is_done_once(folder):
    path = tables.write(folder, "Fake GPU", *rows("triton"))
    assert asked(platform="cuda", device_kind="Fake GPU").name == "triton"
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert asked(platform="cuda", device_kind="Fake GPU").name == "triton"


def test_lowerings_have_versions():
    assert all(type(lowering.version) is int for lowering in LOWERINGS.values())
