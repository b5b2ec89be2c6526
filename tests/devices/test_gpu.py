"""What XLA makes of each pass on a GPU: compiled ahead of time for an H100, with no GPU present (see `h100`)."""

import importlib.metadata
import itertools
import json

import jax
import programs
import pytest
from h100 import compiles

import jdeconv
from benchmarks import __main__ as command
from benchmarks.ahead_of_time import gpu_kernels, gpu_program
from benchmarks.peers.jax import Operation, of_jdeconv, of_lax
from benchmarks.work.cases import CASES, DTYPES, Case, cube

AUTO = of_jdeconv("auto")


def row(operation, case, pass_, dtype="float32"):
    return gpu_kernels.row("", operation, case, dtype, pass_)


@compiles
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_pass_of_the_named_cases_calls_the_right_kernel(case):
    found = [row(AUTO, case, pass_, dtype) for dtype in DTYPES for pass_ in gpu_kernels.RIGHT]
    assert all(one.right for one in found), [f"{one.dtype}, {one.pass_}: {one.shown}" for one in found]


SMALL = {
    "kernel larger than the input": cube("", 4, 9, (16, 8), 10, 3),
    "kernel as large as the input": cube("", 4, 4, (16, 8), 4, 2),
    "in one dimension": Case("", 4, (4, 16), 16, 8, (7, 3), (2, 2)),
    "in one dimension, stride 1": Case("", 4, (4, 16), 16, 8, (7, 3), (1, 1)),
    "1-D": cube("", 4, 6, (16, 8), 8, 2, rank=1),
    "3-D": cube("", 1, 4, (16, 8), 5, 2, rank=3),
    "larger than the output": cube("", 1, 4, (4, 8), 5, 1, rank=3),
    "one pixel": cube("", 4, 1, (16, 8), 4, 4),
    "one pixel, stride 1": cube("", 4, 1, (16, 8), 4, 1),
    "flat kernel": Case("", 2, (8, 8), 16, 8, (4, 1), (2, 2)),
    "flat kernel, 3-D": Case("", 2, (6, 6, 6), 16, 8, (1, 3, 1), (2, 2, 1)),
    "kernel of one tap": cube("", 2, 8, (16, 8), 1, 2),
    "stride beyond the kernel": cube("", 2, 8, (16, 8), 2, 5),
    "to one channel": cube("", 2, 8, (16, 1), 3, 2),
    "to one channel, 3-D": cube("", 1, 8, (16, 1), 4, 2, rank=3),
    "from one channel": cube("", 2, 8, (1, 16), 3, 2),
    "few groups": cube("", 2, 8, (16, 32), 5, 2, groups=4),
    "many groups": cube("", 2, 8, (32, 64), 3, 2, groups=16),
    "groups, stride 1": cube("", 2, 8, (32, 64), 3, 1, groups=16),
    "depthwise": cube("", 2, 8, (24, 24), 3, 2, groups=24),
    "depthwise, 3-D": cube("", 1, 6, (8, 8), 4, 2, rank=3, groups=8),
    "depthwise, to two channels": cube("", 1, 9, (12, 24), 4, 2, groups=12),
}


@compiles
@pytest.mark.parametrize("pass_", gpu_kernels.RIGHT)
@pytest.mark.parametrize("name", SMALL)
def test_classes_of_geometries(name, pass_):
    found = row(AUTO, SMALL[name], pass_)
    assert found.right, found.shown


@compiles
@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (1, 2)])
@pytest.mark.parametrize("pass_", gpu_kernels.RIGHT)
def test_dilation(pass_, strides):
    def apply(case, x, w):
        return jdeconv.conv_transpose(x, w, case.shapes[2], case.stride, "SAME", dilations=2)

    found = row(Operation(apply), Case("", 4, (8, 8), 16, 8, (3, 3), strides), pass_)
    assert found.right, found.shown


@compiles
@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("outputs", [1, 8])
def test_either_orientation_of_the_kernel(rank, outputs):
    def flipped(case, x, w):
        return AUTO.apply(case, x, jax.numpy.flip(w, range(case.rank)))

    case = cube("", 2, 6, (16, outputs), 3, 2, rank=rank)
    found = [row(Operation(flipped), case, pass_) for pass_ in gpu_kernels.RIGHT]
    assert found[0].kernels == {"convBackwardInput": 1}
    assert all(one.right for one in found), [one.shown for one in found]


@compiles
def test_a_dilated_input_counts_with_its_zeros():
    """With strides 2 and 3 zeros are 5 of 6 products; a wrong kernel is told without counting them."""
    case = Case("", 2, (8, 6), 8, 8, (4, 3), (2, 3), groups=4)
    found = row(of_lax(case), case, "forward")
    assert (found.kernels, found.work, found.right) == ({"convForward": 1}, 2 * 3, False)
    window = row(of_lax(cube("", 2, 8, (8, 8), 4, 2)), cube("", 2, 8, (8, 8), 4, 2), "kernel gradient")
    assert (window.kernels, window.work, window.right) == ({"convForward": 1}, 1, False)


def compiled(convolution, name, pass_):
    lowered = programs.traced(convolution, programs.CALLS[name], pass_, gpu_kernels.h100()).lower()
    return lowered.compile(compiler_options={"xla_gpu_autotune_level": 0}).as_text()


DILATED_KERNEL = ("causal, dilated", "kernel gradient")  # by a rule


@compiles
@pytest.mark.parametrize(
    ("name", "pass_"), [pair for pair in itertools.product(programs.CALLS, programs.PASSES) if pair != DILATED_KERNEL]
)
def test_an_ordinary_convolution_is_the_program_of_lax(name, pass_):
    ours, theirs = (compiled(f, name, pass_) for f in (jdeconv.lax.conv_general_dilated, jax.lax.conv_general_dilated))
    assert programs.normalised(ours) == programs.normalised(theirs)


