"""TensorBoard events of a run's epochs, beside its `metrics.jsonl`."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

from declip_pipeline.errors import InputError
from declip_pipeline.training.run import Run

if TYPE_CHECKING:
    from declip_pipeline.training.train import Epoch


class Log(Protocol):
    """Called with a run and each of its epochs."""

    def __call__(self, run: Run, epoch: "Epoch") -> None: ...


def require_tensorboard() -> None:
    """Raise `InputError` unless TensorBoard is installed."""
    try:
        import torch.utils.tensorboard  # noqa: F401
    except ImportError as error:
        raise InputError(
            "TensorBoard is not installed; pip install 'declip-pipe[tensorboard]', or leave out "
            "`tensorboard`: metrics.jsonl holds the same"
        ) from error


@contextmanager
def tensorboard_log() -> Iterator[Log]:
    """Yield a log that writes loss, score (percent) and learning rate into `RUN/tensorboard`.

    Raises `InputError` if TensorBoard is not installed.
    """
    require_tensorboard()
    from torch.utils.tensorboard import SummaryWriter

    with ExitStack() as writers:
        opened: dict[Run, SummaryWriter] = {}

        def log(run: Run, epoch: "Epoch") -> None:
            if run not in opened:
                # Hides events of this and later epochs that an interrupted training wrote.
                folder = str(run.path / "tensorboard")
                opened[run] = SummaryWriter(folder, purge_step=epoch.epoch)
                writers.callback(opened[run].close)
            record = epoch.to_json()
            for name in ("train_loss", f"valid_{epoch.score}", "learning_rate"):
                opened[run].add_scalar(name, record[name], epoch.epoch)

        yield log
