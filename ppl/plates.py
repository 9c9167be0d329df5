"""The plate whose rows are data: what a method that takes some rows at a time cuts."""

from ..transforms import LucioleError
from .program import ModelProgram

__all__ = ["observed_plate"]


def observed_plate(program: ModelProgram, name: str | None, owner: str, error: type[LucioleError]) -> tuple[str, int]:
    """Name and size of the plate: the one that was named, or the only one around an observed site.

    Args:
        owner, error: the function to name in errors, and their class.

    Raises:
        error: no observed site stands in a plate of that name, or in several and none was named.
    """
    sizes = {p.name: p.size for s in program.sites.values() if s.role == "observed" for p in s.spec.plates}
    if name is None and len(sizes) == 1:
        name = next(iter(sizes))
    if name not in sizes:
        found = f"the observed sites stand in {sorted(sizes)}" if sizes else "no observed site stands in a plate"
        raise error(
            f"{owner}: batch_size needs the plate whose rows are cut; {found}, and plate={name!r}. Write the likelihood inside "
            'of `with lc.plate("rows", x.shape[0]):` and plate="rows".'
        )
    return name, sizes[name]
