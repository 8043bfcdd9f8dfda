"""The algebra of terms against brute force: a term is checked position by position."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from probcomp.structure.terms import (
    ONE,
    Event,
    Prod,
    RadixError,
    Site,
    Sum,
    Term,
    Var,
    block,
    fixed,
    fresh,
    is_blocked,
    leaves,
    norm,
    positions,
    regroup,
    removed,
    size,
    size_after,
    split_prod,
    split_sum,
    unify,
)

SITE = Site("op", "module")
MANY = settings(max_examples=150, deadline=None)


@st.composite
def terms(draw: st.DrawFn, depth: int = 3, pool: list[Var] | None = None) -> Term:
    """Random words over a small pool of variables, which may occur several times."""
    if pool is None:
        pool = [Var(n) for n in draw(st.lists(st.integers(2, 4), min_size=1, max_size=4))]
    kind = draw(st.sampled_from(["var", "one", "prod", "sum"] if depth else ["var", "one"]))
    if kind == "one":
        return ONE
    if kind == "var":
        return draw(st.sampled_from(pool))
    parts = draw(st.lists(terms(depth=depth - 1, pool=pool), min_size=1, max_size=3))
    return Prod(tuple(parts)) if kind == "prod" else Sum(tuple(parts))


def owners(term: Term) -> list[frozenset[tuple[int, int]]]:
    """For each position the (variable, unit) pairs it hangs on; binds are followed naively."""
    if isinstance(term, Var):
        if term.bind is not None:
            return owners(term.bind)
        return [
            frozenset({(term.id, u)}) if term.size > 1 else frozenset() for u in range(term.size)
        ]
    if isinstance(term, Sum):
        return [o for part in term.parts for o in owners(part)]
    found = [frozenset()]
    for part in term.parts:
        found = [a | b for a in found for b in owners(part)]
    return found


def random_gone(term: Term, seed: int) -> dict[Var, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {v: torch.rand(v.size, generator=generator) < 0.4 for v in leaves(term)}


def mask_by_hand(term: Term, gone: dict[Var, torch.Tensor]) -> torch.Tensor:
    dead = {(v.id, u) for v, mask in gone.items() for u in range(v.size) if mask[u]}
    return torch.tensor([bool(o & dead) for o in owners(term)], dtype=torch.bool)


@MANY
@given(terms(), st.integers(0, 99))
def test_norm_keeps_every_position(term: Term, seed: int) -> None:
    assert owners(norm(term)) == owners(term)
    assert size(norm(term)) == size(term) == len(owners(term))


@MANY
@given(terms(), st.integers(0, 99))
def test_removed_and_size_after_count_positions(term: Term, seed: int) -> None:
    gone = random_gone(term, seed)
    mask = removed(term, gone)
    assert torch.equal(mask, mask_by_hand(term, gone))
    # Survivors are balanced, so counts alone give the size.
    kept = {v: int((~m).sum()) for v, m in gone.items()}
    assert size_after(term, {}) == size(term)
    assert size_after(term, kept) == int((~mask).sum())


@MANY
@given(terms())
def test_positions_are_the_positions_of_each_unit(term: Term) -> None:
    for var in leaves(term):
        index = positions(term, var)
        for unit in range(var.size):
            by_hand = [i for i, o in enumerate(owners(term)) if (var.id, unit) in o]
            assert sorted(index[unit].tolist()) == by_hand


@MANY
@given(terms(), st.data())
def test_split_sum_cuts_in_place(term: Term, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, size(term)))
    head, tail = split_sum(term, first, SITE)
    assert owners(head) + owners(tail) == owners(term)
    assert size(head) == first


@MANY
@given(terms(), st.data())
def test_split_prod_is_row_major(term: Term, data: st.DataObject) -> None:
    n = size(term)
    outer = data.draw(st.sampled_from([d for d in range(1, n + 1) if n % d == 0]))
    try:
        head, tail = split_prod(term, outer, SITE)
    except RadixError:
        return  # refused: the caller blocks, which is sound
    assert size(head) == outer
    if not any(is_blocked(leaf) for leaf in leaves(term)):
        assert owners(Prod((head, tail))) == owners(term)


@MANY
@given(terms(), terms(), st.integers(0, 99))
def test_unify_makes_equal_or_blocks(s: Term, t: Term, seed: int) -> None:
    unify(s, t, SITE)
    blocked = all(is_blocked(leaf) for term in (s, t) for leaf in leaves(term))
    assert owners(s) == owners(t) or blocked
    assert size(s) == size(t) or blocked


@MANY
@given(terms(), terms(), st.integers(0, 99))
def test_unify_is_idempotent_and_symmetric_in_effect(s: Term, t: Term, seed: int) -> None:
    unify(s, t, SITE)
    before = owners(s), owners(t)
    unify(t, s, SITE)
    assert (owners(s), owners(t)) == before


@MANY
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_regroup_deals_the_word_out(sizes: list[int], data: st.DataObject) -> None:
    dims = [fresh(n) for n in sizes]
    total = size(Prod(tuple(dims)))
    outer = data.draw(st.sampled_from([d for d in range(1, total + 1) if total % d == 0]))
    try:
        out = regroup(dims, [outer, total // outer], SITE)
    except RadixError:
        return
    assert [size(t) for t in out] == [outer, total // outer]
    assert owners(Prod(tuple(out))) == owners(Prod(tuple(dims)))


def test_a_fused_projection_splits_into_heads_of_one_width() -> None:
    fused = Var(6 * 8 + 2 * 3 * 8)
    q, rest = split_sum(fused, 48, SITE)
    k, v = split_sum(rest, 24, SITE)
    heads = [split_prod(part, n, SITE) for part, n in ((q, 6), (k, 3), (v, 3))]
    assert [size(h) for h, _ in heads] == [6, 3, 3]
    assert len(list(leaves(fused))) == 6  # three head counts, three widths
    viewed = Var(6 * 8 + 2 * 3 * 8)
    split_sum(split_sum(viewed, 48, SITE)[1], 24, SITE)
    outer, inner = split_prod(viewed, 12, SITE)  # all heads in one view: one common width
    assert [size(outer), size(inner)] == [12, 8]
    assert len(list(leaves(inner))) == 1


def test_a_radix_conflict_blocks_both_sides_and_says_where() -> None:
    a, b = Var(12), Var(12)
    split_prod(a, 3, SITE)
    split_prod(b, 4, SITE)
    unify(a, b, Site("group_norm", "gn"))
    for leaf in (*leaves(a), *leaves(b)):
        (event,) = leaf.events
        assert event.kind == "blocked"
        assert "radix 3 does not fit radix 4" in str(event)
        assert "group_norm at gn" in str(event)


def test_cyclic_factorisation_is_blocked() -> None:
    a, b = Var(4), Var(2)
    loop = Sum((a, b, b))
    unify(Prod((Var(2), a)), loop, SITE)
    outer = Var(8)
    unify(outer, loop, SITE)
    inside = next(iter(leaves(loop)))
    unify(inside, Sum((inside, ONE)), SITE)  # sizes differ: refused and blocked
    assert is_blocked(inside)


def test_events_survive_refinement() -> None:
    v = Var(12)
    v.events[Event("stat", SITE)] = None
    head, tail = split_prod(v, 3, SITE)
    for leaf in (head, tail):
        assert [e.kind for e in next(iter(leaves(leaf))).events] == ["stat"]


def test_fixed_positions_and_ones() -> None:
    assert norm(fixed(1)) == ONE
    assert size(fixed(3)) == 3
    assert list(leaves(fixed(3))) == []
    assert is_blocked(fixed(3))
    assert fresh(1) == ONE
    v = Var(3)
    assert not is_blocked(v)
    block(v, SITE, "because")
    assert is_blocked(v)
    assert "because (op at module)" in str(next(iter(v.events)))


@pytest.mark.parametrize("outer", [0, 5, 24])
def test_split_prod_refuses_what_does_not_divide(outer: int) -> None:
    with pytest.raises(RadixError):
        split_prod(Var(12), outer, SITE)


@pytest.mark.parametrize("first", [-1, 13])
def test_split_sum_refuses_positions_outside(first: int) -> None:
    with pytest.raises(RadixError):
        split_sum(Var(12), first, SITE)
