"""PartIR's table of collectives: the seven rows that two blocks of a transformer give, at the depth of the paper and at others."""

import importlib.util

import jax
import pytest
from jax import ShapeDtypeStruct

from luciole import sharding as ls

pytestmark = pytest.mark.acceptance


@pytest.fixture(scope="module")
def transformer(acceptance):
    spec = importlib.util.spec_from_file_location("transformer_programs", acceptance / "transformer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SMALL = {"d": 64, "h": 8, "dh": 8, "ff": 128, "vocab": 512}


@pytest.mark.parametrize(
    ("layers", "mesh", "size"),
    [
        (1, {"batch": 2, "model": 2}, SMALL),
        pytest.param(3, {"batch": 8, "model": 4}, None, marks=pytest.mark.slow),
        pytest.param(2, {"model": 8, "batch": 16}, SMALL, marks=pytest.mark.slow),
    ],
)
def test_all_rows_are_exact(transformer, layers, mesh, size):
    assert transformer.run(ls, L=layers, mesh=mesh, size=size) == []


@pytest.mark.exhaustive
def test_all_rows_are_exact_at_32_layers(transformer):
    assert transformer.run(ls, L=32) == []


def test_a_wrong_count_is_told(transformer, monkeypatch):
    """The twin: where a use of a gathered value finds it gathered already, the rows with gathers are not those of the paper."""
    from luciole.sharding import lower

    move = lower._Lowering.move

    def remembered(self, value, slot, start, end):
        cache = self.__dict__.setdefault("cache", {})
        if (slot, end) not in cache:
            cache[slot, end] = move(self, value, slot, start, end)
        return cache[slot, end]

    monkeypatch.setattr(lower._Lowering, "move", remembered)
    wrong = transformer.run(ls, L=1, mesh={"batch": 2, "model": 2}, size=SMALL)
    assert any("Z3" in row for row in wrong)
    assert any("EMB" in row for row in wrong)


@pytest.mark.parametrize("schedule", ["BP+MP+Z3", "MP+EMB"])
def test_the_lowered_step_has_the_predicted_collectives(transformer, schedule):
    size = {"d": 16, "h": 2, "dh": 8, "ff": 32, "vocab": 64}
    params = transformer.shapes("rms_norm", 1, **size)
    tokens = ShapeDtypeStruct((8, 16), "int32")
    tactics = [transformer.tactics(ls)[name] for name in schedule.split("+")]
    args = (params, {"m": params, "v": params}, {"tok": tokens, "tgt": tokens})
    part = ls.partition(transformer.step, args, {"batch": 4, "model": 2}, tactics, carry={"p": "p", "opt": "opt"})
    check = part.check()
    assert sum(check.lowered.values()) > 0
    assert jax.tree.leaves(part.out_specs["p"]) == jax.tree.leaves(part.in_specs[0])
