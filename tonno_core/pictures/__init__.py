"""Pictures of slices, heatmaps and findings."""
