"""The paper's own figures, typed from its Tables 1, 2, 5, 6, 7 and 8."""

from __future__ import annotations

from typing import NamedTuple


class Bits(NamedTuple):
    """A row of Table 1, bits/dim."""

    model: str
    trained_on: str
    images: str
    bounds: tuple[float, ...]  # of L, L^{>1}, L^{>2} ...; of Glow log p(x) alone


class Detection(NamedTuple):
    """A row of another table: how well a score tells a set from the model's own test set."""

    table: int
    trained_on: str
    outside: str
    score: str
    figures: tuple[float | None, float | None, float | None]  # AUROC, AUPRC, FPR80
    model: str = "HVAE"


BITS = (
    Bits("Glow", "FashionMNIST", "FashionMNIST", (2.96,)),
    Bits("Glow", "FashionMNIST", "MNIST", (1.83,)),
    Bits("HVAE", "FashionMNIST", "FashionMNIST", (0.420, 0.476, 0.579)),
    Bits("HVAE", "FashionMNIST", "MNIST", (0.317, 0.601, 0.881)),
    Bits("Glow", "CIFAR10", "CIFAR10", (3.46,)),
    Bits("Glow", "CIFAR10", "SVHN", (2.39,)),
    Bits("HVAE", "CIFAR10", "CIFAR10", (3.74, 17.8, 54.3, 75.7)),
    Bits("HVAE", "CIFAR10", "SVHN", (2.62, 10.2, 64.0, 93.9)),
    Bits("BIVA", "CIFAR10", "CIFAR10", (3.46, 8.74, 19.7, 37.3)),
    Bits("BIVA", "CIFAR10", "SVHN", (2.35, 6.62, 25.1, 59.0)),
)

# Table 2: score, model, AUROC, AUPRC, FPR80. A score of ours is named as `scores.py` names it.
_TABLE_2 = {
    ("FashionMNIST", "MNIST"): (
        ("background contrastive LR", "PixelCNN", 0.994, 0.993, 0.001),
        ("background contrastive LR", "VAE", 0.924, None, None),
        ("binary classifier", "classifier", 0.455, 0.505, 0.886),
        ("p(y|x), OOD as noise class", "classifier", 0.877, 0.871, 0.195),
        ("p(y|x), calibrated on OOD", "classifier", 0.904, 0.895, 0.139),
        ("input complexity", "Glow", 0.998, None, None),
        ("input complexity", "PixelCNN++", 0.967, None, None),
        ("input complexity", "HVAE", None, None, None),
        ("p(y|x)", "classifier", 0.734, 0.702, 0.506),
        ("entropy of p(y|x)", "classifier", 0.746, 0.726, 0.448),
        ("ODIN", "classifier", 0.752, 0.763, 0.432),
        ("VIB", "classifier", 0.941, None, None),
        ("Mahalanobis distance, CNN", "classifier", 0.942, 0.928, 0.088),
        ("Mahalanobis distance, DenseNet", "classifier", 0.986, None, None),
        ("ensemble of 20 classifiers", "classifier", 0.857, 0.849, 0.240),
        ("WAIC", "5 PixelCNN", 0.221, 0.401, 0.911),
        ("WAIC", "5 Glow", 0.766, None, None),
        ("likelihood regret", "VAE", 0.988, None, None),
        ("L^{>0}", "HVAE", 0.268, 0.363, 0.882),
        ("L^{>1}", "HVAE", 0.593, 0.591, 0.658),
        ("L^{>2}", "HVAE", 0.712, 0.750, 0.548),
        ("LLR^{>1}", "HVAE", 0.964, 0.961, 0.036),
        ("LLR^{>1}, S = 250", "HVAE", 0.984, 0.984, 0.013),
    ),
    ("CIFAR10", "SVHN"): (
        ("background contrastive LR", "PixelCNN", 0.930, 0.881, 0.066),
        ("background contrastive LR", "VAE", 0.265, None, None),
        ("outlier exposure", "classifier", 0.984, None, None),
        ("input complexity", "Glow", 0.950, None, None),
        ("input complexity", "PixelCNN++", 0.929, None, None),
        ("input complexity", "HVAE", 0.833, 0.855, 0.344),
        ("Mahalanobis distance", "classifier", 0.991, None, None),
        ("likelihood regret", "VAE", 0.875, None, None),
        ("LLR^{>2}", "HVAE", 0.811, 0.837, 0.394),
        ("LLR^{>2}", "BIVA", 0.891, 0.875, 0.172),
    ),
}

