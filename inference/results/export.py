"""From draws to ArviZ: an `InferenceData` under ArviZ 0.x, an `xarray.DataTree` under 1.x, with the same groups in it.

The groups are `xarray.Dataset`s built here, to ArviZ's schema, and only wrapped differently for the two generations.
ArviZ's own `from_dict` has one table of dimensions for all groups, and a model may well have an argument or a statistic
of the same name as a site.

Names. netCDF has no "/" in names, where it separates groups; NumPyro's `scope` puts it there. On the way out "/"
becomes "."; so the site "team/skill" is the variable "team.skill", which keeps the site's name in its attribute `site`.
The names "chain" and "draw" are ArviZ's, and a dimension cannot be called like a variable: what is taken gets an
underscore behind it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from ... import __version__  # pyright: ignore[reportMissingImports]  (the rooms stand at the root, the door in src)
from ...ppl.dims import data_dims
from ...ppl.gate import Argument
from ...ppl.interpreters import generate
from ...ppl.predictive import log_likelihood_of, score_axes
from ...ppl.program import ModelProgram, Site
from ...transforms.errors import SamplerError
from ...transforms.keys import random_key
from .scores import scores_by_variable

__all__ = ["Run", "as_arviz", "empty_groups", "posterior_dataset", "saturated", "to_arviz"]

Values = Mapping[str, np.ndarray]
_SAMPLE_DIMS = ("chain", "draw")


@dataclass(frozen=True)
class Run:
    """What a finished run hands over.

    Attributes:
        samples, warmup_samples: by site, (chain, draw, *site shape), constrained; the second None unless kept.
        sample_stats, warmup_stats: by name, (chain, draw).
        program: the model, None for a density that is not one.
        max_tree_depth: of the kernel, None if it grows no trees.
        settings: numbers and words that become attributes of the groups.
    """

    samples: Values
    sample_stats: Values
    warmup_samples: Values | None
    warmup_stats: Values | None
    program: ModelProgram | None
    max_tree_depth: int | None
    settings: Mapping[str, Any]


def to_arviz(
    run: Run,
    *,
    log_likelihood: bool = True,
    prior: Values | None = None,
    posterior_predictive: Values | None = None,
    discrete: Values | None = None,
) -> Any:
    """The run as ArviZ wants it; `MCMC.to_arviz` has the words for users.

    Raises:
        SamplerError: there are no draws; `prior`, `posterior_predictive` or `discrete` do not belong to this model.
    """
    if next(iter(run.samples.values())).shape[1] == 0:
        raise SamplerError("MCMC.to_arviz: there are no draws after warm-up; run again and let it come so far.")
    names = _Names(run)
    chains = next(iter(run.samples.values())).shape[:2]
    states = {} if discrete is None else _by_chain("discrete", names, discrete, chains)
    groups: dict[str, Any] = {"posterior": names.draws({**run.samples, **states})}
    if posterior_predictive is not None:
        values = _by_chain("posterior_predictive", names, posterior_predictive, chains)
        groups["posterior_predictive"] = names.draws(_only_observed("posterior_predictive", names, values))
    groups["sample_stats"] = _dataset(_stats(run.sample_stats, run.max_tree_depth), run.settings)
    if log_likelihood and run.program is not None and names.observed:
        scores = log_likelihood_of(run.program, run.samples)
        groups["log_likelihood"] = names.scores(scores, score_axes(run.program, scores))
    if prior is not None:
        values = _by_chain("prior", names, prior, ())
        groups["prior"] = names.draws({n: v for n, v in values.items() if n not in names.observed})
        groups["prior_predictive"] = names.draws({n: v for n, v in values.items() if n in names.observed})
    observed = _observed(run)
    groups["observed_data"] = names.dataset(observed)
    groups["constant_data"] = names.constants(_constant_data(run, observed))
    if run.warmup_samples is not None and run.warmup_stats is not None:
        groups["warmup_posterior"] = names.draws(run.warmup_samples)
        groups["warmup_sample_stats"] = _dataset(_stats(run.warmup_stats, run.max_tree_depth), run.settings)
    # ArviZ's plots, and `extract`, stop at variables without elements; nor is there anything to see of a warm-up without draws.
    groups = {name: group[[v for v in group.data_vars if group[v].size]] for name, group in groups.items()}
    groups = {name: group for name, group in groups.items() if group.data_vars}
    return as_arviz(groups, _attributes(run.settings))


def as_arviz(groups: Mapping[str, Any], attributes: Mapping[str, Any]) -> Any:
    """Datasets by group as an `InferenceData` under ArviZ 0.x, as an `xarray.DataTree` under ArviZ 1.x."""
    import arviz  # heavy, and not needed to sample: imported by who asks for it, here, in `diagnosis` and in `summary`

    if int(arviz.__version__.partition(".")[0]) == 0:
        return arviz.InferenceData(attrs=dict(attributes), **groups)
    import xarray  # with ArviZ, see above

    tree = xarray.DataTree.from_dict(groups)
    tree.attrs.update(attributes)
    return tree


def posterior_dataset(run: Run) -> tuple[Any, dict[str, str]]:
    """The posterior as a Dataset, and the variables' names by site."""
    names = _Names(run)
    return names.draws(run.samples), names.variables


