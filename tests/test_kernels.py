"""int8 kernels: bit-exact to TFLM on every core (DESIGN D3).

Random operators are built and run by TFLM here; the kernels are compiled and must give
the same bytes: on the host under AddressSanitizer and UBSan, and on QEMU's Cortex-M0+,
M4 and M55 with each compiler. tests/c/vectors holds one such set, so that the C can be
checked without Python.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from toolbox import need_compiler, need_qemu

from kws.deploy import boards, toolchain
from kws.graph import quantized_math as qm
from kws.graph import weight_layout

pytest.importorskip(
    "tflite_micro", reason="needs tflite-micro: pip install -e .[train]"
)

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import bench_kernels  # noqa: E402
import make_kernel_vectors  # noqa: E402
from kernel_support import cases, image  # noqa: E402

VECTORS = image.C / "vectors" / "kernel_cases.c"
CHECK = image.C / "kernel_check.c"
CASES_PER_KERNEL = 25
# rows, inputs, outputs, whether with the largest sums: 516 inputs reach 2**23, and are
# the first that are no `ordinary` product.
ROWS = [
    *((1, inputs, outputs, False) for inputs in range(1, 30) for outputs in (2, 7)),
    *((2, inputs, 12, False) for inputs in (48, 56, 60, 64, 68, 96, 120, 130, 192)),
    *((1, inputs, 16, True) for inputs in (40, 144, 500, 514, 515, 516, 600)),
    *((4, inputs, 6, True) for inputs in (63, 499, 517)),
]


# Inner sizes and columns of products with one row on the left: a stream's attention.
ONE_ROW = [*((i, 12) for i in range(1, 19)), *((24, n) for n in range(1, 10)), (200, 9)]


@pytest.fixture(scope="module")
def random_cases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A C file of random cases, and how many they are; also the shapes of real models:
    the last group of a block, a token too many; and one row, of every rest that inputs
    and outputs leave, and with the largest sums."""
    made = cases.make(dict.fromkeys(cases.MAKERS, CASES_PER_KERNEL), seed=20)
    rng = np.random.default_rng(21)
    made += [
        cases.fully_connected(
            rng, f"row_{inputs}x{outputs}", (rows, inputs, outputs), extreme
        )
        for rows, inputs, outputs, extreme in ROWS
    ]
    made += [
        cases.batch_matmul(rng, "readout", (4, 48, 24)),
        cases.batch_matmul(rng, "readout_of_25", (5, 50, 25)),
        *(
            cases.batch_matmul(rng, f"rows_{m}_{inner}_by_{n}", (m, n, inner))
            for m in range(2, 10)
            for inner, n in ((24, 48), (23, 9), (6, 3), (1, 5))
        ),
        *(
            cases.batch_matmul(
                rng, f"row_{inner}_by_{n}{'t' * rows}", (1, n, inner), rows
            )
            for inner, n in ONE_ROW
            for rows in (False, True)
        ),
        cases.fully_connected(rng, "dense_98", (98, 64, 64)),
        cases.depthwise_conv_2d(rng, "token_of_5", (5, 1, 48, 5, 1)),
        cases.depthwise_conv_2d(rng, "image_3x3", (9, 5, 64, 3, 3)),
        cases.attention(rng, "heads_1_of_98", (98, 1, 64)),
        cases.attention(rng, "heads_3_of_99", (99, 3, 16)),
        cases.attention(rng, "one_token", (1, 1, 4)),
        *(cases.binary(rng, f"linear_{number}", linear=True) for number in range(24)),
        cases.linear_attention(rng, "heads_of_32", (40, 24, 32)),
        cases.linear_attention(rng, "long_window", (40, 36, 9)),
    ]
    path = tmp_path_factory.mktemp("cases") / "cases.c"
    path.write_text(cases.c_source(made, "Made by tests/test_kernels.py."))
    return path, len(made)


def test_most_products_are_ordinary(random_cases: tuple[Path, int]) -> None:
    """Or the quick kernels would go untested."""
    text = random_cases[0].read_text()
    ordinary, other = (text.count(f".ordinary = {flag}") for flag in (1, 0))
    assert ordinary > 60 and other > 30


