"""A trained classifier in a folder, and the run that it and what is asked for decide."""