def empty_groups(
    program: ModelProgram | None, values: Any, stats: Any, settings: Mapping[str, Any]
) -> tuple[tuple[Any, Any], dict[str, str]]:
    """The groups `posterior` and `sample_stats` without draws, for draws that are written one after another; and the variables by site.

    Args:
        program: the model, if there is one.
        values, stats: by site and by statistic, shapes and dtypes, (chain, any number, ...). What has no elements is left out.
        settings: as in `Run`.
    """

    def empty(like: Any) -> dict[str, np.ndarray]:
        return {name: np.zeros((v.shape[0], 0, *v.shape[2:]), v.dtype) for name, v in like.items() if 0 not in v.shape[2:]}

    run = Run(empty(values), empty(stats), None, None, program, None, settings)
    names = _Names(run)
    groups = names.draws(run.samples), _dataset(run.sample_stats, settings)
    return groups, {name: names.variables[name] for name in run.samples}


def saturated(stats: Values, max_tree_depth: int | None) -> np.ndarray | None:
    """(chain, draw), bool: trajectories that took all the 2**max_tree_depth - 1 steps allowed; None without trees."""
    if max_tree_depth is None or "tree_depth" not in stats:
        return None
    return np.asarray(stats["n_steps"]) >= 2**max_tree_depth - 1


