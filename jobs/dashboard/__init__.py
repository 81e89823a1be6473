"""The live dashboard: what the prediction log says of every online path, as it grows."""
