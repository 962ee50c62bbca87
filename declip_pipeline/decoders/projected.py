"""Base of the decoders that project each layer by itself before they join them."""

from abc import abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn

from declip_pipeline.decoders.decoder import PositionDecoder
from declip_pipeline.decoders.fusion import as_grid, resampled
from declip_pipeline.features import FeatureShape


class ProjectingDecoder(PositionDecoder):
    """Decoder that projects each layer to the same number of channels, with a 1x1 convolution.

    Projected layers are resampled to the finest grid, which costs less than to resample the
    layers and gives the same: both are linear, one over channels and one over positions. The
    layers of a weighted sum are projected as one.
    """

    def __init__(
        self,
        decoder_type: str,
        shapes: Sequence[FeatureShape],
        joined_shape: FeatureShape,
        width: int,
        output_size: int,
    ) -> None:
        super().__init__(decoder_type, joined_shape, output_size)
        self._projected_shapes = tuple(shapes)
        self.projections = nn.ModuleList(nn.Conv2d(shape.channels, width, 1) for shape in shapes)

    @abstractmethod
    def join(self, features: Sequence[Tensor]) -> Tensor:
        """Join features (N, *array_shape) of each projected layer to (N, C, height, width)."""

    def joined(self, *features: Tensor) -> Tensor:
        """Check, convert and normalize the features, see `prepared`, and project and join them."""
        parts = self.prepared(*features)
        if self.fusion is not None and self.fusion.mode == "weighted":
            parts = [self.fusion(parts)]
        return self.join(parts)

    def projected(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Return (N, width, height, width of the grid) of each layer, on the finest grid."""
        height, width = self.shape.height, self.shape.width
        return [
            resampled(projection(as_grid(part, shape)), height, width)
            for projection, part, shape in zip(
                self.projections, features, self._projected_shapes, strict=True
            )
        ]
