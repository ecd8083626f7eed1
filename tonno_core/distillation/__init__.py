"""From a classifier's heatmaps to a segmenter: the folder that names all stages.

settings.py      how it is done, in numbers
volumes.py       the volumes as the network sees them, prepared once
teacher.py       heatmaps of the training's volumes
pseudo_mask.py   what is taken for the finding, for none, and what is left out, by these heatmaps
patches.py       what a step shows the network
loss.py          what a step is judged by
validation.py    how far the network is, on volumes that it does not learn from
loop.py          one round of steps, which may be interrupted and gone on with
history.py       its metrics and curves
threshold.py     what the network reaches in volumes without the finding
distill.py       all of it, `distill`
"""
