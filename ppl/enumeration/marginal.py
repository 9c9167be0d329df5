"""The density of a model with its discrete latent sites summed out:

    log p(x, y) = log sum over z of p(x, y, z),    x the continuous latent sites, y what is observed.

A lifted walk gives factors and chains, these are summed one variable after another. The result is an ordinary program of data and
position: samplers, gradients and evidence need no more than that.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp

from ...transforms.jax_compat import open_jaxpr
from .chain import Chain
from .choices import LogSum
from .elimination import eliminate
from .factor import Factor, added_up, crossing
from .labels import Label
from .lifted import Shared, Walk
from .report import Report
from .values import Variable, plain

__all__ = ["marginal_log_density", "summed_out", "walked"]


def marginal_log_density(
    program: Any,
    data: Sequence[Any],
    values: Mapping[str, Any],
    *,
    unconstrained: bool = True,
    sum_over: Any = None,
    probes: Mapping[str, Any] | None = None,
    report: Report | None = None,
) -> Any:
    """The log density, a scalar (nats), Jacobians included where values are unconstrained.

    Args:
        program: a `ModelProgram` whose `enumerated` names the sites to sum out.
        values: of all other latent sites.
        sum_over: log sum exp over one axis, or what takes its place.
        probes: by site, a table (*loops, states, *shape of one turn) that is added to the log probabilities of its states.
        report: notes the tables.
    """
    report = Report(None) if report is None else report
    walk = walked(program, data, values, unconstrained=unconstrained, probes=probes, report=report)
    total: Any = 0.0
    for factor in summed_out(walk.factors, walk.shared.chains, LogSum() if sum_over is None else sum_over, report):
        total = total + added_up(factor).array
    return total


def walked(
    program: Any,
    data: Sequence[Any],
    values: Mapping[str, Any],
    *,
    unconstrained: bool,
    weighted: bool = True,
    probes: Mapping[str, Any] | None = None,
    report: Report,
) -> Walk:
    """The walk over a program, done: its factors, and the chains of its loops. See `marginal_log_density`, and `Shared` for `weighted`."""
    shared = Shared(
        lines={n: s.line for n, s in program.sites.items()},
        enumerated=program.enumerated,
        absent=program.missing.absent,
        packed=set(program.missing.counts),
        unconstrained=unconstrained,
        report=report,
        supports=program.states,
        weighted=weighted,
    )
    given = program.missing.spread(data, values)
    variables: dict[str, Variable] = {}

    def variable(site: str, size: int, labels: tuple[Label, ...]) -> Variable:
        return variables.setdefault(site, Variable(site, size, labels, site, shared.lines[site]))

    walk = Walk(
        shared=shared,
        inputs={n: plain(jnp.asarray(v)) for n, v in given.items()},
        probes={n: plain(v) for n, v in (probes or {}).items()},
        variable=variable,
    )
    inner, _ = open_jaxpr(program.jaxpr)
    walk.run(inner, [plain(x) for x in data])
    return walk


def summed_out(factors: Sequence[Factor], chains: Sequence[Chain], sum_over: Any, report: Report) -> list[Factor]:
    """The factors that are left when every discrete variable is summed out: of each independent row a number."""
    waiting = list(chains)
    left = list(factors)
    while True:
        out = {v for chain in waiting for v in chain.met}
        left, stuck = eliminate(left, lambda v, out=out: v not in out, sum_over, report.sums)
        ready = [c for c in waiting if not any(label.root is c.turns.root for v in stuck for label in v.labels)]
        if ready:
            chain = ready[0]
            mine = [f for f in left if any(v in chain.handed_out for v in f.variables)]
            left = [f for f in left if f not in mine] + chain.summed(mine, sum_over, report)
            waiting.remove(chain)
        elif stuck or any(f.variables for f in left):
            raise crossing(left)
        else:
            return left
