"""Decoders: small networks from the stored features of one layer to a 256x256 map of logits."""

from declip_pipeline.decoders.building import DECODER_TYPES, build_decoder
from declip_pipeline.decoders.decoder import Decoder
from declip_pipeline.decoders.initialization import initialize

__all__ = ["DECODER_TYPES", "Decoder", "build_decoder", "initialize"]
