"""Liveness, and what calls save, on programs written by hand."""

from luciole.transforms.autobatch.liveness import analyse, reachable_functions

from .by_hand import fibonacci, greatest_common_divisor, parity
from .more_by_hand import clobber, kept


def names(slots):
    return [str(s) for s in slots]


def test_fibonacci_saves_the_argument_and_then_the_first_half():
    found = analyse(fibonacci())
    assert {block: names(slots) for block, slots in found.saved.items()} == {"fib.left": ["fib.n"], "fib.right": ["fib.first"]}
    assert found.recursive == {"fib.left": True, "fib.right": True}
    assert sorted(names(found.registers)) == ["fib.first", "fib.n", "fib.result"]
    assert sorted(names(found.exit["fib.left"])) == ["fib.less", "fib.n"]


def test_a_tail_call_saves_nothing_and_mutual_recursion_is_one_group():
    found = analyse(parity())
    assert found.saved == {"even.call": (), "odd.call": ()}
    assert found.groups == (frozenset({"even", "odd"}),)
    assert "even.n" in names(found.may_write["odd"])  # even is entered again from odd


def test_a_loop_keeps_its_variables_live_around_the_back_edge():
    found = analyse(greatest_common_divisor())
    assert sorted(names(found.entry["gcd"])) == sorted(names(found.exit["gcd.body"])) == ["gcd.a", "gcd.b"]
    assert reachable_functions(greatest_common_divisor(), "gcd") == {"gcd"}


def test_what_inner_calls_pop_again_is_not_saved_twice():
    """tree(n - 2, k) overwrites k only by its own first call, which pops it."""
    found = analyse(clobber())
    assert "tree.k" in names(found.may_write["tree"]) and "tree.k" not in names(found.clobbers["tree"])
    assert names(found.saved["tree:left"]) == ["tree.k", "tree.n"]
    assert names(found.saved["tree:right"]) == ["tree.sum"]


def test_a_result_that_is_needed_after_another_call_is_saved_though_nothing_is_recursive():
    found = analyse(kept())
    assert names(found.saved["outer:second"]) == ["fact.result"]
    assert not found.recursive["outer:second"] and found.recursive["fact:step"]