# Tables 5 to 8: for each set the rows L^{>0}, L^{>1}, L^{>2} and LLR^{>k}, and which k that is.
_THREE = ("L^{>0}", "L^{>1}", "L^{>2}")
_APPENDIX: dict[tuple[int, str], dict[str, tuple[int, tuple[tuple[float, float, float], ...]]]] = {
    (5, "SVHN"): {
        "CIFAR10": (1, ((0.992, 0.993, 0.004), (0.988, 0.990, 0.002), (0.746, 0.756, 0.468),
                        (0.939, 0.950, 0.052))),
        "SVHN": (1, ((0.599, 0.587, 0.702), (0.555, 0.543, 0.755), (0.403, 0.431, 0.869),
                     (0.489, 0.484, 0.799))),
    },
    (6, "CIFAR10"): {
        "SVHN": (2, ((0.083, 0.318, 0.974), (0.097, 0.320, 0.972), (0.693, 0.725, 0.599),
                     (0.811, 0.837, 0.394))),
        "CIFAR10": (1, ((0.485, 0.488, 0.817), (0.467, 0.476, 0.822), (0.411, 0.433, 0.869),
                        (0.469, 0.479, 0.835))),
    },
    (7, "FashionMNIST"): {
        "MNIST": (1, ((0.268, 0.363, 0.882), (0.593, 0.591, 0.658), (0.712, 0.750, 0.548),
                      (0.986, 0.987, 0.011))),
        "notMNIST": (1, ((0.916, 0.932, 0.116), (0.983, 0.986, 0.000), (0.997, 0.997, 0.000),
                         (0.998, 0.998, 0.000))),
        "KMNIST": (1, ((0.690, 0.694, 0.554), (0.835, 0.863, 0.359), (0.844, 0.875, 0.339),
                       (0.974, 0.977, 0.017))),
        "Omniglot28x28": (2, ((0.898, 0.837, 0.166), (0.991, 0.989, 0.011), (1.000, 1.000, 0.000),
                              (1.000, 1.000, 0.000))),
        "Omniglot28x28Inverted": (1, ((0.261, 0.361, 0.879), (0.450, 0.431, 0.709),
                                      (0.557, 0.574, 0.678), (0.954, 0.954, 0.050))),
        "SmallNORB28x28": (2, ((0.982, 0.984, 0.000), (0.998, 0.998, 0.000), (1.000, 1.000, 0.000),
                               (0.999, 0.999, 0.002))),
        "SmallNORB28x28Inverted": (2, ((0.965, 0.971, 0.000), (0.997, 0.992, 0.000),
                                       (0.981, 0.985, 0.000), (0.941, 0.946, 0.069))),
        "FashionMNIST": (1, ((0.476, 0.484, 0.816), (0.475, 0.482, 0.817), (0.475, 0.484, 0.823),
                             (0.488, 0.496, 0.811))),
    },
    (8, "MNIST"): {
        "FashionMNIST": (1, ((1.000, 1.000, 0.000), (1.000, 1.000, 0.000), (0.981, 0.983, 0.003),
                             (0.999, 0.999, 0.000))),
        "notMNIST": (1, ((1.000, 1.000, 0.000), (1.000, 1.000, 0.000), (1.000, 1.000, 0.000),
                         (1.000, 0.999, 0.000))),
        "KMNIST": (1, ((1.000, 1.000, 0.000), (1.000, 1.000, 0.000), (0.987, 0.987, 0.011),
                       (0.999, 0.999, 0.000))),
        "Omniglot28x28": (1, ((1.000, 1.000, 0.000), (1.000, 1.000, 0.000), (1.000, 1.000, 0.000),
                              (1.000, 1.000, 0.000))),
        "Omniglot28x28Inverted": (1, ((0.862, 0.902, 0.205), (0.923, 0.943, 0.056),
                                      (0.749, 0.691, 0.411), (0.944, 0.953, 0.057))),
        "SmallNORB28x28": (1, ((1.000, 1.000, 0.000), (1.000, 1.000, 0.000), (1.000, 1.000, 0.000),
                               (1.000, 1.000, 0.000))),
        # the paper's table names no k in these four rows; we take them in its usual order
        "SmallNORB28x28Inverted": (1, ((1.000, 1.000, 0.000), (1.000, 1.000, 0.000),
                                       (0.977, 0.980, 0.001), (0.985, 0.987, 0.000))),
        "MNIST": (2, ((0.488, 0.486, 0.807), (0.469, 0.469, 0.816), (0.514, 0.505, 0.791),
                      (0.515, 0.507, 0.792))),
    },
}  # fmt: skip

DETECTIONS = (
    *(
        Detection(2, trained_on, outside, score, figures, model)
        for (trained_on, outside), rows in _TABLE_2.items()
        for score, model, *figures in rows
    ),
    *(
        Detection(table, trained_on, outside, score, figures)
        for (table, trained_on), sets in _APPENDIX.items()
        for outside, (k, rows) in sets.items()
        for score, figures in zip((*_THREE, f"LLR^{{>{k}}}"), rows, strict=True)
    ),
)
