"""The shipped configurations of each kernel, as arguments of `compile_kernel`."""

from dataclasses import dataclass
from typing import Any

import triton.language as tl

from probcomp.kernels.gpu import (
    attention,
    block_backward,
    block_forward,
    block_gemv,
    chains,
    decode_statistics,
    gated,
    groups,
    reparameterised,
    runs,
)


@dataclass(frozen=True)
class Case:
    """One kernel with one configuration."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int
    stages: int
    unaligned: tuple[str, ...] = ("M",)
    wgmma: bool = False  # wide enough for Hopper's warp-group product
    pipelined: bool = True  # copies to shared memory run ahead of the products
    stack: int = 0  # bytes of local memory that are not spills


ARITHMETIC = {"ACC": tl.float32, "UPCAST": False, "PREC": "ieee"}


def pointers(dtype: str, floats: str, ints: str = "", wide: str = "") -> dict[str, str]:
    return {
        **{f"{name}_ptr": f"*{dtype}" for name in floats.split()},
        **{f"{name}_ptr": "*i32" for name in ints.split()},
        **{f"{name}_ptr": "*fp32" for name in wide.split()},
    }


def sizes(names: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), "i32")


def block_cases(dtype: str) -> dict[str, Case]:
    found = {}
    types = {
        **pointers(dtype, "x val bias y", "lo hi row col", "scale part"),
        **sizes("M N stride_x stride_y"),
    }
    for bn, bk in ((128, 64), (128, 32), (64, 64), (64, 32), (32, 32), (16, 16)):
        for rows in (16, 4096):
            bm, warps, stages = block_forward.tile(rows, (bn, bk))
            constants = {
                "BM": bm, "BN": bn, "BK": bk, "ACT": 2, "BIAS": True, "SCALE": False,
                "SPLIT": False, **ARITHMETIC,
            }  # fmt: skip
            found[f"forward-{bn}x{bk}-M{rows}"] = Case(
                block_forward.block_forward, types, constants, warps, stages,
                wgmma=bn >= 64 and bm >= 64,
            )  # fmt: skip
    split = found["forward-64x32-M4096"]
    found["forward-split"] = Case(
        split.kernel, types, {**split.constants, "SPLIT": True}, split.warps, split.stages,
        wgmma=True,
    )  # fmt: skip
    found["forward-sum"] = Case(
        block_forward.block_forward_sum,
        {**pointers(dtype, "bias y", "first", "part"), **sizes("M N stride_y")},
        {"BM": 128, "BN": 64, "ACT": 2, "BIAS": True, "ACC": tl.float32}, 4, 2, pipelined=False,
    )  # fmt: skip
    found["int8"] = Case(
        split.kernel, {**types, "val_ptr": "*i8"}, {**split.constants, "SCALE": True},
        split.warps, split.stages, wgmma=True,
    )  # fmt: skip
    found["gemv"] = Case(
        block_gemv.block_gemv,
        {**pointers(dtype, "x val bias y", "crow order col"), **sizes("N stride_x stride_y")},
        {"BN": 64, "BK": 32, "ACT": 2, "BIAS": True, "ACC": tl.float32, "STAGES": 5}, 4, 5,
    )  # fmt: skip
    found["backward-input"] = Case(
        block_backward.block_backward_input,
        {
            **pointers(dtype, "g val dx", "ccol trow perm"),
            **sizes("M K stride_g stride_x"),
        },
        {"BM": 128, "BN": 64, "BK": 64, **ARITHMETIC}, 4, 5, wgmma=True,
    )  # fmt: skip
    found["backward-weight"] = Case(
        block_backward.block_backward_weight,
        {
            **pointers(dtype, "g x dval", "erow col"),
            **sizes("M STEP blocks stride_g stride_x"),
        },
        {"BM": 64, "BN": 64, "BK": 64, **ARITHMETIC}, 4, 3, ("M", "blocks"), wgmma=True,
    )  # fmt: skip
    return found


def other_cases(dtype: str) -> dict[str, Case]:
    found = {}
    for bm, warps in ((16, 4), (64, 4), (128, 8)):
        found[f"gated-M{bm}"] = Case(
            gated.gated_hidden,
            {
                **pointers(dtype, "x gate up gate_bias up_bias y"), "neuron_ptr": "*i64",
                **sizes("M H K stride_x stride_w stride_y"),
            },
            {
                "BM": bm, "BH": 64, "BK": 64, "ACT": 4, "GATHER": True, "GATE_BIAS": True,
                "UP_BIAS": True, **ARITHMETIC,
            },
            warps, 3, wgmma=bm >= 64,
        )  # fmt: skip
    for rows, bn in ((16, 32), (64, 32), (64, 64), (64, 128)):
        bm, warps, stages = reparameterised.noise_tile(rows, bn)
        found[f"reparameterised-M{bm}x{bn}"] = Case(
            reparameterised.reparameterised,
            {
                **pointers(dtype, "x mean var bias y half", "crow order col"),
                **sizes("M N K seed stride_x stride_y stride_w"),
            },
            {"BM": bm, "BN": bn, "BK": 32, "BIAS": True, "DENSE": rows == 16, **ARITHMETIC},
            warps, stages, ("M", "seed"), wgmma=bm >= 64 and bn >= 64,
            stack=32,  # the range reduction of sine and cosine keeps an array of 28 bytes
        )  # fmt: skip
    for bt, bc in ((512, 1), (64, 16)):
        found[f"chain-{bt}x{bc}"] = Case(
            chains.chain_messages,
            {
                **pointers("fp32", "base coupling out"),
                **sizes("T C stride_t stride_c out_t out_c"),
            },
            {"BT": bt, "BC": bc, "REVERSE": True, "LIM": chains.LIMIT, "ACC": tl.float32}, 4, 2,
            ("T", "C", "stride_c", "out_c"), pipelined=False,
        )  # fmt: skip
    for bm in (16, 64):
        found[f"runs-M{bm}"] = Case(
            runs.run_forward,
            {**pointers(dtype, "x val y", "ptr seg"), **sizes("M stride_x stride_y")},
            {"BM": bm, "BN": 16, "SEG": 16, "G": 4, **ARITHMETIC}, 4, 5,
        )  # fmt: skip
    return found


def attention_cases(dtype: str) -> dict[str, Case]:
    strides = "q_b q_h q_t k_b k_h k_t v_b v_h v_t o_b o_h o_t"
    types = {
        **pointers(dtype, "q k v o", "off blk"), "kv_ptr": "*i64",
        **sizes(f"H LQ LK D {strides} off_h"), "scale": "fp32",
    }  # fmt: skip
    found = {}
    for bm, width, sparse in ((64, 64, False), (64, 64, True), (128, 128, True)):
        constants = {
            "BM": bm, "BN": 64, "BD": width, "CAUSAL": True, "SPARSE": sparse, **ARITHMETIC,
        }  # fmt: skip
        found[f"attention-{bm}x64-D{width}{'-sparse' if sparse else ''}"] = Case(
            attention.attention, types, constants, 4 if bm == 64 else 8, attention.STAGES,
            ("H", "LQ", "LK", "off_h"), wgmma=True,
        )  # fmt: skip
    return found


def group_cases(dtype: str) -> dict[str, Case]:
    types = {
        **pointers(dtype, "x val y"), "code_ptr": "*i8", **sizes("N KEPT CODES stride_x stride_y"),
    }  # fmt: skip
    constants = {
        "BN": groups.TALL, "BE": groups.WIDE, "KEEP": 2, "GROUP": 4, "BITS": 2, "ACC": tl.float32,
        "STAGES": groups.STAGES,
    }  # fmt: skip
    return {
        "groups": Case(groups.group_gemv, types, constants, groups.WARPS, groups.STAGES, ("N",))
    }


def decode_cases(dtype: str) -> dict[str, Case]:
    types = {
        **pointers(dtype, "x", "arg", "m1 m2 z u"), **sizes("V SPAN stride_x"), "inverse_t": "fp32",
    }  # fmt: skip
    constants = {"BV": 4096, "SPLIT": 4, "ACC": tl.float32, "UPCAST": False}
    return {
        "decode": Case(
            decode_statistics.decode_parts, types, constants, 8, 3, ("V",), pipelined=False
        )
    }


def cases(dtype: str) -> dict[str, Case]:
    """Every case by name."""
    families = (block_cases, other_cases, decode_cases, attention_cases, group_cases)
    return {name: case for family in families for name, case in family(dtype).items()}
