"""Any data set of one channel; its name stands behind a colon.

    python -m flax_sepconv.training --config configs/univariate.py:OSULeaf

All but `min_steps`, `fixed_filters` and `detail_gain` was chosen on the training series of OSULeaf
(two halves, twice), ArrowHead (quarters, three times) and ACSF1 (quarters) alone, before any test
series was scored by it.
Held-out accuracy and cross-entropy of OSULeaf (80 epochs) and ArrowHead (200): 0.960, 0.144 and
0.880, 0.388. Other settings there: without scaling 0.958, 0.169 and 0.861, 0.403; besides without
it, blocks of kernel 7 behind 31 taps 0.970, 0.140 and 0.843, 0.539; pooling by 2 0.938, 0.231 and
0.796, 0.599; dropout of 0.2 0.953, 0.188 and 0.861, 0.394. A first round, by one division of each
set, in batches of 16 and with kernel 11, had 0.965, 0.161 and 0.889, 0.338; without differences as
inputs 0.910, 0.312 and 0.806, 0.535; means and maxima for the means 0.845, 0.490 and 0.833, 0.495.
Lower, or no gain beyond chance: one kernel in the first layer in place of three, 81 taps in it,
width 48, four blocks, second differences, noise, label smoothing, cropping at whole steps, three
times the rate and a third of it. ACSF1's 100 series told none of these apart.

All sets but OSULeaf then had fewer than 2000 steps, for they have few series, and the five sets'
mean test accuracy was 0.9215 (one network), 0.9265 (five averaged). After these test scores were
seen, `min_steps` was added, and its value chosen on training series once more. Accuracy,
cross-entropy of ArrowHead's quarters: 450 steps 0.889, 0.323; 1500 0.917, 0.337; 3000 0.889, 0.412
(four folds; eight folds: 450 0.861, 0.351; 1500 0.903, 0.344). ItalyPowerDemand's halves: 600 steps
0.925, 0.269; 3000 0.955, 0.393. Of all ArrowHead's series, 2000 steps are as many epochs as 1500 of
three quarters; no fold was scored with them. No gain: a factor that varies smoothly along the
series, ArrowHead 0.917, 0.373; and by quarters of ACSF1, with 0.690, 1.213, no scaling 0.680,
1.210, batches of 16 for 1200 steps 0.680, 1.260. One series is 0.028 in four folds of ArrowHead and
0.010 in those of ACSF1: such differences may be chance.

With it, the five sets had 0.9268 (one network), 0.9324 (five averaged), and all seven, with those
of `multivariate.py`, 0.9449 and 0.9501. ACSF1 was the weakest beside published networks. Its
training series then were parted in time: what was trained on one half of all of them was scored on
the other half, both ways. Accuracy, cross-entropy there, and of ArrowHead's quarters and OSULeaf's
halves as above:

    settings                               ACSF1           ArrowHead       OSULeaf
    as it was                              0.693, 0.990    0.917, 0.340    0.952, 0.161
    six lengths of fixed filters           0.740, 0.852    0.926, 0.402    0.955, 0.126
    their weights random at first          0.720, 0.897    0.880, 0.454    0.962, 0.125
    inputs of a first layer of multiplier  0.750, 0.772    0.889, 0.484    0.965, 0.134
      2 (17,000 parameters)
    zeros at first, width 64 (35,000)      0.742, 0.885    not measured    0.968, 0.119
    width 32 and a detail_gain of 16       0.785, 0.706    0.907, 0.459    0.962, 0.111

Fixed filters alone were scored on the test series (one network 0.9469, five averaged 0.9482) before
`detail_gain` was there. Besides, by ACSF1's halves: without filters cropping 0.500, 1.371, means
and maxima 0.605, 1.485, no scaling 0.695, 1.162, width 64 0.730, 0.977; with filters that begin at
random batches of 16 for twice the work 0.750, 0.881, dropout of 0.1 0.720, 0.882; with those that
begin at zero a gain of differences alone 0.760, 0.712, of filters alone 0.785, 0.753. One series is
0.005 here, and other seeds move ACSF1 by 0.02.

The recipe as it is has 0.9381 (one network) and 0.9358 (five averaged) on the five sets, and 0.9530
and 0.9526 on all seven. ItalyPowerDemand lost by the gain (0.9670 without it, 0.9557 with it); none
of its training series were scored with it. Each set's file has its scores.
"""

import ml_collections

from flax_sepconv.training.recipes import univariate


def get_config(name: str = "OSULeaf") -> ml_collections.ConfigDict:
    return univariate(name)
