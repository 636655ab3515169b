"""Measure whether difficulty finds the errors of a task probe, and write docs/downstream.json and its picture.

    python scripts/downstream.py IMAGERY_FOLDER [--weights galileo.nano=FOLDER] [--cache FOLDER]

The protocol below was committed before any of its results was looked at.
"""

PROTOCOL = """\
**Protocol, written before the runs.** Three tasks: land cover (the TerraMesh sample), flood water (Sen1Floods11) and bark-beetle damage
(Czechia, September 2020), each read by every model that takes its imagery. All three are labelled by the pixel, so the sample is a *patch*
(4 x 4 px) with the token the encoder gives it: land cover is rarely of one class over a chip of 320 m (built ground would be left in one
place), and the places of bark beetle are hardly larger than a chip. A patch counts where 75% of its pixels agree on a class; each is read
from the chip in which it lies most central (chips every 16 px). A class needs 20 patches in each of two places, else no probe could know it:
snow (all of one place) and bare ground leave the land cover. Damage is told from forest that still stands in the map of 2022; ground that is neither is
left out (that map leaves out what was damaged before it, so forest of 2020 is the union of both). Chips and patches of a place are capped,
drawn with seed 0. Folds hold out whole places: land cover by scene, flood by event (two of the events have two scenes), damage in five folds of blocks
of 20 km. The task probe is an L2 logistic regression on the standardised tokens; its strength is the one of 0.0001 ... 10 with
the least log-loss in folds of places inside the training part. An error is a wrong most probable class. Difficulty and complexity are
predicted out of fold too, on the same folds, from log-loss of the patch: difficulty from its token, complexity from pixel features of the
8 px around it and of its chip; excess is their difference, residual is log-loss minus difficulty. `chip difficulty` is the same
read from the mean token of the chip, as a map shows it. Dissimilarity is the distance to the nearest training token, each dimension
weighted by the probe's coefficient, over the mean distance between training tokens. High is taken to mean suspect for every score, whichever way it turns out, so an AUROC under
0.5 is told as such. Conditional value: a logistic model of the errors on the probe's confidence, with and without a score, fitted in folds of
places (its inputs are out-of-fold values, though the probes behind them have seen each other's places). Difficulty is called useful for a
task only if it adds to confidence, and to confidence with complexity, with intervals above 0. Intervals are 95% from redrawing whole
places, 1,000 times, paired; there is no correction for the number of tasks, and from fewer than 20 places they are too narrow: land cover (4 places) and flood (9)
are examples, not evidence.
"""
