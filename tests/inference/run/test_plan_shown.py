"""What is shown of a plan: its picture, tactics that can be pasted in their place, bytes as the table of the density has them."""

import matplotlib
import numpy as np
import pytest

import luciole as lc
from luciole import dist
from luciole import sharding as ls

GROUPS = 16


def model(y):
    mu = lc.sample("mu", dist.Normal(0, 1))
    with lc.plate("group", GROUPS):
        alpha = lc.sample("alpha", dist.Normal(mu, 1))
        lc.sample("y", dist.Normal(alpha, 1), obs=y)


def plan(tactics, chains=8, **mesh):
    return lc.MCMC(lc.NUTS(model), num_chains=chains, mesh=mesh, tactics=tactics).plan(np.zeros(GROUPS, np.float32))


@pytest.fixture(scope="module")
def split():
    return plan([ls.ManualPartition({"chains": 0}, axis="c"), ls.ManualPartition({"plate:group": 0}, axis="g")], c=2, g=4)


def test_its_tactics_give_the_same_plan(split):
    assert str(split.tactics[0]) == "ManualPartition({'chains': 0}, axis='c')"
    again = plan(split.tactics, c=2, g=4)
    assert str(again).splitlines()[5:] == str(split).splitlines()[5:]  # but for the words of a tactic, which were "plate:group"
    assert plan(split.tactics[1:], c=2, g=4).chains == 8 != split.chains


def test_bytes_are_those_of_the_table(split):
    energy = 4 * 2 * 3 / 4  # of the leaf, one number met over the four devices of a ring
    assert split.sent["per gradient"] == split.chains * (split.reports[-1].collective_bytes + energy)


def test_picture(split):
    matplotlib.use("agg")
    layouts, memory = split.plot().axes
    assert [label.get_text() for label in layouts.get_xticklabels()] == ["c (2)", "g (4)"]
    rows = [label.get_text() for label in layouts.get_yticklabels()]
    places = {(rows[round(text.get_position()[1])], text.get_position()[0]) for text in layouts.texts}
    assert places == {("chains", 0), ("data.y", 1), ("sites.alpha", 1)}
    assert max(memory.collections[0].get_paths()[0].vertices[:, 1]) == pytest.approx(split.reports[-1].peak_bytes / 2**20)


def test_chains_alone_have_no_picture():
    alone = plan([ls.ManualPartition({"chains": 0}, axis="c")], c=8)
    assert "8 devices (c=8), 1 chain on each" in str(alone) and alone.homes == {"chains": (("c",),)}
    with pytest.raises(lc.PartitionError, match=r"only the chains are split.*plate:row"):
        alone.plot()


def test_an_axis_that_nothing_uses_is_named():
    idle = plan([ls.ManualPartition({"chains": 0}, axis="c")], c=2, g=4)
    assert idle.idle_axes == ("g",) and "nothing is split over 'g': its devices do the same work" in str(idle)


def test_it_explains_a_layout(split):
    assert "dimension 0 over 'g'" in split.explain("data.y") and "dimension 0 over 'g'" in split.explain("sites.alpha")
    with pytest.raises(lc.PartitionError, match=r"did you mean|Did you mean"):
        split.explain("sites.alhpa")
    with pytest.raises(lc.PartitionError, match="only the chains are split"):
        plan(None, c=8).explain("sites.alpha")