class _Names:
    """Which variables and dimensions ArviZ shall see for the sites of a model."""

    def __init__(self, run: Run):
        sites = {} if run.program is None else run.program.sites
        self.sites: dict[str, Site] = {n: s for n, s in sites.items() if s.kind != "factor"}
        self.observed = {n for n, s in self.sites.items() if s.role == "observed"}
        self.variables = _free_names([*self.sites, *(n for n in run.samples if n not in self.sites)], _SAMPLE_DIMS)
        dims = dict.fromkeys(d for s in self.sites.values() for d in s.dims)
        self.dims = _free_names(dims, (*_SAMPLE_DIMS, *self.variables.values()))
        coords = {} if run.program is None else run.program.coords
        self.coords = {self.dims[d]: labels for d, labels in coords.items() if d in self.dims}
        self.settings = run.settings

    def draws(self, values: Values) -> Any:
        """A Dataset of values that have the axes (chain, draw) in front."""
        return self.dataset(values, _SAMPLE_DIMS)

    def dataset(self, values: Values, lead: tuple[str, ...] = ()) -> Any:
        variables = {self.variables[site]: value for site, value in values.items()}
        dims = {self.variables[site]: self._own_dims(site) for site in values}
        attributes = {self.variables[site]: self._attributes(site) for site in values}
        return _dataset(variables, self.settings, lead, dims, self.coords, attributes)

    def scores(self, values: Values, axes: Mapping[str, Sequence[tuple[str, int]]]) -> Any:
        """A Dataset of pointwise log likelihoods, without what is masked. `axes`: by name, what each axis is (`score_axes`)."""
        self.variables |= _free_names([name for name in values if name not in self.variables], self.variables.values())
        named = {self.variables[name]: value for name, value in values.items()}
        dims = {self.variables[name]: [self._own_dims(site)[axis] for site, axis in axes[name]] for name in values}
        scores = scores_by_variable(named, dims, self.coords)
        coords = {**self.coords, **{d: labels for score in scores.values() for d, labels in score.labels.items()}}
        attributes: dict[str, dict[str, Any]] = {self.variables[name]: self._attributes(name) for name in values}
        for name, score in scores.items():
            attributes[name] |= {"masked": score.left_out} if score.left_out else {}
        variables = {name: score.values for name, score in scores.items()}
        return _dataset(variables, self.settings, _SAMPLE_DIMS, {n: s.dims for n, s in scores.items()}, coords, attributes)

    def constants(self, values: Mapping[str, tuple[Argument, Mapping[int, str]]]) -> Any:
        """A Dataset of arguments, each with the plates of its axes, else with the names that it came with.

        A dimension that is called like one of the arguments goes without its name.
        """
        variables = _free_names(values, ())
        taken, dims, coords = set(variables.values()), {}, dict(self.coords)
        for name, (argument, plates) in zip(variables.values(), values.values(), strict=True):
            own = dict(enumerate(argument.dims)) | {axis: self.dims[plate] for axis, plate in plates.items() if plate in self.dims}
            dims[name] = [own[a] if own.get(a, name) not in taken else f"{name}_dim_{a}" for a in range(np.ndim(argument.value))]
            coords = {**(argument.coords or {}), **coords}
        attributes = {name: {} if name == argument else {"site": argument} for argument, name in variables.items()}
        arrays = {variables[name]: argument.value for name, (argument, _) in values.items()}
        return _dataset(arrays, self.settings, (), dims, coords, attributes)

    def _own_dims(self, site: str) -> list[str]:
        return [self.dims[d] for d in self.sites[site].dims] if site in self.sites else []

    def _attributes(self, site: str) -> dict[str, Any]:
        name = self.variables[site]
        return {} if name == site else {"site": site}


def _dataset(
    values: Values,
    settings: Mapping[str, Any],
    lead: tuple[str, ...] = _SAMPLE_DIMS,
    dims: Mapping[str, Sequence[str]] | None = None,
    coords: Mapping[str, Sequence[Any]] | None = None,
    attributes: Mapping[str, Mapping[str, Any]] | None = None,
) -> Any:
    """A Dataset. Axes without a name are `<variable>_dim_<axis>`, dimensions without labels are numbered."""
    import xarray  # with ArviZ, see above

    sizes: dict[str, int] = {}
    variables = {}
    for name, value in values.items():
        value = np.asarray(value)
        named = [*lead, *(dims or {}).get(name, ())]
        for i, size in enumerate(value.shape):
            # The same name with another size is another dimension: a plate that has grown in new data, say.
            if i >= len(named):
                named.append(f"{name}_dim_{i - len(lead)}")
            elif sizes.get(named[i], size) != size or named[i] in named[:i]:
                named[i] = f"{name}_dim_{i - len(lead)}"
            sizes[named[i]] = size
        variables[name] = xarray.Variable(named, value, dict((attributes or {}).get(name, {})))
    labels = {d: (coords or {}).get(d, ()) for d in sizes}
    index = {d: np.asarray(labels[d]) if size and len(labels[d]) == size else np.arange(size) for d, size in sizes.items()}
    words: dict[str, Any] = {"sample_dims": list(lead)} if lead else {}  # as arviz-base 1.3 has it
    return xarray.Dataset(variables, index, _attributes(settings) | words)


def _attributes(settings: Mapping[str, Any]) -> dict[str, Any]:
    """ArviZ's attributes, and the settings of the run; netCDF has no truth values, they become 0 and 1."""
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "creation_library": "luciole",
        "creation_library_version": __version__,
        "creation_library_language": "Python",
        "inference_library": "luciole",
        "inference_library_version": __version__,
        **{n: int(v) if isinstance(v, (bool, np.bool_)) else v for n, v in settings.items()},
    }


