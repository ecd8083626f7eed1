"""The ToNNO module's library: what stands behind the panel."""
