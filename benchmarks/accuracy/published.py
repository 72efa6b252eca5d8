"""Published test accuracies on the default splits of the seven sets, and where they are from.

The sources are two tables of github.com/MSD-IRIMAS/LITE: results.csv for series of one channel, and
results_multivariate.csv for the others, where LITE is its variant LITEMV. Figures of LITE, and of
single networks for one channel, are means of five runs; LITETime, LITEMVTime and InceptionTime
average the probabilities of five runs. What other networks have for several channels is copied
there from others, without the number of runs.
"""

from typing import NamedTuple


class Method(NamedTuple):
    """A published method.

    Attributes:
      title: its name.
      ensemble: of how many networks.
      parameters: of one network without its classifier, where a source says so.
      accuracies: by set.
    """

    title: str
    ensemble: int
    parameters: int | None
    accuracies: dict[str, float]


LITE_PARAMETERS = 9_814  # arXiv 2409.02869, abstract
INCEPTION_PARAMETERS = round(LITE_PARAMETERS / 0.0234)  # of which those are 2.34 %: the same place

METHODS = {
    "lite": Method(
        "LITE, LITEMV",
        1,
        LITE_PARAMETERS,
        {
            "ACSF1": 0.898,
            "ArrowHead": 0.8217,
            "BasicMotions": 0.985,
            "GunPoint": 0.9973,
            "ItalyPowerDemand": 0.9685,
            "JapaneseVowels": 0.9627,
            "OSULeaf": 0.9562,
        },
    ),
    "litetime": Method(
        "LITETime, LITEMVTime (five)",
        5,
        LITE_PARAMETERS,
        {
            "ACSF1": 0.91,
            "ArrowHead": 0.84,
            "BasicMotions": 1.0,
            "GunPoint": 1.0,
            "ItalyPowerDemand": 0.9670,
            "JapaneseVowels": 0.9649,
            "OSULeaf": 0.9545,
        },
    ),
    "inceptiontime": Method(
        "InceptionTime (five)",
        5,
        INCEPTION_PARAMETERS,
        {
            "ACSF1": 0.94,
            "ArrowHead": 0.8514,
            "BasicMotions": 1.0,
            "GunPoint": 1.0,
            "ItalyPowerDemand": 0.9650,
            "JapaneseVowels": 0.9702,
            "OSULeaf": 0.9339,
        },
    ),
    "resnet": Method(
        "ResNet",
        1,
        None,
        {
            "ACSF1": 0.916,
            "ArrowHead": 0.8377,
            "BasicMotions": 1.0,
            "GunPoint": 0.9907,
            "ItalyPowerDemand": 0.9615,
            "JapaneseVowels": 0.9135,
            "OSULeaf": 0.9802,
        },
    ),
    "fcn": Method(
        "FCN",
        1,
        None,
        {
            "ACSF1": 0.896,
            "ArrowHead": 0.84,
            "BasicMotions": 1.0,
            "GunPoint": 0.9973,
            "ItalyPowerDemand": 0.9627,
            "JapaneseVowels": 0.973,
            "OSULeaf": 0.9678,
        },
    ),
    "convtran": Method("ConvTran", 1, None, {"BasicMotions": 1.0, "JapaneseVowels": 0.9891}),
}