def _stats(stats: Values, max_tree_depth: int | None) -> dict[str, np.ndarray]:
    full = saturated(stats, max_tree_depth)
    # the first name is PyMC's, which ArviZ's own diagnosis reads, the second arviz-base's
    return {**stats, **({} if full is None else {"reached_max_treedepth": full, "reached_max_tree_depth": full})}


def _observed(run: Run) -> dict[str, np.ndarray]:
    """The observed values by site. A program knows them only once it runs: they may be computed from the data."""
    if run.program is None:
        return {}
    names = [n for n, s in run.program.sites.items() if s.role == "observed"]
    if not names:
        return {}
    first = {n: run.samples[n][0, 0] for n in run.program.latents if n in run.samples}
    values = generate(run.program, run.program.data, random_key(), first)
    return {n: np.asarray(values[n]) for n in names}


def _constant_data(run: Run, observed: Values) -> dict[str, tuple[Argument, Mapping[int, str]]]:
    """The array arguments that are not the value of an observed site, and the plates of their axes."""
    if run.program is None:
        return {}
    arguments = {n: a for n, a in run.program.arguments.items() if getattr(a.value.dtype, "kind", "") in tuple("biufUMm")}
    values = {name: np.asarray(argument.value) for name, argument in arguments.items()}
    kept = [name for name, value in values.items() if not any(_same(value, other) for other in observed.values())]
    constants = list(zip(run.program.data, data_dims(run.program.jaxpr, run.program.sites), strict=True)) if kept else []
    constants = [(data, np.asarray(data), plates) for data, plates in constants if plates]
    found = {}
    for name in kept:
        value = values[name]
        unique = not any(_same(value, other) for n, other in values.items() if n != name)
        its = [p for data, array, p in constants if data is arguments[name].value or (unique and _same(value, array))]
        plates = {axis: {p[axis] for p in its if axis in p} for axis in range(value.ndim)}
        found[name] = arguments[name], {axis: next(iter(names)) for axis, names in plates.items() if len(names) == 1}
    return found


def _same(value: np.ndarray, observed: np.ndarray) -> bool:
    """Whether an argument is the value of an observed site, which may have changed its dtype on the way. NaN, masked, is itself."""
    if value.dtype.kind in "UMm" or value.shape != observed.shape:
        return False
    return np.array_equal(value.astype(observed.dtype), observed, equal_nan=observed.dtype.kind in "fc")


def _by_chain(group: str, names: _Names, values: Values, chains: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Predictive draws as (chain, draw, ...); draws that were made from flat samples find their chains again."""
    shaped = {}
    for name, value in values.items():
        if name not in names.sites:
            raise SamplerError(f"MCMC.to_arviz: {group} has {name!r}, which is no site of this model ({list(names.sites)}).")
        value = np.asarray(value)
        lead = value.ndim - len(names.sites[name].shape)
        if lead == 1 and value.shape[0] == np.prod(chains, dtype=int) and chains:
            value = value.reshape(*chains, *value.shape[1:])
        elif lead == 1:
            value = value[None]
        elif lead != 2:
            raise SamplerError(
                f"MCMC.to_arviz: {group} has shape {value.shape} for the site {name!r}; expected (draw, ...) or "
                f"(chain, draw, ...) before the site's {len(names.sites[name].shape)} axes."
            )
        shaped[name] = value
    return shaped


def _only_observed(group: str, names: _Names, values: Values) -> Values:
    """What a predictive group holds: draws of the observed sites. The others are no predictions, and ArviZ would plot them as such."""
    observed = {n: v for n, v in values.items() if n in names.observed}
    if values and not observed:
        raise SamplerError(
            f"MCMC.to_arviz: {group} has {list(values)} and none of the observed sites {sorted(names.observed)}, which are what the group "
            "holds; the values of other sites with the draws are in the group posterior. Pass what `lc.posterior_predictive` returned."
        )
    return observed


def _free_names(names: Iterable[str], taken: Iterable[str]) -> dict[str, str]:
    used, found = set(taken), {}
    for name in names:
        free = name.replace("/", ".")
        while free in used:
            free += "_"
        used.add(free)
        found[name] = free
    return found