@pytest.mark.parametrize(
    ("change", "ordinary"),
    [
        ({}, True),
        ({"clamp": (-128, 100)}, False),
        ({"pairs": [(2**30, -1), (2**30, 0)]}, False),
        ({"pairs": [(2**30, -22)]}, True),
        ({"pairs": [(2**30, -23)]}, False),
        ({"folded": np.array([0, 2**23 - 1 - 4 * 127], np.int32)}, True),
        ({"folded": np.array([0, 2**23 - 4 * 127], np.int32)}, False),
        ({"folded": np.array([4 * 128 - 2**23, 0], np.int32)}, False),
        ({"folded": np.array([4 * 128 - 2**23 + 1, 0], np.int32)}, True),
    ],
)
def test_what_an_ordinary_product_is(change: dict[str, Any], ordinary: bool) -> None:
    plain = {
        "weights": np.ones((2, 4), np.int8),
        "folded": np.zeros(2, np.int32),
        "pairs": [(2**30, -5)],
        "clamp": (-128, 127),
    }
    assert qm.is_ordinary(**plain | change) is ordinary  # type: ignore[arg-type]


@pytest.mark.parametrize("core", ["portable", "dsp"])
def test_random_operators_equal_tflm_on_the_host(
    core: str, random_cases: tuple[Path, int], tmp_path: Path
) -> None:
    source, count = random_cases
    result = image.run_host(image.host([source, CHECK], core, tmp_path))
    assert result.stderr == ""
    assert result.stdout == f"{count} of {count} kernel cases equal TFLM\n"


