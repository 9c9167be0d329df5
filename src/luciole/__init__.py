"""Luciole: probabilistic programming on JAX, where everything is a transformation of one program.

    import luciole as lc
    from luciole import dist                      # numpyro.distributions
    from luciole import transforms as lt

This module is the front door. It holds no code of its own, only a table of public names and the room each one lives in;
a name is imported when it is first used (PEP 562). So `import luciole` costs nothing, and a program that only needs
transformations never loads a sampler. The same names stand in `__init__.pyi`, where type checkers and editors read
them; a test keeps the two alike.
"""

from importlib import import_module

__version__ = "0.1.0"

_ROOMS = ("inference", "ppl", "sharding", "transforms")

# To make a name public: add it here, to `__init__.pyi`, and to the `__all__` of its room.
_NAMES_BY_ROOM = {
    ".ppl": (
        "Graphs",
        "LogDensity",
        "LostDerivativeWarning",
        "MissingPlateWarning",
        "ModelProgram",
        "NothingObservedWarning",
        "PackedGraphs",
        "PrecisionWarning",
        "PriorDrawWarning",
        "SaturatedDrawWarning",
        "ScaledLatentWarning",
        "SkippedMoleculeWarning",
        "SubstitutedSiteWarning",
        "circular_fingerprint",
        "condition",
        "dense",
        "deterministic",
        "directed_messages",
        "embedding",
        "factor",
        "fan_in_normal",
        "graph_convolution",
        "graphs_from_smiles",
        "init_to_feasible",
        "init_to_mean",
        "init_to_median",
        "init_to_sample",
        "init_to_uniform",
        "init_to_value",
        "log_density",
        "log_likelihood",
        "marginalize",
        "model",
        "neural_fingerprint",
        "plate",
        "posterior_predictive",
        "prior_predictive",
        "random_module",
        "render_model",
        "sample",
        "trace",
    ),
    ".inference": (
        "HMC",
        "MCMC",
        "NUTS",
        "RWM",
        "Attribution",
        "BreakEvenWarning",
        "BridgeEvidence",
        "DivergenceWarning",
        "EllipticalSlice",
        "EvidenceFitWarning",
        "EvidenceRangeWarning",
        "FailedRestartWarning",
        "FewEffectiveDrawsWarning",
        "Fit",
        "FlyMC",
        "FullEvaluationWarning",
        "Hypergradient",
        "InterruptWarning",
        "KinkWarning",
        "LastLayer",
        "NonNormalPosteriorWarning",
        "NotOnHostError",
        "OtherModeWarning",
        "PreconditionerWarning",
        "Prediction",
        "ProgramFolderWarning",
        "ProgressReport",
        "Results",
        "RoughHypergradientWarning",
        "RowsOnDeviceWarning",
        "Slice",
        "StoreWarning",
        "UnmixedChainsWarning",
        "bounds",
        "bridge_evidence",
        "compare_evidence",
        "evidence_gradient",
        "hypergradient",
        "infer_discrete",
        "open_store",
        "predict",
        "sgd_evidence",
        "train",
    ),
    ".transforms": (
        "BoundError",
        "DerivativeError",
        "EvidenceError",
        "InitError",
        "KeywordError",
        "LucioleError",
        "LucioleWarning",
        "ModelError",
        "NoAttributeError",
        "ProgramError",
        "SamplerError",
        "PartitionError",
        "StoreError",
        "TrainingError",
    ),
}
_OF_NUMPYRO = {"dist": "numpyro.distributions", "handlers": "numpyro.handlers"}
_ROOM_OF = {name: room for room, names in _NAMES_BY_ROOM.items() for name in names}

__all__ = sorted([*_ROOM_OF, *_ROOMS, "__version__", *_OF_NUMPYRO])  # noqa: PLE0605 (the stub spells the names out)


def __getattr__(name: str):
    """Import a public name on first use, and keep it so that the next use is an ordinary attribute."""
    if name in _ROOM_OF:
        value = getattr(import_module(_ROOM_OF[name], __name__), name)
    elif name in _ROOMS:
        value = import_module(f".{name}", __name__)
    elif name in _OF_NUMPYRO:
        value = import_module(_OF_NUMPYRO[name])
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
