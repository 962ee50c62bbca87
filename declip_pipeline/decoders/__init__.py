"""Decoders: small networks from the stored features of a layer to a 256x256 map of logits."""