def test_windows_of_tiny_images_read_nothing_behind_them(tmp_path: Path) -> None:
    """As an M4 gathers them, which reads words at any address."""
    rng = np.random.default_rng(22)
    shapes = [
        (height, width, channels, taps, width)
        for width, channels in ((1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (5, 1))
        for height, taps in ((9, 3), (14, 1), (14, 2))
    ]
    made = [cases.conv_2d(rng, f"of_{i}", shape) for i, shape in enumerate(shapes)]
    source = tmp_path / "cases.c"
    source.write_text(cases.c_source(made, "Made by tests/test_kernels.py."))
    flags = (*image.SANITIZE, "-D__ARM_FEATURE_UNALIGNED=1")
    result = image.run_host(image.host([source, CHECK], "dsp", tmp_path, flags))
    assert result.stderr == ""
    assert result.stdout == f"{len(made)} of {len(made)} kernel cases equal TFLM\n"


@pytest.mark.parametrize("name", ["qemu-m0", "qemu-m4", "qemu-m55"])
def test_random_operators_equal_tflm_on_an_emulated_core(
    name: str, random_cases: tuple[Path, int], tmp_path: Path
) -> None:
    need_compiler()
    need_qemu()
    source, count = random_cases
    board = boards.load(name)
    result = image.run_board(image.board([source, CHECK], board, tmp_path), board)
    assert result.stdout == f"{count} of {count} kernel cases equal TFLM\n"


@pytest.mark.parametrize("compiler", toolchain.NAMES)
@pytest.mark.parametrize("name", bench_kernels.NAMES)
def test_vectors_on_an_emulated_core(name: str, compiler: str, tmp_path: Path) -> None:
    need_compiler(compiler)
    need_qemu()
    board = boards.load(name)
    result = image.run_board(
        image.board([VECTORS, CHECK], board, tmp_path, compiler), board
    )
    count = sum(make_kernel_vectors.COUNTS.values())
    assert result.stdout == f"{count} of {count} kernel cases equal TFLM\n"
    assert result.returncode == 0


# What the design promises of a [98 x 64] x [64 x 64] product with requantisation.
MOST_PER_MAC = {"qemu-m0": 6.5, "qemu-m4": 1.21, "qemu-m33": 1.21, "qemu-m55": 0.3}


@pytest.mark.parametrize("name", bench_kernels.NAMES)
def test_instruction_counts_keep_to_the_baseline(name: str) -> None:
    need_compiler("gcc")
    need_qemu()
    measured = bench_kernels.measure_all(name, "gcc")
    table = measured[f"{name}/gcc"]
    assert table["fully_connected_98x64x64"]["per_unit"] <= MOST_PER_MAC[name]
    baseline = json.loads(bench_kernels.BASELINE.read_text())
    assert bench_kernels.regressions(measured, baseline) == []
    baseline[f"{name}/gcc"]["softmax_98x98"] //= 2
    (problem,) = bench_kernels.regressions(measured, baseline)
    assert problem.startswith(f"{name}/gcc softmax_98x98: ")


def test_the_check_finds_one_wrong_step(tmp_path: Path) -> None:
    case = cases.make({"fully_connected": 1}, seed=3)[0]
    lines = case.constants.split("\n")
    at = next(i for i, line in enumerate(lines) if "_expected" in line) + 1
    first, _, rest = lines[at].strip().partition(",")
    wrong = int(first) + (1 if int(first) < 127 else -1)
    lines[at] = f"  {wrong},{rest}"
    broken = cases.Case(case.name, "\n".join(lines), case.call)
    source = tmp_path / "cases.c"
    source.write_text(cases.c_source([broken], "Broken on purpose."))
    result = image.run_host(image.host([source, CHECK], "portable", tmp_path, ()))
    assert result.returncode == 1
    assert f"first at 0: got {first}, wanted {wrong}" in result.stdout


def test_committed_vectors_are_what_tflm_gives_today() -> None:
    assert make_kernel_vectors.text() == VECTORS.read_text(), (
        "python tools/make_kernel_vectors.py"
    )


@pytest.mark.parametrize("kind", cases.UNARY)
def test_unary_operators_are_exact_as_tables(kind: str) -> None:
    rng = np.random.default_rng(5)
    for _ in range(20):
        values, expected, table = cases.unary_table(rng, kind)
        got = table[values.astype(int) + 128]
        np.testing.assert_array_equal(got, expected)


def test_scalar_constants_are_exact_as_tables() -> None:
    rng = np.random.default_rng(6)
    values = np.arange(-128, 128).astype(np.int8)[None]
    for _ in range(20):
        x, c, y = (0.02, 3), (float(np.float32(rng.uniform(0.01, 0.1))), 0), (0.05, -7)
        constant = np.array([[rng.integers(-128, 128)]], np.int8)
        first = bool(rng.random() < 0.5)
        inputs = [(values, *x), (constant, *c)]
        add = qm.sub_parameters(*((c, x) if first else (x, c)), y)
        mul = qm.mul_parameters(*((c, x) if first else (x, c)), y)
        number = int(constant[0, 0])
        for kind, options, function in (
            ("SUB", cases.schema.SubOptionsT(), qm.add),
            ("MUL", cases.schema.MulOptionsT(), qm.mul),
        ):
            parameters = add if kind == "SUB" else mul
            expected = cases.tflm.operator(
                kind, inputs[::-1] if first else inputs, (values.shape, *y), options
            )
            got = [
                function(parameters, *((number, x) if first else (x, number)))
                for x in range(-128, 128)
            ]
            np.testing.assert_array_equal(got, expected[0])


def test_a_linear_add_is_the_add_of_every_pair() -> None:
    rng = np.random.default_rng(9)
    values = range(-128, 128)
    found = 0
    for _ in range(12):
        x1, x2, y = (
            (float(np.float32(rng.uniform(*scales))), int(rng.integers(-40, 40)))
            for scales in ((0.05, 0.1), (0.01, 0.1), (0.07, 0.2))
        )
        prepare = qm.add_parameters if rng.random() < 0.5 else qm.sub_parameters
        p = prepare(x1, x2, y)
        form = qm.linear_add(p)
        if form == qm.LinearAdd():
            continue
        found += 1
        for a in values:
            for b in values:
                value = a * form.x1_factor + b * form.x2_factor + form.offset
                assert -(2**31) <= value < 2**31
                assert min(max(value >> qm.LINEAR_SHIFT, -128), 127) == qm.add(p, a, b)
    assert found > 6


def test_an_add_that_is_not_linear_is_none() -> None:
    scales = (0.1, 3), (0.05, -7), (0.1, 0)
    assert qm.linear_add(qm.add_parameters(*scales)) != qm.LinearAdd()
    # A clamp of its own; a sum that 32 bits don't hold at this precision.
    assert qm.linear_add(qm.add_parameters(*scales, "relu")) == qm.LinearAdd()
    coarse = qm.add_parameters((0.1, 3), (0.1, -7), (0.02, 0))
    assert qm.linear_add(coarse) == qm.LinearAdd()


def test_softmax_in_python_equals_tflm() -> None:
    rng = np.random.default_rng(7)
    x = rng.integers(-128, 128, (4, 30)).astype(np.int8)
    options = cases.schema.SoftmaxOptionsT()
    options.beta = 1.0
    expected = cases.tflm.operator(
        "SOFTMAX", [(x, 0.1, 5)], (x.shape, 1 / 256, -128), options
    )
    table = qm.softmax_exp_table(1.0, float(np.float32(0.1)))
    assert [qm.softmax(table, row) for row in x.tolist()] == expected.tolist()


def test_multiplier_is_the_nearest_and_round_trips() -> None:
    assert qm.quantize_multiplier(0.0) == (0, 0)
    assert qm.quantize_multiplier(0.5) == (1 << 30, 0)
    assert qm.quantize_multiplier(1.0) == (1 << 30, 1)
    assert qm.quantize_multiplier(1 - 2.0**-40) == (1 << 30, 1)  # rounds up to 1
    assert qm.quantize_multiplier(2.0**-40) == (0, 0)  # flushed, as TFLM does
    for real in np.exp(np.random.default_rng(8).uniform(-15, 5, 200)):
        multiplier, shift = qm.quantize_multiplier(float(real))
        assert 1 << 30 <= multiplier < 1 << 31
        assert multiplier * 2.0 ** (shift - 31) == pytest.approx(real, rel=2**-31)
    with pytest.raises(ValueError, match="at least 0"):
        qm.quantize_multiplier(-1.0)


def test_rounding_is_away_from_zero_after_up() -> None:
    assert [qm.rounding_divide_by_pot(v, 1) for v in (-3, -1, 1, 3)] == [-2, -1, 1, 2]
    assert qm.saturating_rounding_doubling_high_mul(-1, 1 << 30) == 0  # -0.5 goes up
    assert qm.saturating_rounding_doubling_high_mul(1, 1 << 30) == 1
    low = qm.INT32_MIN
    assert qm.saturating_rounding_doubling_high_mul(low, low) == qm.INT32_MAX


def test_a_bias_that_could_overflow_is_refused() -> None:
    weights = np.full((1, 10), 127, np.int8)
    folded = qm.fold_bias(weights, np.array([5], np.int32), -3)
    assert folded.tolist() == [5 + 3 * 1270]
    with pytest.raises(ValueError, match="overflow"):
        qm.fold_bias(weights, np.array([2**31 - 100], np.int32), -3)


def test_dsp_layout_mixes_pairs_of_rows() -> None:
    weights = np.arange(-7, 8, dtype=np.int8).reshape(3, 5)
    halves = np.frombuffer(weight_layout.layout(weights, "dsp"), "<i2")
    padded = np.zeros((4, 8), int)
    padded[:3, :5] = weights
    order = [0, 2, 1, 3, 4, 6, 5, 7]
    expected = [padded[i, order] + 256 * padded[i + 1, order] for i in (0, 2)]
    assert halves.tolist() == np.concatenate(expected).tolist()
    assert weight_layout.layout(weights, "mve") == weights.tobytes()
    with pytest.raises(ValueError, match="core must be"):
        weight_layout.layout(weights, "avx")


def test_scratch_formulas_equal_the_header(tmp_path: Path) -> None:
    layout = weight_layout
    lines = [f'_Static_assert(KWS_CONV_2D_BLOCK == {layout.CONV_2D_BLOCK}, "");']
    for n in (1, 7, 25, 64, 99):
        wanted = {
            f"KWS_FULLY_CONNECTED_SCRATCH_BYTES({n})": (
                layout.fully_connected_scratch_bytes(n)
            ),
            f"KWS_CONV_2D_SCRATCH_BYTES({n})": layout.conv_2d_scratch_bytes(n),
            f"KWS_DEPTHWISE_CONV_2D_SCRATCH_BYTES(15, {n})": (
                layout.depthwise_conv_2d_scratch_bytes(15, n)
            ),
            f"KWS_BATCH_MATMUL_SCRATCH_BYTES({n})": (
                layout.batch_matmul_scratch_bytes(n)
            ),
            f"KWS_BATCH_MATMUL_COLUMNS_SCRATCH_BYTES({n})": (
                layout.batch_matmul_columns_scratch_bytes(n)
            ),
            f"KWS_ATTENTION_V_STRIDE({n})": layout.attention_v_stride(n),
            f"KWS_ATTENTION_K_BYTES({n}, 48)": layout.attention_k_bytes(n, 48),
            f"KWS_ATTENTION_V_BYTES({n}, 48)": 48 * layout.attention_v_stride(n),
            f"KWS_ATTENTION_SCRATCH_BYTES({n}, 3, 16)": (
                layout.attention_scratch_bytes(n, 3, 16)
            ),
            f"KWS_MEAN_ROWS_SCRATCH_BYTES({n})": layout.mean_rows_scratch_bytes(n),
            f"KWS_LINEAR_ATTENTION_STATE_BYTES({n})": (
                layout.linear_attention_state_bytes(n)
            ),
            f"KWS_LINEAR_ATTENTION_SCRATCH_BYTES({n})": (
                layout.linear_attention_scratch_bytes(n)
            ),
        }
        lines += [f'_Static_assert({m} == {v}, "{m}");' for m, v in wanted.items()]
    source = tmp_path / "scratch.c"
    source.write_text(
        '#include "kws_kernels.h"\n' + "\n".join(lines) + "\nint main(void) {}\n"
    )
    image.host([source], "portable", tmp_path, ())