@compiles
def test_the_kernel_gradient_of_an_ordinary_dilated_convolution_is_one_product():
    calls = gpu_program.calls(compiled(jdeconv.lax.conv_general_dilated, *DILATED_KERNEL))
    assert [call.kernel for call in calls if call.kernel != "elementwise"] == ["product"]


PROGRAM = """\
%fused (p.1: f32[2,9], p.2: f32[2,9]) -> f32[2,8] {
  %p.1 = f32[2,9]{1,0} parameter(0)
  %p.2 = f32[2,9]{1,0} parameter(1)
  %m.1 = f32[2,9]{1,0} multiply(%p.1, %p.2)
  %i.1 = s32[2,9]{1,0} multiply(%p.1, %p.2)
  ROOT %s.1 = f32[2,8]{1,0} slice(%m.1), slice={[0:2], [0:8]}
}

%summed (p.1: f32[2,9], p.2: f32[2,9]) -> f32[2] {
  %p.1 = f32[2,9]{1,0} parameter(0)
  %p.2 = f32[2,9]{1,0} parameter(1)
  %m.1 = f32[2,9]{1,0} multiply(%p.1, %p.2)
  ROOT %r.1 = f32[2]{0} reduce(%m.1, %zero), dimensions={1}, to_apply=%add
}

ENTRY %main (x: bf16[8,32,32,128], w: bf16[128,4,4,64], y: bf16[8,64,64,64]) -> bf16[8,64,64,64] {
  %x = bf16[8,32,32,128]{3,2,1,0} parameter(0)
  %w = bf16[128,4,4,64]{3,2,1,0} parameter(1)
  %y = bf16[8,64,64,64]{3,2,1,0} parameter(2)
  %a = bf16[5,7]{1,0} parameter(3)
  %b = bf16[7,3]{1,0} parameter(4)
  %d = f32[5,3]{1,0} dot(%a, %b), lhs_contracting_dims={1}, rhs_contracting_dims={0}
  %e = (f32[5,3]{1,0}, s8[64]{0}) custom-call(%a, %b), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %f = (bf16[8,32,32,128]{3,2,1,0}, u8[0]{0}) custom-call(%y, %w), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", backend_config={}
  %g = (bf16[128,4,4,64]{3,2,1,0}, u8[0]{0}) custom-call(%y, %x), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter", backend_config={}
  ROOT %h = (bf16[8,64,64,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %w), window={size=4x4 stride=2x2 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput", backend_config={}
}
"""  # noqa: E501


def test_calls_of_a_program():
    convolution = 2 * 8 * 32 * 32 * 128 * 4 * 4 * 64
    assert gpu_program.calls(PROGRAM) == [
        ("elementwise", 2 * 2 * 8),  # what is sliced away is not computed
        ("elementwise", 2 * 2 * 9),
        ("product", 2 * 5 * 7 * 3),
        ("product", 2 * 5 * 7 * 3),
        ("convForward", convolution),
        ("convBackwardFilter", convolution),
        ("convBackwardInput", convolution),
    ]
    with pytest.raises(NotImplementedError, match="a loop"):
        gpu_program.calls(PROGRAM.replace(" slice(", " while("))


@pytest.mark.parametrize(
    ("pass_", "kernels", "work", "right"),
    [
        ("forward", {"convBackwardInput": 8}, 1.0, True),
        ("forward", {"convForward": 1}, 1.01, False),
        ("forward", {"convBackwardFilter": 1}, 1.0, False),
        ("input gradient", {"convForward": 1}, 1.0, True),
        ("kernel gradient", {"convForward": 1}, 1.0, False),
        ("kernel gradient", {"product": 1}, gpu_kernels.TILES, True),
        ("kernel gradient", {"product": 1}, gpu_kernels.TILES + 0.01, False),
        ("kernel gradient", {}, 0.0, False),
    ],
)
def test_what_is_right(pass_, kernels, work, right):
    assert gpu_kernels.Row("", "", "float32", pass_, "jdeconv", kernels, work).right == right


@compiles
def test_the_command(tmp_path, capsys):
    arguments = ["gpu-kernels", "--cases", "dw3", "--dtype", "float32", "--out", str(tmp_path / "new")]
    assert command.main(arguments) == 0
    assert command.main(["gpu-kernels", "--cases", "no such case"]) == 2
    written = (tmp_path / "new/gpu-kernels.md").read_text(encoding="utf-8")
    assert written in capsys.readouterr().out
    assert "| all three passes, float32 |  1 of 1 | 0 of 1 |" in written
    found = json.loads((tmp_path / "new/gpu-kernels.json").read_text(encoding="utf-8"))
    assert [(row["peer"], row["right"]) for row in found["rows"]] == [
        *(("jdeconv", True), ("lax", False)),
        *(("jdeconv", True), ("lax", True)),
        *(("jdeconv", True), ("lax", False)),
    ]


def test_the_command_without_the_compiler(monkeypatch, capsys):
    monkeypatch.setattr(gpu_kernels.importlib.util, "find_spec", lambda name: None)
    gpu_kernels.h100.cache_clear()
    assert gpu_kernels.main([]) == 2
    gpu_kernels.h100.cache_clear()
    version = importlib.metadata.version("jaxlib")
    assert capsys.readouterr().out == (
        "XLA's compiler for NVIDIA GPUs is not installed; expected the one of this jaxlib. "
        f"Run: pip install --no-deps jax-cuda12-plugin=={version} jax-cuda12-pjrt=={version}\n"
    )
