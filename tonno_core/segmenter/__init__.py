"""A 3D segmentation network: its description, its grid, and how it answers a whole volume."""
