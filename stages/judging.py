"""Runs judged on stores one after another, with a bar for each."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from stages.screen import progress, remark

if TYPE_CHECKING:
    from declip_pipeline.store.reader import Store
    from declip_pipeline.training.run_folder import RunFolder

Judgement = TypeVar("Judgement")


def judge_each(
    plan: "Sequence[tuple[RunFolder, Store, list[str] | None]]",
    stores: "Sequence[Store]",
    evaluate: Callable[..., Judgement],
    **options: Any,
) -> "Iterator[tuple[str, Judgement]]":
    """Judge what was planned; yields what each one is called, and what came of it.

    `stores` are those that were asked for: which of them no run is judged on is said. `evaluate` is
    called with a run, a store, its generators, a function to tell progress to, and `options`.
    """
    judged_on = {store.location for _, store, _ in plan}
    for store in stores:
        if store.location not in judged_on:
            remark(f"left out, has none of the generators that were named: {store.location}")
    for run, store, own in plan:
        name = f"{run.path.name} on {store.dataset}"
        with progress(name) as tell:
            judgement = evaluate(run, store, generators=own, progress=tell, **options)
        yield name, judgement
